"""Who is told while a run trains: progress bars, curves, trackers, early stopping; one interface for all."""

import importlib
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from fvlm.config import ConfigError, RunConfig
from fvlm.training.progress import Progress

if TYPE_CHECKING:
    from fvlm.training.results import Run


class Callback:
    """Told of a run as it goes; every method may be left out. They are called in the process that called
    `train`."""

    def on_start(self, config: RunConfig):
        """Before the first step."""

    def on_step(self, progress: Progress) -> bool | None:
        """After each step. True ends the run here: it is evaluated, and leaves its model as it is now."""

    def on_evaluation(self, progress: Progress) -> bool | None:
        """After each evaluation, `progress.evaluations[-1]`, and before that step's `on_step`. True as
        there."""

    def on_end(self, run: "Run"):
        """When the run is over, finished or ended by a callback; not after an error."""


class Told(Protocol):
    def __call__(self, progress: Progress, /) -> Any: ...


class Callbacks:
    """Several callbacks as one. A plain function is told of every step."""

    def __init__(self, callbacks: Iterable[Callback | Told]):
        self._callbacks = [each if isinstance(each, Callback) else _Function(each) for each in callbacks]
        self._evaluations = 0

    def start(self, config: RunConfig, evaluations: int = 0):
        """evaluations: those that an interrupted run has already, of which nobody is told again."""
        self._evaluations = evaluations
        for callback in self._callbacks:
            callback.on_start(config)

    def __call__(self, progress: Progress) -> bool:
        """Tell all of a step; True if one of them ends the run."""
        asked = []
        if len(progress.evaluations) > self._evaluations:
            self._evaluations = len(progress.evaluations)
            asked += [callback.on_evaluation(progress) for callback in self._callbacks]
        asked += [callback.on_step(progress) for callback in self._callbacks]
        return any(answer is True for answer in asked)

    def end(self, run: "Run"):
        for callback in self._callbacks:
            callback.on_end(run)


class _Function(Callback):
    def __init__(self, function: Callable[[Progress], Any]):
        self._function = function

    def on_step(self, progress):
        self._function(progress)


class EarlyStopping(Callback):
    """Ends a run whose validation loss has not fallen by `least` nats for `patience` evaluations."""

    def __init__(self, patience: int = 3, least: float = 0.0, loss: str = "loss_parallel"):
        self.patience, self.least, self.loss = patience, least, loss
        self._best, self._since = math.inf, 0

    def on_evaluation(self, progress):
        now = progress.evaluations[-1][self.loss]
        if now < self._best - self.least:
            self._best, self._since = now, 0
        else:
            self._since += 1
        return self._since >= self.patience


class TensorBoard(Callback):
    """Writes losses and rates for TensorBoard to read: to `tensorboard/` in the run's folder, or to
    `folder`."""

    def __init__(self, folder=None):
        self.folder = folder
        _needs("tensorboard")

    def on_start(self, config):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder or config.folder / "tensorboard"))

    def on_step(self, progress):
        for name, value in step_numbers(progress).items():
            self._writer.add_scalar(name, value, progress.step)

    def on_evaluation(self, progress):
        for name, value in evaluation_numbers(progress).items():
            self._writer.add_scalar(name, value, progress.step)

    def on_end(self, run):
        self._writer.close()


class Tracker(Callback):
    """Logs to Trackio or Weights & Biases, which share one interface: a project has the study's name, a run
    that of its folder."""

    def __init__(self, module: str, **settings):
        _needs(module)
        self._module, self._settings = importlib.import_module(module), settings

    def on_start(self, config):
        about = dict(project=config.study, name=config.folder.name, config=config.to_dict())
        self._run = self._module.init(**about | self._settings)

    def on_step(self, progress):
        self._module.log(step_numbers(progress), step=progress.step)

    def on_evaluation(self, progress):
        self._module.log(evaluation_numbers(progress), step=progress.step)

    def on_end(self, run):
        self._module.finish()


REPORTS = {
    "tensorboard": TensorBoard,
    "trackio": lambda: Tracker("trackio"),
    "wandb": lambda: Tracker("wandb"),
}


def report_to(name: str) -> Callback:
    """The callback that reports to `tensorboard`, `trackio` or `wandb`. ConfigError if it is none of them, or
    not installed."""
    if name not in REPORTS:
        raise ConfigError(f"report = {name!r}: valid are {', '.join(REPORTS)}")
    return REPORTS[name]()


def step_numbers(progress: Progress) -> dict[str, float]:
    """What trackers are told of a step, by name."""
    return {"train/loss": progress.loss, "train/samples_per_second": progress.samples_per_second}


def evaluation_numbers(progress: Progress) -> dict[str, float]:
    """What trackers are told of the last evaluation: all of its numbers that are finite."""
    last = progress.evaluations[-1]
    numbers = {name: value for name, value in last.items() if isinstance(value, int | float)}
    return {f"validation/{name}": value for name, value in numbers.items() if math.isfinite(value)}


def _needs(package: str):
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ConfigError(f"{package} is not installed: pip install 'fvlm[report]', or {package} itself")
