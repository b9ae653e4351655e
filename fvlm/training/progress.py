"""How far a run has come, for those who wait for it: in this process and in others."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvlm.config import ConfigError, MessageAlone, RunConfig
from fvlm.files import read_json_object, write_json
from fvlm.training.distributed import Processes

NOW = "now"  # in the file that asks a run to stop


class TrainingError(MessageAlone, RuntimeError):
    """Training can't go on; the message says why and what is kept."""


class Stopped(TrainingError):
    """Somebody asked the run to stop (`request_stop`); it did, at a checkpoint, and goes on from there when
    trained again."""


@dataclass
class Progress:
    """What a progress display is told after every step."""

    step: int
    steps: int
    loss: float  # nats per text token, this step's training samples
    samples_per_second: float
    seconds_left: float
    evaluations: list[dict]
    model: Any = None  # as it is now, and its tokenizer; None where it trains in processes of its own
    tokenizer: Any = None


class Heartbeat:
    """Tells who waits how far a run is: `callbacks`, after every step, and for other processes
    `progress.json` in its folder, written at most once a second and gone when training ends."""

    def __init__(self, config: RunConfig, callbacks: Callable[[Progress], bool] | None, processes: Processes):
        self._path = config.folder / "progress.json" if processes.is_main else None
        self._callbacks, self._written = callbacks, -math.inf

    def __call__(self, progress: Progress) -> bool:
        """True if a callback ends the run here."""
        self.alive(progress, now=progress.step == progress.steps)
        return self._callbacks is not None and self._callbacks(progress)

    def alive(self, progress: Progress, now: bool = False):
        """A sign of life in the middle of an evaluation."""
        if self._path and (now or time.monotonic() - self._written > 1):
            told = {
                name: value for name, value in vars(progress).items() if name not in ("model", "tokenizer")
            }
            write_json(self._path, told | dict(pid=os.getpid(), time=time.time()), durable=False)
            self._written = time.monotonic()


def read_progress(folder: Path) -> dict | None:
    """The fields of `Progress`, the process's `pid` and the `time` it wrote them, of a run that trains in
    `folder`."""
    try:
        return read_json_object(folder / "progress.json")
    except ConfigError:  # none is there, or a power failure has emptied it
        return None


def request_stop(folder: Path, now: bool = False):
    """Ask the run that trains in `folder`, from any process or thread, to stop at its next checkpoint: it
    raises `Stopped`. now: at a checkpoint that it writes after its current step (several processes: as
    without)."""
    (folder / "stop").write_text(NOW if now else "")


def stop_requested(folder: Path) -> str | None:
    """What `request_stop` asked of the run in `folder`: NOW, or "" for its next checkpoint; None: nothing."""
    try:
        return (folder / "stop").read_text()
    except FileNotFoundError:
        return None


def request_end(folder: Path):
    """Ask the run that trains in `folder`, from any process, to end at its next evaluation and to leave its
    model as it is then."""
    (folder / "end").touch()
