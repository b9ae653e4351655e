"""Designs: every mixture is a grid of its own, and runs of them are kept in one table."""

import shutil

import pytest
from conftest import REPOSITORY, python

from fvlm import ConfigError
from fvlm.cli import main
from fvlm.scaling.mixtures import KEY, found, keep, mixture_runs
from fvlm.studies.mix import folder_name, read_design

DESIGN, EVALUATION = REPOSITORY / "params/mix/design.yaml", REPOSITORY / "params/mix/evaluation.yaml"

SMALL = """
study: {study}
mix: params/mix/shapes.yaml
mixtures:
  - {{name: a, video: 0.5, text: 0.5}}
  - {{name: b, image: 0.4, images: 0.6}}
settings: {{steps: 2, eval_every: 2, eval_samples: 4, effective_batch: 4, micro_batch: 4}}
cells:
  - {{pairs: [T1-T], frames: [2], archs: [bli]}}
"""


def test_the_committed_design_has_two_dozen_mixtures_of_both_architectures():
    design = read_design(DESIGN, publish=True)
    grids = design.grids()
    assert len(grids) == 24 == len({grid.study for grid in grids})
    cells = [cell for grid in grids for cell in grid.cells]
    assert {cell.config.arch for cell in cells} == {"foveated", "baseline"} and len(cells) == 48
    assert len({cell.folder for cell in cells}) == 48
    for grid in grids:
        (dataset,) = {cell.config.dataset for cell in grid.cells}
        weights = dict(pair.split("=") for pair in dataset.partition(":")[2].split(","))
        assert sum(map(float, weights.values())) == pytest.approx(1)
        assert folder_name({d: float(w) for d, w in weights.items()}) == grid.study
        assert min(map(float, weights.values())) >= 0.03
    assert cells[0].folder.is_relative_to(REPOSITORY / "outputs" / "mix")


def test_what_is_published_is_not_written_over():
    """A user's runs go beside it; a prediction is made from those, or else from the published ones."""
    design, evaluation = read_design(DESIGN), read_design(EVALUATION)
    own = REPOSITORY / "outputs" / "runs"
    assert design.folder == own / "mix" and evaluation.folder == own / "mix_evaluation"
    assert all(cell.folder.is_relative_to(own) for grid in design.grids() for cell in grid.cells)
    published = mixture_runs(REPOSITORY / "outputs" / "mix")
    assert len(published.drop_duplicates(["mixture", "cell", "seed"])) == 48
    if not (own / "mix").exists():
        assert design.runs().equals(published)
    assert read_design(DESIGN, publish=True).folder == REPOSITORY / "outputs" / "mix"


def test_the_evaluation_waits_for_the_prediction_and_has_the_design_s_settings():
    evaluation, design = read_design(EVALUATION), read_design(DESIGN)
    assert evaluation.grid["settings"] == design.grid["settings"] and evaluation.mix == design.mix
    assert (
        evaluation.grid["pairs"] == design.grid["pairs"] and evaluation.grid["cells"] == design.grid["cells"]
    )
    assert (
        not set(evaluation.grid["seeds"]) & set(design.grid["seeds"]) and len(evaluation.grid["seeds"]) == 3
    )
    assert len(evaluation.mixtures) == 4 and set(evaluation.predicted.values()) == {"foveated", "baseline"}
    if not (evaluation.folder / "prediction.json").exists():
        with pytest.raises(ConfigError, match="--predict"):
            evaluation.grids()


@pytest.mark.parametrize(
    "change, words",
    [
        (("mixtures:", "mixtures: {designed: 999}\nother:"), "unknown name 'other'"),
        (("{name: a, video: 0.5, text: 0.5}", "{name: a, sound: 1}"), "unknown name 'sound'"),
        (("{name: a, video: 0.5, text: 0.5}", "{name: a, video: 0}"), "must be positive"),
        (("{name: a, video: 0.5, text: 0.5}", "{name: a, predicted: foveated}"), "whose laws predict"),
        (("steps: 2", "dataset: shapes"), "dataset is its mix"),
        (("params/mix/shapes.yaml", "params/mix/none.yaml"), "no such file"),
        (("archs: [bli]", "archs: [xxx]"), "architecture"),
    ],
)
def test_a_mistake_in_a_design_is_said_with_its_file(tmp_path, change, words):
    path = tmp_path / "design.yaml"
    path.write_text(SMALL.format(study="x").replace(*change))
    with pytest.raises(ConfigError, match=words) as error:
        read_design(path)
    assert str(path) in str(error.value)


@pytest.mark.slow
def test_a_design_is_run_kept_and_left_alone_when_it_is_finished(tmp_path):
    """By the command; what is kept stays when the runs' folders are gone."""
    path, out = tmp_path / "design.yaml", tmp_path / "out"
    path.write_text(SMALL.format(study="small"))
    command = ["-m", "fvlm", "mix", path, "--set", f"out={out}"]
    done = python(*command, "--only", "v50_*")
    assert "1 runs are kept" in done.stdout and "notebooks/mix.ipynb" in done.stdout
    (run,) = mixture_runs(out).to_dict("records")
    assert [run[name] for name in KEY] == ["v50_i00_m00_t50", "T1-T_2f_bli", 0, 2]
    assert (run["weight_video"], run["weight_image"], run["samples"]) == (0.5, 0, 8)
    assert all(run[f"loss_{domain}"] > 0 for domain in ("video", "image", "images", "text"))
    assert run["share_video"] + run["share_text"] == 1
    states = [cell.state() for grid in read_design(path).grids(dict(out=str(out))) for cell in grid.cells]
    assert states == ["finished", "waiting"]
    shutil.rmtree(out / "v50_i00_m00_t50")
    assert found(out) == [] and len(keep(out)) == 1
    assert main(["mix", str(path), "--predict"]) == 2, "it names no design whose laws predict"
