"""A run that has learned nothing is told, by language alone or a blind control, and carries a red badge."""

import json
import shutil

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from conftest import tiny

from fvlm import ConfigError, load_run, train
from fvlm.cli import main
from fvlm.plots import run_strip, show_gaze, with_badge
from fvlm.tables import badged, run_table
from fvlm.training.learned import BADGE_COLOUR, NOTHING, learned, verdict, yardstick

SHORT = dict(steps=1, eval_every=1, eval_samples=8, effective_batch=2)
ASKED = dict(task="question", dataset="shapes:objects=1-5,questions=shape")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of one step: asked ones, and one on captions beside its blind control."""
    out = str(tmp_path_factory.mktemp("out"))
    runs = {"question": train(tiny(out=out, study="asked", **SHORT | ASKED))}
    runs |= {arch: train(tiny(arch, out=out, **SHORT)) for arch in ("foveated", "blind")}
    return runs


def losing(run, factor: float):
    """The run with other last losses."""
    path = run.folder / "samples.parquet"
    table = pd.read_parquet(path)
    table["loss_autoregressive"] *= factor
    table.to_parquet(path)
    return load_run(run.folder)


def test_a_question_s_run_is_compared_with_the_question_alone(trained):
    run = trained["question"]
    found = verdict(run)
    assert learned(run) is False and "the question alone gives 0.9" in found.why, "ln 7 over two tokens"
    assert found.badge == NOTHING
    assert learned(losing(run, 0.05)) is True
    losing(run, 20)


def test_a_caption_s_run_is_compared_with_its_blind_control(trained):
    run, blind = trained["foveated"], trained["blind"]
    assert "T1-T_2f_bli_seed0" in verdict(run).why
    assert learned(losing(run, 0.5)) is True
    assert learned(losing(run, 4)) is False
    losing(run, 0.5)
    assert learned(blind) is None, "a control that sees nothing"
    assert run.samples["loss_autoregressive"].mean() == pytest.approx(
        pd.read_parquet(run.folder / "samples.parquet")["loss_autoregressive"].mean()
    )


def test_a_run_s_loss_is_the_same_number_in_the_verdict_and_in_its_own_table(trained):
    """Nats per text token, so that a long caption counts for more than a short one."""
    run = trained["foveated"]
    samples = run.samples.assign(loss_autoregressive=lambda s: s["text_tokens"] / 10.0)
    samples.to_parquet(run.folder / "samples.parquet")
    tokens = samples["text_tokens"].to_numpy(float)
    mean = (tokens * tokens).sum() / tokens.sum() / 10
    assert np.ptp(tokens) > 0 and verdict(load_run(run.folder)).why.startswith(f"{mean:.3f} nats a token")
    run.samples.to_parquet(run.folder / "samples.parquet")


def test_a_notebook_s_stand_in_carries_the_badge_where_nothing_is_there_to_compare_it_with(trained, tmp_path):
    run = trained["foveated"]
    shutil.copytree(run.folder, tmp_path / "a_quick" / run.folder.name)
    found = verdict(load_run(tmp_path / "a_quick" / run.folder.name))
    clips = run.config.steps * run.config.effective_batch
    assert found.badge == NOTHING and f"a stand-in, trained on {clips} clips" in found.why


def test_what_is_measured_stands_beside_a_yardstick_in_one_line(trained, capsys, tmp_path):
    def told(run) -> str:
        arguments = ["--run", str(run.folder), "--clips", "2", "--out", str(tmp_path)]
        assert main(["evaluate", *arguments]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  loss "))

    run = trained["question"]
    for factor, how in ((20, "no better than without looking"), (0.05, "better than without looking")):
        line = told(losing(run, factor))
        assert f"); {how}: " in line and "where the question alone gives 0.9" in line
        losing(run, 1 / factor)
    assert "; no yardstick: it is a control that sees nothing" in told(trained["blind"])
    assert "not the dataset" in yardstick(run, "shapes:objects=1-2")
    assert yardstick(run, run.config.dataset) == yardstick(run)


def test_where_there_is_no_gaze_a_notebook_says_why_in_a_sentence(trained, tmp_path, capsys, monkeypatch):
    from fvlm.widgets.gaze import Explorer

    text = train(tiny(out=str(tmp_path), dataset="shapes-text", **SHORT))
    show_gaze(text, text.validation_clips(1)[0])
    show_gaze(trained["blind"], trained["blind"].validation_clips(1)[0])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "shapes-text is text alone: without frames there is no gaze to be shown."
    assert second == "A blind model has no queries, so there is no gaze to be shown."
    with pytest.raises(ConfigError, match="no frames to look at"):
        Explorer(text)
    shown = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    show_gaze(trained["foveated"], trained["foveated"].validation_clips(1)[0])
    assert len(shown) == 1 and capsys.readouterr().out == ""


def test_without_anything_to_compare_with_nothing_is_said(trained, tmp_path):
    folder = tmp_path / "runs" / "T1-T_2f_fov_seed0"
    shutil.copytree(trained["foveated"].folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | dict(dataset="shapes:objects=1-1")))
    assert learned(load_run(folder)) is None and verdict(load_run(folder)).badge == ""


def test_table_and_figures_carry_the_badge_and_those_of_a_run_that_has_learned_do_not(trained):
    run = trained["question"]
    table = run_table([run])
    assert table["learned"].tolist() == [NOTHING]
    assert f"background-color: {BADGE_COLOUR}" in badged(table).to_html()
    clip = run.validation_clips(1)[0]
    title = run_strip(run, clip).layout.title.text
    assert NOTHING in title and BADGE_COLOUR in title and clip.question in title
    losing(run, 0.05)
    assert "_" not in "".join(badged(table).columns), "names for readers"
    assert BADGE_COLOUR not in badged(run_table([load_run(run.folder)])).to_html()
    assert with_badge(go.Figure(layout_title_text="its title"), run).layout.title.text == "its title"
    losing(run, 20)
