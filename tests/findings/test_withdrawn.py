"""The withdrawals rest on figures that are kept; where those are replaced, the words are to be read again."""

import pandas as pd

from fvlm.findings import sources
from fvlm.findings.withdrawn import AUDIT, equal_flops_gaps
from fvlm.scaling import all_gaps
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
    gaps = equal_flops_gaps(micro).query("frames == 8").groupby("pair")["percent"].mean()
    assert raw["T5-T"] > raw["T1-T"] > 0 > gaps["T1-T"] > gaps["T5-T"]


def test_real_weights_are_trained_for_what_a_cpu_does_in_two_hours():
    hours = sources.study("study_cpu").runs["seconds"] / 3600
    assert 1 < hours.max() < 2
