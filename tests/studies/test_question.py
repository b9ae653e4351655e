"""The question experiment's command, on a grid of its own kind that takes seconds."""

import shutil

import pandas as pd
import pytest
import yaml

from fvlm import train
from fvlm.cli import main
from fvlm.studies import question
from fvlm.studies.question import results


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """`fvlm question` with three runs of one step, trained here; called with its arguments. Also
    `ask.trained`."""
    path = tmp_path / "asked.yaml"
    settings = dict(
        task="question",
        dataset="shapes:objects=3-5,questions=shape",
        steps=1,
        eval_every=1,
        eval_samples=4,
        effective_batch=2,
        out=str(tmp_path),
    )
    block = dict(pairs=["T1-T"], frames=[2])
    cells = [block | dict(archs=["fov", "sta"]), block | dict(archs=["bas"], priority=2)]
    path.write_text(yaml.safe_dump(dict(study="asked", settings=settings, cells=cells)))
    monkeypatch.setattr(question, "GRID", path)

    class InThisProcess:
        def __init__(self, grid, *_, **__):
            self.grid = grid

        def run(self):
            for cell in self.grid.cells:
                run.trained.append(cell.name)
                train(cell.config)
            return True

    monkeypatch.setattr(question, "GridRun", InThisProcess)

    def run(*arguments):
        assert main(["question", *arguments]) == 0
        return tmp_path / "asked"

    run.trained = []
    return run


@pytest.mark.slow
def test_what_is_asked_for_is_trained_and_scored_and_other_scores_stay(ask):
    folder = ask("--all", "--only", "*_bas*")
    assert not (folder / "gaze.parquet").exists() and results(folder)["hit"].isna().all(), (
        "a baseline has no gaze"
    )
    shutil.rmtree(folder)
    ask.trained.clear()
    ask("--only", "*_fov*")
    before = pd.read_parquet(folder / "gaze.parquet")
    assert set(before["run"]) == {"T1-T_2f_fov_seed0"} and set(before["asked"]) == {"own", "other"}
    assert results(folder)["run"].tolist() == ["T1-T_2f_fov_seed0"]
    ask("--all", "--only", "*_bas*")
    assert ask.trained == ["T1-T_2f_fov_seed0", "T1-T_2f_bas_seed0"]
    table = results(folder).set_index("run")
    assert list(table.index) == ["T1-T_2f_bas_seed0", "T1-T_2f_fov_seed0"] and (table["clips"] == 4).all()
    assert table["hit"].isna().tolist() == [True, False], "a baseline has no gaze"
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "gaze.parquet"), before)
    said = pd.read_parquet(folder / "answers.parquet")
    assert (said.groupby("run").size() == 4).all() and said["objects"].between(3, 5).all()
    page = (folder / "index.html").read_text()
    assert "T1-T_2f_bas_seed0" in page and "T1-T_2f_fov_seed0" in page


def test_a_pattern_that_fits_nothing_says_what_there_is(ask, capsys):
    assert main(["question", "--only", "*_bas*"]) == 2 and "T1-T_2f_sta" in capsys.readouterr().err
