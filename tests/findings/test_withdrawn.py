"""The withdrawals rest on figures that are kept; where those are replaced, the words are to be read again."""

import pandas as pd
import pytest

from fvlm.findings import sources, withdrawn
from fvlm.findings.withdrawn import AUDIT, equal_flops, withdrawn_in_short, withdrawn_section
from fvlm.findings.words import frames_of, trend
from fvlm.scaling import Results, all_gaps
from fvlm.scaling.contrasts import contrast
from fvlm.studies.question import CROWDED


def test_within_the_study_s_steps_the_baseline_only_guesses_among_crowded_clips():
    right = sources.right_by_shapes().groupby("arch", observed=True).mean()
    crowded = right[[count for count in right.columns if count >= CROWDED]]
    assert (crowded.loc["foveated"] > 80).all()
    assert all(abs(crowded.loc["baseline", count] - 100 / count) < 5 for count in crowded.columns)


def test_with_the_mended_scale_the_baseline_learns_it_as_well():
    table = pd.read_csv(AUDIT, comment="#").query("model == 'baseline' and features == 'dinov2'")
    ends = table.sort_values("steps").groupby(["scale", "seed"])["right"].last()
    long = [
        (scale, seed)
        for (scale, seed), part in table.groupby(["scale", "seed"])
        if part["steps"].max() >= 1000
    ]
    assert all(ends[run] > 0.6 if run[0] == "sqrt_width" else ends[run] < 0.4 for run in long)
    assert len([run for run in long if run[0] == "sqrt_width"]) == 2


def test_the_trend_with_size_is_one_at_equal_clips_alone():
    micro = sources.study("micro")
    raw = all_gaps(micro)["micro, 8 frames"].table.set_index("pair")["raw_percent"]
    gaps = equal_flops(micro)
    assert raw["T5-T"] > raw["T1-T"] > 0 > gaps["T1-T"][0] > gaps["T5-T"][0]


def test_what_is_said_of_equal_clips_follows_today_s_interval():
    text, short = withdrawn_section(sources.study("micro")), withdrawn_in_short()
    for name, gap in all_gaps(sources.study("micro")).items():
        assert f"{frames_of(name)}, {trend(gap)}" in " ".join(text.split()) and trend(gap) in short


def test_real_weights_are_trained_for_what_a_cpu_does_in_two_hours():
    hours = sources.study("study_cpu").runs["seconds"] / 3600
    assert 1 < hours.max() < 2


def test_nothing_else_changed_is_said_of_runs_that_differ_in_the_scale_alone(monkeypatch, tmp_path):
    runs = [  # rate, seed, scale, steps, right
        (0.001, 0, "published", 2400, 0.31),
        (0.001, 0, "sqrt_width", 1400, 0.71),
        (0.002, 1, "sqrt_width", 1300, 0.81),
        (0.002, 0, "published", 1200, 0.21),
        (0.003, 0, "sqrt_width", 700, 0.91),
    ]
    table = pd.DataFrame(runs, columns=["learning_rate", "seed", "scale", "steps", "right"])
    table.assign(model="baseline", features="dinov2").to_csv(tmp_path / "audit.csv", index=False)
    monkeypatch.setattr(withdrawn, "AUDIT", tmp_path / "audit.csv")
    text, short = withdrawn_section(None), withdrawn_in_short()
    (same,) = [line for line in text.splitlines() if "nothing else changed" in line]
    assert "71 %" in same and "31 % right after 2,400 steps" in same and "21 %" not in text
    (other,) = [line for line in text.splitlines() if "not run with the old scale" in line]
    assert "81 %" in other and "seed 1" in other
    assert "91 %" not in text + short, "too short a run"
    assert "71 % right" in short and "81 % right" in short


def test_where_each_ends_is_known_once_it_was_run_again(monkeypatch):
    monkeypatch.setattr(withdrawn, "questions", lambda: None)
    assert "Where either ends is not known." in withdrawn_section(None)
    monkeypatch.setattr(withdrawn, "questions", lambda: "finished runs")
    told = withdrawn_section(None)
    assert "is in *Questions, run again*." in told and "not known" not in told


def test_the_readme_has_a_line_for_each_withdrawn_claim_and_one_sentence():
    head, *lines = withdrawn_in_short().splitlines()
    assert head.startswith("**Withdrawn on") and all(line.startswith("- ") for line in lines)
    assert len(lines) == 3 and [line[-1] for line in lines] == [";", ";", "."]
    assert "`question/`" in lines[-1] and "`captions/`" not in lines[-1], "what will be run again"


def test_at_equal_flops_the_clips_noise_is_in_the_interval():
    """Three seeds that happen to agree say nothing of other validation clips."""
    micro = sources.study("micro")
    parts = Results(*(table[(table["frames"] == 8) & (table["pair"] == "T4-T")] for table in micro))
    found = contrast(parts, axis="flops").table.iloc[0]
    assert found["share_of_seeds"] < 0.5, "there the clips are most of it"
    (value, low, high) = equal_flops(micro)["T4-T"]
    assert (value, low, high) == pytest.approx((found["percent"], found["low"], found["high"]))
    one = Results(*(table[table["seed"] == 0] for table in micro))
    assert len(equal_flops(one)["T4-T"]) == 1 and equal_flops(Results(*(table[:0] for table in micro))) == {}
