"""Every figure, from data to Plotly. Functions take what the results hold and return a `plotly.graph_objects.Figure`."""

import base64
import html
import io
import textwrap

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.imports import import_jsonschema_quickly

import_jsonschema_quickly()  # Plotly does when it draws

COLOURS = {"parallel": "#1f5fbf", "autoregressive": "#d1495b", "static": "#8d99ae", "training": "#c9d6ea"}
ARCH_COLOURS = {  # Okabe and Ito's, told apart by colour-blind readers too
    "foveated": "#0072B2", "baseline": "#D55E00", "static": "#009E73", "meanpool": "#CC79A7", "blind": "#7F7F7F",
}  # fmt: skip
LAYOUT = dict(template="plotly_white", font_size=12, margin=dict(l=60, r=20, t=60, b=50))


def training_curve(evaluations: pd.DataFrame | list[dict], training: list[tuple[int, float]] = (), title: str = "") -> go.Figure:
    """Validation loss in every mode against training samples; `training` adds the loss of single steps."""
    table = pd.DataFrame(evaluations)
    figure = go.Figure(
        layout=LAYOUT | dict(title=title, xaxis_title="training samples", yaxis_title="nats per text token", height=380)
    )
    if training:
        x, y = zip(*training)
        figure.add_scatter(x=x, y=y, name="training step", mode="lines", line=dict(color=COLOURS["training"], width=1.5))
    for mode in ("parallel", "autoregressive", "static"):
        if len(table) and table[f"loss_{mode}"].notna().any():
            dash = "dot" if mode == "autoregressive" else "solid"
            figure.add_scatter(
                x=table["samples_seen"], y=table[f"loss_{mode}"], name=f"validation, {mode}", mode="lines+markers",
                line=dict(color=COLOURS[mode], width=2.5, dash=dash),
            )  # fmt: skip
    return figure


def study_curves(evaluations: pd.DataFrame) -> go.Figure:
    """Validation loss of every run of a study against training samples, a panel per pair and number of frames; the
    architectures by colour, seeds by line."""
    panels = list(evaluations[["pair", "frames"]].drop_duplicates().itertuples(index=False, name=None))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    titles = [f"{pair}, {frames} frames" for pair, frames in panels]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, shared_xaxes="all")
    shown = set()
    for (run, arch), table in evaluations.groupby(["run", "arch"], sort=False):
        i = panels.index((table["pair"].iloc[0], table["frames"].iloc[0]))
        figure.add_scatter(
            x=table["samples_seen"], y=table["loss_parallel"], name=arch, legendgroup=arch, showlegend=arch not in shown,
            mode="lines+markers", marker_size=4, line=dict(color=ARCH_COLOURS[arch], width=1.5), hovertext=run,
            row=i // columns + 1, col=i % columns + 1,
        )  # fmt: skip
        shown.add(arch)
    figure.update_xaxes(title="training samples", row=rows)
    figure.update_yaxes(title="nats per text token", col=1)
    return figure.update_layout(LAYOUT, height=60 + 300 * rows)


def clip_player(clips: list, boxes: bool = True, columns: int = 4) -> go.Figure:
    """Clips side by side with a slider and a play button; it plays without a kernel.

    Above each clip its text; the boxes of its objects, where known, are drawn on the frames, the target's thicker."""
    rows = -(-len(clips) // columns)
    columns = min(columns, len(clips))
    titles = [wrapped(f"{c.caption} {c.question} {c.answer}" if c.question else c.caption) for c in clips]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.35 / rows)
    T = max(len(clip.frames) for clip in clips)
    moments = [
        [go.Image(source=_picture(clip, min(t, len(clip.frames) - 1), boxes), hoverinfo="skip") for clip in clips] for t in range(T)
    ]
    for i, image in enumerate(moments[0]):
        figure.add_trace(image, row=i // columns + 1, col=i % columns + 1)
    figure.frames = [go.Frame(data=images, name=str(t + 1), traces=list(range(len(clips)))) for t, images in enumerate(moments)]
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain")
    figure.update_annotations(font_size=10)
    figure.update_layout(LAYOUT, height=80 + 320 * rows, margin=dict(l=10, r=10, t=90, b=10), **player_controls(T))
    return figure


def player_controls(frames: int) -> dict:
    """Layout of a play button and a frame slider."""
    now = dict(mode="immediate", transition=dict(duration=0))
    play = dict(label="play", method="animate", args=[None, now | dict(frame=dict(duration=300, redraw=True), fromcurrent=True)])
    stop = dict(label="stop", method="animate", args=[[None], now | dict(frame=dict(duration=0, redraw=True))])
    steps = [
        dict(label=str(t + 1), method="animate", args=[[str(t + 1)], now | dict(frame=dict(duration=0, redraw=True))])
        for t in range(frames)
    ]
    return dict(
        updatemenus=[
            dict(type="buttons", direction="left", buttons=[play, stop], x=0, y=0, xanchor="left", yanchor="top", pad=dict(t=35))
        ],
        sliders=[dict(steps=steps, x=0.32, len=0.68, y=0, currentvalue=dict(prefix="frame "), pad=dict(t=20))],
    )


def _picture(clip, t: int, boxes: bool) -> str:
    """One frame of a clip as a data URI, its boxes drawn on."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(clip.frames[t].transpose(1, 2, 0))
    if boxes and clip.boxes is not None:
        draw = ImageDraw.Draw(image)
        for i, (x0, y0, x1, y1) in enumerate(clip.boxes[t]):
            if x1 > x0 and y1 > y0:
                draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline="white", width=2 if i == clip.target else 1)
    return image_uri(image, "JPEG", quality=85)


def image_uri(image, format: str, **options) -> str:
    """A `PIL.Image` as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def wrapped(text: str, width: int = 38, lines: int = 6) -> str:
    """Text as Plotly shows it: escaped, in short lines, cut where there is no room for more."""
    parts = textwrap.wrap(text, width) or [""]
    if len(parts) > lines:
        parts = parts[: lines - 1] + [parts[lines - 1][: width - 2] + " …"]
    return "<br>".join(html.escape(part) for part in parts)


def question_guesses(table: pd.DataFrame) -> go.Figure:
    """How far language alone leads, per kind of question, beside chance: the table of `fvlm.data.card.language_only`."""
    figure = go.Figure(layout=LAYOUT | dict(barmode="group", height=320, yaxis_title="right answers", yaxis_range=[0, 1]))
    for name, colour in (("chance", "#c9d6ea"), ("most_common", "#8d99ae"), ("guesser", "#1f5fbf")):
        figure.add_bar(x=table["question"], y=table[name], name=name.replace("_", " "), marker_color=colour)
    return figure
