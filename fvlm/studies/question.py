"""Does a query that a question steers beat one that it cannot? `fvlm question` trains and scores both.

Clips of two frames with one to five shapes, some small, some of which come in late or pass behind a pillar;
"Which shape is red?" is asked before the first frame. Only clips with three or more shapes are scored. One
visual token per frame cannot hold every object's shape; the foveated model may look at the one that is asked
about, its static control looks everywhere with the same query.

What was tried on the way, and what it gave: LOG.md, under 2026-11-23."""

import sys

import pandas as pd
from filelock import FileLock

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.files import find_folder, update_table
from fvlm.gaze.scores import gaze_scores, interval, summarise
from fvlm.studies.executors import Local
from fvlm.studies.grid import Grid, GridRun, read_grid
from fvlm.studies.page import study_page
from fvlm.studies.progress import Table
from fvlm.training.progress import TrainingError
from fvlm.training.results import Run, load_run

GRID = REPOSITORY / "params" / "question.yaml"

CROWDED = 3  # shapes in a clip that is scored

QUICK = dict(steps=20, effective_batch=8, warmup=5, eval_every=20, eval_samples=32)  # learns nothing yet


def grid(path=None, quick: bool = False, every: bool = False, only: str | None = None) -> Grid:
    """The experiment's runs, a foveated and a static one for each seed; `every`: two other sizes and the
    baseline too; `only`: of those the ones whose name fits; `quick`: in another study, with hardly any steps;
    `path`: of another grid file. ConfigError if none fits."""
    return read_grid(path or GRID, *((QUICK, "question_quick") if quick else ())).select(
        only, priority=2 if every else 1
    )


def configs(quick: bool = False) -> list[RunConfig]:
    return [cell.config for cell in grid(quick=quick).cells]


def pair(seed: int = 0, quick: bool = False) -> tuple[RunConfig, RunConfig]:
    """The foveated run and the static run of a seed."""
    by_arch = {config.arch: config for config in configs(quick) if config.seed == seed}
    return by_arch["foveated"], by_arch["static"]


def chosen_runs(folders: str = "auto") -> tuple[Run, Run]:
    """A foveated run and its static control: from two folders joined by a comma, or else ("auto") those of
    `main` with seed 0, or else quick ones, which are trained now in about a minute.

    ConfigError unless it is one of each."""
    from fvlm.training.launch import train

    if folders != "auto":
        runs = [load_run(find_folder(folder.strip())) for folder in folders.split(",")]
        archs = [run.config.arch for run in runs]
        if sorted(archs) != ["foveated", "static"]:
            raise ConfigError(
                f"runs = {folders!r} are {' and '.join(archs)}: give a foveated and a static one, joined by "
                "a comma"
            )
        return tuple(sorted(runs, key=lambda run: run.config.arch))
    full = pair()
    if all((config.folder / "model" / "config.json").exists() for config in full):
        return tuple(load_run(config.folder) for config in full)
    quick = pair(quick=True)
    quick[0].folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(quick[0].folder.parent / ".lock"):  # whoever comes second waits, and finds them
        return tuple(train(config) for config in quick)


def results(folder=REPOSITORY / "outputs" / "question") -> pd.DataFrame:
    """A row per scored run: answer loss (autoregressive, nats per token) and right answers on validation
    clips of CROWDED shapes or more; where a run has a gaze also its `hit`, that when another object is asked
    about (`hit_other`), and `chance`. Each with a bootstrap 95 % interval over clips (`_low`, `_high`), from
    the files that `main` left."""
    answers = pd.read_parquet(folder / "answers.parquet").query(f"objects >= {CROWDED}")
    gazes = folder / "gaze.parquet"  # not there if all runs are baselines
    looked = (
        pd.read_parquet(gazes).query(f"objects >= {CROWDED}").to_dict("records") if gazes.exists() else []
    )
    truth = {(row["run"], row["asked"]): row for row in summarise(looked).to_dict("records")}
    rows = []
    for run, mine in answers.groupby("run", sort=False):
        samples = pd.read_parquet(folder / run / "samples.parquet")
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
