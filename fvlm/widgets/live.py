"""What a notebook shows while it trains: progress, the curve, a clip's caption and gaze, and a button
that stops. Needs IPython, ipywidgets and Plotly."""

import asyncio
import html
import json
import time

import ipywidgets as widgets
import plotly.graph_objects as go
import torch

from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.data import open_dataset
from fvlm.files import where
from fvlm.gaze.attention import EncodedClip
from fvlm.notebooks import PLOTLY
from fvlm.plots import training_curve, with_badge
from fvlm.plots.clips import image_uri
from fvlm.plots.gaze import gaze_picture
from fvlm.text import clock
from fvlm.training.callbacks import Callback
from fvlm.training.launch import train, with_own_name
from fvlm.training.progress import Progress, request_stop
from fvlm.training.results import Run, load_run


async def train_live(config: RunConfig, every: float = 2.0) -> Run:
    """`train(config)` with a `LiveCurve`, for a notebook: `run = await train_live(config)`.

    What is trained already is said to be, and its curve shown. Where the folder holds a run with other
    parameters, this is a run of its own (`with_own_name`), and that is said.

    Training has a thread of its own, so that the kernel hears the view's button meanwhile. Interrupting the
    kernel does what the button does: the run writes a checkpoint and raises `Stopped`. Raises what `train`
    raises."""
    config = with_own_name(config)
    there = load_run(config.folder) if (config.folder / "config.json").exists() else None
    if there is not None and there.finished and not config.changes_from(there.config):
        show_trained(there)
        return there
    training = asyncio.ensure_future(asyncio.to_thread(train, config, [LiveCurve(config, every)]))
    try:
        return await asyncio.shield(training)
    except (asyncio.CancelledError, KeyboardInterrupt):
        request_stop(config.folder, now=True)
        return await training


def show_trained(run: Run):
    """Say that a run is trained already, and show its curve."""
    from IPython.display import display

    last = run.evaluations.iloc[-1]
    told = (
        f"already trained: {where(run.folder)}, {last.step} steps, validation loss "
        f"{last.loss_autoregressive:.3f} (frame by frame)"
    )
    figure = with_badge(training_curve(run.evaluations, [], f"{run.config.cell}, already trained"), run)
    print(told)
    display({PLOTLY: json.loads(figure.to_json()), "text/plain": told}, raw=True)


class LiveCurve(Callback):
    """The live view of a run, as `train_live` shows it: a callback of `train`.

    A progress bar with the time left, the training curve, after every evaluation what the model now says of
    the first validation clip and where it looks, and a button that stops at a checkpoint. When training ends,
    the view is replaced by the curve alone, which is what is stored in the notebook.

    `every`: seconds between updates. A figure widget, whose parts are updated: an output that is replaced by
    another Plotly figure stays as it was first drawn, in JupyterLab."""

    def __init__(self, config: RunConfig, every: float = 2.0):
        self.config, self.every = config, every
        self._training, self._handle, self._drawn, self._evaluated = [], None, 0.0, 0
        self.bar = widgets.IntProgress(layout=widgets.Layout(width="220px"))
        self.status = widgets.HTML()
        self.stop = widgets.Button(
            description="Stop",
            icon="stop",
            tooltip="after this step, at a checkpoint; the cell goes on from it",
        )
        self.stop.on_click(self._stop)
        self.figure = go.FigureWidget(training_curve([], []))
        self.sample = widgets.HTML()
        head = widgets.HBox([self.bar, self.stop, self.status], layout=widgets.Layout(align_items="center"))
        folder = widgets.HTML(f"results: {html.escape(where(config.folder))}")
        self.view = widgets.VBox([head, folder, self.figure, self.sample])

    def on_step(self, progress):
        self._training.append((progress.step * self.config.effective_batch, progress.loss))
        last = progress.step == progress.steps
        if last or time.monotonic() - self._drawn > self.every:
            self._draw(progress, last)
        if not last and len(progress.evaluations) > self._evaluated:
            self._evaluated = len(progress.evaluations)
            self.sample.value = self._look(progress)

    def _draw(self, progress: Progress, last: bool):
        from IPython.display import display

        left = "done" if last else f"{clock(progress.seconds_left)} left"
        status = (
            f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}, "
            f"{progress.samples_per_second:.1f} samples/s, {left}"
        )
        title = f"{self.config.cell}: {status}" if last else self.config.cell
        figure = training_curve(progress.evaluations, self._training, title)
        if self._handle is None:
            self._handle = display(self.view, display_id=True)
        if last:
            shown = {PLOTLY: json.loads(figure.to_json()), "text/plain": status}
            if self._handle is None:  # nothing here shows widgets: a script
                return
            self._handle.update(shown, raw=True)
            return
        self.bar.max, self.bar.value = progress.steps, progress.step
        self.status.value = html.escape(status)
        self._redraw(figure)
        self._drawn = time.monotonic()

    def _redraw(self, figure: go.Figure):
        """The figure widget as this figure, its parts updated where it has them already."""
        with self.figure.batch_update():
            self.figure.layout.title = figure.layout.title
            for trace, new in zip(self.figure.data, figure.data):
                trace.update(new.to_plotly_json())
        if len(figure.data) > len(self.figure.data):
            self.figure.add_traces(figure.data[len(self.figure.data) :])

    def _look(self, progress: Progress) -> str:
        """The first validation clip, what the model says of it and where it looks, as HTML; "" of a model
        without a gaze."""
        model = progress.model
        if model is None or not model.architecture.has_queries:
            return ""
        clip = open_dataset(self.config, "validation")[0]
        model.eval()
        with torch.no_grad(), autocast(self.config):
            look = EncodedClip(model, clip, progress.tokenizer, self.config.task).gaze()
        model.train()
        picture = image_uri(gaze_picture(look, clip.boxes, scale=1), "PNG")
        asked = f"{html.escape(clip.question)} " if self.config.task == "question" else ""
        return (
            f'<img src="{picture}" style="max-width: 100%"><br>after step {progress.step}: '
            f"{asked}<b>{html.escape(look.caption)}</b>"
        )

    def _stop(self, _):
        request_stop(self.config.folder, now=True)
        self.stop.disabled, self.stop.description = True, "stopping"
