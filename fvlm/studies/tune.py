"""Which learning rate suits each size? `fvlm tune params/micro.yaml` tries them on a seed that the study does
not use, and says which to write under `pairs:` in the grid file.

Every pair of the grid is trained at every rate in the study's first number of frames, foveated and baseline
or those that `--archs` names. Where one rate is to serve all of them, it is the one with the lowest mean of
their last losses, so that none is favoured (`best_rates`); the best of each by itself is told beside it
(`own_rates`). A part of the study's steps (`--share 0.4`) rules rates out cheaply; what is near the best is
then tried with all of them, `--only` its pairs: the longest runs decide. All that was found is kept in
`outputs/<study>_rates/rates.parquet`, in `outputs/runs/` where that is published; runs go on where they were
stopped."""

import dataclasses
from pathlib import Path

import pandas as pd

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import own_folder, update_table
from fvlm.studies.grid import Cell, Grid, read_grid
from fvlm.studies.progress import run_grids
from fvlm.training.results import load_run

SEED = 100  # held out

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)

TUNED = ("foveated", "baseline")


def sweep(
    path: str | Path,
    rates=RATES,
    share: float = 1.0,
    only: str | None = None,
    out: str | Path | None = None,
    archs=TUNED,
    publish: bool = False,
) -> list[Grid]:
    """The sweep's cells, a grid for each rate. share: of the study's steps; only: cells whose name fits, as
    `T[45]-T_*`; publish: among the published rates, not beside them. ConfigError as `read_grid`, and if the
    grid file has no cell of these architectures."""
    study = read_grid(path)
    frames = study.cells[0].config.frames
    steps = max(1, round(share * study.cells[0].config.steps))
    out = str(out or (rates_folder(study.study) if publish else own_folder(rates_folder(study.study))))
    grids = []
    for rate in rates:
        changes = dict(learning_rate=rate, steps=steps, eval_every=steps, out=out)
        grid = read_grid(path, changes, f"{rate:g}_{steps}steps").select(only)
        cells = {
            cell.config.cell: cell
            for cell in grid.cells
            if cell.config.frames == frames and cell.config.arch in archs
        }
        held_out = [
            Cell(dataclasses.replace(cell.config, seed=SEED), cell.settings | dict(seed=SEED))
            for cell in cells.values()
        ]
        grids.append(Grid(grid.study, held_out))
    if not all(grid.cells for grid in grids):
        raise ConfigError(f"{path}: no cell of {' or '.join(archs)} with {frames} frames")
    return grids


def rates_folder(study: str) -> Path:
    """Where the sweep of a study's rates is."""
    return REPOSITORY / "outputs" / f"{study}_rates"


def found(folder: Path) -> list[dict]:
    """A row per finished run of a sweep: pair, arch, rate, steps, seed, loss (parallel, the last one),
    precision, what it was trained in, and read_final, whether its looks are read after the last vision
    layer."""
    rows = []
    for path in sorted(folder.glob("*/*/evaluations.parquet")):
        run = load_run(path.parent)
        config, last = run.config, run.evaluations.iloc[-1]
        if last["step"] == config.steps:
            rows.append(
                dict(
                    pair=config.pair,
                    arch=config.arch,
                    rate=config.learning_rate,
                    steps=config.steps,
                    seed=config.seed,
                    loss=last["loss_parallel"],
                    precision=last["precision"],
                    read_final=config.read_final,
                )
            )
    return rows


def keep(folder: Path) -> pd.DataFrame:
    """Write what was found to `rates.parquet`, over what stood there of the same runs; runs that are no
    longer there, as in a fresh clone, keep their rows. Returns the table."""
    return pd.DataFrame(
        update_table(folder / "rates.parquet", found(folder), ("pair", "steps", "rate", "arch", "seed"))
    )


def mean_losses(table: pd.DataFrame) -> pd.Series:
    """The mean loss of the architectures, by (steps, pair, rate), where all of them are there."""
    means = table.groupby(["steps", "pair", "rate"])["loss"].agg(["mean", "count"])
    return means.loc[means["count"] == table["arch"].nunique(), "mean"]


def best_rates(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair: of the rates tried in its longest runs the one with the lowest mean loss of its
    architectures, that loss, those runs' `steps`, and whether the rate is the lowest or highest of these runs
    (`edge`), so that a better one may lie beyond; what shorter runs say of rates beyond does not count. Rates
    that not all architectures have are left out."""
    rows = []
    for pair, means in mean_losses(table).groupby("pair"):
        steps = means.index.get_level_values("steps").max()
        losses = means.loc[steps, pair]
        rate = float(losses.idxmin())
        rows.append(
            dict(
                pair=pair,
                rate=rate,
                loss=float(losses.min()),
                steps=int(steps),
                edge=bool(rate in (losses.index.min(), losses.index.max())),
            )
        )
    return pd.DataFrame(rows)


def own_rates(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair and architecture: the rate that suits it alone best of those tried in the longest runs
    (`rate`), and the loss that the rate chosen for both, by `best_rates`, costs it beside that one (`cost`,
    nats)."""
    rows = []
    for best in best_rates(table).itertuples():
        runs = table[(table["pair"] == best.pair) & (table["steps"] == best.steps)]
        for arch, mine in runs.groupby("arch"):
            losses = mine.set_index("rate")["loss"]
            rows.append(
                dict(
                    pair=best.pair,
                    arch=arch,
                    rate=float(losses.idxmin()),
                    cost=float(losses[best.rate] - losses.min()),
                )
            )
    return pd.DataFrame(rows)


def run_sweep(grids: list[Grid], jobs: int | None = None) -> tuple[pd.DataFrame, bool]:
    """Train what of a sweep is not there yet, `jobs` cells at once (see `Local`). Returns all that was found
    so far (`keep`), and whether every run is finished."""
    done = run_grids(grids, jobs)
    return keep(Path(grids[0].cells[0].config.out)), done
