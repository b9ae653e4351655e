"""Measures of texts: the kept libraries' own numbers, intervals over clips, and runs on the same clips."""

import math

import pandas as pd
import pytest
from conftest import tiny
from sacrebleu.metrics import BLEU

from fvlm import ConfigError, load_run, train
from fvlm.cli import main
from fvlm.measures import MEASURES, differences, measure, score_texts, summarise


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    settings = dict(steps=2, eval_every=2, eval_samples=6, effective_batch=2, out=out)
    return [train(tiny(arch, **settings)) for arch in ("foveated", "baseline")]


@pytest.fixture(scope="module")
def rows(runs):
    return [row for run in runs for row in measure(run, clips=6, size=4)]


def test_loss_and_bleu_are_those_of_all_clips_together(runs, rows):
    table = summarise(rows).set_index(["run", "measure"])["value"]
    for run in runs:
        own = [row for row in rows if row["run"] == run.folder.name]
        loss = run.evaluations["loss_autoregressive"].iloc[-1]
        assert table[run.folder.name, "loss"] == pytest.approx(loss, abs=1e-4)
        assert table[run.folder.name, "perplexity"] == pytest.approx(math.exp(loss), rel=1e-3)
        texts, truths = [row["text"] for row in own], [row["truth"] for row in own]
        assert table[run.folder.name, "bleu_4"] == pytest.approx(BLEU().corpus_score(texts, [truths]).score)


def test_a_perfect_writer_and_one_that_writes_of_another_clip():
    truths = [
        f"A large {colour} circle moves left. A small black star stays still."
        for colour in ("red", "blue", "green")
    ]

    def written(run, texts):
        made = [
            dict(run=run, clip_id=str(i), truth=truth, text=text, text_tokens=9 + i, loss=0.5 + i)
            for i, (truth, text) in enumerate(zip(truths, texts))
        ]
        return score_texts(made, shapes=True)

    both = written("perfect", truths) + written("shifted", truths[1:] + truths[:1])
    table = summarise(both).pivot(index="run", columns="measure", values="value")
    perfect, shifted = table.loc["perfect"], table.loc["shifted"]
    assert perfect[["exact_match", "attributes", "rouge_l"]].eq(1).all()
    assert perfect["bleu_4"] == pytest.approx(100) and perfect["cider"] > 3
    assert shifted["exact_match"] == 0 and shifted["attributes"] == pytest.approx(7 / 8), "all but a colour"
    assert 0 < shifted["rouge_l"] < 1 and 0 < shifted["bleu_4"] < 90 and shifted["cider"] < perfect["cider"]
    gaps = differences(both).set_index("measure")
    assert gaps.loc["exact_match", ["value", "low", "high"]].tolist() == [-1, -1, -1]
    assert gaps.loc["loss", "value"] == gaps.loc["loss", "low"] == 0, "the same losses on the same draws"


def test_intervals_hold_the_value_and_runs_on_other_clips_are_not_compared(rows):
    for table in (summarise(rows), differences(rows)):
        assert (table["low"] <= table["value"] + 1e-9).all() and (
            table["value"] <= table["high"] + 1e-9
        ).all()
    with pytest.raises(ConfigError, match="other clips"):
        differences(rows[:6] + rows[7:] + rows[6:7])


def test_one_command_measures_runs_and_writes_tables(runs, tmp_path, capsys):
    folders = [str(run.folder) for run in runs]
    data = "shapes:objects=1-2"
    assert (
        main(["evaluate", "--run", *folders, "--dataset", data, "--clips", "4", "--out", str(tmp_path)]) == 0
    )
    said = capsys.readouterr().out
    assert all(name in said for name in MEASURES) and "less T1-T_2f_fov_seed0" in said
    rows = pd.read_parquet(tmp_path / "texts.parquet")
    assert len(rows) == 8 and rows["truth"].str.count(r"\.").max() == 2
    table = pd.read_parquet(tmp_path / "measures.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "measures.csv"), table, check_dtype=False)
    assert set(table["measure"]) == set(MEASURES)
    assert (load_run(folders[0]).folder / "measures.csv").exists() is False, "kept results are left alone"


def test_a_tiny_run_is_measured_when_it_is_trained_once(runs, monkeypatch):
    from fvlm import measures

    run = runs[0]
    monkeypatch.setattr(measures, "CHEAP", 3)
    found = measures.measure_if_cheap(run)
    kept = run.folder / "measured"
    assert set(found["measure"]) == set(MEASURES) and (found["clips"] == 3).all()
    assert pd.read_parquet(kept / "texts.parquet")["text"].tolist() == run.write(run.validation_clips(3))
    monkeypatch.setattr(measures, "measure", None)
    pd.testing.assert_frame_equal(measures.measure_if_cheap(run), found)
