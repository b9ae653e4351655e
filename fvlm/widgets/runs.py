"""Which run a notebook shows: a menu of all that are there. Needs ipywidgets."""

import html
import os
import time
from pathlib import Path

import ipywidgets as ipw

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import find_folder, where
from fvlm.text import ago
from fvlm.training.learned import BADGE_COLOUR, verdict
from fvlm.training.results import Run, load_run, trained_runs

NAMED = "FVLM_RUN"  # a run's folder: what notebooks show first, where their parameters name none
SHIPPED = REPOSITORY / "outputs" / "trained"
FIRST = SHIPPED / "T1-T_2f_fov_seed0"  # of those that come with the repository

# What a user chose, by what the menu was made of: a cell that is run again keeps it.
_CHOSEN: dict[tuple, Path] = {}


class RunPicker(ipw.VBox):
    """A menu of the trained runs, the newest first: `RunPicker()` at the end of a cell shows it, `run` is the
    one that is chosen, `control` its static control if that is there.

    folder: what is chosen first; "auto": the folder in the variable FVLM_RUN, else `first`, else the run that
    comes with the repository. queries: offer only runs whose model decides where to look. out: below which
    folder runs are looked for. Made again of the same in the same kernel, as when its cell is run again, it
    keeps what was chosen in the menu. ConfigError if a folder holds no trained run, or there is none at
    all."""

    def __init__(
        self,
        folder: str | Path = "auto",
        queries: bool = True,
        first: Run | None = None,
        out: str | Path = REPOSITORY / "outputs",
    ):
        chosen = first if folder == "auto" else None
        if folder != "auto" or os.environ.get(NAMED):
            chosen = named_run(os.environ[NAMED] if folder == "auto" else folder, queries)
        runs = [run for run in trained_runs(out) if run.config.architecture.has_queries or not queries]
        if chosen is None:
            shipped = [run for run in runs if run.folder == FIRST]
            chosen = (shipped or runs or [None])[0]
        if chosen is None:
            raise ConfigError(f"{where(Path(out))}: no trained run; `fvlm train` makes one")
        if chosen.folder not in [run.folder for run in runs]:
            runs = [chosen, *runs]
        self.menu = ipw.Dropdown(
            options=[(label(run), run.folder) for run in runs],
            value=chosen.folder,
            description="run",
            layout=ipw.Layout(width="min(760px, 100%)"),
        )
        self._runs = {run.folder: run for run in runs} | {chosen.folder: chosen}
        self._made_of = (str(folder), os.environ.get(NAMED), queries, chosen.folder, str(out))
        if (before := _CHOSEN.get(self._made_of)) in self._runs:
            self.menu.value = before
        self.told = ipw.HTML()
        super().__init__([self.menu, self.told])
        self.menu.observe(self._chosen, "value")
        self._tell()

    @property
    def run(self) -> Run:
        return self._runs[self.menu.value]

    @property
    def control(self) -> Run | None:
        """The static control of the run that is chosen: the same cell and seed in the same study, with one
        query for all frames; None if it is not there, or is what is chosen."""
        return sibling(self.run, "static")

    @property
    def runs(self) -> list[Run]:
        """The run that is chosen, and its control if there is one."""
        return [self.run, *([self.control] if self.control else [])]

    def _chosen(self, _):
        _CHOSEN[self._made_of] = self.menu.value
        self._tell("Now run the cells below: Run ▸ Run Selected Cell and All Below.")

    def _tell(self, next_: str = ""):
        found = verdict(self.run)
        badge = f'<b style="color:{BADGE_COLOUR}">■ {found.badge}</b>: ' if found.badge else ""
        self.told.value = f"{badge}{html.escape(found.why)}. {next_}"

    def _repr_mimebundle_(self, **kwargs):
        """What a stored notebook keeps: the run's name, for who has no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        found = verdict(self.run)
        data["text/plain"] = f"{where(self.run.folder)}: {found.badge and found.badge + ': '}{found.why}"
        return bundle


def named_run(folder: str | Path, queries: bool = True) -> Run:
    """The trained run in a folder. ConfigError if none is there, or none with queries where those are
    needed."""
    run = load_run(find_folder(str(folder).strip()))
    if not run.has_model:
        raise ConfigError(f"{folder}: no model yet; training leaves it at its end")
    if queries and not run.config.architecture.has_queries:
        raise ConfigError(f"{folder}: a {run.config.arch} model has no queries, so it has no gaze")
    return run


def sibling(run: Run, arch: str) -> Run | None:
    """The trained run of the same study, pair, frames and seed with another architecture; None if it is not
    there."""
    if run.config.arch == arch:
        return None
    cell = run.config.cell.rpartition("_")[0]
    for path in sorted(run.folder.parent.glob(f"{cell}_*_seed{run.config.seed}/config.json")):
        other = load_run(path.parent)
        if other.config.arch == arch and other.has_model:
            return other
    return None


def label(run: Run) -> str:
    """A run in a menu: study and name, task, last loss, how old it is."""
    loss = run.evaluations["loss_autoregressive"].iloc[-1]
    model = run.folder / "model" / "config.json"
    age = ago(time.time() - model.stat().st_mtime) if model.exists() else "came with the repository"
    return f"{run.folder.parent.name}/{run.folder.name}, {run.config.task}s, {loss:.3f} nats, {age}"
