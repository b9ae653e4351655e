"""The training curve that redraws itself while a notebook trains. Needs IPython and Plotly."""

import json
import time

from fvlm.config import RunConfig
from fvlm.plots import training_curve
from fvlm.text import clock
from fvlm.training.callbacks import Callback


class LiveCurve(Callback):
    """A Plotly training curve that redraws itself while `train` runs: `train(config,
    callbacks=[LiveCurve(config)])`.

    It is drawn by updating one output in place, so what is stored in the notebook is the final, static
    figure. (A figure given to `display` would show itself, and every update would be one more figure.)"""

    def __init__(self, config: RunConfig, every: float = 2.0):
        self.config, self.every = config, every
        self._training, self._handle, self._drawn = [], None, 0.0

    def on_step(self, progress):
        self._training.append((progress.step * self.config.effective_batch, progress.loss))
        last = progress.step == progress.steps
        if last or time.monotonic() - self._drawn > self.every:
            self._draw(progress, last)

    def _draw(self, progress, last):
        from IPython.display import display

        left = "done" if last else f"{clock(progress.seconds_left)} left"
        title = (
            f"{self.config.cell}: step {progress.step} of {progress.steps}, loss {progress.loss:.3f}, "
            f"{progress.samples_per_second:.1f} samples/s, {left}"
        )
        figure = training_curve(progress.evaluations, self._training, title)
        shown = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": title}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
        self._drawn = time.monotonic()
