"""What is published is never written over: a user's own runs go beside it, and count it as finished."""

import hashlib
import shutil

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, tiny

from fvlm import ConfigError, load_run, train
from fvlm.cli import main
from fvlm.files import PUBLISHED, own_folder
from fvlm.studies import question
from fvlm.studies.grid import FINISHED, WAITING, apart, read_grid
from fvlm.studies.tune import sweep
from fvlm.training import launch
from fvlm.training.launch import with_own_name

SHORT = dict(steps=1, eval_every=1, eval_samples=2, effective_batch=2, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tiny(out=str(tmp_path_factory.mktemp("out")), **SHORT))


@pytest.fixture
def study(trained, tmp_path):
    """A published study with a foveated run, without its model as in a clone, and its grid file, which has a
    baseline too."""
    shutil.copytree(
        trained.folder, tmp_path / "known" / trained.folder.name, ignore=shutil.ignore_patterns("model")
    )
    (tmp_path / "known" / PUBLISHED).touch()
    settings = SHORT | dict(out=str(tmp_path))
    cells = [dict(pairs=["T1-T"], frames=[2], archs=["fov", "bas"])]
    path = tmp_path / "known.yaml"
    path.write_text(yaml.safe_dump(dict(study="known", settings=settings, cells=cells)))
    return path


def content(folder) -> dict:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def states(grid) -> dict:
    return {cell.config.arch: cell.state() for cell in grid.cells}


def test_published_runs_count_as_finished_and_own_ones_lie_beside_them(study, tmp_path, capsys):
    grid = apart(read_grid(study))
    assert states(grid) == dict(foveated=FINISHED, baseline=WAITING)
    assert {cell.folder.parent for cell in grid.cells} == {tmp_path / "runs" / "known"}
    assert {cell.settings["out"] for cell in grid.cells} == {str(tmp_path / "runs")}, "what a kernel is given"
    assert states(apart(read_grid(study), again=True)) == dict(foveated=WAITING, baseline=WAITING)
    other = apart(read_grid(study, dict(steps=2, eval_every=2)))
    assert set(states(other).values()) == {WAITING}, "another configuration is not what is published"
    mine = apart(read_grid(study, study="mine"))
    assert {cell.folder.parent for cell in mine.cells} == {tmp_path / "mine"}, "nobody published that"
    assert main(["grid", str(study), "--list"]) == 0
    said = capsys.readouterr().out
    assert "finished" in said and f"published in {tmp_path / 'known'}" in " ".join(said.split())
    assert main(["grid", str(study), "--dry-run"]) == 0
    assert capsys.readouterr().out.split() == ["T1-T_2f_bas_seed0:", "waiting"]


def test_a_grid_leaves_what_is_published_as_it_is(study, tmp_path, capsys):
    before = content(tmp_path / "known")
    assert main(["grid", str(study), "--only", "*_fov*"]) == 0
    assert "1 of them are published" in capsys.readouterr().out and content(tmp_path / "known") == before
    assert not list((tmp_path / "runs").glob("known/T1*"))


def test_training_itself_does_not_write_over_a_published_run(study, tmp_path):
    config = read_grid(study).cells[0].config
    before = content(tmp_path / "known")
    for again in (dict(), dict(overwrite=True), dict(overwrite=True, steps=2)):
        with pytest.raises(ConfigError, match="is published"):
            train(tiny(**SHORT | dict(out=str(tmp_path), study="known") | again))
    assert content(tmp_path / "known") == before
    changed = with_own_name(tiny(**SHORT | dict(out=str(tmp_path), study="known", steps=2, overwrite=True)))
    assert changed.study == "known_steps-2"
    (config.folder / "evaluations.parquet").unlink()  # one that never came to its end is nobody's result
    launch._keep_published(config)


def test_a_question_s_scores_lie_beside_the_published_ones(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(question, "GRID", study)
    ran = []

    def run_question(runs):
        ran.extend(cell.folder for cell in runs.cells)
        return pd.DataFrame(dict(run=[1]))

    monkeypatch.setattr(question, "run_question", run_question)
    assert main(["question", "--only", "*_fov*"]) == 0
    assert ran == [tmp_path / "runs" / "known" / "T1-T_2f_fov_seed0"]
    assert f"Results: {ran[0].parent}" in capsys.readouterr().out
    ran.clear()
    assert main(["question", "--only", "*_fov*", "--publish"]) == 0
    assert ran == [tmp_path / "known" / "T1-T_2f_fov_seed0"]


def test_scores_of_a_published_run_are_written_beside_it(study, tmp_path):
    from fvlm.cli import _beside

    published = tmp_path / "known" / "T1-T_2f_fov_seed0"
    assert _beside(str(published)) == tmp_path / "runs" / "known" / published.name


def test_the_repository_s_studies_are_published_and_their_own_commands_keep_off():
    studies = {path.parents[1] for path in (REPOSITORY / "outputs").glob("*/*/config.json")}
    kept = {path for path in studies if (path / PUBLISHED).exists()}
    names = {
        "captions",
        "captions_before",
        "micro",
        "question",
        "question_long",
        "questions",
        "sees",
        "study_cpu",
        "trained",
    }
    assert {path.name for path in kept} == names
    for name in ("micro", "question", "question_long"):
        grid = apart(read_grid(REPOSITORY / "params" / f"{name}.yaml"))
        assert all(cell.folder.is_relative_to(REPOSITORY / "outputs/runs") for cell in grid.cells)
        found = sum(cell.is_published for cell in grid.cells)
        assert found == len(list((REPOSITORY / "outputs" / name).glob("*/config.json")))
    (rates, *_) = sweep(REPOSITORY / "params/micro.yaml", rates=(1e-3,))
    assert rates.cells[0].config.out == str(own_folder(REPOSITORY / "outputs/micro_rates"))
    assert "runs" in rates.cells[0].config.out
    published = sweep(REPOSITORY / "params/micro.yaml", rates=(1e-3,), publish=True)
    assert published[0].cells[0].config.out == str(REPOSITORY / "outputs/micro_rates")


def test_the_shipped_runs_are_those_of_their_grid_file():
    for cell in read_grid(REPOSITORY / "params/trained.yaml").cells:
        if cell.folder.exists():
            assert not cell.config.changes_from(load_run(cell.folder).config)
            assert load_run(cell.folder).finished
