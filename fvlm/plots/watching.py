"""A stream as it was watched, in a player that needs no kernel: video, gaze over it, what was said."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from fvlm.models.looks import Gaze
from fvlm.plots.clips import image_uri, player_controls, title_lines, with_title, wrapped
from fvlm.plots.gaze import overlay_traces, overlay_values
from fvlm.plots.style import LAYOUT
from fvlm.text import clock

LINES = 3  # of what was said, below the film
TRAIL = 6  # frames that the path of the gaze is drawn over
WIDTH = 560  # pixels


def joined(gazes: Sequence[Gaze]) -> Gaze:
    """The gazes of single frames, as a session has them, as one of all."""
    arrays = {
        name: np.concatenate([getattr(gaze, name) for gaze in gazes])
        for name in ("maps", "cls_mass", "queries", "frames", "carried")
    }
    return dataclasses.replace(gazes[0], **arrays)


def stream_player(glimpses: Sequence, title: str = "", opacity: float = 0.5, quality: int = 80) -> go.Figure:
    """`fvlm.watching.Glimpse`s of a model with queries as a film under its gaze: play button, slider, above
    it the time and what is asked, below it the last things that were said. quality: of the frames' JPEGs."""
    shown = {glimpse.seconds: glimpse for glimpse in glimpses}  # at the end it is seen again, with its words
    shown = list(shown.values())
    gaze = joined([glimpse.gaze for glimpse in shown])
    height, width = gaze.frames.shape[2:]
    moments = [_moment(gaze, t, opacity, quality) for t in range(len(shown))]
    texts = [_texts(shown[: t + 1], title) for t in range(len(shown))]
    figure = go.Figure(
        data=moments[0],
        frames=[
            go.Frame(data=traces, layout=text, name=str(t + 1))
            for t, (traces, text) in enumerate(zip(moments, texts))
        ],
    )
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[height - 0.5, -0.5], scaleanchor="x", constrain="domain")
    controls = player_controls(len(shown))
    controls["sliders"][0]["y"] = controls["updatemenus"][0]["y"] = -0.22
    figure.update_layout(LAYOUT, width=WIDTH, height=610, **controls)
    figure.update_layout(margin=dict(t=10, b=210))
    titles = [_title(glimpse, title) for glimpse in shown]
    longest = max(titles, key=lambda text: title_lines(text, WIDTH).count("<br>"))
    return with_title(figure, longest).update_layout(texts[0])


def _moment(gaze: Gaze, t: int, opacity: float, quality: int) -> list:
    traces = [
        trace.update(shown) for trace, shown in zip(overlay_traces(), overlay_values(gaze, t), strict=True)
    ]
    frame = Image.fromarray(np.ascontiguousarray(gaze.frames[t].transpose(1, 2, 0)))
    traces[0].source = image_uri(frame, "JPEG", quality=quality)  # a tenth of a PNG
    traces[1].update(opacity=opacity, showscale=False, z=np.round(traces[1].z, 4))
    path = traces[2]
    path.x, path.y = path.x[-TRAIL:], path.y[-TRAIL:]
    return traces


def _texts(seen: Sequence, title: str) -> dict:
    """Layout: the title with the time and the question, and the last lines that were said."""
    said = [f"{clock(glimpse.seconds)}  {glimpse.text}" for glimpse in seen if glimpse.text is not None]
    told = "<br>".join(wrapped(line, WIDTH - 70, 2) for line in said[-LINES:]) or " "
    below = dict(
        text=told, x=0, y=-0.02, xref="paper", yref="paper", xanchor="left", yanchor="top", align="left"
    )
    above = title_lines(_title(seen[-1], title), WIDTH)
    return dict(title=dict(text=above), annotations=[below | dict(showarrow=False, font_size=12)])


def _title(now, title: str) -> str:
    asked = f"asked: {now.question}" if now.question else "describes"
    return f"{clock(now.seconds)}  {title} ({asked})"
