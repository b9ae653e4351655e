"""Which learning rate suits each size? `python -m fvlm.tune params/micro.yaml` tries them on a seed that the study does
not use, and says which to write under `pairs:` in the grid file.

Every pair of the grid is trained at every rate in the study's first number of frames, foveated and baseline. A rate serves
both architectures: chosen is the one with the lowest mean of their last losses, so that neither is favoured. A part of the
study's steps (`--share 0.4`) rules rates out cheaply; what is near the best is then tried with all of them, `--only` its
pairs: the longest runs decide. All that was found is kept in `outputs/<study>_rates/rates.parquet`; runs go on where they
were stopped.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import pandas as pd

from fvlm.config import REPOSITORY, ConfigError
from fvlm.executors import Local
from fvlm.grid import Cell, Grid, GridRun, Table, read_grid
from fvlm.results import load_run, update_table

SEED = 100  # held out
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
ARCHS = ("foveated", "baseline")


def sweep(path: str | Path, rates=RATES, share: float = 1.0, only: str | None = None, out: str | Path | None = None) -> list[Grid]:
    """The sweep's cells, a grid for each rate. share: of the study's steps; only: cells whose name fits, as `T[45]-T_*`.
    ConfigError as `read_grid`, and if the grid file has no pair in both architectures."""
    study = read_grid(path)
    frames = study.cells[0].config.frames
    steps = max(1, round(share * study.cells[0].config.steps))
    out = str(out or _folder(study.study))
    grids = []
    for rate in rates:
        changes = dict(learning_rate=rate, steps=steps, eval_every=steps, out=out)
        grid = read_grid(path, changes, f"{rate:g}_{steps}steps").select(only)
        cells = {cell.config.cell: cell for cell in grid.cells if cell.config.frames == frames and cell.config.arch in ARCHS}
        held_out = [Cell(dataclasses.replace(cell.config, seed=SEED), cell.settings | dict(seed=SEED)) for cell in cells.values()]
        grids.append(Grid(grid.study, held_out))
    if not all(grid.cells for grid in grids):
        raise ConfigError(f"{path}: no cell of {' or '.join(ARCHS)} with {frames} frames")
    return grids


def _folder(study: str) -> Path:
    return REPOSITORY / "outputs" / f"{study}_rates"


def found(folder: Path) -> list[dict]:
    """A row per finished run of a sweep: pair, arch, rate, steps, seed, loss (parallel, the last one)."""
    rows = []
    for path in sorted(folder.glob("*/*/evaluations.parquet")):
        run = load_run(path.parent)
        config, last = run.config, run.evaluations.iloc[-1]
        if last["step"] == config.steps:
            rows.append(dict(pair=config.cell.partition("_")[0], arch=config.arch, rate=config.learning_rate,
                             steps=config.steps, seed=config.seed, loss=last["loss_parallel"]))  # fmt: skip
    return rows


def keep(folder: Path) -> pd.DataFrame:
    """Write what was found to `rates.parquet`, over what stood there of the same runs; runs that are no longer there, as in
    a fresh clone, keep their rows. Returns the table."""
    return pd.DataFrame(update_table(folder / "rates.parquet", found(folder), ("pair", "steps", "rate", "arch", "seed")))


def mean_losses(table: pd.DataFrame) -> pd.Series:
    """The mean loss of the architectures, by (steps, pair, rate), where all of them are there."""
    means = table.groupby(["steps", "pair", "rate"])["loss"].agg(["mean", "count"])
    return means.loc[means["count"] == table["arch"].nunique(), "mean"]


def best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair: of the rates tried in its longest runs the one with the lowest mean loss of its architectures, that
    loss, those runs' `steps`, and whether the rate is the lowest or highest of these runs (`edge`), so that a better one
    may lie beyond; what shorter runs say of rates beyond does not count. Rates that not all architectures have are left out."""
    rows = []
    for pair, means in mean_losses(table).groupby("pair"):
        steps = means.index.get_level_values("steps").max()
        losses = means.loc[steps, pair]
        rate = float(losses.idxmin())
        rows.append(dict(pair=pair, rate=rate, loss=float(losses.min()), steps=int(steps),
                         edge=bool(rate in (losses.index.min(), losses.index.max()))))  # fmt: skip
    return pd.DataFrame(rows)


def own_rates(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair and architecture: the rate that suits it alone best of those tried in the longest runs (`rate`), and
    the loss that the rate chosen for both, by `best_rates`, costs it beside that one (`cost`, nats)."""
    rows = []
    for best in best_rates(table).itertuples():
        runs = table[(table["pair"] == best.pair) & (table["steps"] == best.steps)]
        for arch, mine in runs.groupby("arch"):
            losses = mine.set_index("rate")["loss"]
            rows.append(dict(pair=best.pair, arch=arch, rate=float(losses.idxmin()), cost=float(losses[best.rate] - losses.min())))
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(prog="python -m fvlm.tune", description=__doc__.partition("\n\n")[0])
    parser.add_argument("grid", help="a grid file, such as params/micro.yaml")
    parser.add_argument("--rates", default=",".join(f"{rate:g}" for rate in RATES), help="joined by commas (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the study's steps (default: %(default)s)")
    parser.add_argument("--only", metavar="PATTERN", help="cells whose name fits, such as 'T[45]-T_*'")
    options = parser.parse_args()
    grids = sweep(options.grid, [float(rate) for rate in options.rates.split(",")], options.share, options.only)
    done = True
    for grid in grids:
        run = GridRun(grid, Local(), retry_failed=True, on_change=Table())
        done = run.run() and done
        if run.stopping:  # Ctrl-C is meant for all of it
            sys.exit("stopped; the same command goes on")
    folder = Path(grids[0].cells[0].config.out)
    table = keep(folder)
    print(table.pivot(index=["steps", "pair", "arch"], columns="rate", values="loss").round(4).to_string())
    print(best_rates(table).round(4).to_string(index=False))
    if not done:
        sys.exit("not every run is finished")


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
