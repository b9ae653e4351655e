"""Clips as Plotly figures, and pictures and texts as Plotly takes them."""

import base64
import html
import io
import textwrap

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.plots.style import LAYOUT, PAPER, TARGET_BOX


def clip_player(clips: list, boxes: bool = True, columns: int = 4) -> go.Figure:
    """Clips side by side with a slider and a play button; it plays without a kernel.

    Above each clip its text; the boxes of its objects, where known, are drawn on the frames, the target's
    thicker."""
    rows = -(-len(clips) // columns)
    columns = min(columns, len(clips))
    titles = [wrapped(f"{c.caption} {c.question} {c.answer}" if c.question else c.caption) for c in clips]
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.35 / rows
    )
    T = max(1, *(len(clip.frames) for clip in clips))
    moments = [
        [
            go.Image(source=_picture(clip, min(t, len(clip.frames) - 1), boxes), hoverinfo="skip")
            for clip in clips
        ]
        for t in range(T)
    ]
    for i, image in enumerate(moments[0]):
        figure.add_trace(image, row=i // columns + 1, col=i % columns + 1)
    figure.frames = [
        go.Frame(data=images, name=str(t + 1), traces=list(range(len(clips))))
        for t, images in enumerate(moments)
    ]
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, constrain="domain")
    figure.update_annotations(font_size=10)
    figure.update_layout(
        LAYOUT, height=80 + 320 * rows, margin=dict(l=10, r=10, t=90, b=10), **player_controls(T)
    )
    return figure


def player_controls(frames: int) -> dict:
    """Layout of a play button and a frame slider."""
    now = dict(mode="immediate", transition=dict(duration=0))
    play = dict(
        label="play",
        method="animate",
        args=[None, now | dict(frame=dict(duration=300, redraw=True), fromcurrent=True)],
    )
    stop = dict(
        label="stop", method="animate", args=[[None], now | dict(frame=dict(duration=0, redraw=True))]
    )
    steps = [
        dict(
            label=str(t + 1),
            method="animate",
            args=[[str(t + 1)], now | dict(frame=dict(duration=0, redraw=True))],
        )
        for t in range(frames)
    ]
    return dict(
        updatemenus=[
            dict(
                type="buttons",
                direction="left",
                buttons=[play, stop],
                x=0,
                y=0,
                xanchor="left",
                yanchor="top",
                pad=dict(t=35),
            )
        ],
        sliders=[
            dict(steps=steps, x=0.32, len=0.68, y=0, currentvalue=dict(prefix="frame "), pad=dict(t=20))
        ],
    )


def _picture(clip, t: int, boxes: bool) -> str:
    """One frame of a clip as a data URI, its boxes drawn on; of a text alone a white one."""
    from PIL import Image

    if not clip.shows:
        return image_uri(Image.new("RGB", clip.frames.shape[2:], PAPER), "JPEG", quality=85)
    image = Image.fromarray(clip.frames[t].transpose(1, 2, 0))
    if boxes and clip.boxes is not None:
        draw_boxes(image, clip.boxes[t], clip.target)
    return image_uri(image, "JPEG", quality=85)


def draw_boxes(image, boxes, target: int = -1):
    """Outline boxes (n, 4) in pixels on a `PIL.Image`, the target's thicker; empty ones are left out."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        if x1 > x0 and y1 > y0:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=TARGET_BOX, width=2 if i == target else 1)


def image_bytes(image, format: str, **options) -> bytes:
    """A `PIL.Image` as the content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def image_uri(image, format: str, **options) -> str:
    """A `PIL.Image` as a data URI."""
    content = base64.b64encode(image_bytes(image, format, **options)).decode()
    return f"data:image/{format.lower()};base64,{content}"


def wrapped(text: str, width: int = 38, lines: int = 6) -> str:
    """Text as Plotly shows it: escaped, in short lines, cut where there is no room for more."""
    parts = textwrap.wrap(text, width) or [""]
    if len(parts) > lines:
        parts = parts[: lines - 1] + [parts[lines - 1][: width - 2] + " …"]
    return "<br>".join(html.escape(part) for part in parts)
