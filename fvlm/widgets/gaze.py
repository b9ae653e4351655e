"""The gaze explorer. Needs ipywidgets and Plotly.

T frames, h x w patches, n objects.
"""

import html
from dataclasses import replace
from pathlib import Path

import ipywidgets as ipw
import numpy as np
import plotly.graph_objects as go

from fvlm.architectures import WITH_QUERIES
from fvlm.config import REPOSITORY, ConfigError
from fvlm.data.clips import Clip
from fvlm.gaze.attention import EncodedClip, Gaze
from fvlm.models.base import MODES
from fvlm.models.looks import SUMMARIES
from fvlm.plots.clips import image_bytes
from fvlm.plots.gaze import gaze_picture, over_frame, overlay_traces, overlay_values, save_gaze
from fvlm.plots.style import COLOURS, FIXATION, HIDDEN, HIDDEN_RIM, LAYOUT, SCALES
from fvlm.training.results import Run

KEPT = 8  # clips whose keys and values stay in memory, 75 MB each for S-S_8f


class Explorer(ipw.VBox):
    """Look at clips through a run's vision encoder: `Explorer(runs)` at the end of a cell shows it.

    Everything on screen follows from a cached `Gaze` (`look`); only a new clip, question, mode or run asks
    the model. Clicking a patch hides it from the query in this frame, or in all frames, and shows what that
    does to the text loss; clicking it again shows it again. The second tab puts three runs or modes side by
    side on the same clip.

    Every control is an attribute, and may be set from Python: `run`, `clip`, `path`, `upload`, `question`,
    `mode`, `map`, `head`, `frame`, `play`, `opacity`, `scale`, `everywhere`, `clear`, `export`; `toggle` is a
    click on a patch. A stored notebook keeps a picture."""

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
        self.folder, self._encoded, self._quiet = Path(folder), {}, False
        first = next(iter(self.runs.values()))
        self._clips = [_Choice(i + 1, clip) for i, clip in enumerate(first.validation_clips(clips))]
        self._make_controls()
        self._view, self._entropy = FrameView(), _entropy_figure()
        self._view.on_patch(self.toggle)
        self._columns = [_Column(self, start) for start in self._comparison()]
        super().__init__(self._layout())
        for control in (self.run, self.clip, self.mode):
            control.observe(lambda _: self._look(), "value")
        for control in (self.map, self.head, self.opacity, self.scale):
            control.observe(lambda _: self._draw(), "value")
        self.frame.observe(lambda _: self._draw_moment(), "value")
        self.question.observe(lambda _: self._look(), "value")
        self.path.observe(lambda change: self._add_video(change.new, change.new), "value")
        self.upload.observe(self._uploaded, "value")
        self.clear.on_click(lambda _: self._show_all_patches())
        self.export.on_click(lambda _: self._export())
        self._tabs.observe(lambda _: self._draw(), "selected_index")
        self._look()

    def _make_controls(self):
        frames = len(self._clips[0].clip.frames)
        wide = dict(layout=ipw.Layout(width="460px"), style=dict(description_width="70px"))
        self.run = ipw.Dropdown(options=list(self.runs), description="run", **wide)
        self.clip = ipw.Dropdown(
            options=[(str(choice), i) for i, choice in enumerate(self._clips)], description="clip", **wide
        )
        self.path = ipw.Text(
            description="own video",
            placeholder="path of a video file, then Enter",
            continuous_update=False,
            **wide,
        )
        self.upload = ipw.FileUpload(accept="video/*,image/gif", description="upload")
        self.question = ipw.Text(
            description="question", placeholder="the clip's own", continuous_update=False, **wide
        )
        self.mode = ipw.ToggleButtons(
            options=["autoregressive", "parallel", "static"], style=dict(button_width="125px")
        )
        self.map = ipw.Dropdown(description="map", **wide)
        self.head = ipw.Dropdown(
            description="head", options=[("mean", None)], layout=ipw.Layout(width="180px")
        )
        self.frame = ipw.IntSlider(min=1, max=frames, description="frame", layout=ipw.Layout(width="460px"))
        self.play = ipw.Play(min=1, max=frames, interval=400)
        ipw.jslink((self.play, "value"), (self.frame, "value"))
        self.opacity = ipw.FloatSlider(min=0, max=1, step=0.05, value=0.55, description="opacity")
        self.scale = ipw.Dropdown(options=SCALES, description="colours", layout=ipw.Layout(width="200px"))
        self.everywhere = ipw.Checkbox(
            description="clicks hide in all frames", indent=False, layout=ipw.Layout(width="200px")
        )
        self.clear = ipw.Button(description="show all patches")
        self.format = ipw.Dropdown(options=["gif", "mp4", "html"], layout=ipw.Layout(width="80px"))
        self.export = ipw.Button(description="export")
        self.message, self.text, self.loss = ipw.HTML(), ipw.HTML(), ipw.HTML()

    def _layout(self) -> list:
        one = ipw.VBox(
            [
                ipw.HBox([self._view.figure, self._entropy]),
                ipw.HBox([self.everywhere, self.clear, self.loss]),
                self.text,
            ]
        )
        several = ipw.HBox([column.box for column in self._columns])
        self._tabs = ipw.Tab([one, several], titles=["one", "side by side"])
        return [
            ipw.HBox([self.run, self.clip]),
            ipw.HBox([self.path, self.upload]),
            ipw.HBox([self.question, self.mode]),
            ipw.HBox([self.map, self.head]),
            ipw.HBox([self.play, self.frame]),
            ipw.HBox([self.opacity, self.scale, self.format, self.export]),
            self.message,
            self._tabs,
        ]

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

    # ── What is looked at ──

    def encoded(self, name: str) -> EncodedClip:
        """The clip that is chosen, with the question that is asked, as the run `name` sees it."""
        run, choice = self.runs[name], self._clips[self.clip.value]
        question = self.question.value.strip() if run.config.task == "question" else ""
        key = name, self.clip.value, question
        if key not in self._encoded:
            seen = self._encoded.get((name, self.clip.value, "")) or EncodedClip(
                run.model, choice.fitted(run), run.tokenizer, run.config.task
            )
            if question and question != seen.clip.question:
                seen = seen.asked(replace(seen.clip, question=question, answer=None, target=-1))
            self._encoded[key] = seen
            for oldest in list(self._encoded)[:-KEPT]:
                del self._encoded[oldest]
        return self._encoded[key]

    def gaze(self, name: str, mode: str) -> Gaze:
        """The gaze of the run `name` on what is chosen; from memory, if it was asked for before."""
        return self.encoded(name).gaze(mode)

    def map_of(self, look: Gaze) -> dict:
        """The map that is chosen, as arguments of `Gaze.map`; layers and heads that a model lacks are its
        last."""
        if isinstance(self.map.value, str):
            return dict(summary=self.map.value)
        layers, heads = look.maps.shape[1:3]
        head = None if self.head.value is None else min(self.head.value, heads - 1)
        return dict(layer=min(self.map.value, layers - 1), head=head)

    def _look(self):
        """Something else is looked at: ask the model, show all patches, start from what is on screen."""
        if self._quiet:
            return
        self.look = self.gaze(self.run.value, self.mode.value)
        self.hidden = np.zeros((len(self.look.frames), *self.look.maps.shape[3:]), bool)
        self._loss = None
        self._offer_maps()
        self._offer_frames()
        self._write_text()
        self._draw()

    def _offer_maps(self):
        layers, heads = self.look.maps.shape[1:3]
        options = [(f"{name}: {meaning}", name) for name, meaning in SUMMARIES.items()]
        options += [(f"layer {i + 1}", i) for i in range(layers)]
        if tuple(self.map.options) != tuple(options):
            self._without_drawing(
                self.map,
                options=options,
                value=self.map.value if self.map.value in dict(options).values() else "mean",
            )
            self._without_drawing(
                self.head, options=[("mean", None)] + [(f"head {i + 1}", i) for i in range(heads)], value=None
            )

    def _offer_frames(self):
        T = len(self.look.frames)
        if self.frame.max != T:
            self._without_drawing(self.frame, max=T)
            self.play.max = T

    def _without_drawing(self, control, **traits):
        self._quiet = True
        try:
            for name, value in traits.items():
                setattr(control, name, value)
        finally:
            self._quiet = False

    # ── On screen ──

    def _draw(self):
        """All that depends on the map; then the moment."""
        if self._quiet:
            return
        self.head.disabled = isinstance(self.map.value, str)
        self.maps = self.look.map(**self.map_of(self.look))
        with self._entropy.batch_update():
            steps = np.arange(1, len(self.maps) + 1)
            self._entropy.data[0].update(x=steps, y=self.look.entropy(**self.map_of(self.look)))
            self._entropy.layout.yaxis.range = [0, 1.05 * np.log(self.maps[0].size)]
        self._draw_moment()

    def _draw_moment(self):
        """All that depends on the frame."""
        if self._quiet:
            return
        t = min(self.frame.value, len(self.maps)) - 1
        if self._tabs.selected_index == 1:
            for column in self._columns:
                column.draw(t)
            return
        self._view.show(
            self.look,
            self.map_of(self.look),
            t,
            self.encoded(self.run.value).clip,
            self.opacity.value,
            self.scale.value,
            self.hidden[t],
        )
        with self._entropy.batch_update():
            self._entropy.data[1].update(x=[t + 1], y=[self._entropy.data[0].y[t]])

    def _write_text(self):
        encoded = self.encoded(self.run.value)
        true = encoded.clip.text(encoded.task)
        lines = [("question", encoded.clip.question)] if encoded.task == "question" else []
        self.text.value = _lines(
            lines + [("model", self.look.caption), ("true", "not known" if true is None else true)]
        )
        self._write_loss()

    # ── Hide a patch ──

    def toggle(self, row: int, column: int):
        """Hide a patch of this frame, or of all, or show it again: what a click does."""
        t = self.frame.value - 1
        frames = slice(None) if self.everywhere.value else slice(t, t + 1)
        self.hidden[frames, row, column] = not self.hidden[t, row, column]
        self._write_loss()
        self._draw_moment()

    def _show_all_patches(self):
        self.hidden[:] = False
        self._write_loss()
        self._draw_moment()

    def _write_loss(self):
        """The loss of the text, true or else the model's own, with all patches and with those that are
        left."""
        encoded = self.encoded(self.run.value)
        if self._loss is None:
            self._loss = encoded.masked_losses(np.zeros_like(self.hidden)[None], self.mode.value)[0]
        whose = "true text" if encoded.clip.text(encoded.task) else "model's own text"
        self.masked_loss = self._loss
        shown = f"loss of the {whose} <b>{self._loss:.4f}</b> nats per token; click a patch to hide it"
        if self.hidden.any():
            self.masked_loss = encoded.masked_losses(self.hidden[None], self.mode.value)[0]
            change, count = self.masked_loss - self._loss, int(self.hidden.sum())
            shown = (
                f"loss of the {whose} {self._loss:.4f} → <b>{self.masked_loss:.4f}</b> ({change:+.4f}) nats "
                "per token, "
                f"{count} {'patch' if count == 1 else 'patches'} hidden"
            )
        self.loss.value = shown

    # ── Own videos, exports ──

    def _uploaded(self, change):
        for file in change.new:
            self._add_video(bytes(file["content"]), file["name"])

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
        self.message.value = ""
        self._clips.append(choice)
        self._quiet = True
        self.clip.options = [(str(c), i) for i, c in enumerate(self._clips)]
        self._quiet = False
        self.clip.value = len(self._clips) - 1

    def _export(self):
        clip = self.encoded(self.run.value).clip
        run, clip_name = self.run.value.replace("/", "_"), Path(clip.clip_id).stem
        name = f"{run}_{clip_name}_{self.mode.value}.{self.format.value}"
        path = save_gaze(
            self.look,
            self.folder / name,
            clip.boxes,
            clip.target,
            self.look.caption,
            **self.map_of(self.look),
        )
        self.message.value = f"written: {html.escape(str(path))}"

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and for where no kernel runs a picture of what it shows."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        picture = gaze_picture(self.look, self.encoded(self.run.value).clip.boxes, scale=1)
        return bundle | {"image/png": image_bytes(picture, "PNG", optimize=True)}


class _Choice:
    """A clip on offer: one of a run's validation clips, or a video that is read the size a run wants."""

    def __init__(self, number: int, clip: Clip | None, file: str | bytes | None = None, name: str = ""):
        self.number, self.clip, self.file, self.name = number, clip, file, name

    def __str__(self):
        if self.clip is None:
            return f"{self.number}: {Path(self.name).name}"
        return f"{self.number}: {self.clip.question or self.clip.caption}"[:90]

    def fitted(self, run: Run) -> Clip:
        """The clip in the run's size, with a question if the run needs one. BadClip if it is a video that
        can't be read."""
        from fvlm.data.video import read_video, resized

        size, clip = run.config.image_size, self.clip
        if clip is None:
            frames, _ = read_video(self.file, run.config.frames, size)
            clip = Clip(frames.transpose(0, 3, 1, 2), None, Path(self.name).name)
        if run.config.task == "question" and not clip.question:
            clip = replace(clip, question="What is there?", answer=None)
        side = clip.frames.shape[3]
        if side != size:
            frames = np.stack(
                [resized(frame.transpose(1, 2, 0), size).transpose(2, 0, 1) for frame in clip.frames]
            )
            clip = replace(
                clip, frames=frames, boxes=None if clip.boxes is None else clip.boxes * size / side
            )
        return clip


class FrameView:
    """One frame of a clip under its attention, and its hidden patches.

    `figure` is the FigureWidget; its traces are `overlay_traces`, then crosses on the hidden patches."""

    def __init__(self, size: int = 430, colour_bar: bool = True):
        cross = dict(symbol="x", color=HIDDEN, size=11, line=dict(color=HIDDEN_RIM, width=1))
        self.figure = go.FigureWidget(
            data=[*overlay_traces(), go.Scatter(mode="markers", hoverinfo="skip", marker=cross)],
            layout=LAYOUT | dict(width=size, height=size, margin=dict(l=5, r=5, t=10, b=5), showlegend=False),
        )
        self.figure.data[1].showscale = colour_bar
        self.figure.update_xaxes(visible=False, constrain="domain")
        self.figure.update_yaxes(visible=False, scaleanchor="x", constrain="domain")

    def on_patch(self, function):
        """Call `function(row, column)` when a patch is clicked."""

        def clicked(trace, points, state):
            for x, y in zip(points.xs, points.ys):
                function(round((y - trace.y0) / trace.dy), round((x - trace.x0) / trace.dx))

        self.figure.data[1].on_click(clicked)

    def show(
        self,
        look: Gaze,
        which: dict,
        t: int,
        clip: Clip,
        opacity: float,
        scale: str,
        hidden: np.ndarray | None = None,
    ):
        """Show frame t of a gaze; which: arguments of `Gaze.map`. hidden (h, w)."""
        height, width = look.frames.shape[2:]
        place = over_frame(look)
        rows, columns = np.nonzero(hidden) if hidden is not None else ((), ())
        *traces, crosses = self.figure.data
        values = overlay_values(look, t, clip.boxes, clip.target, **which)
        with self.figure.batch_update():
            for trace, shown in zip(traces, values, strict=True):
                trace.update(shown)
            traces[1].update(opacity=opacity, colorscale=scale)
            crosses.update(
                x=place["x0"] + np.array(columns) * place["dx"], y=place["y0"] + np.array(rows) * place["dy"]
            )
            self.figure.update_xaxes(range=[-0.5, width - 0.5])
            self.figure.update_yaxes(range=[height - 0.5, -0.5])


class _Column:
    """One of the views side by side: its own run and mode, everything else as in the explorer."""

    def __init__(self, explorer: Explorer, start: tuple[str, str]):
        self.explorer, self.view = explorer, FrameView(310, colour_bar=False)
        narrow = ipw.Layout(width="310px")
        self.run = ipw.Dropdown(options=list(explorer.runs), value=start[0], layout=narrow)
        self.mode = ipw.Dropdown(options=MODES, value=start[1], layout=narrow)
        self.text = ipw.HTML(layout=narrow)
        self.box = ipw.VBox([self.run, self.mode, self.view.figure, self.text])
        for control in (self.run, self.mode):
            control.observe(lambda _: explorer._draw_moment(), "value")

    def draw(self, t: int):
        explorer = self.explorer
        look = explorer.gaze(self.run.value, self.mode.value)
        t = min(t, len(look.frames) - 1)
        clip = explorer.encoded(self.run.value).clip
        self.view.show(look, explorer.map_of(look), t, clip, explorer.opacity.value, explorer.scale.value)
        self.text.value = _lines([("model", look.caption)])


def _entropy_figure() -> go.FigureWidget:
    layout = dict(
        height=300, width=420, showlegend=False, xaxis_title="frame", yaxis_title="entropy of the map, nats"
    )
    return go.FigureWidget(
        data=[
            go.Scatter(mode="lines+markers", line=dict(color=COLOURS["parallel"], width=2)),
            go.Scatter(mode="markers", marker=dict(color=FIXATION, size=12)),
        ],
        layout=LAYOUT | layout | dict(xaxis_dtick=1),
    )


def _lines(named: list[tuple[str, str]]) -> str:
    """Texts under their names, as text whatever is in them: escaped, wrapped, scrolled when long."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:9em;overflow-y:auto;line-height:1.4"
    return "".join(
        f'<div style="{style}" dir="auto"><b>{name}</b> {html.escape(text or "(nothing)")}</div>'
        for name, text in named
    )
