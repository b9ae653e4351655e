"""What the gaze explorer draws in the browser: a frame under its attention, a colour bar, a filmstrip with
the keys, the heads of all layers, a file to take away. Needs anywidget; `canvas.js` draws, here is what it is
told.

T frames, H heads, h x w patches, n objects."""

from collections.abc import Callable
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from fvlm.data.clips import Clip
from fvlm.models.looks import Gaze
from fvlm.plots.clips import image_bytes
from fvlm.plots.gaze import colour_table

THUMB = 56  # pixels along a side of a filmstrip's frame
COLUMNS = 32  # frames in a row of the one picture that a filmstrip's frames come as


def _floats(values) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()


def _sent() -> traitlets.Bytes:
    """Pictures and arrays: they go to the browser as messages. What is synced becomes a part of the widget's
    state, and with it of an executed notebook, for every canvas and whatever the clip's length."""
    return traitlets.Bytes(b"").tag(sent=True)


class _Canvas(anywidget.AnyWidget):
    """A widget that canvas.js draws; `kind` says which. A view asks for what is sent when it opens."""

    _esm = Path(__file__).with_name("canvas.js")
    _css = Path(__file__).with_name("canvas.css")
    kind = traitlets.Unicode().tag(sync=True)
    table = traitlets.Bytes(b"\0" * 768).tag(sync=True)  # 256 times red, green, blue
    low = traitlets.Float(0.0).tag(sync=True)  # weight of the first colour, and of the last
    high = traitlets.Float(1.0).tag(sync=True)

    def __init__(self, **traits):
        super().__init__(**traits)
        self._waiting, self._holding = {}, False
        for name in self.traits(sent=True):
            self.observe(self._changed, name)
        self.on_msg(lambda _, content, __: self._send_all() if content.get("ask") else None)

    def show(self, **traits):
        """Set traits in one message, or two, those that change."""
        self._holding = True
        try:
            with self.hold_sync():
                for name, value in traits.items():
                    setattr(self, name, value)
                self._send_waiting()
        finally:
            self._holding = False

    def _changed(self, change):
        self._waiting[change.name] = change.new
        if not self._holding:
            self._send_waiting()

    def _send_all(self):
        self._waiting = {name: getattr(self, name) for name in self.traits(sent=True)}
        self._send_waiting()

    def _send_waiting(self):
        waiting, self._waiting = self._waiting, {}
        if waiting:
            self.send(dict(data=list(waiting)), list(waiting.values()))


class FrameView(_Canvas):
    """One frame of a clip under its attention, its boxes, the path of its fixations and its hidden patches.

    A click on a patch, and a region that is dragged over, are told to `on_patch` and `on_region`; with the
    tool "zoom" dragging enlarges a region, in whole patches and until `zoom` is set anew, whatever else is
    shown."""

    title = traitlets.Unicode().tag(sync=True)
    picture = _sent()  # PNG
    size = traitlets.List([1, 1]).tag(sync=True)  # height and width of a frame in pixels
    grid = traitlets.List([1, 1]).tag(sync=True)  # h, w
    map = _sent()  # float32, row by row; empty: the frame alone
    opacity = traitlets.Float(0.55).tag(sync=True)
    boxes = traitlets.List([]).tag(sync=True)  # [left, top, right, bottom] in pixels
    target = traitlets.Int(-1).tag(sync=True)
    path = traitlets.List([]).tag(sync=True)  # [x, y] in pixels, the last one is now
    hidden = traitlets.List([]).tag(sync=True)  # numbers of patches, row by row
    zoom = traitlets.List([]).tag(sync=True)  # [top, left, bottom, right] in patches, ends excluded; []: all
    tool = traitlets.Unicode("").tag(sync=True)  # hide, keep only, zoom; "": neither clicks nor regions
    widest = traitlets.Int(560).tag(sync=True)  # CSS pixels

    def __init__(self, **traits):
        super().__init__(kind="view", **traits)

    def on_patch(self, function: Callable[[int, int], None]):
        """Call `function(row, column)` when a patch is clicked."""
        self.on_msg(lambda _, content, __: function(*content["patch"]) if "patch" in content else None)

    def on_region(self, function: Callable[[tuple, str], None]):
        """Call `function((top, left, bottom, right), tool)`, in patches, ends excluded, when a region was
        dragged over."""
        self.on_msg(
            lambda _, content, __: (
                function(tuple(content["region"]), content["tool"]) if "region" in content else None
            )
        )

    def show_frame(
        self,
        frames: np.ndarray,
        t: int,
        maps: np.ndarray | None,
        fixations: np.ndarray | None,
        clip: Clip,
        limits: tuple[float, float],
        scale: str,
        opacity: float,
        hidden: np.ndarray | None = None,
        title: str = "",
    ):
        """Show frame t of frames (T, 3, height, width) uint8 under maps (T, h, w), with fixations (T, 2) in
        pixels up to it; without maps the frame alone.

        limits: the weights of the first and the last colour of a Plotly `scale`. hidden (h, w)."""
        boxes = [] if clip.boxes is None else np.asarray(clip.boxes[t]).tolist()
        seen = {} if maps is None else dict(map=_floats(maps[t]), grid=list(maps.shape[1:]))
        zoom = [] if maps is not None and list(maps.shape[1:]) != self.grid else self.zoom
        self.show(
            picture=frame_png(frames[t]),
            size=list(frames.shape[2:]),
            **(seen or dict(map=b"")),
            zoom=zoom,
            path=_path(fixations, t),
            boxes=boxes,
            target=clip.target,
            low=float(limits[0]),
            high=float(limits[1]),
            table=colour_table(scale),
            opacity=opacity,
            hidden=[] if hidden is None else np.flatnonzero(hidden).tolist(),
            title=title,
        )

    def show_look(self, look: Gaze, t: int, clip: Clip, opacity: float, scale: str):
        """Show frame t of a gaze, the mean of all heads, coloured up to the clip's highest weight."""
        maps = look.map()
        limits = 0.0, float(maps.max())
        self.show_frame(look.frames, t, maps, look.fixations(), clip, limits, scale, opacity)


class ColourBar(_Canvas):
    """Which colour is how much. Its ends can be dragged or typed: `on_limits`."""

    label = traitlets.Unicode("attention").tag(sync=True)
    bottom = traitlets.Float(0.0).tag(sync=True)  # of the bar, below which no end can be dragged
    top = traitlets.Float(1.0).tag(sync=True)

    def __init__(self, **traits):
        super().__init__(kind="bar", **traits)

    def on_limits(self, function: Callable[[float, float], None]):
        """Call `function(low, high)` when somebody moves an end."""
        self.on_msg(lambda _, content, __: function(*content["limits"]) if "limits" in content else None)


class Filmstrip(_Canvas):
    """All frames of a clip under their attention, a curve over time below, and the keys.

    Left, right, home and end set `frame`, space turns `playing`, wherever in the explorer the focus is and
    while the pointer is over it; in a field that is written in they stay the field's."""

    frame = traitlets.Int(1).tag(sync=True)  # from 1
    count = traitlets.Int(0).tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    sprite = _sent()  # JPEG, `columns` frames in a row, `side` pixels each
    columns = traitlets.Int(COLUMNS).tag(sync=True)
    side = traitlets.Int(THUMB).tag(sync=True)
    maps = _sent()  # (T, h, w) float32; empty: the frames alone
    grid = traitlets.List([1, 1]).tag(sync=True)
    limits = _sent()  # (T, 2) float32: weights of the first and the last colour
    opacity = traitlets.Float(0.55).tag(sync=True)
    curve = _sent()  # (T,) float32: entropy of the map, nats
    most = traitlets.Float(1.0).tag(sync=True)  # of the curve: that of a map that is the same everywhere

    def __init__(self, **traits):
        super().__init__(kind="strip", **traits)

    def show_clip(self, frames: np.ndarray):
        """Frames (T, 3, height, width) uint8 as thumbnails."""
        self.show(sprite=_sprite(frames), count=len(frames))

    def show_maps(
        self,
        maps: np.ndarray | None,
        limits: np.ndarray,
        entropy: np.ndarray | None,
        scale: str,
        opacity: float,
    ):
        """Maps (T, h, w) over the frames, with their limits (T, 2) and entropy (T,); None: no gaze."""
        seen = (
            {}
            if maps is None
            else dict(maps=_floats(maps), grid=list(maps.shape[1:]), curve=_floats(entropy))
        )
        self.show(
            **(seen or dict(maps=b"", curve=b"")),
            limits=_floats(limits),
            most=1.0 if maps is None else float(np.log(maps[0].size)),
            table=colour_table(scale),
            opacity=opacity,
        )


class HeadGrid(_Canvas):
    """The map of every head of every layer at one frame, with how often each finds the target: `on_head`."""

    shape = traitlets.List([0, 0, 1, 1]).tag(sync=True)  # layers, H, h, w
    maps = _sent()  # float32
    hits = _sent()  # (layers, H) float32, NaN where it isn't known
    chance = traitlets.Float(0.0).tag(sync=True)
    own = traitlets.Bool(True).tag(sync=True)  # each from 0 to its own maximum, or all from low to high
    chosen = traitlets.List([-1, -1]).tag(sync=True)  # layer and head; head -1: all of the layer

    def __init__(self, **traits):
        super().__init__(kind="heads", **traits)

    def on_head(self, function: Callable[[int, int], None]):
        """Call `function(layer, head)` when a map is clicked."""
        self.on_msg(
            lambda _, content, __: function(content["layer"], content["head"]) if "layer" in content else None
        )

    def show_heads(self, maps: np.ndarray, hits: np.ndarray, chance: float, **traits):
        """Maps (layers, H, h, w) of one frame; hits (layers, H); chance: of a patch at random."""
        self.show(
            maps=_floats(maps), hits=_floats(hits), shape=list(maps.shape), chance=float(chance), **traits
        )


class Download(_Canvas):
    """A link to a file's content, which the browser saves."""

    name = traitlets.Unicode("").tag(sync=True)
    type = traitlets.Unicode("application/octet-stream").tag(sync=True)
    at_once = traitlets.Bool(False).tag(sync=True)  # saved when it comes, not when the link is clicked
    content = _sent()

    def __init__(self, **traits):
        super().__init__(kind="download", **traits)


def _path(fixations: np.ndarray | None, t: int) -> list:
    """Fixations (T, 2) up to frame t, those that there are; none if frame t has none."""
    if fixations is None or not np.isfinite(fixations[t]).all():
        return []
    path = fixations[: t + 1]
    return np.round(path[np.isfinite(path).all(axis=1)], 3).tolist()


def frame_png(frame: np.ndarray) -> bytes:
    """A frame (3, height, width) uint8 as the content of a PNG."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    return image_bytes(picture, "PNG", compress_level=1)


def _sprite(frames: np.ndarray) -> bytes:
    """Frames (T, 3, height, width) as one JPEG of thumbnails, COLUMNS in a row, each squeezed to a square."""
    from PIL import Image

    columns = min(COLUMNS, len(frames))
    sheet = Image.new("RGB", (THUMB * columns, THUMB * -(-len(frames) // columns)))
    for t, frame in enumerate(frames):
        small = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).resize((THUMB, THUMB))
        sheet.paste(small, (t % columns * THUMB, t // columns * THUMB))
    return image_bytes(sheet, "JPEG", quality=85)
