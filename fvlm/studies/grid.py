"""The grid: every cell of a study, one executed notebook each, until all are done.

A grid file (params/*.yaml) says which cells; what has become of a cell is read from its folder, so a grid may
be stopped, killed, started again, or started twice at once. See `fvlm grid --help`."""

import dataclasses
import fnmatch
import itertools
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fvlm.config import ConfigError, RunConfig, shown, todays_names
from fvlm.data import check_dataset
from fvlm.files import expect, load_yaml, own_folder
from fvlm.studies.executors import Job, Local, Ray, Slurm, read_record, record_path, write_record
from fvlm.training.progress import request_stop
from fvlm.training.results import load_run

MOST_CELLS = 10_000  # of a grid; the largest here has 87
HANG_MINUTES = 30.0  # without a step or an evaluated batch; setting up included

FINISHED, WAITING, RUNNING, ELSEWHERE, FAILED, STOPPED = (
    "finished",
    "waiting",
    "running",
    "elsewhere",
    "failed",
    "stopped",
)

CHANGED, STARTED = "changed", "started"


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a cell and its seed. `settings` are the notebook's parameters, those the file
    gives."""

    config: RunConfig
    settings: dict = field(hash=False)
    priority: int = 1
    published: Path | None = None  # the folder of kept results of this run, which are not written again

    @property
    def name(self) -> str:
        return self.config.folder.name

    @property
    def folder(self) -> Path:
        return self.config.folder

    def state(self) -> str:
        """What its folder says: finished, changed (another configuration's results), failed, started or
        waiting."""
        if (self.folder / "config.json").exists():
            run = load_run(self.folder)
            if self.config.changes_from(run.config):
                return CHANGED
            if run.finished and (self.folder / "train.html").exists():
                return FINISHED
        elif self.is_published:
            return FINISHED
        record = read_record(self.folder)
        if record and record["reason"] != "stopped":
            return FAILED
        return STARTED if (self.folder / "checkpoint").exists() else WAITING

    @property
    def is_published(self) -> bool:
        """Whether this very run is among the published results."""
        if self.published is None or not (self.published / "config.json").exists():
            return False
        kept = load_run(self.published)
        return kept.evaluated and not self.config.changes_from(kept.config)

    def job(self, hang_minutes: float, overwrite: bool = False) -> Job:
        """What a process needs to run it, and what it takes: cores, GPUs, memory. On a CPU a tiny cell gets
        one core a process, however many run at once: the number of threads shows in the last digits of a
        loss."""
        from fvlm.costs.memory import HEADROOM, device_memory

        memory = self.memory()
        cpus, gpus = self.config.processes if self.config.tiny else os.cpu_count() or 1, 0.0
        if self.config.device.startswith("cuda"):
            share = memory / (HEADROOM * device_memory("cuda"))
            cpus, gpus = 1, min(1.0, max(share, 0.1)) if self.config.tiny else float(self.config.processes)
        parameters = self.settings | ({"overwrite": True} if overwrite else {})
        return Job(parameters, str(self.folder), hang_minutes, cpus, gpus, memory)

    @property
    def is_planned(self) -> bool:
        """Whether `memory` is known already."""
        return _neutral(self.config) in _PEAKS

    def memory(self) -> int:
        """The peak its plan expects, in bytes, of all its processes on a CPU, of each on a GPU."""
        neutral = _neutral(self.config)
        if neutral not in _PEAKS:
            _PEAKS[neutral] = _planned_peak(neutral)
        peak = _PEAKS[neutral]
        return peak if self.config.device.startswith("cuda") else peak * self.config.processes


def _neutral(config: RunConfig) -> RunConfig:
    """The configuration that shares its memory plan with all that differ in what memory does not depend
    on."""
    same = dict(
        seed=0,
        dataset="shapes",
        study="runs",
        out=".",
        overwrite=False,
        schedule="constant",
        steps=1,
        eval_every=1,
        eval_samples=1,
        warmup=0,
        learning_rate=1.0,
        connector_learning_rate=1.0,
        weight_decay=0.0,
    )
    return dataclasses.replace(config, **same)


_PEAKS: dict[RunConfig, int] = {}


def _planned_peak(config: RunConfig) -> int:
    from fvlm.costs.memory import MicroBatch, OutOfMemory, device_memory
    from fvlm.costs.plan import plan_memory, planned_micro_batch

    try:
        return plan_memory(config, planned_micro_batch(config, device_memory(config.device))).peak
    except OutOfMemory:
        return plan_memory(config, MicroBatch(1, True)).peak


@dataclass(frozen=True)
class Grid:
    """The cells of a study in the order they are run, and submitit's parameters for `--on slurm`."""

    study: str
    cells: list[Cell]
    slurm: dict = field(default_factory=dict)

    def select(self, only: str | None = None, priority: int | None = None) -> "Grid":
        """The cells whose name fits a pattern such as `S-S_*`, of at most this priority number. ConfigError
        if none."""
        cells = [
            cell
            for cell in self.cells
            if (
                only is None
                or fnmatch.fnmatchcase(cell.name, only)
                or fnmatch.fnmatchcase(cell.config.cell, only)
            )
            and (priority is None or cell.priority <= priority)
        ]
        if not cells:
            names = ", ".join(dict.fromkeys(cell.config.cell for cell in self.cells))
            raise ConfigError(f"no cell fits --only {only!r} --priority {priority}: there are {names}")
        return dataclasses.replace(self, cells=cells)


def apart(grid: Grid, again: bool = False) -> Grid:
    """The grid as a user's own: cells of a published study are run in a folder of its name in `runs/`, beside
    the published ones, and those that are published count as finished unless they are to be run `again`."""
    cells = []
    for cell in grid.cells:
        study = cell.folder.parent
        own = own_folder(study)
        if own != study:
            out = str(own.parent)
            kept = None if again else cell.folder
            config = dataclasses.replace(cell.config, out=out)
            cell = dataclasses.replace(
                cell, config=config, settings=cell.settings | dict(out=out), published=kept
            )
        cells.append(cell)
    return dataclasses.replace(grid, cells=cells)


def read_grid(path: str | Path, overrides: dict | None = None, study: str | None = None) -> Grid:
    """A grid file: `study`, `seeds`, `settings` (fields of RunConfig for all), `pairs` (settings of a pair,
    or of the cells whose names fit a pattern, as `T1-T_*_fov`; a later one wins over those before it),
    `slurm`, and `cells`, a list of blocks with `pairs`, `frames`, `archs` and perhaps `seeds`, `settings`,
    `priority`.

    `overrides` are settings that win over the file's. ConfigError, naming file and place, on anything
    unknown."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such grid file")
    try:
        return grid_of(load_yaml(path), overrides, study)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def grid_of(content: dict, overrides: dict | None = None, study: str | None = None) -> Grid:
    """What a grid file holds, as `read_grid`."""
    expect(
        content,
        {"study": str, "cells": list},
        {"seeds": list, "settings": dict, "pairs": dict, "slurm": dict},
    )
    for pair, settings in content.get("pairs", {}).items():
        if not isinstance(pair, str) or not isinstance(settings, dict):
            raise ConfigError(f"pairs: {shown(pair)}: {shown(settings)}: expected settings of a pair")
    blocks = []
    for block in content["cells"]:
        optional = {"seeds": list, "settings": dict, "priority": int}
        expect(block, {"pairs": list, "frames": list, "archs": list}, optional)
        blocks.append(block)
    lists = [(b["pairs"], b["frames"], b["archs"], b.get("seeds", content.get("seeds", [0]))) for b in blocks]
    if (count := sum(math.prod(map(len, of)) for of in lists)) > MOST_CELLS:
        raise ConfigError(f"{count:,} cells: at most {MOST_CELLS:,}")
    cells = [
        cell
        for block in blocks
        for cell in _cells_of(block, content, overrides or {}, study or content["study"])
    ]
    unused = [key for key in content.get("pairs", {}) if not any(_for(key, c.config.cell) for c in cells)]
    if unused:
        raise ConfigError(f"settings for {', '.join(sorted(unused))}, but no such cell")
    twice = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
    if twice:
        raise ConfigError(f"{', '.join(twice)} more than once")
    return Grid(
        study or content["study"], sorted(cells, key=lambda cell: cell.priority), content.get("slurm", {})
    )


def _cells_of(block: dict, content: dict, overrides: dict, study: str):
    seeds = block.get("seeds", content.get("seeds", [0]))
    for seed, pair, frames, arch in itertools.product(seeds, block["pairs"], block["frames"], block["archs"]):
        name = f"{pair}_{frames}f_{arch}"
        layers = (
            content.get("settings", {}),
            *(values for key, values in content.get("pairs", {}).items() if _for(key, name)),
            block.get("settings", {}),
            overrides,
        )
        settings = {name: value for layer in map(todays_names, layers) for name, value in layer.items()}
        if "seed" in settings or "study" in settings:
            raise ConfigError(
                "seeds are a list of the file or of a block of cells, the study a name beside it"
            )
        config = RunConfig.from_cell(name, **settings | dict(seed=seed, study=study))
        check_dataset(config.dataset)
        named = {
            name: getattr(config, name)
            for name in ("llm", "vision", "frames", "arch", "seed", "study", "out")
        }
        typed = {name: getattr(config, name) for name in settings}
        yield Cell(config, typed | named, block.get("priority", 1))


def _for(key: str, cell: str) -> bool:
    """Whether settings under `key` of a grid file's `pairs` are this cell's."""
    return key == cell.partition("_")[0] or fnmatch.fnmatchcase(cell, key)


@dataclass
class CellStatus:
    """What has become of a cell since the grid started."""

    cell: Cell
    state: str
    attempts: int = 0
    why: str = ""
    handle: object = None
    lock: object = None


class GridRun:
    """A grid on its way: `run()` returns when every cell is finished, failed, or stopped.

    on: an executor (Local, Ray, Slurm). retries: how often a cell that failed is tried again at once.
    retry_failed: take up those that failed in an earlier grid. overwrite: replace results of other
    configurations, else ConfigError. on_change: called with the run after every change, and every second."""

    def __init__(
        self,
        grid: Grid,
        on: Local | Ray | Slurm,
        retries: int = 0,
        retry_failed: bool = False,
        overwrite: bool = False,
        hang_minutes: float = HANG_MINUTES,
        on_change: Callable[["GridRun"], None] = lambda run: None,
    ):
        self.grid, self.on, self.retries, self.overwrite = grid, on, retries, overwrite
        self.hang_minutes, self.on_change, self.stopping = hang_minutes, on_change, 0
        self.started = time.time()
        self.statuses = [CellStatus(cell, cell.state()) for cell in grid.cells]
        refuse_changed(grid, overwrite)
        for status in self.statuses:
            if status.state == FAILED:
                record = read_record(status.cell.folder)
                status.why = f"{record['reason']}: {record['message']}"
                if retry_failed:
                    record_path(status.cell.folder).unlink(missing_ok=True)
            if status.state in (CHANGED, STARTED) or (status.state == FAILED and retry_failed):
                status.state = WAITING

    def run(self) -> bool:
        """Run what is not finished. True if every cell then is."""
        record_path(self.grid.cells[0].folder).parent.mkdir(parents=True, exist_ok=True)
        previous = {name: signal.signal(name, self._stop) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._busy():
                for status in self.statuses:
                    if status.state == RUNNING:
                        self._look_after(status)
                for status in self.statuses:
                    if status.state in (WAITING, ELSEWHERE) and not self.stopping and not self._start(status):
                        break
                self.on_change(self)
                time.sleep(0.2)
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
            self.on.close()
            for status in self.statuses:
                self._release(status)
        self.on_change(self)
        return all(status.state == FINISHED for status in self.statuses)

    def _busy(self) -> bool:
        states = {status.state for status in self.statuses}
        return RUNNING in states or (not self.stopping and bool(states & {WAITING, ELSEWHERE}))

    def _start(self, status: CellStatus) -> bool:
        """Start a cell unless another grid has it. False if there is no room now."""
        from filelock import FileLock, Timeout

        cell = status.cell
        lock = FileLock(record_path(cell.folder).with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            status.state = ELSEWHERE
            return True
        status.lock = lock
        state = cell.state()  # another grid may have had it since
        if state == FINISHED or (
            state == FAILED and read_record(cell.folder)["time"] > self.started and not status.attempts
        ):
            self._settle(status, state)
            return True
        overwrite = self.overwrite and state == CHANGED
        status.handle = self.on.start(
            cell.job(self.hang_minutes, overwrite), record_path(cell.folder).with_suffix(".log")
        )
        if status.handle is None:
            self._release(status)
            return False
        status.state, status.attempts, status.why = RUNNING, status.attempts + 1, ""
        return True

    def _look_after(self, status: CellStatus):
        ended = self.on.poll(status.handle)
        if ended is None:
            if self.stopping and status.cell.folder.exists():
                request_stop(
                    status.cell.folder
                )  # again and again: one that only starts now clears what was left over
            return
        (status.cell.folder / "stop").unlink(missing_ok=True)
        if status.cell.state() == FINISHED:
            self._settle(status, FINISHED)
            return
        record = read_record(status.cell.folder)
        if record is None:
            write_record(status.cell.folder, "lost", ended or "its process ended without a word")
            record = read_record(status.cell.folder)
        status.why = f"{record['reason']}: {record['message']}"
        if record["reason"] == "stopped" or self.stopping > 1:
            record_path(status.cell.folder).unlink(missing_ok=True)
            self._settle(status, STOPPED)
        elif status.attempts <= self.retries and not self.stopping:
            self._settle(status, WAITING)
        else:
            self._settle(status, FAILED)

    def _settle(self, status: CellStatus, state: str):
        status.state = state
        if state == FAILED and not status.why:
            record = read_record(status.cell.folder)
            status.why = f"{record['reason']}: {record['message']}"
        self._release(status)

    def _release(self, status: CellStatus):
        if status.lock is not None:
            status.lock.release()
            status.lock = None

    def _stop(self, *_):
        """The first signal: start nothing new, stop every cell at its next checkpoint. The second: end them
        now."""
        self.stopping += 1
        if self.stopping > 1:
            for status in self.statuses:
                if status.state == RUNNING:
                    self.on.kill(status.handle)


def refuse_changed(grid: Grid, overwrite: bool):
    """ConfigError if a cell's folder holds another configuration's results and they may not be replaced."""
    changed = [cell for cell in grid.cells if cell.state() == CHANGED]
    if changed and not overwrite:
        differences = "; ".join(changed[0].config.changes_from(load_run(changed[0].folder).config))
        raise ConfigError(
            f"{len(changed)} cells have results of another configuration, such as {changed[0].name} "
            f"({differences}): "
            "give --overwrite to replace them, or --study with another name to keep both"
        )
