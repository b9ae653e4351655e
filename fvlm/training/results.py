"""What a run leaves behind, and reading it again.

<out>/<study>/<cell>_seed<k>/
    config.json            the RunConfig, but for where it lies
    evaluations.parquet    one row per evaluation (columns: README)
    samples.parquet        the loss of every validation sample at the last evaluation
    mix.json               of a mix: which data, which weights
    domains.parquet        of a mix: one row per evaluation and domain (columns: README)
    model/                 weights and processor, Hugging Face layout
    trained/               in runs that are shipped, instead: what was trained, frozen weights by their hash
    measured/              measures of what it writes, where `fvlm train` or `fvlm evaluate` took them
    checkpoint/            what training resumes from; gone when it has finished
"""

import functools
import json
import shutil
import warnings
from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fvlm.architectures import ARCHITECTURES
from fvlm.config import ConfigError, RunConfig
from fvlm.files import readable, where

if TYPE_CHECKING:  # the core imports torch, transformers and numpy alone
    import pandas as pd

    from fvlm.data.captions import AttributeAccuracy
    from fvlm.models import VideoLanguageModel

BEFORE = dict(
    scale_input=False, read_attended=False
)  # what runs did that were saved before they could choose

LOSSES = ("loss_parallel", "loss_autoregressive", "loss_static")
NEEDED = {  # columns without which a file is another's
    "evaluations.parquet": ("cell", "seed", "step", *LOSSES),
    "samples.parquet": ("cell", "seed", "clip_id", *LOSSES),
    "domains.parquet": ("step", "domain"),
}


@dataclass
class Run:
    """One run's folder. `evaluations` and `samples` are DataFrames; `model` and `tokenizer` are loaded when
    first used."""

    folder: Path

    @cached_property
    def config(self) -> RunConfig:
        path = self.folder / "config.json"
        try:
            saved = json.loads(path.read_text())
            return RunConfig.from_dict(
                BEFORE | saved | dict(out=str(self.folder.parent.parent), study=self.folder.parent.name)
            )
        except (OSError, ValueError, TypeError) as error:  # ConfigError is a ValueError
            raise ConfigError(f"{where(path)}: {error}") from None

    @property
    def evaluations(self) -> "pd.DataFrame":
        """One row per evaluation so far; see the README for the columns."""
        return self._table("evaluations.parquet")

    @property
    def samples(self) -> "pd.DataFrame":
        """The loss of every validation sample at the last evaluation, in nats per text token."""
        return self._table("samples.parquet")

    @property
    def domains(self) -> "pd.DataFrame":
        """Of a mix, one row per evaluation and domain; see the README for the columns. ConfigError where the
        dataset is none."""
        return self._table("domains.parquet")

    @property
    def finished(self) -> bool:
        """True once the evaluation after the last step is there, and the trained model."""
        return self.has_model and self.evaluated

    @property
    def evaluated(self) -> bool:
        """True once the evaluation after the last step is there; the model need not be, as in published
        runs."""
        if not (self.folder / "evaluations.parquet").exists():
            return False
        return int(self.evaluations["step"].to_numpy().max()) >= self.config.steps

    @property
    def has_model(self) -> bool:
        """True if the trained model is there, whole or its trained part."""
        return any((self.folder / name / "config.json").exists() for name in ("model", "trained"))

    @cached_property
    def model(self) -> "VideoLanguageModel":
        """The trained model, in evaluation mode on the CPU unless training left it elsewhere."""
        from fvlm.models import load_model
        from fvlm.models.build import processor_of
        from fvlm.models.trained import load_trained

        if (self.folder / "model" / "config.json").exists():
            model = load_model(self.folder / "model").eval()
        else:
            model = load_trained(self.folder / "trained")
        model.make_processor = functools.partial(processor_of, self.config)  # older runs saved none
        return model

    @cached_property
    def tokenizer(self):
        from transformers import PreTrainedTokenizerFast

        from fvlm.weights import load_tokenizer

        if not (self.folder / "model").exists():
            return load_tokenizer(self.config.llm)
        with readable(f"{self.folder}/model: no tokenizer that can be read"):
            return PreTrainedTokenizerFast.from_pretrained(self.folder / "model")

    def pack(self, folder: str | Path) -> "Run":
        """Write what is needed to look at this run, and no more, to another folder: its configuration,
        tables, and the trained part of its model (`fvlm.models.trained`), a few megabytes; returns that
        run.

        ConfigError for a run that has not finished, one that is too large, and a folder that holds
        something."""
        from fvlm.models.trained import save_trained

        folder = Path(folder)
        if not self.finished:
            raise ConfigError(f"{where(self.folder)}: it has not finished")
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: something is there already")
        save_trained(self.model, self.config, folder / "trained")
        for name in ("config.json", "evaluations.parquet", "samples.parquet"):
            shutil.copy(self.folder / name, folder / name)
        return load_run(folder)

    def validation_clips(self, count: int) -> list:
        """The first `count` clips of the split that this run was evaluated on, or all if it has fewer."""
        from fvlm.data import open_dataset

        dataset = open_dataset(self.config, "validation")
        return [dataset[i] for i in range(min(count, len(dataset)) if isinstance(dataset, Sized) else count)]

    def write(self, clips: list, mode: str = "autoregressive", max_new_tokens: int = 64) -> list[str]:
        """What the model says of each clip: captions, or answers to the clips' questions."""
        from fvlm.data import Collator

        inputs = Collator(self.tokenizer, self.config.task)(clips).inputs(self.model.device)
        inputs.pop("labels")
        texts = self.model.generate(**inputs, mode=mode, max_new_tokens=max_new_tokens)
        return [text.strip() for text in self.tokenizer.batch_decode(texts, skip_special_tokens=True)]

    def attribute_accuracy(self) -> "AttributeAccuracy | None":
        """How many of the objects that are in validation clips its captions name, each attribute for itself,
        on as many clips as an evaluation has, at most 64: writing is slow. None for a run that does not
        caption the built-in world."""
        from fvlm.data.captions import attribute_accuracy

        if self.config.task != "caption" or self.config.dataset.partition(":")[0] != "shapes":
            return None
        shown = self.validation_clips(min(64, self.config.eval_samples))
        written = [text for i in range(0, len(shown), 16) for text in self.write(shown[i : i + 16])]
        return attribute_accuracy([clip.caption for clip in shown], written)

    def _table(self, name: str) -> "pd.DataFrame":
        from pyarrow.parquet import ParquetFile  # pandas' own way takes eight times as long for a small file

        path = self.folder / name
        if not path.exists():
            raise ConfigError(f"{path}: not there yet; the run has not come to its first evaluation")
        try:
            with ParquetFile(path) as file:
                table = file.read().to_pandas()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where(path)} can't be read: {error}") from None
        if lacking := [column for column in NEEDED[name] if column not in table]:
            raise ConfigError(f"{where(path)}: not such a table, {', '.join(lacking)} is missing")
        if not len(table):
            raise ConfigError(f"{where(path)}: no rows")
        return table


def load_run(folder: str | Path) -> Run:
    """The run in `folder`, finished or not. ConfigError if there is none."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise ConfigError(f"{folder}: no run here (config.json is missing)")
    return Run(folder.absolute())


def is_stand_in(folder: Path) -> bool:
    """Whether a run is one that a notebook trained in seconds where none was there: of a study `…_quick`."""
    return folder.parent.name.endswith("_quick")


def trained_runs(out: str | Path) -> list[Run]:
    """Every finished run below `out` (`<study>/<run>`, or one folder deeper) that has its model: the newest
    first, those that are shipped (`trained/` alone) last, foveated ones before others, stand-ins of notebooks
    (studies named `…_quick`) left out. A run that can't be read is left out, with a warning."""
    found = []
    for pattern in ("*/*/{}/config.json", "*/*/*/{}/config.json"):
        for name in ("model", "trained"):
            for path in Path(out).glob(pattern.format(name)):
                folder = path.parents[1]
                whole = (folder / "model" / "config.json").exists()
                if not (folder / "config.json").exists() or is_stand_in(folder):
                    continue
                if name == "model" or not whole:
                    found.append((whole, path.stat().st_mtime if whole else 0.0, str(folder)))
    runs = []
    for whole, _, folder in sorted(found, key=lambda each: (not each[0], -each[1], each[2])):
        try:
            if (run := load_run(folder)).finished:
                runs.append((whole, run))
        except ConfigError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    order = list(ARCHITECTURES)
    return [
        run for _, run in sorted(runs, key=lambda each: -1 if each[0] else order.index(each[1].config.arch))
    ]


class Study(NamedTuple):
    """What the runs of a study found, as two DataFrames: a row per evaluation, and a row per validation
    sample at each run's last evaluation. Both begin with `run` (folder name), `cell`, `seed`, `pair`, `llm`,
    `vision`, `frames`, `arch`, `task`, `schedule`."""

    evaluations: "pd.DataFrame"
    samples: "pd.DataFrame"


def load_study(folder: str | Path, unfinished: bool = False) -> Study:
    """All finished runs of a study's folder, also while its grid runs; `unfinished`: the others too, as far
    as they are.

    A run counts as finished once its last evaluation is there, its model need not be. A run whose files can't
    be read is left out, with a warning that names the file. ConfigError if there is no run."""
    names, evaluations, samples = [], [], []
    for path in sorted(Path(folder).glob("*/config.json")):
        run = load_run(path.parent)
        if not (run.folder / "samples.parquet").exists():
            continue
        try:
            config, table, losses = run.config, run.evaluations, run.samples
        except ConfigError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        if not unfinished and table["step"].iloc[-1] < config.steps:
            continue
        names.append(
            dict(
                run=run.folder.name,
                cell=config.cell,
                seed=config.seed,
                pair=config.pair,
                llm=config.llm,
                vision=config.vision,
                frames=config.frames,
                arch=config.arch,
                task=config.task,
                schedule=config.schedule,
            )
        )
        evaluations.append(table)
        samples.append(losses)
    if not names:
        raise ConfigError(f"{folder}: no {'run' if unfinished else 'finished run'} here")
    return Study(_together(names, evaluations), _together(names, samples))


def _together(names: list[dict], tables: list["pd.DataFrame"]) -> "pd.DataFrame":
    """The tables of several runs as one, each run's names before its rows."""
    import pandas as pd

    rows = pd.concat(tables, ignore_index=True).drop(columns=["cell", "seed"])
    of_run = pd.DataFrame(names)
    repeated = of_run.loc[of_run.index.repeat([len(table) for table in tables])].reset_index(drop=True)
    return pd.concat([repeated, rows], axis=1)


def require_same_run(kept: Run, config: RunConfig):
    """ConfigError, naming what differs, if `kept` was trained with another configuration."""
    if changed := config.changes_from(kept.config):
        raise ConfigError(f"{where(kept.folder)} is not the same run ({'; '.join(changed)})")


def compare_runs(kept: Run, again: Run) -> "pd.DataFrame":
    """A cell that was trained twice with one configuration, a row per loss: the `kept` one and the one found
    `again` (last evaluation, nats per text token), their `difference`, and by how much the kept study's seeds
    of that cell differ (`seeds`, highest less lowest; NaN with one seed). The same seed on another machine,
    or with another number of threads, rounds otherwise and in the end differs too: mostly by less than
    another seed does, but more has been seen (LOG.md, 2026-11-26).

    ConfigError if the configurations differ."""
    import pandas as pd

    require_same_run(kept, again.config)
    seeds = [
        load_run(path.parent) for path in kept.folder.parent.glob(f"{kept.config.cell}_seed*/config.json")
    ]
    ends = pd.DataFrame([run.evaluations.iloc[-1] for run in seeds])
    rows = []
    for name in LOSSES:
        then, now = kept.evaluations[name].iloc[-1], again.evaluations[name].iloc[-1]
        values = ends[name].to_numpy(float)
        spread = float(values.max() - values.min()) if len(values) > 1 else float("nan")
        rows.append(
            dict(loss=name.removeprefix("loss_"), kept=then, again=now, difference=now - then, seeds=spread)
        )
    return pd.DataFrame(rows)
