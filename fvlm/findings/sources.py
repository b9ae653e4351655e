"""What the sections read: the committed studies, and architectures compared within one size."""

import functools
from collections import Counter
from pathlib import Path

import pandas as pd

from fvlm.architectures import ARCH_OF_SHORT, ARCHITECTURES, CONTROLS
from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import read_table
from fvlm.scaling import Results, open_results, paired_gap
from fvlm.scaling.gaps import Gap
from fvlm.studies.grid import read_grid
from fvlm.studies.question import CROWDED
from fvlm.studies.question import results as question_results
from fvlm.studies.tune import rates_folder
from fvlm.training.results import load_study

OUTPUTS = REPOSITORY / "outputs"
LEAST = 2  # seeds of both sides of a comparison; one says nothing of how far another would differ
LONGER = "question_long"  # the study of question runs with more steps


def study(name: str) -> Results | None:
    """The finished runs of `outputs/<name>`; None if there are none."""
    try:
        opened = _opened(OUTPUTS / name, _state(OUTPUTS / name))
    except ConfigError:
        return None
    return Results(*(table.copy(deep=False) for table in opened))


def _state(folder: Path) -> tuple:
    """What changes when something in a folder does."""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in files)


@functools.lru_cache(maxsize=8)
def _opened(folder: Path, state: tuple) -> Results:
    """A page's sections open the same studies a dozen times."""
    return open_results(str(folder), unfinished=False)


@functools.lru_cache(maxsize=2)
def _questions(folder: Path, state: tuple) -> pd.DataFrame:
    return question_results(folder)


def rates_path(study: str) -> Path:
    """Where the sweep of a study's learning rates is."""
    return rates_folder(study) / "rates.parquet"


def against(samples: pd.DataFrame, archs=CONTROLS, of: str = "foveated") -> dict[str, Gap]:
    """An architecture's gap to each other one that is in one size's samples."""
    found = {arch: [samples[samples["arch"] == name] for name in (of, arch)] for arch in archs}
    return {arch: paired_gap(*both) for arch, both in found.items() if all(map(len, both))}


def captions(micro: Results) -> pd.DataFrame:
    """The samples of outputs/micro in which every architecture can be compared: 8 frames."""
    return micro.samples[micro.samples["frames"] == 8]


def with_names(table: pd.DataFrame) -> pd.DataFrame:
    """A table of runs with what their names say: `pair`, `arch` (in the order of ARCHITECTURES), `seed`."""
    names = table["run"].str.extract(r"^(?P<pair>[^_]+)_\d+f_(?P<arch>[a-z0-9]+)_seed(?P<seed>\d+)$")
    archs = pd.Categorical(names["arch"].map(ARCH_OF_SHORT), list(ARCHITECTURES))
    return table.assign(pair=names["pair"], arch=archs, seed=names["seed"])


def right_by_shapes(study: str = "question") -> pd.DataFrame:
    """Right answers in percent of the validation clips, mean over seeds: a row per size and architecture, a
    column per number of shapes in the clip."""
    table = with_names(read_table(OUTPUTS / study / "answers.parquet"))
    return 100 * table.pivot_table(
        index=["pair", "arch"], columns="objects", values="right", aggfunc="mean", observed=True
    )


def question_runs() -> pd.DataFrame:
    """`fvlm.studies.question.results` of the published study."""
    folder = OUTPUTS / "question"
    return _questions(folder, _state(folder)).copy(deep=False)


def questions() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of the runs whose answers were scored: the samples of crowded clips, a row per run
    (`fvlm.studies.question.results`), and gazes."""
    folder, table = OUTPUTS / "question", question_runs()
    gazes = read_table(folder / "gaze.parquet").query(f"objects >= {CROWDED}")
    samples = load_study(folder).samples
    return (
        samples[samples["clip_id"].isin(gazes["clip_id"]) & samples["run"].isin(table["run"])],
        table,
        gazes,
    )


def planned(study: str, frames: int, priority: int | None = None) -> Counter[tuple[str, str]]:
    """Seeds of each size and architecture that a study's grid file has, of at most this priority number."""
    return Counter(
        (cell.config.pair, cell.config.arch)
        for cell in read_grid(REPOSITORY / "params" / f"{study}.yaml").select(priority=priority).cells
        if cell.config.frames == frames
    )


def has_seeds(study: Results, *archs: str) -> bool:
    """Whether some size has LEAST seeds of all of these."""
    seeds = [
        set(map(tuple, study.runs.loc[study.runs["arch"] == arch, ["pair", "seed"]].to_numpy()))
        for arch in archs
    ]
    counts = Counter(pair for pair, _ in set.intersection(*seeds))
    return max(counts.values(), default=0) >= LEAST
