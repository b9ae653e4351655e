"""Clips as Plotly figures, and pictures and texts as Plotly takes them."""

import base64
import html
import io
from collections.abc import Callable

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.plots.style import LAYOUT, PAPER, TARGET_BOX


def clip_player(clips: list, boxes: bool = True, columns: int = 4) -> go.Figure:
    """Clips side by side with a slider and a play button; it plays without a kernel.

    Above each clip its text; the boxes of its objects, where known, are drawn on the frames, the target's
    thicker."""
    rows = -(-len(clips) // columns)
    columns = min(columns, len(clips))
    texts = [f"{c.caption} {c.question} {c.answer}" if c.question else c.caption for c in clips]
    titles = [wrapped(text, CAPTION, size=10) for text in texts]
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
    return with_title(figure)


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


TITLE_WIDTH = 630  # pixels at most: a notebook, and two frames with a colour bar, have a little more
CAPTION = 220  # pixels of a caption's line, of four clips side by side
TOOLBAR = 36  # pixels above a title, where Plotly's toolbar is
TITLE_SIZE, TITLE_LEFT, TITLE_LINE = 13, 28, 18  # pixels: of its letters, left of it, of a line


def with_title(figure: go.Figure, title: str = "", spare: int = 0) -> go.Figure:
    """The figure under a title as wide as the figure, below Plotly's toolbar. The figure grows by what stands
    above, so the frames stay as large.

    Each line of `title` is broken where it is too long. spare: lines of room for what comes before it."""
    layout = figure.layout
    lines = [title_lines(line, layout.width) for line in title.split("\n")] if title else []
    text = "<br>".join(lines)
    room = TOOLBAR + TITLE_LINE * (spare + (text.count("<br>") + 1 if text else 0))
    place = dict(x=0, xanchor="left", y=1, yanchor="top", pad=dict(t=TOOLBAR + 6, l=TITLE_LEFT))
    figure.update_layout(margin_t=layout.margin.t + room, height=layout.height + room)
    return figure.update_layout(title=dict(text=text, font_size=TITLE_SIZE, **place))


def title_lines(text: str, width: int | None) -> str:
    """One line of a title in at most three that fit a figure of so many pixels; None: as wide as there is
    room."""
    return wrapped(text, min(width or TITLE_WIDTH, TITLE_WIDTH) - TITLE_LEFT - 12, 3, TITLE_SIZE)


def wrapped(text: str, width: int, lines: int = 6, size: int = 12) -> str:
    """Text as Plotly shows it: escaped, in lines of at most `width` pixels, cut where there is no room for
    more. size: pixels of its letters."""
    return "<br>".join(html.escape(line) for line in in_lines(text, lambda s: size * ems(s) <= width, lines))


def in_lines(text: str, fits: Callable[[str], bool], most: int) -> list[str]:
    """Text in lines that fit, at most so many: broken between words, a word only where it is longer than a
    line."""
    lines = [""]
    for word in text.split():
        line = f"{lines[-1]} " if lines[-1] else ""
        if not fits(line + word) and fits(word):
            lines.append("")
            line = ""
        while not fits(line + word) and len(lines) <= most:
            count = 0 if line else 1
            while fits(line + word[: count + 1]):
                count += 1
            lines[-1:] = [(line + word[:count]).rstrip(), ""]
            line, word = "", word[count:]
        lines[-1] = line + word
        if len(lines) > most:
            last = lines[most - 1]
            while last and not fits(f"{last} …"):
                last = last[:-1]
            return [*lines[: most - 1], f"{last} …"]
    return lines


def ems(text: str) -> float:
    """How wide a text is at most, in heights of its letters: as in Verdana, the widest of the fonts that
    Plotly asks for."""
    return sum(map(_em, text))


def _em(letter: str) -> float:
    if letter > "\u024f":  # no Latin one: Chinese, a dash; a smiley
        return 1.4 if letter >= "\U0001f000" else 1.0
    if letter in "mwMW@%":
        return 1.1
    if letter in " fijlt.,'!":
        return 0.4
    if letter in 'rI:;|()[]/\\-"':
        return 0.46
    return 0.82 if letter.isupper() or letter in "#+<=>~&^" else 0.64
