"""What is said of sizes before they are run, and what came: planted studies whose truth is known."""

import dataclasses
import json

import numpy as np
import pytest
from findings.test_captions_study import study
from planted import SIZES

from fvlm import ConfigError
from fvlm.findings import prediction, sources
from fvlm.findings.prediction import predict, predictions, predictions_section
from fvlm.scaling import Results
from fvlm.scaling.contrasts import contrast
from fvlm.scaling.intervals import interval_of_difference

ARCHS = ("fov", "bas")


@pytest.fixture
def as_captions(monkeypatch, tmp_path):
    """Puts a planted study in the place of outputs/captions, and what is written about it elsewhere."""
    monkeypatch.setattr(prediction, "PREDICTIONS", tmp_path / "predictions.json")
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)

    def put(final=False, **given):
        results = reading(study(**dict(archs=ARCHS) | given), final)
        monkeypatch.setattr(sources, "study", lambda name: results if name == "captions" else None)
        return results

    return put


def reading(results: Results, final: bool) -> Results:
    """A study whose looks are read after the last vision layer, or before."""
    configs = [dataclasses.replace(each, read_final=final) for each in results.runs["config"]]
    return Results(results.runs.assign(config=configs), *results[1:])


def test_every_size_without_a_run_is_predicted_along_every_axis_that_has_a_trend(as_captions):
    results = as_captions(sizes=SIZES[:3], slope=0.03)
    said = json.loads(predict("2026-01-02").read_text())
    assert [each["size"] for each in said] == ["T4-T", "T5-T"]
    for each in said:
        assert each["date"] == "2026-01-02"
        assert list(each["gaps"]) == ["clips", "flops", "flops_without_vision"]
        for axis, gap in each["gaps"].items():
            table = contrast(results, axis=axis).table
            slope, start = np.polyfit(np.log10(table["params"]), table["percent"], 1)
            assert gap["value"] == pytest.approx(start + slope * np.log10(each["parameters"]), abs=1e-9)
            assert gap["low"] < gap["value"] < gap["high"]
            assert gap["from"] == dict.fromkeys(SIZES[:3], 4)
    far, near = (each["gaps"]["clips"]["high"] - each["gaps"]["clips"]["low"] for each in said[::-1])
    assert far > near, "what is further from the sizes that were run is known less well"


def test_a_line_through_its_own_sizes_is_predicted_with_the_noise_of_runs():
    found = contrast(study(archs=ARCHS))
    middle = 10 ** np.log10(found.table["params"]).mean()
    assert found.predict(middle).value == pytest.approx(found.table["percent"].mean())
    ends = [found.predict(found.table["params"].iloc[i]) for i in (0, -1)]
    slope = (ends[1].value - ends[0].value) / np.diff(np.log10(found.table["params"].iloc[[0, -1]]))[0]
    assert slope == pytest.approx(found.trend.estimate.value)
    with pytest.raises(ConfigError, match="three sizes"):
        contrast(study(archs=ARCHS, sizes=SIZES[:2])).predict(1e6)


@pytest.mark.parametrize("off", [0.0, 0.3, -0.3])
def test_what_came_is_told_beside_what_was_said_with_both_intervals(as_captions, off):
    as_captions(sizes=SIZES[:3])
    predict("2026-01-02")
    said = {each["size"]: each for each in predictions()}
    text = predictions_section(as_captions(sizes=SIZES[:3]))
    assert text.count("not run yet") == 6 and "than predicted" not in text
    came = as_captions(sizes=SIZES[:4])
    gap = contrast(came).table.set_index("pair").loc["T4-T", "percent"]
    then = said["T4-T"]["gaps"]["clips"]
    moved = (1 + (then["value"] / 100 + off)) / (1 + gap / 100)
    for table in (came.samples, came.evaluations):
        table.loc[(table["pair"] == "T4-T") & (table["arch"] == "foveated"), "loss_autoregressive"] *= moved
    line = next(each for each in predictions_section(came).splitlines() if "T4-T" in each and "clips" in each)
    found = contrast(came).table.set_index("pair").loc["T4-T", ["percent", "low", "high"]]
    word = {0.0: "as predicted, as far as can be told", 0.3: "more than", -0.3: "less than"}[off]
    assert word in line and f"{found['percent']:+.2f} ({found['low']:+.2f}" in line
    low, high = interval_of_difference(tuple(found), tuple(then[key] for key in ("value", "low", "high")))
    assert f"{found['percent'] - then['value']:+.2f} ({low:+.2f} to {high:+.2f})" in line


def test_nothing_is_predicted_twice_from_the_same_runs_and_again_from_more(as_captions):
    as_captions(sizes=SIZES[:3])
    predict("2026-01-02")
    predict("2026-01-03")
    assert [each["date"] for each in predictions()] == 2 * ["2026-01-02"]
    as_captions(sizes=SIZES[:4])
    predict("2026-01-04")
    assert [(each["size"], each["date"]) for each in predictions()] == [
        ("T4-T", "2026-01-02"),
        ("T5-T", "2026-01-02"),
        ("T5-T", "2026-01-04"),
    ]


def test_what_was_predicted_of_other_looks_is_shown_and_not_compared(as_captions):
    for final, date, gap in ((False, "2026-01-02", 1.0), (True, "2026-01-03", 0.9)):
        as_captions(final=final, sizes=SIZES[:3], gap=gap)
        predict(date)
    assert [(each["date"], each["read_final"]) for each in predictions()] == [
        *2 * [("2026-01-02", False)],
        *2 * [("2026-01-03", True)],
    ]
    lines = predictions_section(as_captions(final=True, sizes=SIZES[:4])).splitlines()
    of = [line for line in lines if "| T4-T " in line]
    assert len(of) == 6 and ["2026-01-02" in line for line in of] == 3 * [True] + 3 * [False]
    for line in of:
        before = "2026-01-02" in line
        assert ("before the last layer" in line) == ("of other looks" in line) == before
        assert ("predicted " in line.split("the last layer")[1]) == (not before), "a word on what came"


def test_what_has_begun_is_not_predicted_and_controls_are_no_beginning(as_captions, tmp_path):
    as_captions(sizes=SIZES[:3])
    for begun in ("T4-T_8f_bas_seed30", "T5-T_8f_bli_seed40", "T5-T_4f_fov_seed40"):
        (tmp_path / "captions" / begun).mkdir(parents=True)
    predict("2026-01-02")
    assert [each["size"] for each in predictions()] == ["T5-T"]


def test_a_size_with_too_few_seeds_is_not_called_one_that_was_not_run(as_captions):
    as_captions(sizes=SIZES[:3])
    predict("2026-01-02")
    few = as_captions(sizes=SIZES[:4])
    few = Results(*(table[(table["pair"] != "T4-T") | (table["seed"] == 0)] for table in few))
    lines = predictions_section(few).splitlines()
    assert sum("fewer than 2 seeds of both" in line for line in lines if "T4-T" in line) == 3
    assert sum("not run yet" in line for line in lines if "T5-T" in line) == 3
    whole = as_captions(sizes=SIZES[:4])
    cosine = [
        dataclasses.replace(config, schedule="cosine") if pair == "T4-T" else config
        for config, pair in zip(whole.runs["config"], whole.runs["pair"])
    ]
    text = predictions_section(Results(whole.runs.assign(config=cosine), *whole[1:]))
    assert text.count("no common point") == 2, "curves at the full rate are not there"


def test_what_can_t_be_predicted_is_an_error(as_captions):
    as_captions(sizes=SIZES[:2])
    with pytest.raises(ConfigError, match="three sizes"):
        predict("2026-01-02")
    as_captions(sizes=SIZES)
    with pytest.raises(ConfigError, match="has runs"):
        predict("2026-01-02")
    assert not prediction.PREDICTIONS.exists() and predictions_section(as_captions()) == ""


def test_the_interval_of_a_difference_covers_it():
    rng, n = np.random.default_rng(0), 4000
    one, other = rng.normal(2, 1, n), rng.normal(1, 3, n)
    low, high = interval_of_difference((one, one - 1.96, one + 1.96), (other, other - 5.88, other + 5.88))
    inside = np.mean((low <= 1) & (high >= 1))
    assert 0.94 < inside < 0.96
    assert interval_of_difference((5.0, 4.0, 7.0), (1.0, 0.0, 1.0)) == pytest.approx(
        (4 - 1, 4 + np.hypot(2, 1))
    )
