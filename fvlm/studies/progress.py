"""How far a grid has come: a live table on a terminal, and a list of its cells."""

import math
import re
import shutil
import sys
import time
from collections import Counter

import pandas as pd

from fvlm.costs.plan import run_flops
from fvlm.files import where
from fvlm.studies.executors import Local
from fvlm.studies.grid import (
    ELSEWHERE,
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    CellStatus,
    Grid,
    GridRun,
)
from fvlm.text import coloured, hours
from fvlm.training.progress import read_progress


def cells_table(cells: pd.DataFrame) -> pd.DataFrame:
    """`list_cells` as it is read."""
    table = cells[["cell", "priority", "state"]].copy()
    table["FLOPs"] = [f"{flops:.1e}" for flops in cells["flops"]]
    table["memory"] = ["…" if math.isnan(size) else f"{size / 1e9:.1f} GB" for size in cells["memory_bytes"]]
    table["time, h:mm"] = [hours(seconds) for seconds in cells["seconds"]]
    return table.assign(note=cells["note"])


class Table:
    """The grid's progress on a terminal, redrawn in place; where nobody watches, a line per change and one a
    minute."""

    def __init__(self, stream=sys.stderr, rows: int = 24):
        self._stream, self._rows, self._live = stream, rows, stream.isatty()
        self._drawn, self._height, self._states = 0.0, 0, {}

    def __call__(self, run: GridRun):
        states = {status.cell.name: status.state for status in run.statuses}
        changed = {name for name, state in states.items() if self._states.get(name, WAITING) != state}
        self._states = states
        if self._live:
            if changed or time.monotonic() - self._drawn > 1:
                self._redraw(run)
            return
        for status in run.statuses:
            if status.cell.name in changed:
                print(
                    f"{status.cell.name}: {status.state}{f' ({status.why})' if status.why else ''}",
                    file=self._stream,
                    flush=True,
                )
        if changed or time.monotonic() - self._drawn > 60:
            for status in run.statuses:
                if status.state == RUNNING and not changed:
                    print(_row(status), file=self._stream)
            print(summary(run), file=self._stream, flush=True)
            self._drawn = time.monotonic()

    def _redraw(self, run: GridRun):
        order = {RUNNING: 0, FAILED: 1, STOPPED: 1, ELSEWHERE: 2, WAITING: 3, FINISHED: 4}
        lines = sorted(run.statuses, key=lambda status: order[status.state])
        shown = [_HEAD, *map(_row, lines[: self._rows])]
        if len(lines) > self._rows:
            shown.append(f"… and {len(lines) - self._rows} more")
        shown.append(summary(run))
        width = shutil.get_terminal_size().columns
        text = "".join(f"\x1b[2K{in_colour(line[:width], self._stream)}\n" for line in shown)
        self._stream.write((f"\x1b[{self._height}A" if self._height else "") + text + "\x1b[J")
        self._stream.flush()
        self._drawn, self._height = time.monotonic(), len(shown)


STATE_COLOURS = {RUNNING: "yellow", FAILED: "red", STOPPED: "red", FINISHED: "green"}


def in_colour(line: str, stream) -> str:
    """A line of a table with the first word that is a cell's state in its colour, on a terminal."""
    for state, colour in STATE_COLOURS.items():
        if re.search(rf"\b{state}\b", line):
            return re.sub(rf"\b{state}\b", coloured(state, colour, stream), line, count=1)
    return line


_HEAD = f"{'cell':24} {'state':10} {'step':>12} {'loss':>7} {'samples/s':>10} {'left h:mm':>9}"


def _row(status: CellStatus) -> str:
    text = f"{status.cell.name:24} {status.state:10}"
    progress = read_progress(status.cell.folder) if status.state in (RUNNING, ELSEWHERE) else None
    if progress:
        step = f"{progress['step']}/{progress['steps']}"
        rate, left = progress["samples_per_second"], hours(progress["seconds_left"])
        text += f" {step:>12} {progress['loss']:7.3f} {rate:10.1f} {left:>9}"
    return (text + (f"  {status.why}" if status.why else ""))[:160]


def summary(run: GridRun) -> str:
    """One line for the whole: how many cells are in which state, and the time left at the rate so far."""
    counts = Counter(status.state for status in run.statuses)
    text = ", ".join(
        f"{counts[state]} {state}" for state in dict.fromkeys(status.state for status in run.statuses)
    )
    left = time_left(run)
    return f"{len(run.statuses)} cells: {text}" + (
        f"; about {hours(left)} h left" if left is not None else ""
    )


def time_left(run: GridRun) -> float | None:
    """Seconds, from the FLOPs that are still to do and those that were done since the grid started; None
    before that."""
    done = todo = 0.0
    for status in run.statuses:
        flops = run_flops(status.cell.config)
        if status.state == FINISHED:
            done += flops if status.attempts else 0
        elif status.state in (RUNNING, ELSEWHERE):
            progress = read_progress(status.cell.folder)
            share = progress["step"] / progress["steps"] if progress else 0.0
            done, todo = done + share * flops, todo + (1 - share) * flops
        elif status.state == WAITING:
            todo += flops
    if not done or not todo:
        return None
    return todo / done * (time.time() - run.started)


def list_cells(grid: Grid, planning: float = math.inf):
    """A DataFrame, a row per cell: its state, FLOPs, and the memory and time it is expected to take on this
    machine. planning: seconds of CPU time of this process, its start included, after which no further cell's
    memory is worked out, which is then NaN; half a second is always spent on it, and what was worked out is
    known the next time."""
    from fvlm.costs.machine import matmul_rate
    from fvlm.costs.memory import HEADROOM, device_memory
    from fvlm.costs.plan import expected_seconds, what_would_fit

    rates, rows, until = {}, [], max(planning, time.process_time() + 0.5)
    for cell in grid.cells:
        config = cell.config
        kind = config.device, config.precision
        rates.setdefault(kind, matmul_rate(config, side=1024) if kind not in rates else None)
        there = device_memory(config.device)
        over = time.process_time() > until and not cell.is_planned
        memory = math.nan if over else cell.memory()
        note = ""
        if cell.is_published and cell.published is not None and not cell.folder.exists():
            note = f"published in {where(cell.published.parent)}"
        elif memory > HEADROOM * there:
            note = "does not fit: " + "; ".join(what_would_fit(config, there))
        rows.append(
            dict(
                cell=cell.name,
                priority=cell.priority,
                state=cell.state(),
                flops=run_flops(config),
                memory_bytes=memory,
                seconds=expected_seconds(config, rates[kind]),
                note=note,
            )
        )
    return pd.DataFrame(rows)


def run_grids(grids: list[Grid], jobs: int | None = None) -> bool:
    """Train what of several grids is not there yet, one grid after the other, `jobs` cells at once (see
    `Local`), failed ones again. Returns whether every run is finished."""
    done = True
    for grid in grids:
        run = GridRun(grid, Local(jobs), retry_failed=True, on_change=Table())
        done = run.run() and done
        if run.stopping:  # Ctrl-C is meant for all of it
            return False
    return done
