"""Tables that notebooks show: what will run, what runs are, what a model predicts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from fvlm.config import RunConfig
from fvlm.costs.flops import flops_per_sample, visual_tokens_per_clip
from fvlm.costs.plan import expected_seconds, parameter_counts
from fvlm.data import Clip, check_dataset
from fvlm.files import where
from fvlm.gaze.scores import SCORES
from fvlm.text import with_interval
from fvlm.training.learned import BADGE_COLOUR, NOTHING, verdict
from fvlm.training.results import Run

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def plan(config: RunConfig) -> pd.DataFrame:
    """What a configuration will run: parameters by group, tokens, FLOPs, and the time they take at half this
    machine's own matrix rate, measured here."""
    from fvlm.costs.machine import matmul_rate

    check_dataset(config.dataset)
    flops = flops_per_sample(config)
    samples = config.steps * config.effective_batch
    minutes = expected_seconds(config, matmul_rate(config, side=1024)) / 60
    rows = {
        "cell": config.cell,
        "trains on": f"{config.dataset}, {config.task}, {config.frames} frames of {config.image_size} px",
        **{f"parameters, {name}": f"{count / 1e6:.2f} M" for name, count in parameter_counts(config).items()},
        "visual tokens a clip": visual_tokens_per_clip(config),
        **{f"FLOPs a sample, {name}": f"{count / 1e9:.2f} G" for name, count in flops.items() if count},
        "samples": f"{config.steps} steps x {config.effective_batch} = {samples}",
        "device": f"{config.device}, {config.precision}",
        "time expected": f"about {minutes:.0f} min" if minutes >= 1.5 else f"about {60 * minutes:.0f} s",
        "results": where(config.folder),
    }
    return pd.DataFrame({"": rows})


RESULT_COLUMNS = {  # columns of evaluations.parquet as they are read: name, unit, how its numbers are written
    "step": ("step", "{:,.0f}"),
    "samples_seen": ("clips seen", "{:,.0f}"),
    "loss_parallel": ("loss, nats a token: parallel", "{:.3f}"),
    "loss_autoregressive": ("frame by frame", "{:.3f}"),
    "loss_static": ("static query", "{:.3f}"),
    "flops": ("training FLOPs", "{:.2e}"),
    "seconds": ("minutes", "{:.1f}"),
    "samples_per_second": ("clips a second", "{:.1f}"),
}


def results_table(run: Run) -> pd.DataFrame:
    """A run's evaluations as they are read: names with units, readable numbers, a row per evaluation."""
    given = run.evaluations.assign(seconds=lambda table: table["seconds"] / 60)
    table = {}
    for column, (name, form) in RESULT_COLUMNS.items():
        values = given[column]
        if values.notna().any():
            table[name] = ["" if pd.isna(value) else form.format(value) for value in values]
    return pd.DataFrame(table)


def predictions(run: Run, clips: list[Clip]) -> pd.DataFrame:
    """What a run's model says of clips, beside what is true."""
    truth = [clip.text(run.config.task) for clip in clips]
    table = {"clip": [clip.clip_id for clip in clips]}
    if run.config.task == "question":
        table["question"] = [clip.question for clip in clips]
    return pd.DataFrame(table | {"true": truth, "model": run.write(clips)})


def run_table(runs: list[Run]) -> pd.DataFrame:
    """What runs are and how far they came: cell, seed, clips seen, last losses, whether they have learned
    anything (`fvlm.training.learned`), where weights came from."""
    rows = []
    for run in runs:
        last = run.evaluations.iloc[-1]
        found = verdict(run)
        rows.append(
            dict(
                run=where(run.folder),
                cell=run.config.cell,
                seed=run.config.seed,
                clips_seen=int(last.samples_seen),
                loss_parallel=round(last.loss_parallel, 3),
                loss_autoregressive=round(last.loss_autoregressive, 3),
                learned=found.badge or found.why,
                weights=last.weights,
            )
        )
    return pd.DataFrame(rows)


RUN_COLUMNS = {  # of `run_table`, as they are read
    "clips_seen": "clips seen",
    "loss_parallel": RESULT_COLUMNS["loss_parallel"][0],
    "loss_autoregressive": RESULT_COLUMNS["loss_autoregressive"][0],
    "weights": "weights from",
}


def badged(table: pd.DataFrame) -> "Styler":
    """`run_table` as it is read, with every run that has learned nothing in red."""

    def red(value: str) -> str:
        return f"background-color: {BADGE_COLOUR}; color: white; font-weight: bold" * (value == NOTHING)

    shown = table.rename(columns=RUN_COLUMNS).style
    return shown.map(red, subset=["learned"]).format(precision=3, thousands=",").hide(axis="index")


def gaze_table(summary: pd.DataFrame, scores: Iterable[str] = SCORES) -> pd.DataFrame:
    """`fvlm.gaze.scores.summarise` as it is read: means of `scores` with their intervals, a row per run and
    question asked."""
    table = summary[["run", "asked", "clips"]].copy()
    for name in scores:
        columns = (summary[name], summary[f"{name}_low"], summary[f"{name}_high"])
        table[name] = [with_interval(*row, digits=3, signed=False) for row in zip(*columns)]
    return table
