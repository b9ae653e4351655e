"""Designs: every mixture is a grid of its own, and runs of them are kept in one table."""

import pytest
from conftest import REPOSITORY, python

from fvlm import ConfigError
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
    design = read_design(DESIGN)
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
    import shutil

    path, out = tmp_path / "design.yaml", tmp_path / "out"
    path.write_text(SMALL.format(study="small"))
    command = ["-m", "fvlm", "mix", path, "--set", f"out={out}"]
    done = python(*command)
    assert "2 runs are kept" in done.stdout and "notebooks/mix.ipynb" in done.stdout
    runs = mixture_runs(out)
    assert set(runs["mixture"]) == {"v50_i00_m00_t50", "v00_i40_m60_t00"} and len(runs) == 2
    assert list(KEY) == list(runs.columns[:2]) + ["seed", "step"]
    first = runs.set_index("mixture").loc["v50_i00_m00_t50"]
    assert (first["weight_video"], first["weight_image"], first["samples"]) == (0.5, 0, 8)
    assert all(first[f"loss_{domain}"] > 0 for domain in ("video", "image", "images", "text"))
    assert first["share_video"] + first["share_text"] == 1
    before = {p: p.stat().st_mtime for p in out.glob("*/*/evaluations.parquet")}
    assert ": finished" in python(*command, "--list").stdout
    python(*command, "--only", "v50_*")
    assert before == {p: p.stat().st_mtime for p in out.glob("*/*/evaluations.parquet")}
    shutil.rmtree(out / "v50_i00_m00_t50")
    assert len(found(out)) == 1 and len(keep(out)) == 2
    done = python("-m", "fvlm", "mix", path, "--predict", check=False)
    assert done.returncode == 2 and "names no design" in done.stderr
