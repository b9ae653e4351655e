"""The grid: every cell of a study, one executed notebook each, until all are done.

A grid file (params/*.yaml) says which cells; what has become of a cell is read from its folder, so a grid may be
stopped, killed, started again, or started twice at once. See `python -m fvlm grid --help`.
"""

import dataclasses
import fnmatch
import functools
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fvlm.config import ConfigError, RunConfig
from fvlm.executors import Job, Local, Ray, Slurm, read_record, record_path, write_record
from fvlm.report import clock
from fvlm.results import load_run
from fvlm.training import read_progress, request_stop

HANG_MINUTES = 30.0  # without a step or an evaluated batch; setting up included
FINISHED, WAITING, RUNNING, ELSEWHERE, FAILED, STOPPED = "finished", "waiting", "running", "elsewhere", "failed", "stopped"
CHANGED, STARTED = "changed", "started"


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a cell and its seed. `settings` are the notebook's parameters, those the file gives."""

    config: RunConfig
    settings: dict = field(hash=False)
    priority: int = 1

    @property
    def name(self) -> str:
        return self.config.folder.name

    @property
    def folder(self) -> Path:
        return self.config.folder

    def state(self) -> str:
        """What its folder says: finished, changed (another configuration's results), failed, started or waiting."""
        if (self.folder / "config.json").exists():
            run = load_run(self.folder)
            if self.config.changes_from(run.config):
                return CHANGED
            if run.finished and (self.folder / "train.html").exists():
                return FINISHED
        record = read_record(self.folder)
        if record and record["reason"] != "stopped":
            return FAILED
        return STARTED if (self.folder / "checkpoint").exists() else WAITING

    def job(self, hang_minutes: float, overwrite: bool = False) -> Job:
        """What a process needs to run it, and what it takes: cores, GPUs, memory. On a CPU a tiny cell gets one core a
        process, however many run at once: the number of threads shows in the last digits of a loss."""
        from fvlm.memory import HEADROOM, device_memory

        memory = self.memory()
        cpus, gpus = self.config.processes if self.config.tiny else os.cpu_count() or 1, 0.0
        if self.config.device.startswith("cuda"):
            share = memory / (HEADROOM * device_memory("cuda"))
            cpus, gpus = 1, min(1.0, max(share, 0.1)) if self.config.tiny else float(self.config.processes)
        parameters = self.settings | ({"overwrite": True} if overwrite else {})
        return Job(parameters, str(self.folder), hang_minutes, cpus, gpus, memory)

    def memory(self) -> int:
        """The peak its plan expects, in bytes, of all its processes on a CPU, of each on a GPU."""
        peak = _planned_peak(_neutral(self.config))
        return peak if self.config.device.startswith("cuda") else peak * self.config.processes

    def flops(self) -> float:
        """Training and evaluation FLOPs of the whole run."""
        from fvlm.flops import flops_per_sample

        config = self.config
        evaluated = -(-config.steps // config.eval_every) * config.eval_samples
        training, forward = (flops_per_sample(config, training=trains)["total"] for trains in (True, False))
        return config.steps * config.effective_batch * training + 2 * evaluated * forward


def _neutral(config: RunConfig) -> RunConfig:
    """The configuration that shares its memory plan with all that differ in what memory does not depend on."""
    same = dict(seed=0, dataset="shapes", study="runs", out=".", overwrite=False, schedule="constant", steps=1, eval_every=1,
                eval_samples=1, warmup=0, learning_rate=1.0, connector_learning_rate=1.0, weight_decay=0.0)  # fmt: skip
    return dataclasses.replace(config, **same)


@functools.lru_cache(maxsize=512)
def _planned_peak(config: RunConfig) -> int:
    from fvlm.memory import OutOfMemory, device_memory, plan_memory, planned_micro_batch, total_memory

    available = device_memory(config.device) if config.device.startswith("cuda") else total_memory()
    try:
        return plan_memory(config, planned_micro_batch(config, available)).peak
    except OutOfMemory:
        from fvlm.memory import MicroBatch

        return plan_memory(config, MicroBatch(1, True)).peak


# ── Grid files ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Grid:
    """The cells of a study in the order they are run, and submitit's parameters for `--on slurm`."""

    study: str
    cells: list[Cell]
    slurm: dict = field(default_factory=dict)

    def select(self, only: str | None = None, priority: int | None = None) -> "Grid":
        """The cells whose name fits a pattern such as `S-S_*`, of at most this priority number. ConfigError if none."""
        cells = [
            cell for cell in self.cells
            if (only is None or fnmatch.fnmatchcase(cell.name, only) or fnmatch.fnmatchcase(cell.config.cell, only))
            and (priority is None or cell.priority <= priority)
        ]  # fmt: skip
        if not cells:
            names = ", ".join(dict.fromkeys(cell.config.cell for cell in self.cells))
            raise ConfigError(f"no cell fits --only {only!r} --priority {priority}: there are {names}")
        return dataclasses.replace(self, cells=cells)


def read_grid(path: str | Path, overrides: dict | None = None, study: str | None = None) -> Grid:
    """A grid file: `study`, `seeds`, `settings` (fields of RunConfig for all), `pairs` (settings of a pair), `slurm`, and
    `cells`, a list of blocks with `pairs`, `frames`, `archs` and perhaps `seeds`, `settings`, `priority`.

    `overrides` are settings that win over the file's. ConfigError, naming file and place, on anything unknown."""
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such grid file")
    try:
        content = yaml.safe_load(path.read_text())
        _expect(content, {"study": str, "cells": list}, {"seeds": list, "settings": dict, "pairs": dict, "slurm": dict})
        blocks = []
        for block in content["cells"]:
            optional = {"seeds": list, "settings": dict, "priority": int}
            _expect(block, {"pairs": list, "frames": list, "archs": list}, optional)
            blocks.append(block)
        cells = [cell for block in blocks for cell in _cells_of(block, content, overrides or {}, study or content["study"])]
        used = {pair for block in blocks for pair in block["pairs"]}
        if unused := set(content.get("pairs", {})) - used:
            raise ConfigError(f"settings for {', '.join(sorted(unused))}, but no such cell")
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    twice = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
    if twice:
        raise ConfigError(f"{path}: {', '.join(twice)} more than once")
    return Grid(study or content["study"], sorted(cells, key=lambda cell: cell.priority), content.get("slurm", {}))


def _cells_of(block: dict, content: dict, overrides: dict, study: str):
    seeds = block.get("seeds", content.get("seeds", [0]))
    for seed, pair, frames, arch in itertools.product(seeds, block["pairs"], block["frames"], block["archs"]):
        settings = content.get("settings", {}) | content.get("pairs", {}).get(pair, {}) | block.get("settings", {}) | overrides
        config = RunConfig.from_cell(f"{pair}_{frames}f_{arch}", **settings | dict(seed=seed, study=study))
        named = {name: getattr(config, name) for name in ("llm", "vision", "frames", "arch", "seed", "study", "out")}
        typed = {name: getattr(config, name) for name in settings}
        yield Cell(config, typed | named, block.get("priority", 1))


def _expect(content, needed: dict, optional: dict):
    """ConfigError unless a mapping has these names, and these alone, with values of these types."""
    if not isinstance(content, dict):
        raise ConfigError(f"expected {', '.join(needed)}, found {content!r}")
    for name in needed:
        if name not in content:
            raise ConfigError(f"{name!r} is missing")
    for name, value in content.items():
        kind = (needed | optional).get(name)
        if kind is None:
            raise ConfigError(f"unknown name {name!r}: valid are {', '.join(needed | optional)}")
        if not isinstance(value, kind):
            raise ConfigError(f"{name} = {value!r}: expected a {kind.__name__}")


# ── Running ──────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Line:
    """A cell's line in the live table."""

    cell: Cell
    state: str
    attempts: int = 0
    why: str = ""
    handle: object = None
    lock: object = None


class GridRun:
    """A grid on its way: `run()` returns when every cell is finished, failed, or stopped.

    on: an executor (Local, Ray, Slurm). retries: how often a cell that failed is tried again at once. retry_failed:
    take up those that failed in an earlier grid. overwrite: replace results of other configurations, else ConfigError.
    on_change: called with the run after every change, and every second."""

    def __init__(
        self, grid: Grid, on: Local | Ray | Slurm, retries: int = 0, retry_failed: bool = False, overwrite: bool = False,
        hang_minutes: float = HANG_MINUTES, on_change: Callable[["GridRun"], None] = lambda run: None,
    ):  # fmt: skip
        self.grid, self.on, self.retries, self.overwrite = grid, on, retries, overwrite
        self.hang_minutes, self.on_change, self.stopping = hang_minutes, on_change, 0
        self.started = time.time()
        self.lines = [Line(cell, cell.state()) for cell in grid.cells]
        refuse_changed(grid, overwrite)
        for line in self.lines:
            if line.state == FAILED:
                record = read_record(line.cell.folder)
                line.why = f"{record['reason']}: {record['message']}"
                if retry_failed:
                    record_path(line.cell.folder).unlink(missing_ok=True)
            if line.state in (CHANGED, STARTED) or (line.state == FAILED and retry_failed):
                line.state = WAITING

    def run(self) -> bool:
        """Run what is not finished. True if every cell then is."""
        record_path(self.grid.cells[0].folder).parent.mkdir(parents=True, exist_ok=True)
        previous = {name: signal.signal(name, self._stop) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._busy():
                for line in self.lines:
                    if line.state == RUNNING:
                        self._look_after(line)
                for line in self.lines:
                    if line.state in (WAITING, ELSEWHERE) and not self.stopping and not self._start(line):
                        break
                self.on_change(self)
                time.sleep(0.2)
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
            self.on.close()
            for line in self.lines:
                self._release(line)
        self.on_change(self)
        return all(line.state == FINISHED for line in self.lines)

    def _busy(self) -> bool:
        states = {line.state for line in self.lines}
        return RUNNING in states or (not self.stopping and bool(states & {WAITING, ELSEWHERE}))

    def _start(self, line: Line) -> bool:
        """Start a cell unless another grid has it. False if there is no room now."""
        from filelock import FileLock, Timeout

        cell = line.cell
        lock = FileLock(record_path(cell.folder).with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            line.state = ELSEWHERE
            return True
        line.lock = lock
        state = cell.state()  # another grid may have had it since
        if state == FINISHED or (state == FAILED and read_record(cell.folder)["time"] > self.started and not line.attempts):
            self._settle(line, state)
            return True
        overwrite = self.overwrite and state == CHANGED
        line.handle = self.on.start(cell.job(self.hang_minutes, overwrite), record_path(cell.folder).with_suffix(".log"))
        if line.handle is None:
            self._release(line)
            return False
        line.state, line.attempts, line.why = RUNNING, line.attempts + 1, ""
        return True

    def _look_after(self, line: Line):
        ended = self.on.poll(line.handle)
        if ended is None:
            if self.stopping and line.cell.folder.exists():
                request_stop(line.cell.folder)  # again and again: one that only starts now clears what was left over
            return
        (line.cell.folder / "stop").unlink(missing_ok=True)
        if line.cell.state() == FINISHED:
            self._settle(line, FINISHED)
            return
        record = read_record(line.cell.folder)
        if record is None:
            write_record(line.cell.folder, "lost", ended or "its process ended without a word")
            record = read_record(line.cell.folder)
        line.why = f"{record['reason']}: {record['message']}"
        if record["reason"] == "stopped" or self.stopping > 1:
            record_path(line.cell.folder).unlink(missing_ok=True)
            self._settle(line, STOPPED)
        elif line.attempts <= self.retries and not self.stopping:
            self._settle(line, WAITING)
        else:
            self._settle(line, FAILED)

    def _settle(self, line: Line, state: str):
        line.state = state
        if state == FAILED and not line.why:
            record = read_record(line.cell.folder)
            line.why = f"{record['reason']}: {record['message']}"
        self._release(line)

    def _release(self, line: Line):
        if line.lock is not None:
            line.lock.release()
            line.lock = None

    def _stop(self, *_):
        """The first signal: start nothing new, stop every cell at its next checkpoint. The second: end them now."""
        self.stopping += 1
        if self.stopping > 1:
            for line in self.lines:
                if line.state == RUNNING:
                    self.on.kill(line.handle)


def refuse_changed(grid: Grid, overwrite: bool):
    """ConfigError if a cell's folder holds another configuration's results and they may not be replaced."""
    changed = [cell for cell in grid.cells if cell.state() == CHANGED]
    if changed and not overwrite:
        differences = "; ".join(changed[0].config.changes_from(load_run(changed[0].folder).config))
        raise ConfigError(
            f"{len(changed)} cells have results of another configuration, such as {changed[0].name} ({differences}): "
            "give --overwrite to replace them, or --study with another name to keep both"
        )


# ── The live table ───────────────────────────────────────────────────────────────────────────────


class Table:
    """The grid's progress on a terminal, redrawn in place; where nobody watches, a line per change and one a minute."""

    def __init__(self, stream=sys.stderr, rows: int = 24):
        self._stream, self._rows, self._live = stream, rows, stream.isatty()
        self._drawn, self._height, self._states = 0.0, 0, {}

    def __call__(self, run: GridRun):
        states = {line.cell.name: line.state for line in run.lines}
        changed = {name for name, state in states.items() if self._states.get(name, WAITING) != state}
        self._states = states
        if self._live:
            if changed or time.monotonic() - self._drawn > 1:
                self._redraw(run)
            return
        for line in run.lines:
            if line.cell.name in changed:
                print(f"{line.cell.name}: {line.state}{f' ({line.why})' if line.why else ''}", file=self._stream, flush=True)
        if changed or time.monotonic() - self._drawn > 60:
            for line in run.lines:
                if line.state == RUNNING and not changed:
                    print(_row(line), file=self._stream)
            print(summary(run), file=self._stream, flush=True)
            self._drawn = time.monotonic()

    def _redraw(self, run: GridRun):
        order = {RUNNING: 0, FAILED: 1, STOPPED: 1, ELSEWHERE: 2, WAITING: 3, FINISHED: 4}
        lines = sorted(run.lines, key=lambda line: order[line.state])
        shown = [_HEAD, *map(_row, lines[: self._rows])]
        if len(lines) > self._rows:
            shown.append(f"… and {len(lines) - self._rows} more")
        shown.append(summary(run))
        text = "".join(f"\x1b[2K{line}\n" for line in shown)
        self._stream.write((f"\x1b[{self._height}A" if self._height else "") + text + "\x1b[J")
        self._stream.flush()
        self._drawn, self._height = time.monotonic(), len(shown)


_HEAD = f"{'cell':24} {'state':10} {'step':>12} {'loss':>7} {'samples/s':>10} {'left':>9}"


def _row(line: Line) -> str:
    text = f"{line.cell.name:24} {line.state:10}"
    progress = read_progress(line.cell.folder) if line.state in (RUNNING, ELSEWHERE) else None
    if progress:
        step = f"{progress['step']}/{progress['steps']}"
        text += f" {step:>12} {progress['loss']:7.3f} {progress['samples_per_second']:10.1f} {clock(progress['seconds_left']):>9}"
    return (text + (f"  {line.why}" if line.why else ""))[:160]


def summary(run: GridRun) -> str:
    """One line for the whole: how many cells are in which state, and the time left at the rate so far."""
    counts = Counter(line.state for line in run.lines)
    text = ", ".join(f"{counts[state]} {state}" for state in dict.fromkeys(line.state for line in run.lines))
    left = time_left(run)
    return f"{len(run.lines)} cells: {text}" + (f"; about {clock(left)} left" if left is not None else "")


def time_left(run: GridRun) -> float | None:
    """Seconds, from the FLOPs that are still to do and those that were done since the grid started; None before that."""
    done = todo = 0.0
    for line in run.lines:
        flops = _flops(line.cell)
        if line.state == FINISHED:
            done += flops if line.attempts else 0
        elif line.state in (RUNNING, ELSEWHERE):
            progress = read_progress(line.cell.folder)
            share = progress["step"] / progress["steps"] if progress else 0.0
            done, todo = done + share * flops, todo + (1 - share) * flops
        elif line.state == WAITING:
            todo += flops
    if not done or not todo:
        return None
    return todo / done * (time.time() - run.started)


@functools.lru_cache(maxsize=4096)
def _flops(cell: Cell) -> float:
    return cell.flops()


def list_cells(grid: Grid):
    """A DataFrame, a row per cell: its state, FLOPs, and the memory and time it is expected to take on this machine."""
    import pandas as pd

    from fvlm.bench import matmul_rate
    from fvlm.memory import HEADROOM, device_memory, total_memory, what_would_fit
    from fvlm.report import EXPECTED_SHARE

    rates, rows = {}, []
    for cell in grid.cells:
        config = cell.config
        kind = config.device, config.precision
        rates.setdefault(kind, matmul_rate(config, side=1024) if kind not in rates else None)
        there = device_memory(config.device) if config.device.startswith("cuda") else total_memory()
        memory = cell.memory()
        fits = memory <= HEADROOM * there
        rows.append(
            dict(cell=cell.name, priority=cell.priority, state=cell.state(), flops=cell.flops(), memory_bytes=memory,
                 seconds=cell.flops() / (EXPECTED_SHARE * rates[kind]),
                 note="" if fits else "does not fit: " + "; ".join(what_would_fit(config, there)))
        )  # fmt: skip
    return pd.DataFrame(rows)
