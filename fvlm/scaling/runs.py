"""The rows of any study, a row per run: its own grids', and nanoSmol's, with every convention by its name."""

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.costs.flops import (
    CONVENTIONS,
    NANOSMOL_TEXT_TOKENS,
    flops_per_sample,
    visual_tokens_per_clip,
)
from fvlm.costs.plan import parameter_counts
from fvlm.files import find_folder, read_table, where
from fvlm.training.results import Study, load_run, load_study

NANOSMOL = "nanoSmol"
MICRO, REAL = "micro", ("study", "study_cpu")  # this repository's studies: LLMs from scratch, real weights
NANOSMOL_SAMPLES = 4480
PARAMETERS = {
    "all that are trained": "params_trainable",
    "all": "params_total",
    "without embeddings": "params_without_embeddings",
    "as nanoSmol counted": "params_claimed",
}
FLOPS = {convention.name: convention.column for convention in CONVENTIONS}


class Results(NamedTuple):
    """Several studies together. runs: `runs_table`'s. evaluations, samples: as of `Study`, and `study`;
    nanoSmol has none, it published final losses alone."""

    runs: pd.DataFrame
    evaluations: pd.DataFrame
    samples: pd.DataFrame

    def of(self, study: str = "auto") -> "Results":
        """Those of one study: losses on different data belong on no common axis. "auto": `micro` if it is
        there, or else the first. ConfigError if there is no such study."""
        there = list(dict.fromkeys(self.runs["study"]))
        if study == "auto":
            study = MICRO if MICRO in there else there[0]
        if study not in there:
            raise ConfigError(f"study = {study!r} is not there: {', '.join(there)}")
        tables = [
            table[table["study"] == study].reset_index(drop=True) if len(table) else table for table in self
        ]
        return Results(*tables)


def open_results(names: str = "auto", unfinished: bool = True) -> Results:
    """Results of one or several studies, also while they are running (`unfinished`: their unfinished runs
    too).

    names: folders of studies, or "nanosmol", joined by commas. "auto": nanoSmol and, of `outputs/`,
    `micro`, `study` and `study_cpu`, where they are. ConfigError for a folder without runs."""
    runs, evaluations, samples = [], [], []
    for name in study_names(names):
        if name == "nanosmol":
            runs.append(nanosmol_runs())
            continue
        folder = find_folder(name)
        study = load_study(folder, unfinished)
        configs = {name: load_run(folder / name).config for name in study.evaluations["run"].unique()}
        runs.append(runs_table(study, configs, folder.name, folder))
        evaluations.append(study.evaluations.assign(study=folder.name))
        samples.append(study.samples.assign(study=folder.name))
    if not runs:
        raise ConfigError(f"studies = {names!r}: name folders of studies, or nanosmol, joined by commas")
    return Results(
        *(
            pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
            for tables in (runs, evaluations, samples)
        )
    )


def runs_table(
    study: Study, configs: dict[str, RunConfig], name: str, folder: Path | None = None
) -> pd.DataFrame:
    """A row per run, as of its last evaluation: who it is (`study`, `run`, `cell`, `seed`, `pair`, `llm`,
    `vision`, `frames`, `arch`, `task`, `schedule`, `config`), `samples_seen`, `visual_tokens`, `text_tokens`
    (mean per validation clip), `loss_parallel`, `loss_autoregressive`, `loss_static`, `seconds`, `weights`,
    the path of its `page` ("" without one), training compute by every convention of FLOPS and size by every
    one of PARAMETERS (NaN where a convention does not apply).

    configs: of each run, by its name. folder: the study's, where pages lie."""
    last = study.evaluations.loc[study.evaluations.groupby("run")["step"].idxmax()].reset_index(drop=True)
    last["study"], last["config"] = name, last["run"].map(configs)
    last["text_tokens"] = last["run"].map(study.samples.groupby("run")["text_tokens"].mean())
    last["params_without_embeddings"], last["params_claimed"] = (
        last["params_total"] - last["params_embedding"],
        float("nan"),
    )
    pages = [folder / run / "train.html" if folder else None for run in last["run"]]
    last["page"] = [where(page) if page and page.exists() else "" for page in pages]
    each = _flops_per_sample(last)
    for column in each:
        last[column] = each[column] * last["samples_seen"]
    kept = [
        "study",
        "run",
        "cell",
        "seed",
        "pair",
        "llm",
        "vision",
        "frames",
        "arch",
        "task",
        "schedule",
        "config",
        "samples_seen",
        "visual_tokens",
        "text_tokens",
        "loss_parallel",
        "loss_autoregressive",
        "loss_static",
        "seconds",
        "weights",
        "page",
        *FLOPS.values(),
        *PARAMETERS.values(),
    ]
    return last[kept]


def _flops_per_sample(runs: pd.DataFrame) -> pd.DataFrame:
    """Training FLOPs of a clip of each run, a column per convention that counts from shapes; runs that differ
    in their seed alone are counted once. Without a frozen vision encoder it is what the run itself counted,
    questions included, less the encoder's. runs: with `config`, `text_tokens`, `flops`, `samples_seen`."""
    found, rows = {}, []
    for row in runs.itertuples():
        same = dataclasses.replace(row.config, seed=0, study="runs", out="."), row.text_tokens
        if same not in found:
            counted = {c.column: c.flops(row.config, 1, row.text_tokens) for c in CONVENTIONS if c.per_sample}
            found[same] = counted, flops_per_sample(row.config)["vision"]
        counted, vision = found[same]
        less = row.flops / row.samples_seen - vision if row.config.freeze_vision else float("nan")
        rows.append(counted | dict(flops_without_vision=less))
    return pd.DataFrame(rows, index=runs.index)


def nanosmol() -> pd.DataFrame:
    """Final losses of the ten cells that nanoSmol finished, as it published them: step 280, 4,480 samples, 50
    validation samples, one seed. Its FLOPs and parameter counts are its own claims (the file says how they
    were made)."""
    return pd.read_csv(Path(__file__).parents[1] / "data" / "nanosmol.csv", comment="#")


def nanosmol_runs() -> pd.DataFrame:
    """nanoSmol in `runs_table`'s columns: losses, `flops_nanosmol` and `params_claimed` as it published them,
    `flops` and the other counts of parameters from shapes, by this package."""
    rows = []
    for row in nanosmol().to_dict("records"):
        config = RunConfig.from_cell(row["cell"], device="cpu")
        counts = parameter_counts(config)
        rows.append(
            dict(
                study=NANOSMOL,
                run=f"{row['cell']}_seed0",
                cell=row["cell"],
                seed=0,
                pair=config.pair,
                llm=row["llm"],
                vision=row["vision"],
                frames=row["frames"],
                arch=row["arch"],
                task="caption",
                schedule="constant",
                config=config,
                samples_seen=NANOSMOL_SAMPLES,
                visual_tokens=visual_tokens_per_clip(config),
                text_tokens=NANOSMOL_TEXT_TOKENS,
                loss_parallel=row["loss_parallel"],
                loss_autoregressive=row["loss_autoregressive"],
                loss_static=float("nan"),
                seconds=float("nan"),
                weights="as published",
                page="",
                flops=nanosmol_training_flops(config),
                flops_nanosmol=row["flops_claimed"],
                flops_without_vision=float("nan"),  # it trained its vision encoder
                params_total=counts["total"],
                params_trainable=counts["trainable"],
                params_without_embeddings=counts["total"] - counts["embedding"],
                params_claimed=1e6 * row["params_millions_claimed"],
            )
        )
    return pd.DataFrame(rows)


def nanosmol_training_flops(config: RunConfig) -> float:
    """What nanoSmol trained a cell with, counted from shapes."""
    return NANOSMOL_SAMPLES * flops_per_sample(config, NANOSMOL_TEXT_TOKENS)["total"]


def read_gaze_scores(names: str = "auto") -> pd.DataFrame:
    """The gaze scores that `fvlm gaze` or `make question` left in these studies, summarised: a row per run
    and text asked, `fvlm.gaze.scores.summarise`'s columns and `study`; empty if there are none. Of several
    files the frame-by-frame mean maps alone, each clip of a run once. names as in `open_results`."""
    from fvlm.gaze.scores import summarise

    tables = []
    for name in study_names(names):
        folder = find_folder(name)
        paths = (
            []
            if name == "nanosmol"
            else sorted([*folder.glob("gaze.parquet"), *folder.glob("*/gaze.parquet")])
        )
        if paths:
            found = list(_readable(paths))
            if found:
                rows = _of_one_kind(pd.concat(found, ignore_index=True))
                tables.append(summarise(rows.to_dict("records")).assign(study=folder.name))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _of_one_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Of `gaze_scores`' rows those of one mode and map, each run, clip and question once, the last read; rows
    from before these were kept are of that kind."""
    for name, kind in (("mode", "autoregressive"), ("summary", "mean")):
        if name in rows:
            rows = rows[rows[name].fillna(kind) == kind]
    return rows.drop_duplicates(["run", "clip_id", "asked"], keep="last")


def _readable(paths: list[Path]) -> Iterator[pd.DataFrame]:
    """The tables of those files that can be read; a warning names each of the others."""
    for path in paths:
        try:
            yield read_table(path)
        except ConfigError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)


def study_names(names: str) -> list[str]:
    """Folders of studies, and "nanosmol", from a notebook's parameter; what "auto" means: `open_results`."""
    if names == "auto":
        found = [
            name
            for name in (MICRO, *REAL)
            if any((REPOSITORY / "outputs" / name).glob("*/evaluations.parquet"))
        ]
        return ["nanosmol", *(str(REPOSITORY / "outputs" / name) for name in found)]
    return [name.strip() for name in names.split(",") if name.strip()]
