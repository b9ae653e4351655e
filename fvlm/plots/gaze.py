"""A gaze as a picture, a figure, a film or a page. Every overlay puts a patch's weight on the very pixels of
that patch.

T frames, h x w patches, n objects.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.config import ConfigError
from fvlm.plots.clips import draw_boxes, image_uri, in_lines, player_controls, with_title
from fvlm.plots.style import (
    BOX,
    CAPTION,
    COLOURS,
    FIXATION,
    FIXATION_RIM,
    INK,
    LAYOUT,
    LIGHT,
    PAPER,
    SCALE,
    TARGET_BOX,
    uneven_error_bar,
)

# ── A frame under its attention ──────────────────────────────────────────────────────────────────


def overlay_traces() -> list:
    """The Plotly traces of a frame under its attention, still empty: image, heat map, path of the fixations
    so far, fixation, boxes, the target's box."""
    quiet = dict(hoverinfo="skip", showlegend=False)
    return [
        go.Image(hoverinfo="skip"),
        go.Heatmap(
            zmin=0,
            colorscale=SCALE,
            colorbar_thickness=10,
            hovertemplate="attention %{z:.4f}<extra></extra>",
        ),
        go.Scatter(mode="lines+markers", line=dict(color=FIXATION, width=2), marker_size=4, **quiet),
        go.Scatter(
            mode="markers",
            marker=dict(color=FIXATION, size=12, line=dict(color=FIXATION_RIM, width=1)),
            **quiet,
        ),
        go.Scatter(mode="lines", line=dict(color=BOX, width=1), **quiet),
        go.Scatter(mode="lines", line=dict(color=TARGET_BOX, width=3), **quiet),
    ]


def overlay_values(gaze, t: int, boxes: np.ndarray | None = None, target: int = -1, **which) -> list[dict]:
    """What each of `overlay_traces` shows at frame t of a gaze. Colours share one scale over all frames.

    boxes (T, n, 4) in pixels; which: arguments of `Gaze.map`, the mean if there are none."""
    maps, path = gaze.map(**which), gaze.fixations(**which) - 0.5
    here = np.zeros((0, 4)) if boxes is None else boxes[t]
    is_target = np.arange(len(here)) == target
    return [
        dict(source=png_uri(gaze.frames[t])),
        dict(z=maps[t], zmax=float(maps.max()), **over_frame(gaze)),
        dict(x=path[: t + 1, 0], y=path[: t + 1, 1]),
        dict(x=path[t : t + 1, 0], y=path[t : t + 1, 1]),
        outline(here[~is_target]),
        outline(here[is_target]),
    ]


def overlay(gaze, t: int, boxes: np.ndarray | None = None, target: int = -1, **which) -> list:
    """`overlay_traces` with their `overlay_values`."""
    values = overlay_values(gaze, t, boxes, target, **which)
    return [trace.update(shown) for trace, shown in zip(overlay_traces(), values, strict=True)]


def over_frame(gaze) -> dict:
    """Where a heat map's cells lie over a frame whose first pixel is at 0: `x0`, `dx`, `y0`, `dy` of a Plotly
    heatmap."""
    h, w = gaze.maps.shape[3:]
    height, width = gaze.frames.shape[2:]
    return dict(x0=width / w / 2 - 0.5, dx=width / w, y0=height / h / 2 - 0.5, dy=height / h)


def outline(boxes: np.ndarray) -> dict:
    """Boxes (n, 4) in pixels as one broken line: `x` and `y` of a Plotly scatter; empty boxes are left
    out."""
    x, y = [], []
    for x0, y0, x1, y1 in np.asarray(boxes, float) - 0.5:
        if x1 > x0:
            x += [x0, x1, x1, x0, x0, None]
            y += [y0, y0, y1, y1, y0, None]
    return dict(x=x, y=y)


def png_uri(frame: np.ndarray) -> str:
    """A frame (3, height, width) uint8 as a data URI, without loss."""
    from PIL import Image

    return image_uri(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))), "PNG")


@functools.lru_cache
def colour_table(scale: str) -> bytes:
    """A colour scale of Plotly's as 256 times red, green, blue."""
    from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

    sampled = sample_colorscale(get_colorscale(scale), np.linspace(0, 1, 256).tolist())
    return bytes(round(value) for text in sampled for value in unlabel_rgb(text))


def painted(
    frame: np.ndarray, map: np.ndarray, limits: tuple[float, float], scale: str = SCALE, opacity: float = 0.55
) -> np.ndarray:
    """A frame (3, height, width) uint8 under a map (h, w) as (height, width, 3) uint8, with no smoothing:
    each pixel has `opacity` parts of the colour of its patch, between the weights `limits` of the scale's
    ends."""
    (height, width), (h, w) = frame.shape[1:], map.shape
    table = np.frombuffer(colour_table(scale), np.uint8).reshape(256, 3)
    share = (map.astype(float) - limits[0]) / max(limits[1] - limits[0], 1e-12)
    colours = table[(share.clip(0, 1) * 255 + 0.5).astype(int)]  # (h, w, 3)
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    mixed = frame.transpose(1, 2, 0) * (1 - opacity) + colours[rows][:, columns] * opacity
    return (mixed + 0.5).astype(np.uint8)


# ── Figures, pictures, files ─────────────────────────────────────────────────────────────────────


MOST_FRAMES = 16  # beside each other: more are too small to be read, and swell a notebook


def spread(frames: int, most: int = MOST_FRAMES) -> np.ndarray:
    """The numbers of at most `most` of a clip's frames, evenly from the first to the last."""
    return np.linspace(0, frames - 1, min(frames, most)).round().astype(int)


def gaze_strip(
    gaze, boxes: np.ndarray | None = None, target: int = -1, title: str = "", **which
) -> go.Figure:
    """All frames of a clip in a row, each above its attention map; the dot is the attention-weighted centre.

    which: arguments of `Gaze.map`, the mean if there are none. boxes (T, n, 4) are drawn, the target's
    thicker. Colours share one scale over all frames. Of a clip longer than MOST_FRAMES as many are shown,
    evenly from the first to the last. Lines of the title that are too long are broken."""
    numbers, which = spread(len(gaze.frames)), gaze.resolved(**which)
    gaze, boxes = gaze.of_frames(numbers), None if boxes is None else boxes[numbers]
    T, (height, width) = len(gaze.frames), gaze.frames.shape[2:]
    figure = make_subplots(
        rows=2,
        cols=T,
        vertical_spacing=0.03,
        horizontal_spacing=0.008,
        column_titles=[f"frame {t + 1}" for t in numbers],
    )
    colour_bar = dict(title=weights_name(**which), len=0.45, y=0.24)
    for t in range(T):
        image, heat, _, fixation, *outlines = overlay(gaze, t, boxes, target, **which)
        heat.update(showscale=t == 0, colorbar=colour_bar)
        fixation.marker.size = 7
        for row, shown in ((1, image), (2, heat)):
            for trace in (shown, fixation, *outlines):
                figure.add_trace(trace, row=row, col=t + 1)
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[height - 0.5, -0.5], constrain="domain")
    figure.for_each_yaxis(lambda axis: axis.update(scaleanchor=axis.anchor))  # square pixels in every frame
    size = dict(height=250)  # many frames: as wide as the notebook
    if T < 5:
        size = dict(width=170 + 240 * T, height=520)
    figure.update_layout(LAYOUT | size, margin_t=30)  # names of frames
    return with_title(figure, title, spare=1)  # of a badge


def lit_frames(gaze, maps: np.ndarray, scale: int = 1) -> np.ndarray:
    """Frames lit by attention: (T, height, width, 3) uint8, `scale` times as large; maps (T, h, w).

    Light is attention relative to the brightest patch of these maps, so two clips, or one that was asked
    twice, may be lit alike by unlike weights; a patch's square shows where the weights are, with no
    smoothing."""
    height, width = gaze.frames.shape[2:]
    light = maps / maps.max()
    light = light.repeat(height // maps.shape[1], axis=1).repeat(width // maps.shape[2], axis=2)[
        ..., None
    ]  # (T, H, W, 1)
    lit = gaze.frames.transpose(0, 2, 3, 1) * (0.18 + 0.5 * light) + np.array(LIGHT) * 0.45 * light
    return lit.clip(0, 255).astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)


def gaze_picture(gaze, boxes: np.ndarray | None = None, scale: int = 2, **which):
    """A clip as one `PIL.Image`, no kernel needed: frames above, the same frames lit by their attention
    below. Of a clip longer than MOST_FRAMES as many are shown, evenly from the first to the last.

    boxes (T, n, 4) in pixels are outlined above. which: arguments of `Gaze.map`, the mean if there are
    none."""
    from PIL import Image

    numbers, which = spread(len(gaze.frames)), gaze.resolved(**which)
    gaze, boxes = gaze.of_frames(numbers), None if boxes is None else boxes[numbers]
    T, height, width = len(gaze.frames), *(scale * side for side in gaze.frames.shape[2:])
    frames = gaze.frames.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    gap = 4
    picture = Image.new("RGB", (T * (width + gap) - gap, 2 * height + gap), PAPER)
    for t, (plain, lit) in enumerate(zip(frames, lit_frames(gaze, gaze.map(**which), scale))):
        image = Image.fromarray(plain)
        if boxes is not None:
            draw_boxes(image, boxes[t] * scale)
        picture.paste(image, (t * (width + gap), 0))
        picture.paste(Image.fromarray(lit), (t * (width + gap), height + gap))
    return picture


def question_picture(clips: list, looks: list, scale: int = 2):
    """One clip that was asked several questions as one `PIL.Image`, a row per question: its frames, then the
    same frames lit by the attention of the query that read each, relative to the row's brightest patch, the
    most attended patch in red. Above a row
    stand the question, what the model answered and whether that is right, and in how many frames that patch
    is on what is asked about, whose box is outlined.

    clips: the clip once per question; looks: the `Gaze` of each, its `caption` what the model said."""
    from PIL import Image, ImageDraw, ImageFont

    T, side = len(looks[0].frames), scale * looks[0].frames.shape[2]
    gap, title, head = 4, 22, 32
    large, small = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    lefts = [t * (side + gap) + (t >= T) * 3 * gap for t in range(2 * T)]  # wider between the two halves
    picture = Image.new(
        "RGB", (lefts[-1] + side, title + len(clips) * (head + side + 2 * gap) - 2 * gap), PAPER
    )
    draw = ImageDraw.Draw(picture)
    for i, left in enumerate(lefts):
        words = "frame" if i < T else "where it looks, frame"
        draw.text((left, 3), f"{words} {i % T + 1}", fill=CAPTION, font=small)
    for i, (clip, look) in enumerate(zip(clips, looks, strict=True)):
        top, boxes = title + i * (head + side + 2 * gap), clip.boxes[:, clip.target]
        verdict = "right" if look.caption == clip.answer else f"wrong: it is {clip.answer}"
        draw.text(
            (0, top + 6), f"{clip.question}  The model: {look.caption}, {verdict}", fill=INK, font=large
        )
        there, peaks = boxes[:, 2] > boxes[:, 0], look.peaks()
        on = there & (boxes[:, :2] <= peaks).all(axis=1) & (peaks < boxes[:, 2:]).all(axis=1)
        hits = f"most attended patch (red) on it in {on.sum()} of {there.sum()} frames"
        draw.text((picture.width, top + 9), hits, fill=CAPTION, font=small, anchor="ra")
        plain = look.frames.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
        patch = side // look.maps.shape[-1]
        for t, frame in enumerate([*plain, *lit_frames(look, look.map(), scale)]):
            image = Image.fromarray(frame)
            pen = ImageDraw.Draw(image)
            if t >= T:
                x, y = (int(edge * scale) // patch * patch for edge in peaks[t - T])
                pen.rectangle((x, y, x + patch - 1, y + patch - 1), outline=FIXATION, width=3)
            x0, y0, x1, y1 = (int(edge) * scale for edge in boxes[t % T])
            if x1 > x0:
                pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=TARGET_BOX, width=2)
            picture.paste(image, (lefts[t], top + head))
    return picture


def gaze_player(
    gaze,
    boxes: np.ndarray | None = None,
    target: int = -1,
    title: str = "",
    opacity: float = 0.55,
    limits: Sequence[tuple[float, float]] | None = None,
    scale: str = SCALE,
    **which,
) -> go.Figure:
    """A clip under its attention map, with the path of its fixations, a slider and a play button; needs no
    kernel.

    limits: of the colours of a Plotly `scale`, a pair of weights per frame; without them 0 to the clip's
    highest. which: arguments of `Gaze.map`, the mean if there are none."""
    T, (height, width) = len(gaze.frames), gaze.frames.shape[2:]

    def moment(t):
        traces = overlay(gaze, t, boxes, target, **which)
        traces[1].update(opacity=opacity, colorscale=scale, colorbar_title=weights_name(**which))
        if limits is not None:
            traces[1].update(zmin=limits[t][0], zmax=limits[t][1])
        return traces

    figure = go.Figure(data=moment(0), frames=[go.Frame(data=moment(t), name=str(t + 1)) for t in range(T)])
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[height - 0.5, -0.5], scaleanchor="x", constrain="domain")
    figure.update_layout(LAYOUT, width=560, height=510, **player_controls(T))
    figure.update_layout(margin_t=10)
    return with_title(figure, title)


def weights_name(summary: str = "mean", layer: int | None = None, head: int | None = None) -> str:
    """What the weights of a map are, for a colour bar."""
    return "share" if layer is None and summary == "value" else "attention"


def map_name(summary: str = "mean", layer: int | None = None, head: int | None = None) -> str:
    """Which map arguments of `Gaze.map` mean, in few words."""
    if layer is None:
        return {"mean": "mean map", "last": "last layer", "value": "value map"}.get(
            summary, f"{summary} head"
        )
    return f"layer {layer + 1}" + ("" if head is None else f", head {head + 1}")


def gaze_title(question: str | None, said: str, *names: str) -> str:
    """The title of a gaze: what was asked, what the model says, and in a last line names, such as the video's
    and the run's."""
    lines = [f"asked: {question}"] if question else []
    lines += [f"says: {said or '(nothing)'}", ", ".join(filter(None, names))]
    return "\n".join(" ".join(line.split()) for line in lines if line)


def save_gaze(
    gaze,
    path,
    boxes: np.ndarray | None = None,
    target: int = -1,
    title: str = "",
    rate: float = 2,
    opacity: float = 0.55,
    limits: Sequence[tuple[float, float]] | None = None,
    scale: str = SCALE,
    **which,
):
    """Write a clip under its gaze as .gif or .mp4 (`film_pictures`, `rate` a second) or .html (a player with
    a slider), with its title, such as `gaze_title`, its boxes and a colour bar.

    opacity: of the attention over the frame. limits: of the colours of a Plotly `scale`, a pair of weights
    per frame; without them 0 to the clip's highest. which: arguments of `Gaze.map`, the mean if there are
    none. All three open without a kernel, the page without a network too. ConfigError on another ending."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".gif", ".mp4", ".html"):
        raise ConfigError(f"{path}: valid endings are .gif, .mp4, .html")
    path.parent.mkdir(parents=True, exist_ok=True)
    look = dict(opacity=opacity, limits=limits, scale=scale)
    if kind == ".html":
        gaze_player(gaze, boxes, target, title, **look, **which).write_html(
            path, include_plotlyjs=True, auto_play=False
        )
        return path
    pictures = film_pictures(gaze, boxes, target, title, **look, **which)
    if kind == ".gif":
        first, *rest = pictures
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
        return path
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(100))
        stream.width, stream.height = (side // 2 * 2 for side in pictures[0].size)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


FILM_SIDE = 336  # pixels that the longer side of a frame has at least, in a film
FILM_TITLE = 3  # lines that one of its title's is broken into
FILM_BAR = 86  # pixels right of the frame, for the colour bar and its numbers


def film_pictures(
    gaze,
    boxes: np.ndarray | None = None,
    target: int = -1,
    title: str = "",
    opacity: float = 0.55,
    limits: Sequence[tuple[float, float]] | None = None,
    scale: str = SCALE,
    **which,
) -> list:
    """Each frame under its attention as a `PIL.Image`: the title above, right of it the colour bar with the
    weights of its ends, on it the boxes, the target's thicker, and the fixation; the frame's lower left
    corner is the picture's. Arguments as in `save_gaze`."""
    from PIL import Image, ImageDraw, ImageFont

    maps, points = gaze.map(**which), gaze.fixations(**which)
    limits = [(0.0, float(maps.max()))] * len(maps) if limits is None else limits
    height, width = gaze.frames.shape[2:]
    times = max(1, -(-FILM_SIDE // max(height, width)))
    wide, high = times * width, times * height
    font, small = ImageFont.load_default(size=16), ImageFont.load_default(size=12)

    def fits(line):
        return font.getlength(line) <= wide + FILM_BAR - 8

    lines = [part for line in title.split("\n") if line for part in in_lines(line, fits, FILM_TITLE)]
    top = 22 * len(lines) + 22
    table = np.frombuffer(colour_table(scale), np.uint8).reshape(256, 1, 3)[::-1]
    bar = Image.fromarray(np.ascontiguousarray(table.repeat(18, axis=1))).resize((18, high - 40))
    pictures = []
    for t, frame in enumerate(gaze.frames):
        picture = Image.new("RGB", (wide + FILM_BAR, top + high), PAPER)
        pen = ImageDraw.Draw(picture)
        for i, line in enumerate(lines):
            pen.text((4, 2 + 22 * i), line, fill=INK, font=font)
        pen.text((4, top - 18), f"frame {t + 1} of {len(gaze.frames)}", fill=CAPTION, font=small)
        lit = painted(frame, maps[t], limits[t], scale, opacity)
        shown = Image.fromarray(lit.repeat(times, axis=0).repeat(times, axis=1))
        if boxes is not None:
            draw_boxes(shown, boxes[t] * times, target)
        if np.isfinite(points[t]).all():
            x, y = points[t] * times
            ImageDraw.Draw(shown).ellipse((x - 5, y - 5, x + 5, y + 5), fill=FIXATION, outline=FIXATION_RIM)
        picture.paste(shown, (0, top))
        picture.paste(bar, (wide + 10, top + 20))
        for value, y in zip(limits[t], (top + high - 20, top + 20)):
            pen.text((wide + 32, y), f"{value:.3g}", fill=INK, font=small, anchor="lm")
        pen.text((wide + 10, top + 8), weights_name(**which), fill=CAPTION, font=small, anchor="lm")
        pictures.append(picture)
    return pictures


def layers_figure(hits: np.ndarray, chance: float) -> go.Figure:
    """Which layers and heads find the target: `fvlm.gaze.scores.layer_hits` (layers, H) as a heat map from
    chance up."""
    figure = go.Figure(layout=LAYOUT | dict(height=340, width=560, xaxis_title="head", yaxis_title="layer"))
    figure.add_heatmap(
        z=hits,
        x=[str(i + 1) for i in range(hits.shape[1])],
        y=[str(i + 1) for i in range(len(hits))],
        zmin=chance,
        zmax=1,
        colorscale=SCALE,
        texttemplate="%{z:.2f}",
        colorbar_title="hit rate",
    )
    return figure


def causal_figure(rows) -> go.Figure:
    """What hiding patches costs: change of the text loss against how many are hidden, most attended beside
    random ones.

    rows: `fvlm.gaze.attention.causal_gaze` of one or more clips. Bars are the 5th to 95th percentile over
    clips, each the mean of its draws."""
    table = pd.DataFrame(rows).groupby(["clip_id", "what", "patches"], as_index=False)["change"].mean()
    figure = go.Figure(
        layout=LAYOUT
        | dict(
            height=380,
            xaxis_title="patches hidden in every frame",
            yaxis_title="change of the loss, nats per token",
        )
    )
    for what, colour in (("most attended", COLOURS["autoregressive"]), ("random", COLOURS["static"])):
        groups = table[table["what"] == what].groupby("patches")["change"]
        mean = groups.mean()
        low, high = (groups.quantile(q) for q in (0.05, 0.95))
        figure.add_scatter(
            x=mean.index,
            y=mean,
            name=what,
            mode="lines+markers",
            line=dict(color=colour, width=2.5),
            error_y=uneven_error_bar(mean, low, high, thickness=1),
        )
    figure.update_xaxes(type="log", tickvals=sorted(table.loc[table["what"] == "random", "patches"].unique()))
    return figure
