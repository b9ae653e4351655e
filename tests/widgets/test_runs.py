"""The menu of runs: the newest first, what came with the repository last, and what it says of each."""

import json
import os
import shutil

import pytest
from conftest import tiny

from fvlm import ConfigError, load_run, train
from fvlm.ask import choose_run
from fvlm.cli import main
from fvlm.studies.question import chosen_runs
from fvlm.training.results import trained_runs
from fvlm.widgets.runs import NAMED, RunPicker

SHORT = dict(task="question", steps=1, eval_every=1, eval_samples=8, effective_batch=2)


@pytest.fixture(scope="module")
def out(tmp_path_factory, pretrained_small):
    """A foveated and a static run, the second older, a baseline, a packed run of another study, and a
    stand-in."""
    out = tmp_path_factory.mktemp("out")
    for i, arch in enumerate(("foveated", "static", "baseline")):
        run = train(tiny(arch, out=str(out), **SHORT))
        os.utime(run.folder / "model" / "config.json", (10**9 - i, 10**9 - i))
    first = out / "runs" / "T1-T_2f_fov_seed0"
    shutil.copytree(first, out / "a_quick" / first.name)
    other = out / "elsewhere" / "runs" / "T1-T_2f_fov_seed1"
    shutil.copytree(first, other)
    config = json.loads((first / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | dict(seed=1)))
    load_run(other).pack(out / "shipped" / other.name)
    os.utime(other / "model" / "config.json")
    return out


def names(picker):
    return [f"{folder.parent.name}/{folder.name}" for _, folder in picker.menu.options]


def test_runs_are_offered_newest_first_and_shipped_ones_last(out, monkeypatch):
    monkeypatch.delenv(NAMED, raising=False)
    picker = RunPicker(out=out)
    looking = ["T1-T_2f_fov_seed1", "T1-T_2f_fov_seed0", "T1-T_2f_sta_seed0", "T1-T_2f_fov_seed1"]
    assert [name.partition("/")[2] for name in names(picker)] == looking
    assert names(picker)[-1] == "shipped/T1-T_2f_fov_seed1"
    assert any("T1-T_2f_bas" in name for name in names(RunPicker(out=out, queries=False)))
    assert "came with the repository" in picker.menu.options[-1][0]


def test_the_choice_is_the_run_that_cells_below_show_with_its_control_where_there_is_one(out, monkeypatch):
    monkeypatch.delenv(NAMED, raising=False)
    picker = RunPicker(out / "runs" / "T1-T_2f_fov_seed0", out=out)
    assert picker.run.folder.name == "T1-T_2f_fov_seed0" and picker.control.config.arch == "static"
    assert picker.runs == [picker.run, picker.control]
    assert "has learned nothing" in picker.told.value and "the question alone" in picker.told.value
    picker.menu.value = out / "shipped" / "T1-T_2f_fov_seed1"
    assert picker.run.folder.parent.name == "shipped" and picker.runs == [picker.run]
    assert "run the cells below" in picker.told.value
    data = picker._repr_mimebundle_()
    assert "T1-T_2f_fov_seed1" in data["text/plain"] and "has learned nothing" in data["text/plain"]


def test_a_choice_stays_when_the_menu_s_cell_is_run_again(out, monkeypatch):
    """As `Run Selected Cell and All Below` does, which the menu advises."""
    monkeypatch.delenv(NAMED, raising=False)
    monkeypatch.setattr("fvlm.widgets.runs._CHOSEN", {})
    picker = RunPicker(out=out)
    default, other = picker.run.folder, picker.menu.options[-1][1]
    assert RunPicker(out=out).run.folder == default != other, "nothing was chosen yet"
    picker.menu.value = other
    again = RunPicker(out=out)
    assert again.run.folder == again.menu.value == other and again.told.value
    named = out / "runs" / "T1-T_2f_sta_seed0"
    assert RunPicker(named, out=out).run.folder == named, "another cell's menu, or another parameter"
    picker.menu.value = default
    assert RunPicker(out=out).run.folder == default


def test_a_variable_names_the_run_that_notebooks_show(out, monkeypatch):
    monkeypatch.setenv(NAMED, str(out / "runs" / "T1-T_2f_sta_seed0"))
    assert RunPicker(out=out).run.config.arch == "static"
    assert [run.config.arch for run in chosen_runs()] == ["static"], "what a parameter names wins"
    named = str(out / "runs" / "T1-T_2f_fov_seed0")
    assert [run.config.arch for run in chosen_runs(named)] == ["foveated", "static"]
    monkeypatch.setenv(NAMED, str(out / "runs" / "T1-T_2f_bas_seed0"))
    with pytest.raises(ConfigError, match="no queries"):
        RunPicker(out=out)
    assert RunPicker(out=out, queries=False).run.config.arch == "baseline"


def test_where_there_is_no_run_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.delenv(NAMED, raising=False)
    with pytest.raises(ConfigError, match="fvlm train"):
        RunPicker(out=tmp_path)
    with pytest.raises(ConfigError, match="no run here"):
        RunPicker(tmp_path, out=tmp_path)


def test_what_came_with_the_repository_answers_where_nothing_was_trained(out, tmp_path):
    assert choose_run(out=out).folder.name == "T1-T_2f_fov_seed1"
    (tmp_path / "shipped").symlink_to(out / "shipped")
    assert choose_run(out=tmp_path).folder.parent.name == "shipped"


def test_of_what_came_with_the_repository_a_foveated_run_answers_first(out, tmp_path):
    for arch in ("bas", "fov", "sta"):
        load_run(out / "runs" / f"T1-T_2f_{arch}_seed0").pack(tmp_path / "shipped" / f"T1-T_2f_{arch}_seed0")
    assert [run.config.arch for run in trained_runs(tmp_path)] == ["foveated", "baseline", "static"]


def test_a_run_of_the_task_answers_and_one_that_looks_if_it_is_to_be_shown(out, tmp_path):
    for i, (arch, task) in enumerate((("bas", "caption"), ("fov", "caption"), ("sta", "question"))):
        folder = tmp_path / "runs" / f"T1-T_2f_{arch}_seed0"
        shutil.copytree(out / "runs" / folder.name, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | dict(task=task)))
        os.utime(folder / "model" / "config.json", (10**9 - i, 10**9 - i))
    chosen = [choose_run(out=tmp_path, **how).config.arch for how in (dict(), dict(task="question"))]
    assert chosen == ["baseline", "static"]
    assert choose_run(out=tmp_path, task="caption", queries=True).config.arch == "foveated"
    shutil.rmtree(folder)
    assert choose_run(out=tmp_path, task="question").config.arch == "baseline", "there is no other"
    baseline = tmp_path / "runs" / "T1-T_2f_bas_seed0"
    looked = tmp_path / "looked.html"
    assert main(["ask", "no.mp4", "Which?", "--run", str(baseline), "--gaze", str(looked)]) == 2
    assert not looked.exists()
    with pytest.raises(ConfigError, match="no queries"):
        choose_run(baseline, queries=True)
