"""Does a query that a question steers beat one that it cannot? `fvlm question` trains and scores both.

Clips of two frames with one to five shapes, some small, some of which come in late or pass behind a pillar;
"Which shape is red?" is asked before the first frame. Only clips with three or more shapes are scored. One
visual token per frame cannot hold every object's shape; the foveated model may look at the one that is asked
about, its static control looks everywhere with the same query.

What was tried on the way, and what it gave: LOG.md, under 2026-11-23."""

import sys

import pandas as pd

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.files import read_table, update_table
from fvlm.gaze.scores import gaze_scores, interval, summarise
from fvlm.studies.executors import Local
from fvlm.studies.grid import Grid, GridRun, read_grid
from fvlm.studies.page import study_page
from fvlm.studies.progress import Table
from fvlm.training.progress import TrainingError
from fvlm.training.results import Run, load_run
from fvlm.widgets.runs import RunPicker, named_run

GRID = REPOSITORY / "params" / "question.yaml"

CROWDED = 3  # shapes in a clip that is scored


def grid(path=None, every: bool = False, only: str | None = None) -> Grid:
    """The experiment's runs, a foveated and a static one for each seed; `every`: two other sizes and the
    baseline too; `only`: of those the ones whose name fits; `path`: of another grid file. ConfigError if none
    fits."""
    return read_grid(path or GRID).select(only, priority=2 if every else 1)


def configs() -> list[RunConfig]:
    return [cell.config for cell in grid().cells]


def chosen_runs(folders: str = "auto") -> list[Run]:
    """A run with queries and, where there is one, its static control: from one or two folders joined by a
    comma, or ("auto") as `fvlm.widgets.runs.RunPicker` chooses.

    ConfigError for a run without queries, and where two are given unless one is the other's static
    control."""
    if folders == "auto" or "," not in folders:
        return RunPicker(folders).runs
    runs = [named_run(folder, queries=False) for folder in folders.split(",")]
    archs = [run.config.arch for run in runs]
    looking = all(run.config.architecture.has_queries for run in runs)
    if len(runs) != 2 or archs.count("static") != 1 or not looking:
        raise ConfigError(
            f"runs = {folders!r} are {' and '.join(archs)}: give one with queries and a static one, joined "
            "by a comma"
        )
    return sorted(runs, key=lambda run: run.config.arch == "static")


def results(folder=REPOSITORY / "outputs" / "question") -> pd.DataFrame:
    """A row per scored run: answer loss (autoregressive, nats per token) and right answers on validation
    clips of CROWDED shapes or more; where a run has a gaze also its `hit`, that when another object is asked
    about (`hit_other`), and `chance`. Each with a bootstrap 95 % interval over clips (`_low`, `_high`), from
    the files that `main` left."""
    answers = read_table(folder / "answers.parquet").query(f"objects >= {CROWDED}")
    gazes = folder / "gaze.parquet"  # not there if all runs are baselines
    looked = read_table(gazes).query(f"objects >= {CROWDED}").to_dict("records") if gazes.exists() else []
    truth = {(row["run"], row["asked"]): row for row in summarise(looked).to_dict("records")}
    rows = []
    for run, mine in answers.groupby("run", sort=False):
        samples = read_table(folder / run / "samples.parquet")
        loss = samples.loc[samples["clip_id"].isin(mine["clip_id"]), "loss_autoregressive"].to_numpy()
        row = dict(run=run, clips=len(mine))
        for name, values in dict(loss=loss, right=mine["right"].to_numpy(float)).items():
            low, high = interval(values)
            row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        for name, asked in dict(hit="own", hit_other="other").items():
            for part in ("", "_low", "_high"):
                row[name + part] = truth.get((run, asked), {}).get(f"hit{part}", float("nan"))
        rows.append(row | dict(chance=truth.get((run, "own"), {}).get("chance", float("nan"))))
    return pd.DataFrame(rows)


def score(run: Run, count: int) -> tuple[list[dict], list[dict]]:
    """A run's gaze on its first `count` validation clips (`gaze_scores`; no rows if it has none), and what it
    answers: run, clip_id, objects (how many shapes there are), said, right."""
    gazes = gaze_scores(run, count) if run.config.architecture.has_queries else []
    clips, name = run.validation_clips(count), run.folder.name
    answers = [
        dict(
            run=name, clip_id=clip.clip_id, objects=clip.boxes.shape[1], said=said, right=said == clip.answer
        )
        for clip, said in zip(clips, run.write(clips))
    ]
    return gazes, answers


def run_question(runs: Grid) -> pd.DataFrame:
    """Train the grid's runs, those that are not there yet, as many at once as there are cores; then score
    them and leave a page of them. Returns `results`. TrainingError if not every run is finished."""
    folder = runs.cells[0].folder.parent
    if not GridRun(runs, Local(), retry_failed=True, on_change=Table()).run():
        raise TrainingError(f"not every run is finished: see {folder}")
    tables = {folder / "gaze.parquet": [], folder / "answers.parquet": []}
    for cell in runs.cells:
        print(f"scoring {cell.name}", file=sys.stderr)
        for table, rows in zip(tables.values(), score(load_run(cell.folder), cell.config.eval_samples)):
            table += rows
    for path, rows in tables.items():
        update_table(path, rows, ("run",))
    study_page(folder)
    return results(folder)
