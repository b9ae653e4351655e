"""Which mixture? `fvlm mix params/mix/design.yaml` trains the same cells on many mixtures of the same data;
`params/mix/evaluation.yaml` then puts to the test what the design's laws predict.

A design is a grid file without a dataset, and besides

    mix: params/mix/shapes.yaml            # whose domains are mixed
    mixtures: {designed: 24, least: 0.04}  # D-optimal (fvlm.scaling.mix.designed), or a list:
      - {name: uniform, video: 0.25, image: 0.25, images: 0.25, text: 0.25}
      - {name: optimum, predicted: foveated}  # of the prediction that stands in its folder
    design: params/mix/design.yaml         # of an evaluation: whose laws predict

Each mixture is a study of its own in `outputs/<study>/`, named after its weights in hundredths; all that was
found is kept in `outputs/<study>/runs.parquet`. Runs go on where they were stopped."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fvlm.config import REPOSITORY, ConfigError
from fvlm.data.mix import read_mix, spelled
from fvlm.files import expect, find_folder, load_yaml, own_folder
from fvlm.scaling.mix import designed, hundredths
from fvlm.scaling.mixtures import PREDICTION, keep, mixture_runs, read_prediction
from fvlm.studies.grid import Grid, grid_of
from fvlm.studies.progress import run_grids

LETTERS = dict(video="v", image="i", images="m", text="t")
OWN = ("mix", "mixtures", "design")  # what a design has and a grid file does not


@dataclass(frozen=True)
class Design:
    """Mixtures to be trained on. mix: the file whose domains are mixed. mixtures: weights of its domains by
    name. predicted: the names of those that a prediction decides, and its architecture. design: the file
    whose laws predict, "" of a design itself. grid: what remains, as a grid file has it. published: write
    among the published results, not beside them."""

    path: Path
    study: str
    mix: str
    mixtures: dict[str, dict[str, float]]
    predicted: dict[str, str] = field(default_factory=dict)
    design: str = ""
    grid: dict = field(default_factory=dict)
    published: bool = False

    @property
    def folder(self) -> Path:
        folder = REPOSITORY / "outputs" / self.study
        return folder if self.published else own_folder(folder)

    def runs(self) -> pd.DataFrame:
        """All that was found so far; of a published design, whose own runs there are none yet, the published
        ones."""
        found = mixture_runs(self.folder)
        return mixture_runs(REPOSITORY / "outputs" / self.study) if found.empty else found

    def all_mixtures(self) -> dict[str, dict[str, float]]:
        """The mixtures with those that were predicted. ConfigError if that was not done yet."""
        if not self.predicted:
            return self.mixtures
        prediction = read_prediction(self.folder)
        if prediction is None:
            raise ConfigError(
                f"{self.path}: {', '.join(self.predicted)} is to be predicted, and is not yet "
                f"({self.folder / PREDICTION}): fvlm mix {self.path} --predict"
            )
        return self.mixtures | {
            name: {domain: w for domain, w in prediction["optima"][arch].items() if domain in LETTERS}
            for name, arch in self.predicted.items()
        }

    def grids(self, overrides: dict | None = None) -> list[Grid]:
        """A grid for each mixture; `overrides` are settings that win over the file's."""
        named = {folder_name(weights): weights for weights in self.all_mixtures().values()}
        out = dict(out=str(self.folder)) | (overrides or {})
        return [
            grid_of(self.grid, dict(dataset=spelled(self.mix, weights)) | out, name)
            for name, weights in named.items()
        ]


def folder_name(weights: dict[str, float]) -> str:
    """A mixture's name by its weights in hundredths: v33_i34_m13_t20."""
    rounded = hundredths(list(weights.values()))
    return "_".join(f"{LETTERS[domain]}{round(100 * w):02d}" for domain, w in zip(weights, rounded))


def read_design(path: str | Path, publish: bool = False) -> Design:
    """A design file. ConfigError, naming it, on anything unknown."""
    path = Path(path)
    if not find_folder(path).is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        content = load_yaml(find_folder(path))
        grid = {"study": str, "cells": list}
        kinds = {"seeds": list, "settings": dict, "pairs": dict, "slurm": dict, "design": str}
        expect(content, grid | {"mix": str, "mixtures": (dict, list)}, kinds)
        if "dataset" in content.get("settings", {}):
            raise ConfigError("a design's dataset is its mix")
        domains = list(read_mix(content["mix"]).domains)
        mixtures, predicted = _mixtures(content["mixtures"], domains)
        if predicted and "design" not in content:
            raise ConfigError("what is predicted needs design: the file whose laws predict")
        rest = {name: value for name, value in content.items() if name not in OWN}
        found = Design(
            path,
            content["study"],
            content["mix"],
            mixtures,
            predicted,
            content.get("design", ""),
            rest,
            publish,
        )
        grid_of(rest)  # ConfigError for what no grid has
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return found


def _mixtures(content, domains: list[str]) -> tuple[dict, dict]:
    """The mixtures that a design spells out, and those that are to be predicted."""
    if isinstance(content, dict):
        expect(content, {"designed": int}, {"least": (int, float)})
        try:
            points = designed(len(domains), content["designed"], content.get("least", 0.0))
        except ValueError as error:
            raise ConfigError(f"mixtures: {error}") from None
        found = [dict(zip(domains, map(float, point))) for point in points]
        return {folder_name(weights): weights for weights in found}, {}
    spelled_out, predicted = {}, {}
    for entry in content:
        expect(entry, {"name": str}, {"predicted": str} | dict.fromkeys(domains, (int, float)))
        if "predicted" in entry:
            predicted[entry["name"]] = entry["predicted"]
            continue
        weights = [float(entry.get(domain, 0)) for domain in domains]
        if min(weights) < 0 or not sum(weights) > 0:
            raise ConfigError(f"mixtures: {entry['name']}: weights must be positive")
        spelled_out[entry["name"]] = dict(zip(domains, map(float, hundredths(weights))))
    return spelled_out, predicted


def run_design(grids: list[Grid], folder: Path, jobs: int | None = None) -> tuple[pd.DataFrame, bool]:
    """Train what of a design is not there yet, `jobs` cells at once (see `Local`). Returns all that was found
    so far (`keep`), and whether every run is finished."""
    done = run_grids(grids, jobs)
    return keep(folder), done
