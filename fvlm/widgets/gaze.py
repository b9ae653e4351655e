"""The gaze explorer. Needs ipywidgets; `canvas.py` draws.

T frames, h x w patches, n objects.
"""

import html
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import ipywidgets as ipw
import numpy as np

from fvlm.architectures import WITH_QUERIES
from fvlm.config import REPOSITORY, ConfigError
from fvlm.data.clips import Clip
from fvlm.gaze.attention import EncodedClip, Gaze, WithoutPatches, same_at_first, steered, unusual
from fvlm.gaze.scores import askable, chance_hit, head_hits
from fvlm.models.base import MODES
from fvlm.models.looks import SUMMARIES
from fvlm.plots.clips import image_bytes
from fvlm.plots.gaze import colour_table, gaze_picture, gaze_title, map_name, save_gaze
from fvlm.plots.style import DIFFERENCES, SCALES
from fvlm.training.learned import BADGE_COLOUR, verdict
from fvlm.training.results import Run
from fvlm.widgets.canvas import ColourBar, Download, Filmstrip, FrameView, HeadGrid

KEPT = 8  # clips whose keys and values stay in memory, 75 MB each for S-S_8f
KEPT_MAPS = 64
STORED = 1200, 1200  # pixels that the picture in a stored notebook has at most
USUAL_CLIPS = 6  # validation clips that an own video is compared with
RANGES = ("per clip", "per frame", "fixed")
TOOLS = {"hide": "hide", "keep only": "keep", "zoom": "zoom"}
ONE, QUESTIONS, RUNS, HEADS = range(4)  # tabs
HINT = (
    "<i>Drag over patches, or click one, to hide them from the model's query. What it then says comes back "
    "above, and here where it looks instead.</i>"
)
NOTHING_ASKED = "this run captions: nothing is asked"
TYPES = dict(gif="image/gif", mp4="video/mp4", html="text/html")


class Explorer(ipw.VBox):
    """Look at clips through a run's vision encoder: `Explorer(runs)` at the end of a cell shows it.

    Everything on screen follows from a cached `Gaze` (`look`); only a new clip, question, mode or run asks
    the model. Tabs: one gaze; two questions on one clip with the difference of their maps; three runs or
    modes on one clip; the heads of all layers. Dragging over patches, or a click on one, hides them from the
    queries, in this frame or in all: what the model then says, where it looks instead and what the text's
    loss does come back from a thread (`wait` waits for it). Left, right, home, end and space move through the
    frames.

    Every control is an attribute, and may be set from Python: `run`, `clip`, `path`, `upload`, `menu`,
    `question`, `second_menu`, `second`, `mode`, `map`, `head`, `frame`, `play`, `opacity`, `scale`, `range`,
    `limits`, `tool`, `everywhere`, `clear`, `format`, `export`, `tabs`; `toggle` is a click on a patch,
    `drag` a dragged region. A stored notebook keeps a picture."""

    def __init__(
        self, runs: list[Run] | Run, clips: int = 12, folder: str | Path = REPOSITORY / "outputs" / "exports"
    ):
        """runs: finished ones with queries, the first shown first. clips: how many validation clips to offer.

        folder: where exports go. ConfigError if there is no run with queries."""
        runs = [runs] if isinstance(runs, Run) else list(runs)
        self.runs = {
            f"{run.folder.parent.name}/{run.folder.name}": run
            for run in runs
            if run.config.architecture.has_queries
        }
        if not self.runs:
            raise ConfigError(
                f"the explorer needs a run whose model has queries: a {' or '.join(WITH_QUERIES)} one"
            )
        self.folder = Path(folder)
        self._encoded: dict[tuple, EncodedClip] = {}
        self._seen: dict[tuple, _Seen] = {}
        self._usual: dict[str, list[np.ndarray]] = {}
        self._zoom: tuple[list, list] = [], []  # the grid that it is of, and what is shown of that
        self._stripped = None  # the frames that the filmstrip has
        self._quiet, self._lock = False, threading.RLock()
        self._pool, self._ticket, self._future = ThreadPoolExecutor(1), 0, None
        self._home = next(iter(self.runs.values()))
        self._clips = [_Choice(i + 1, clip) for i, clip in enumerate(self._home.validation_clips(clips))]
        if not len(self._clips[0].clip.frames):
            raise ConfigError(f"{self._home.config.dataset} is text alone: it has no frames to look at")
        self.limits, self._difference_limit = (0.0, 1.0), 1.0
        self._make_controls()
        self._make_views()
        super().__init__(self._layout())
        self.add_class("fvlm-explorer")
        self._connect()
        self._look()

    def _clip_labels(self) -> list[tuple[str, int]]:
        asks = any(run.config.task == "question" for run in self.runs.values())
        return [(choice.label(asks), i) for i, choice in enumerate(self._clips)]

    def _make_controls(self):
        frames = len(self._clips[0].clip.frames)
        wide = dict(layout=_flex("1 1 320px", "640px"), style=dict(description_width="70px"))
        narrow = dict(layout=_flex("1 1 150px", "210px"), style=dict(description_width="58px"))
        self.run = ipw.Dropdown(options=list(self.runs), description="run", **wide)
        self.clip = ipw.Dropdown(options=self._clip_labels(), description="clip", **wide)
        self.path = ipw.Text(
            description="own video",
            placeholder="path of a video file, then Enter",
            continuous_update=False,
            **wide,
        )
        self.upload = ipw.FileUpload(accept="video/*,image/gif", description="upload")
        self.menu, self.question = self._question("question", wide)
        self.second_menu, self.second = self._question("second", wide)
        self.mode = ipw.ToggleButtons(
            options=["autoregressive", "parallel", "static"],
            style=dict(button_width="130px"),
            layout=_flex("0 1 auto"),
        )
        self.map = ipw.Dropdown(description="map", **wide)
        self.head = ipw.Dropdown(description="head", options=[("mean", -1)], **narrow)
        self.frame = ipw.IntSlider(min=1, max=frames, description="frame", layout=_flex("1 1 280px", "640px"))
        self.play = ipw.Play(min=1, max=frames, interval=400)
        self.opacity = ipw.FloatSlider(
            min=0, max=1, step=0.05, value=0.55, description="opacity", layout=_flex("1 1 260px", "320px")
        )
        self.scale = ipw.Dropdown(options=SCALES, description="colours", **narrow)
        self.range = ipw.Dropdown(options=RANGES, description="range", **narrow)
        self.tool = ipw.ToggleButtons(
            options=TOOLS, style=dict(button_width="85px"), layout=_flex("0 1 auto")
        )
        self.everywhere = ipw.ToggleButton(
            description="in all frames",
            tooltip="hide in this frame alone, or in all",
            layout=_flex("0 0 120px"),
        )
        self.clear = ipw.Button(description="show all patches", layout=_flex("0 0 140px"))
        self.format = ipw.Dropdown(options=list(TYPES), layout=_flex("0 0 80px"))
        self.export = ipw.Button(description="export", layout=_flex("0 0 90px"))
        self.own = ipw.ToggleButton(value=True, description="each its own range", layout=_flex("0 0 160px"))
        self.message, self.text, self.loss, self.note, self.badge = (ipw.HTML() for _ in range(5))
        self._badges: dict[str, str] = {}
        self.download = Download()

    def _question(self, name: str, wide: dict) -> tuple[ipw.Dropdown, ipw.Text]:
        """A menu of the questions that can be asked of a clip, and a field for any other."""
        menu = ipw.Dropdown(description=name, options=[("", "")], **wide)
        typed = ipw.Text(
            placeholder="or type one, then Enter", continuous_update=False, layout=_flex("1 1 240px")
        )
        return menu, typed

    def _make_views(self):
        self.bar = ColourBar(layout=_flex("1 1 320px", "640px"))
        self.difference_bar = ColourBar(label="change")
        self.strip = Filmstrip()
        ipw.jslink((self.play, "value"), (self.frame, "value"))
        ipw.jslink((self.strip, "frame"), (self.frame, "value"))
        ipw.jslink((self.strip, "playing"), (self.play, "playing"))
        self._view, self._rerouted, self._hint = FrameView(tool="hide"), FrameView(), ipw.HTML(HINT)
        self._pair, self._difference = [FrameView(), FrameView()], FrameView()
        self._pair_texts, self._pair_note = [ipw.HTML(), ipw.HTML()], ipw.HTML()
        self._columns = [_Column(self, start) for start in self._comparison()]
        self._columns_note = ipw.HTML()
        self.heads = HeadGrid()
        self._heads_note = ipw.HTML()
        self._view.on_patch(self.toggle)
        self._view.on_region(self.drag)
        self.heads.on_head(self._enlarge)

    def _layout(self) -> list:
        hiding = _row(ipw.Label("drag to"), self.tool, self.everywhere, self.clear)
        instead = ipw.VBox([self._hint, self._rerouted])
        one = ipw.VBox([self.text, hiding, self.loss, _columns(self._view, instead)])
        pair = [ipw.VBox(list(both)) for both in zip(self._pair, self._pair_texts)]
        questions = ipw.VBox(
            [
                _row(self.second_menu, self.second),
                self._pair_note,
                _columns(*pair, ipw.VBox([self._difference, self.difference_bar])),
            ]
        )
        several = ipw.VBox([self._columns_note, _columns(*(column.box for column in self._columns))])
        heads = ipw.VBox([_row(self.own, self._heads_note), self.heads])
        self.tabs = ipw.Tab(
            [one, questions, several, heads],
            titles=["one", "two questions", "side by side", "heads"],
        )
        return [
            _row(self.run, self.clip, self.path, self.upload),
            self.badge,
            _row(self.menu, self.question),
            _row(self.mode, self.note),
            _row(self.map, self.head, self.scale, self.range),
            _row(self.bar, self.opacity),
            _row(self.play, self.frame),
            self.strip,
            self.message,
            self.tabs,
            _row(self.format, self.export, self.download),
        ]

    def _connect(self):
        def on(function: Callable, *controls, trait: str = "value"):
            for control in controls:
                control.observe(lambda _: function(), trait)

        on(self._look, self.run, self.mode, self.question)
        on(self._another_clip, self.clip)
        on(self._draw, self.map, self.head, self.opacity, self.scale, self.range, self.own)
        on(self._second_asked, self.second)
        on(self._draw_moment, self.frame)
        on(lambda: self._draw(), self.tabs, trait="selected_index")
        on(lambda: setattr(self._view, "tool", self.tool.value), self.tool)
        for menu, typed in ((self.menu, self.question), (self.second_menu, self.second)):
            menu.observe(lambda change, typed=typed: self._picked(change.new, typed), "value")
        for view in self._views():
            view.observe(self._zoomed, "zoom")
        self.bar.on_limits(self._fix)
        self.difference_bar.on_limits(self._fix_difference)
        self.path.observe(lambda change: self._add_video(change.new, change.new), "value")
        self.upload.observe(self._uploaded, "value")
        self.clear.on_click(lambda _: self._show_all_patches())
        self.export.on_click(lambda _: self._export())

    def _comparison(self) -> list[tuple[str, str]]:
        """Run and mode of the three columns: the first run, a static one, and another."""
        names = list(self.runs)
        statics = [name for name in names if self.runs[name].config.arch == "static"]
        others = [name for name in names[1:] if name not in statics]
        return [
            (names[0], "autoregressive"),
            (statics[0], "static") if statics else (names[0], "static"),
            (others[0], "autoregressive") if others else (names[0], "parallel"),
        ]

    def _views(self) -> list[FrameView]:
        columns = [column.view for column in self._columns]
        return [self._view, self._rerouted, *self._pair, self._difference, *columns]

    # ── What is looked at ──

    def encoded(self, name: str, question: str | None = None) -> EncodedClip:
        """The clip that is chosen as the run `name` sees it, asked `question`, the one that is typed without
        any, or else the clip's own. Its clip has an answer and a target where they are known."""
        run, choice = self.runs[name], self._clips[self.clip.value]
        typed = self.question.value if question is None else question
        asked = typed.strip() if run.config.task == "question" else ""
        key = name, self.clip.value, asked
        if key not in self._encoded:
            seen = self._encoded.get((name, self.clip.value, "")) or EncodedClip(
                run.model, choice.fitted(run), run.tokenizer, run.config.task
            )
            self._encoded[name, self.clip.value, ""] = seen
            if asked and asked != seen.clip.question:
                seen = seen.asked(self._told(seen.clip, asked))
            self._encoded[key] = seen
            kept = list(dict.fromkeys(key[:2] for key in reversed(self._encoded)))[:KEPT]
            self._encoded = {key: seen for key, seen in self._encoded.items() if key[:2] in kept}
        return self._encoded[key]

    def _told(self, clip: Clip, question: str) -> Clip:
        """A clip asked another question, with its answer and target if it is one of those on the menu."""
        for known in self._clips[self.clip.value].questions(self._home):
            if known.question == question:
                return replace(clip, question=question, answer=known.answer, target=known.target)
        return replace(clip, question=question, answer=None, target=-1)

    def gaze(self, name: str, mode: str, question: str | None = None) -> Gaze | None:
        """The gaze of the run `name` on what is chosen, from memory if it was asked for before; None if the
        run answers questions and there is none: none is made up."""
        encoded = self.encoded(name, question)
        return None if encoded.asks and not encoded.clip.question else encoded.gaze(mode)

    def map_of(self, look: Gaze, beside: Gaze | None = None) -> dict:
        """The map that is chosen, as arguments of `Gaze.map`; layers and heads that a model lacks are its
        last. beside: a gaze of the same model, whose most selective head this one is shown in too."""
        if isinstance(self.map.value, str):
            return (beside or look).resolved(self.map.value)
        layers, heads = look.maps.shape[1:3]
        head = None if self.head.value < 0 else min(self.head.value, heads - 1)
        return dict(layer=min(self.map.value, layers - 1), head=head)

    def _shown(self, look: Gaze | None, encoded: EncodedClip, beside: Gaze | None = None) -> "_Seen":
        """What a view is told of a gaze under the map that is chosen, `map_of`, from memory where it was told
        before."""
        clip = encoded.clip
        if look is None:
            return _Seen(None, clip, encoded.task, None, None, None)
        which = self.map_of(look, beside)
        key = id(look), id(clip), *which.items()
        if key not in self._seen:
            self._seen[key] = _Seen(
                look,
                clip,
                encoded.task,
                look.map(**which),
                look.fixations(**which),
                look.entropy(**which),
            )
            for oldest in list(self._seen)[:-KEPT_MAPS]:
                del self._seen[oldest]
        return self._seen[key]

    def seen(self, name: str, mode: str, question: str | None = None, beside: Gaze | None = None) -> "_Seen":
        """What a view is told of the gaze of a run, in a mode, on a question. beside: as of `map_of`."""
        return self._shown(self.gaze(name, mode, question), self.encoded(name, question), beside)

    def _another_clip(self):
        """A new clip is asked its own question first."""
        if self._quiet:
            return
        for typed in (self.question, self.second):
            self._without_drawing(typed, value="")
        self._look()

    def _look(self):
        """Something else is looked at: ask the model, show all patches, start from what is on screen."""
        if self._quiet:
            return
        with self._lock:
            self._look_anew()

    def _look_anew(self):
        encoded = self.encoded(self.run.value)
        self.look = self.gaze(self.run.value, self.mode.value)
        self.hidden = np.zeros((len(encoded.clip.frames), *encoded.cache.grid), bool)
        self.without: WithoutPatches | None = None
        if self._stripped is not encoded.clip.frames:
            self.strip.show_clip(encoded.clip.frames)
            self._stripped = encoded.clip.frames
        self._offer_maps()
        self._offer_frames(len(encoded.clip.frames))
        self._offer_questions()
        self._write_text()
        self._write_badge()
        self._ask_without()
        self._draw()

    def _write_badge(self):
        """In red, that the run has learned nothing, with the numbers that say so; nothing if it has."""
        name = self.run.value
        if name not in self._badges:
            found = verdict(self.runs[name])
            told = f'<b style="color:{BADGE_COLOUR}">■ {found.badge}</b>: {html.escape(found.why)}'
            self._badges[name] = told if found.badge else ""
        self.badge.value = self._badges[name]

    def _offer_maps(self):
        config = self.runs[self.run.value].model.config.vision_config
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        options = [(f"{name}: {meaning}", name) for name, meaning in SUMMARIES.items()]
        options += [(f"layer {i + 1}", i) for i in range(layers)]
        if tuple(self.map.options) != tuple(options):
            self._without_drawing(
                self.map,
                options=options,
                value=self.map.value if self.map.value in dict(options).values() else "mean",
            )
            self._without_drawing(
                self.head, options=[("mean", -1)] + [(f"head {i + 1}", i) for i in range(heads)], value=-1
            )

    def _offer_frames(self, frames: int):
        if self.frame.max != frames:
            self._without_drawing(self.frame, max=frames)
            self.play.max = frames

    def _offer_questions(self):
        """What can be asked of this clip, with the true answer. A run that only captions is asked nothing."""
        asks = self.runs[self.run.value].config.task == "question"
        known = self._clips[self.clip.value].questions(self._home) if asks else []
        own = self.encoded(self.run.value, "").clip.question or ""
        for menu, typed, given in ((self.menu, self.question, own), (self.second_menu, self.second, "")):
            none = ("choose a question" if known else given or "type a question") if asks else NOTHING_ASKED
            options = ((none, ""), *((f"{clip.question}  →  {clip.answer}", clip.question) for clip in known))
            now = typed.value.strip() or given
            value = now if now in dict(options).values() else ""
            self._without_drawing(menu, options=options, value=value, disabled=not asks)
            typed.disabled = not asks

    def _picked(self, question: str, typed: ipw.Text):
        if not self._quiet:
            typed.value = question

    def _second_asked(self):
        if not self._quiet:
            self._offer_questions()
            self._draw()

    def _without_drawing(self, control, **traits):
        with self._lock:
            quiet, self._quiet = self._quiet, True
            try:
                for name, value in traits.items():
                    if getattr(control, name) != value:
                        setattr(control, name, value)
            finally:
                self._quiet = quiet

    # ── On screen ──

    def _draw(self):
        """All that depends on the map; then the moment."""
        if self._quiet:
            return
        self.head.disabled = isinstance(self.map.value, str)
        with self._lock:
            self._write_note()
            self._on_screen = self._gather()
            self._highest = max((s.maps.max() for s in self._on_screen if s.maps is not None), default=1.0)
            first = self._on_screen[0]
            T = len(first.frames)
            limits = np.array([self._limits(t) for t in range(T)])
            self.strip.show_maps(first.maps, limits, first.entropy, self.scale.value, self.opacity.value)
            self._draw_moment()

    def _gather(self) -> list["_Seen"]:
        """What the tab shows, in its order; colours are shared by all of it."""
        run, mode, tab = self.run.value, self.mode.value, self.tabs.selected_index
        mine = self.seen(run, mode)
        if tab == ONE and self.without is not None:
            return [mine, self._shown(self.without.look, self.encoded(run), mine.look)]
        if tab == QUESTIONS:
            asks = self.runs[run].config.task == "question" and self.second.value.strip()
            return [mine, self.seen(run, mode, self.second.value, mine.look)] if asks else [mine]
        if tab == RUNS:
            first: dict[str, Gaze | None] = {}
            columns = [(column.run.value, column.mode.value) for column in self._columns]
            for name, how in columns:
                first.setdefault(name, self.gaze(name, how))
            return [self.seen(name, how, beside=first[name]) for name, how in columns]
        return [mine]

    def _limits(self, t: int) -> tuple[float, float]:
        """The weights of the first and the last colour at frame t, the same for all that the tab shows. Fixed
        ones stay as they were on screen, or were set, whatever clip, map or question comes."""
        if self.range.value == "fixed":
            return self.limits
        if self.range.value == "per clip":
            return 0.0, float(self._highest)
        tops = [s.maps[min(t, len(s.maps) - 1)].max() for s in self._on_screen if s.maps is not None]
        return 0.0, float(max(tops, default=1.0))

    def _fix(self, low: float, high: float):
        self.limits = low, high
        self._without_drawing(self.range, value="fixed")
        self._draw()

    def _fix_difference(self, low: float, high: float):
        self._difference_limit = max(abs(low), abs(high))
        self._without_drawing(self.range, value="fixed")
        self._draw()

    def _draw_moment(self):
        """All that depends on the frame."""
        if self._quiet:
            return
        with self._lock:
            t = min(self.frame.value, len(self._on_screen[0].frames)) - 1
            if self.range.value != "fixed":
                self.limits = self._limits(t)
            top = max(self.limits[1], float(self._highest))
            self.bar.show(
                low=self.limits[0], high=self.limits[1], top=top, table=colour_table(self.scale.value)
            )
            (self._draw_one, self._draw_questions, self._draw_runs, self._draw_heads)[
                self.tabs.selected_index or 0
            ](t)

    def _show(self, view: FrameView, seen: "_Seen", t: int, title: str = "", hidden=None):
        t = min(t, len(seen.frames) - 1)
        view.show_frame(
            seen.frames,
            t,
            seen.maps,
            seen.fixations,
            seen.clip,
            self.limits,
            self.scale.value,
            self.opacity.value,
            hidden,
            title,
        )
        grid, zoom = self._zoom
        view.zoom = zoom if view.grid == grid else []

    def _draw_one(self, t: int):
        mine, *again = self._on_screen
        self._show(self._view, mine, t, "all patches" if again else "", self.hidden[t])
        self._rerouted.layout.display, self._hint.layout.display = ("", "none") if again else ("none", "")
        for seen in again:
            self._show(self._rerouted, seen, t, "without the hidden ones", self.hidden[t])

    def _draw_questions(self, t: int):
        run, mode = self.run.value, self.mode.value
        for view, text, seen, number in zip(
            self._pair, self._pair_texts, self._on_screen, ("first", "second")
        ):
            self._show(view, seen, t, f"{number} question")
            text.value = _lines(_said(seen))
        both = len(self._on_screen) == 2 and all(seen.maps is not None for seen in self._on_screen)
        self._pair[1].layout.display = self._pair_texts[1].layout.display = "" if both else "none"
        self._difference.layout.display = self.difference_bar.layout.display = "" if both else "none"
        if not both:
            asks = self.runs[run].config.task == "question"
            self._pair_note.value = (
                "Choose a second question, or type one."
                if asks
                else _note(
                    "This run was trained on captions: "
                    "it is asked nothing, so two questions are the same by construction."
                )
            )
            return
        first, second = self._on_screen
        change = second.maps - first.maps
        highest = float(np.abs(change).max())
        limit = highest if self.range.value == "per clip" else float(np.abs(change[t]).max())
        limit = max(self._difference_limit if self.range.value == "fixed" else limit, 1e-9)
        self._difference_limit = limit
        self._difference.show_frame(
            first.frames,
            t,
            change,
            None,
            replace(second.clip, boxes=None),
            (-limit, limit),
            DIFFERENCES,
            self.opacity.value,
            title="second − first",
        )
        top = max(limit, highest)
        self.difference_bar.show(
            low=-limit, high=limit, top=top, bottom=-top, table=colour_table(DIFFERENCES)
        )
        moved = (np.abs(change[t]).sum() + abs(change[t].sum())) / 2  # what patches lack, CLS has
        self._pair_note.value = (
            f"Frame {t + 1}: {moved:.1%} of the attention of this map goes elsewhere; red where the second "
            "question draws more, blue where less."
            if steered(self.runs[run].model, self.runs[run].config.task, mode)
            else _note(
                "No question moves this query, so both maps are the same by construction; only answers can "
                "differ."
            )
        )

    def _draw_runs(self, t: int):
        for column, seen in zip(self._columns, self._on_screen):
            self._show(column.view, seen, t)
            column.text.value = _lines(_said(seen))
        same = []
        for i, one in enumerate(self._columns):
            for j, other in enumerate(self._columns[:i]):
                if one.run.value == other.run.value:
                    told = self._same(one.run.value, other.mode.value, one.mode.value)
                    same += [f"Columns {j + 1} and {i + 1}: {told}"] if told else []
        self._columns_note.value = "".join(_note(line) for line in same)

    def _draw_heads(self, t: int):
        seen = self._on_screen[0]
        if seen.look is None:
            self._heads_note.value, self.heads.shape = "A look begins with a question.", [0, 0, 1, 1]
            return
        t = min(t, len(seen.look.maps) - 1)
        boxes = (
            None if seen.clip.boxes is None or seen.clip.target < 0 else seen.clip.boxes[:, seen.clip.target]
        )
        known = boxes is not None and bool((boxes[:, 2] > boxes[:, 0]).any())
        layers, heads = seen.look.maps.shape[1:3]
        if seen.hits is None:
            seen.hits = (
                head_hits(seen.look, boxes).mean(axis=2) if known else np.full((layers, heads), np.nan)
            )
        chance = chance_hit(seen.look, boxes) if known else 0.0
        layer = -1 if isinstance(self.map.value, str) else self.map.value
        limits = self.limits
        if not self.own.value and self.range.value != "fixed":
            shown = seen.look.maps if self.range.value == "per clip" else seen.look.maps[t]
            limits = 0.0, float(shown.max())
            self.bar.show(low=0.0, high=limits[1], top=max(limits[1], self.bar.top))
        self.heads.show_heads(
            seen.look.maps[t],
            seen.hits,
            chance,
            own=self.own.value,
            low=limits[0],
            high=limits[1],
            table=colour_table(self.scale.value),
            chosen=[layer, self.head.value],
        )
        self._heads_note.value = (
            f"Frame {t + 1}. Hits: in how many of the frames with the target a head's most attended patch is "
            f"on it ({chance:.2f} by chance). Click a map to enlarge it."
            if known
            else f"Frame {t + 1}. No target is known, so no hits. Click a map to enlarge it."
        )

    def _enlarge(self, layer: int, head: int):
        """One head's map in the first tab: what a click on a thumbnail does."""
        self._without_drawing(self.map, value=layer)
        self._without_drawing(self.head, value=head)
        self._without_drawing(self.tabs, selected_index=ONE)
        self._draw()

    def _zoomed(self, change):
        """All views show the same part, until another is chosen, whatever else is."""
        self._zoom = change.owner.grid, change.new
        for view in self._views():
            if view.grid == change.owner.grid and view.zoom != change.new:
                view.zoom = change.new

    def _same(self, run: str, one: str, other: str) -> str:
        """What of two modes is the same by construction, as a sentence; "" if nothing is."""
        encoded = self.encoded(run)
        T = len(encoded.clip.frames)
        same = same_at_first(encoded.model, bool(encoded.prompt), T, one, other)
        if not same:
            return ""
        if not encoded.model.modes_differ:
            return "one query looks at every frame of every clip, so all modes are the same by construction."
        if one == other:
            return "the same run in the same mode."
        frames = "each frame" if same == T else "frame 1" if same == 1 else f"each of frames 1 to {same}"
        return f"{frames} gets the same query in {one} and {other} mode by construction."

    def _write_note(self):
        others = [mode for mode in MODES if mode != self.mode.value]
        told = [self._same(self.run.value, self.mode.value, other) for other in others]
        if self.map.value == "selective" and self.look is not None:
            told.insert(
                0, f"The head that every view of this run shows: {map_name(**self.map_of(self.look))}."
            )
        self.note.value = "".join(_note(line) for line in dict.fromkeys(filter(None, told)))

    def _write_text(self):
        self.text.value = _lines(_said(self._shown(self.look, self.encoded(self.run.value))))
        choice = self._clips[self.clip.value]
        if choice.clip is None:
            self.message.value = _note(self._about_video(choice))
        elif self.look is not None:
            self.message.value = ""
        if self.look is None:
            asked = "This run answers questions, and a look begins with one: type a question."
            self.message.value = _note(asked) + self.message.value

    def _about_video(self, choice: "_Choice") -> str:
        """How an own video was fitted, and how far it is from what the model has seen."""
        name, run = self.run.value, self.runs[self.run.value]
        if name not in self._usual:
            self._usual[name] = [
                EncodedClip(run.model, clip, run.tokenizer, run.config.task).features()
                for clip in run.validation_clips(USUAL_CLIPS)
            ]
        here, each = unusual(self.encoded(name).features(), self._usual[name])
        far = here / max(each)
        told = "no farther than these" if far <= 1 else f"{far:.1f} times as far as the farthest of these"
        own_world = (
            " Whatever it sees, it says in the words of its shapes."
            if run.config.dataset.startswith("shapes")
            else ""
        )
        return (
            f"{choice.fit(run)} What a query brings back of it is {here:.1f} standard deviations from what "
            f"it brings back of validation clips ({min(each):.1f} to {max(each):.1f} for each beside "
            f"the others): {told}.{own_world}"
        )

    # ── Hide patches ──

    def toggle(self, row: int, column: int):
        """Hide a patch of this frame, or of all, or show it again: what a click does."""
        self._hide((row, column, row + 1, column + 1), not self.hidden[self.frame.value - 1, row, column])

    def drag(self, region: tuple[int, int, int, int], tool: str = "hide"):
        """Hide a region (top, left, bottom, right; in patches, ends excluded) of this frame, or of all, or
        show it again if it is hidden; with the tool "keep" hide all but the region."""
        top, left, bottom, right = region
        if tool == "keep":
            self._frames_to_hide()[:] = True
            self._hide(region, False)
        else:
            self._hide(region, not self.hidden[self.frame.value - 1, top:bottom, left:right].all())

    def _frames_to_hide(self) -> np.ndarray:
        """The part of `hidden` (frames, h, w) that is meant: this frame, or all."""
        t = self.frame.value - 1
        return self.hidden if self.everywhere.value else self.hidden[t : t + 1]

    def _hide(self, region: tuple[int, int, int, int], hide: bool):
        top, left, bottom, right = region
        if self.look is None:
            return
        self._frames_to_hide()[:, top:bottom, left:right] = hide
        self._ask_without()
        self._draw()

    def _show_all_patches(self):
        self.hidden[:] = False
        self._ask_without()
        self._draw()

    def _ask_without(self):
        """Begin to find out what the model does without the hidden patches, in a thread: on a long clip that
        takes seconds, in which the explorer goes on. Only the last that was asked for is shown."""
        with self._lock:
            self._ticket += 1
            ticket, hidden, mode = self._ticket, self.hidden.copy(), self.mode.value
            encoded, count = self.encoded(self.run.value), int(self.hidden.sum())
            self.without = None
            if self.look is None:
                self.loss.value = ""
                return
            words = f"{count} {'patch' if count == 1 else 'patches'} hidden"
            self.loss.value = f"{words}: looking again …" if count else ""
            self._future = self._pool.submit(self._work, ticket, encoded, hidden, mode)

    def _work(self, ticket: int, encoded: EncodedClip, hidden: np.ndarray, mode: str):
        if ticket != self._ticket:
            return
        try:
            found = encoded.without(hidden, mode) if hidden.any() else None
            loss = found.loss_before if found else float(encoded.masked_losses(hidden[None], mode)[0])
        except Exception as error:  # nobody hears a thread
            self.loss.value = html.escape(f"{type(error).__name__}: {error}")
            raise
        with self._lock:
            if ticket != self._ticket:
                return
            self.without = found
            self.masked_loss = found.loss_masked if found else loss
            self.loss.value = self._about_hidden(encoded, mode, found, loss, int(hidden.sum()))
            if found:
                self._draw()

    def wait(self, seconds: float = 600):
        """Wait until what the model does without the hidden patches is on screen."""
        future: Future | None = self._future
        if future is not None:
            future.result(seconds)

    def _about_hidden(
        self, encoded: EncodedClip, mode: str, found: WithoutPatches | None, loss: float, count: int
    ) -> str:
        whose = "true text" if encoded.clip.text(encoded.task) else "model's own text"
        if found is None:
            return f"loss of the {whose} <b>{loss:.4f}</b> nats per token"
        said = encoded.says(mode), found.look.caption
        before, after = (html.escape(_short(text)) or "(nothing)" for text in said)
        says = (
            f"still says <b>{after}</b>" if said[0] == said[1] else f"says <b>{after}</b> instead of {before}"
        )
        change = found.loss_masked - found.loss_before
        return (
            f"{count} {'patch' if count == 1 else 'patches'} hidden: it {says}. Loss of the {whose} "
            f"{found.loss_before:.4f} → <b>{found.loss_masked:.4f}</b> ({change:+.4f}) nats per token with "
            f"the same queries, <b>{found.loss_rerouted:.4f}</b> with those it then makes."
            "<br><i>Hidden from the queries; what the vision model told the other patches of them stays.</i>"
        )

    # ── Own videos, exports ──

    def _uploaded(self, change):
        for file in change.new:
            self._add_video(bytes(file["content"]), file["name"])
        if change.new:
            self.upload.value = ()  # or the whole file would stay in the widget's state, and in the notebook

    def _add_video(self, file: str | bytes, name: str):
        """Offer a video, its content or its path, and show it; a message if it can't be read."""
        from fvlm.data.video import BadClip

        if not file:
            return
        run = self.runs[self.run.value]
        try:
            choice = _Choice(len(self._clips) + 1, None, file, name)
            choice.fitted(run)
        except BadClip as error:
            self.message.value = (
                f"{html.escape(name)}: {html.escape(error.reason)}, {html.escape(error.detail)}"
            )
            return
        self._clips.append(choice)
        self._without_drawing(self.clip, options=self._clip_labels())
        self.clip.value = len(self._clips) - 1

    def _export(self):
        if self.look is None:
            self.message.value = _note("There is no gaze to export yet: type a question.")
            return
        encoded, kind = self.encoded(self.run.value), self.format.value
        clip, name = encoded.clip, Path(encoded.clip.clip_id)
        run, clip_name, which = self.run.value.replace("/", "_"), name.stem, self.map_of(self.look)
        shown = (
            "" if self.map.value == "mean" else f"_{map_name(**which).replace(', ', '_').replace(' ', '')}"
        )
        told = f"{self.mode.value}, {map_name(**which)}"
        path = save_gaze(
            self.look,
            self.folder / f"{run}_{clip_name}_{self.mode.value}{shown}.{kind}",
            clip.boxes,
            clip.target,
            title=gaze_title(encoded.question, self.look.caption, name.name, self.run.value, told),
            opacity=self.opacity.value,
            scale=self.scale.value,
            limits=[self._limits(t) for t in range(len(self.look.frames))],
            **which,
        )
        self.download.show(name=path.name, type=TYPES[kind], content=path.read_bytes())
        self.message.value = f"written: {html.escape(str(path))}"

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and for where no kernel runs a picture of what it shows."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        if self.look is None:
            return bundle
        boxes = self.encoded(self.run.value).clip.boxes
        picture = gaze_picture(self.look, boxes, scale=1, **self.map_of(self.look))
        picture.thumbnail(STORED)
        return bundle | {"image/png": image_bytes(picture, "PNG", optimize=True)}


@dataclass
class _Seen:
    """A gaze under one map: maps (T, h, w), fixations (T, 2), entropy (T,); all None where there is no gaze.
    task: of the run. hits: how often each head finds the target, once it was asked for."""

    look: Gaze | None
    clip: Clip
    task: str
    maps: np.ndarray | None
    fixations: np.ndarray | None
    entropy: np.ndarray | None
    hits: np.ndarray | None = None

    @property
    def frames(self) -> np.ndarray:
        return self.clip.frames


class _Choice:
    """A clip on offer: one of a run's validation clips, or a video that is read the size a run wants."""

    def __init__(self, number: int, clip: Clip | None, file: str | bytes | None = None, name: str = ""):
        self.number, self.clip, self.file, self.name = number, clip, file, name
        self._questions = self._shape = None
        self._fitted: dict[tuple, Clip] = {}

    def label(self, asks: bool) -> str:
        """In a menu of clips: a video's name, else the clip's question if a run answers one, or its
        caption."""
        if self.clip is None:
            return f"{self.number}: {Path(self.name).name}"
        return f"{self.number}: {(asks and self.clip.question) or self.clip.caption}"[:90]

    def questions(self, run: Run) -> list[Clip]:
        """The clip with each question that it can be asked; `run`: whose validation clip it is."""
        if self._questions is None:
            self._questions = [] if self.clip is None else askable(run, self.clip)
        return self._questions

    def fitted(self, run: Run) -> Clip:
        """The clip in the run's size; a video in its own proportions between black bars, unless the run was
        trained on videos squeezed to a square. BadClip if it is a video that can't be read."""
        from fvlm.data.video import letterboxed, read_video, resized, shown_shape

        size, clip = run.config.image_size, self.clip
        if clip is None:
            how = size, run.config.frames, run.config.letterbox
            if how not in self._fitted:
                frames, _ = read_video(self.file, run.config.frames, size)
                self._shape = shown_shape(self.file)
                if run.config.letterbox:
                    frames, _ = letterboxed(frames, self._shape)
                pixels = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
                self._fitted[how] = Clip(pixels, None, Path(self.name).name)
            return self._fitted[how]
        side = clip.frames.shape[3]
        if side != size:
            frames = np.stack(
                [resized(frame.transpose(1, 2, 0), size).transpose(2, 0, 1) for frame in clip.frames]
            )
            clip = replace(
                clip, frames=frames, boxes=None if clip.boxes is None else clip.boxes * size / side
            )
        return clip

    def fit(self, run: Run) -> str:
        """How a video was made square for a run, in a sentence."""
        height, width = self._shape
        if round(height) == round(width):
            return "The video is square."
        proportions = f"{width:.0f} × {height:.0f}"
        if not run.config.letterbox:
            return f"{proportions}, squeezed to a square, as the videos were that this run was trained on."
        return f"{proportions}, in its own proportions: black bars make it a square."


class _Column:
    """One of the views side by side: its own run and mode, everything else as in the explorer."""

    def __init__(self, explorer: Explorer, start: tuple[str, str]):
        self.view, narrow = FrameView(), ipw.Layout(width="auto", min_width="0")
        self.run = ipw.Dropdown(options=list(explorer.runs), value=start[0], layout=narrow)
        self.mode = ipw.Dropdown(options=MODES, value=start[1], layout=narrow)
        self.text = ipw.HTML()
        self.box = ipw.VBox([self.run, self.mode, self.view, self.text])
        for control in (self.run, self.mode):
            control.observe(lambda _: explorer._draw(), "value")


def _flex(flex: str, widest: str | None = None) -> ipw.Layout:
    return ipw.Layout(flex=flex, width="auto", min_width="0", max_width=widest or "100%")


def _row(*children) -> ipw.Box:
    """Side by side as far as there is room, the rest below."""
    layout = ipw.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 12px", width="100%")
    return ipw.Box(list(children), layout=layout)


def _columns(*children) -> ipw.GridBox:
    """Columns of equal width, as many as there is room for."""
    columns = "repeat(auto-fit, minmax(min(100%, 170px), 1fr))"
    return ipw.GridBox(
        list(children), layout=ipw.Layout(grid_template_columns=columns, grid_gap="14px", width="100%")
    )


def _note(text: str) -> str:
    return f'<div style="line-height:1.4"><i>{html.escape(text)}</i></div>' if text else ""


def _short(text: str, letters: int = 80) -> str:
    return text if len(text) <= letters else text[: letters - 2] + " …"


def _said(seen: _Seen) -> list[tuple[str, str]]:
    """Question, what the model says and what is true, as far as there is each."""
    if seen.look is None:
        return []
    true = seen.clip.text(seen.task)
    asked = [("question", seen.clip.question or "")] if seen.task == "question" else []
    verdict = ""
    if seen.task == "question" and true is not None:
        verdict = " ✓" if seen.look.caption == true else " ✗"
    return asked + [("model", seen.look.caption, verdict), ("true", "not known" if true is None else true)]


def _lines(named: list[tuple]) -> str:
    """Texts under their names, as text whatever is in them: escaped, wrapped, scrolled when long; after one
    perhaps a mark."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:26em;overflow-y:auto;line-height:1.4"
    shown = [(name, html.escape(text) or "(nothing)", "".join(mark)) for name, text, *mark in named]
    return "".join(
        f'<div style="{style}" dir="auto"><b>{name}</b> {text}{mark}</div>' for name, text, mark in shown
    )
