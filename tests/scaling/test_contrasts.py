"""Contrasts along three axes, against truths that were planted."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fvlm import ConfigError
from fvlm.scaling import Results
from fvlm.scaling.contrasts import (
    AXES,
    Levels,
    clips_needed,
    contrast,
    full_rate_until,
    gap_growth,
    gaps_by_clips,
    holm,
    percent,
    share_kept,
)
from fvlm.scaling.intervals import bootstrap_estimate, student_estimate
from tests.planted import BUDGETS, SIZES, planted

CELLS = [f"{pair}_8f_{arch}" for pair in SIZES for arch in ("fov", "bas")]


def with_curves(results: Results, loss) -> Results:
    """The same runs with other curves. loss: of an evaluation's row, and the run's last at its end."""
    evaluations = results.evaluations.copy()
    evaluations["loss_autoregressive"] = [loss(row) for row in evaluations.itertuples()]
    return Results(results.runs, evaluations, results.samples)


def law(results: Results, gaps: dict) -> pd.DataFrame:
    """Losses that `planted` put there, a row per size and a column per architecture. gaps: by architecture,
    of the parameters trained."""
    sizes = results.runs.groupby(["pair", "arch"])["params_trainable"].mean().unstack()
    ends = {a: (0.5 + 60 / N**0.35 + 8 / BUDGETS[-1] ** 0.45) * (1 + gaps[a](N)) for a, N in sizes.items()}
    return pd.DataFrame(ends).loc[list(SIZES)]


@pytest.mark.parametrize("slope", [-0.04, 0.04])
def test_a_planted_gap_and_its_trend_are_found(slope):
    results = planted(CELLS, seeds=range(4), slope=slope, noise=0.003)
    found = contrast(results)
    losses = law(results, dict(foveated=lambda N: 0.05 + slope * np.log10(N / 1e6), baseline=lambda N: 0))
    truth = 100 * (losses["foveated"] / losses["baseline"] - 1).to_numpy()
    line = np.polyfit(np.log10(found.table["params"]), truth, 1)[0]
    assert (found.table["low"] < truth).all() and (truth < found.table["high"]).all()
    assert list(found.table["pair"]) == list(SIZES) and (found.table["seeds"] == 4).all()
    assert found.trend is not None
    assert found.trend.estimate.low < line < found.trend.estimate.high
    assert (found.trend.estimate.low > 0) == (slope > 0) and found.trend.estimate.p < 0.05
    assert (found.table["p"] < 0.05).mean() > 0.5
    assert not found.left_out


def test_student_s_interval_covers_what_it_says_with_three_seeds():
    rng, inside, draws = np.random.default_rng(1), 0, 600
    for _ in range(draws):
        seeds, clips = rng.normal(0, 0.03, (2, 3)), rng.normal(0, 0.05, (2, 200))
        clips -= clips.mean(1, keepdims=True)
        level = np.array([[1.08], [1.0]]) + rng.normal(0, 0.05 / np.sqrt(200), (2, 1))  # the clips drawn
        found = Levels([level + seeds], [clips]).estimate(lambda means: float(percent(means)[0])).estimate
        inside += found.low < 8 < found.high
    assert 0.93 < inside / draws < 0.975


def test_where_the_uncertainty_comes_from():
    seeds = np.array([[1.00, 1.02, 1.04], [1.0, 1.0, 1.0]])
    found = Levels([seeds], [np.zeros((2, 50))]).estimate(lambda means: float(means[0, 0] - means[0, 1]))
    assert found.from_seeds == pytest.approx(0.02**2 / 3) and found.from_clips == 0
    assert found.share_of_seeds == 1 and found.seeds == 3
    # of three values Student's interval is their mean and 4.30 standard errors
    assert found.estimate.high - found.estimate.value == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-3)
    both = Levels([seeds], [np.stack([np.linspace(-1, 1, 50), np.zeros(50)])])
    found = both.estimate(lambda means: float(means[0, 0] - means[0, 1]))
    assert found.from_clips == pytest.approx(np.var(np.linspace(-1, 1, 50), ddof=1) / 50)
    moved_alike = Levels([seeds], [np.stack([np.linspace(-1, 1, 50)] * 2)])
    assert moved_alike.estimate(lambda means: float(means[0, 0] - means[0, 1])).from_clips < 1e-20


def test_the_clips_noise_never_makes_an_interval_narrower():
    """More noise can raise the degrees of freedom so far that Welch and Satterthwaite's interval shrinks."""
    seeds = np.array([[1.00, 1.02, 1.04], [1.0, 1.0, 1.0]])

    def of(spread):
        clips = [np.stack([spread * np.linspace(-1, 1, 50), np.zeros(50)])]
        return Levels([seeds], clips).estimate(lambda means: float(means[0, 0] - means[0, 1])).estimate

    alone, widths = of(0.0), [of(s).high - of(s).low for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)]
    assert min(widths) >= alone.high - alone.low and widths[-1] > 2 * (alone.high - alone.low)
    assert all(of(s).p >= alone.p for s in (0.02, 0.05, 0.1, 0.5))
    for s in (0.0, 0.1, 1.0):
        assert (of(s).low > 0) == (of(s).p < 0.05)
    estimate = bootstrap_estimate(1.0, np.random.default_rng(0).normal(0, 1, 20_000), [(0.5, 2), (0.5, 1000)])
    assert estimate.high - 1 == pytest.approx(max(4.303 * 0.5**0.5, 2.31), rel=0.03)


def test_what_is_not_known_makes_no_certainty():
    assert np.isnan(student_estimate(1.0, [], (float("nan"), 10)).low)
    assert np.isnan(student_estimate(1.0, [(0.1, 2)], (float("nan"), 10)).p)
    sure = student_estimate(1.0, [], (0.0, 10))
    assert (sure.low, sure.high, sure.p) == (1.0, 1.0, 0.0)


def test_sizes_of_different_numbers_of_seeds_are_each_their_own():
    results = planted(CELLS, seeds=range(3), noise=0.01)
    lost = (results.runs["pair"] == SIZES[0]) & (results.runs["seed"] > 0)
    found = contrast(Results(results.runs[~lost], results.evaluations, results.samples)).table
    assert found["seeds"].tolist() == [1] + [3] * (len(SIZES) - 1) and np.isfinite(found["high"]).all()
    whole = contrast(results).table
    assert found["high"].iloc[1:].to_numpy() == pytest.approx(whole["high"].iloc[1:].to_numpy())


def test_runs_that_were_never_at_the_full_rate_have_no_curve_to_read():
    results = planted(CELLS, seeds=range(2))
    configs = [dataclasses.replace(config, schedule="cosine") for config in results.runs["config"]]
    results = Results(results.runs.assign(config=configs), results.evaluations, results.samples)
    assert len(contrast(results).table) == len(SIZES)
    for axis in ("flops", "loss"):
        found = contrast(results, axis=axis)
        assert found.table.empty and found.trend is None and set(found.left_out) == set(SIZES)
    assert gaps_by_clips(results).empty and gap_growth(results) == {}


def test_gaps_at_each_evaluation_are_those_that_were_planted():
    results = with_curves(
        planted(CELLS, seeds=range(3), noise=0.0),
        lambda row: (1 + row.step / 1e5 if row.arch == "foveated" else 1.0) + 1e-4 * row.seed,
    )
    found = gaps_by_clips(results)
    rows = results.evaluations[results.evaluations["arch"] == "foveated"]
    until = full_rate_until(results.runs["config"].iloc[0])
    steps = {row.samples_seen: row.step for row in rows.itertuples() if row.step <= until}
    assert set(found["clips"]) == set(steps) and set(found["pair"]) == set(SIZES)
    for row in found.itertuples():
        assert row.percent == pytest.approx(steps[row.clips] / 1e3, rel=1e-3)
        assert row.low < row.percent < row.high and row.seeds == 3
    grown = gap_growth(results)
    assert list(grown) == list(found["pair"].unique())
    for pair, each in found.groupby("pair"):
        assert grown[pair].value == pytest.approx(each["percent"].iloc[-1] - each["percent"].iloc[0])
        assert grown[pair].low > 0


def test_one_seed_s_interval_is_for_its_weights():
    found = contrast(planted(CELLS[:2], noise=0)).table.iloc[0]
    assert found["seeds"] == 1 and np.isnan(found["share_of_seeds"])
    assert found["high"] - found["low"] < 1 and found["low"] < found["percent"] < found["high"]


def test_at_equal_flops_a_gap_that_is_compute_alone_is_gone():
    results = with_curves(planted(CELLS, seeds=range(3)), lambda row: 3 * row.flops**-0.05)
    ends = results.runs.set_index("run")["samples_seen"]
    found = contrast(results, axis="flops")
    assert found.table["percent"].abs().max() < 0.01
    at_clips = contrast(results, axis="loss").table
    assert (at_clips["percent"].abs() > 0.1).all(), "the cheaper one is behind where both saw as many clips"
    cheaper = found.table[["clips_a", "clips_b"]].max(axis=1)
    assert cheaper.eq(ends.iloc[0]).all(), "the cheaper one is read at its end"
    assert (found.table["clips_a"] != found.table["clips_b"]).all()


def test_a_learning_curve_that_is_a_power_law_is_read_exactly_between_its_evaluations():
    """A steep one: what is straight in log FLOPs alone reads it too high, by up to some percent."""
    results = with_curves(planted(CELLS, seeds=range(3)), lambda row: 3 * row.flops**-0.6)
    table = contrast(results, axis="flops").table
    assert table[["percent", "curved"]].abs().max(axis=None) < 1e-6
    needed = clips_needed(with_curves(results, lambda row: 3 * row.samples_seen**-0.6))
    assert np.allclose(needed["times"], 1, atol=1e-9)


def test_how_a_bent_curve_is_read_between_evaluations_is_told():
    results = planted(CELLS, seeds=range(3))
    most = np.log(results.evaluations["flops"].max())
    bent = with_curves(results, lambda row: np.exp(0.3 * (most - np.log(row.flops)) ** 2 / 10))
    table = contrast(bent, axis="flops").table
    assert (table["curved"] - table["percent"]).abs().max() > 0.01
    ends = contrast(bent).table
    assert (ends["curved"] == ends["percent"]).all(), "nothing is read between evaluations"


def test_without_the_vision_encoder_compute_is_another():
    results = planted(CELLS, seeds=range(3))
    whole, less = (contrast(results, axis=axis).table for axis in ("flops", "flops_without_vision"))
    assert (whole["percent"] != less["percent"]).all()
    assert (results.runs["flops_without_vision"] < results.runs["flops"]).all()


def test_at_equal_loss_sizes_are_compared_equally_far_in_their_training():
    rate = dict(zip(SIZES, (0.30, 0.32, 0.34, 0.36, 0.38)))

    def loss(row):
        # the gap grows as training goes on, and larger sizes are further
        base = 6 * row.samples_seen ** -rate[row.pair]
        return base * (1 + 0.2 * (1 - base / 3)) if row.arch == "foveated" else base

    results = with_curves(planted(CELLS, seeds=range(3)), loss)
    found = contrast(results, axis="loss")
    last = results.evaluations.query("arch == 'baseline'").groupby("pair")["loss_autoregressive"].min()
    assert found.level == pytest.approx(last.max())
    assert found.table["loss_b"].to_numpy() == pytest.approx(found.level, rel=0.02)
    assert found.table["percent"].max() - found.table["percent"].min() < 0.5
    assert list(found.table["clips_b"]) == sorted(found.table["clips_b"], reverse=True)


def test_a_size_whose_curve_never_was_there_is_left_out_and_named():
    def loss(row):
        return 0.1 if row.pair == "T5-T" and row.arch == "baseline" else 4 * row.samples_seen**-0.2

    found = contrast(with_curves(planted(CELLS, seeds=range(2)), loss), axis="loss")
    assert found.left_out == ("T5-T",) and "T5-T" not in set(found.table["pair"])


def test_where_the_rate_was_let_down_no_curve_is_read():
    results = planted(CELLS[:2], schedule="wsd")
    config = results.runs["config"].iloc[0]
    assert full_rate_until(config) == round(config.steps * (1 - config.decay))
    steps = sorted(results.evaluations["step"].unique())
    evaluations = results.evaluations.replace({"step": {steps[-1]: config.steps}})
    evaluations.loc[evaluations["step"] == config.steps, "loss_autoregressive"] = 0.01
    found = contrast(Results(results.runs, evaluations, results.samples), axis="flops")
    assert found.table[["loss_a", "loss_b"]].min().min() > 0.1


@pytest.mark.parametrize("times", [3.0, 0.4])
def test_how_many_times_the_clips_are_needed(times):
    def loss(row):
        return 3 * (row.samples_seen / (times if row.arch == "foveated" else 1)) ** -0.3

    found = clips_needed(with_curves(planted(CELLS, seeds=range(3)), loss))
    assert list(found["pair"]) == list(SIZES) and found["times"].to_numpy() == pytest.approx(times, rel=0.02)
    one = clips_needed(with_curves(planted(CELLS), loss))
    assert one["low"].isna().all() and (one["seeds"] == 1).all()


def test_clips_are_not_told_where_a_curve_does_not_say_when():
    def loss(row):
        return 0.1 if row.arch == "baseline" else 3 * row.samples_seen**-0.1

    assert not len(clips_needed(with_curves(planted(CELLS, seeds=range(2)), loss)))


def test_seeds_that_differ_widen_how_many_times():
    def loss(row):
        return 3 * (row.samples_seen / (2 * 1.2**row.seed if row.arch == "foveated" else 1)) ** -0.3

    found = clips_needed(with_curves(planted(CELLS[:2], seeds=range(3)), loss)).iloc[0]
    assert found["times"] == pytest.approx(2 * 1.2, rel=0.02)
    half = 4.3027 * np.log(1.2) / 3**0.5
    assert (found["low"], found["high"]) == pytest.approx((2.4 / np.exp(half), 2.4 * np.exp(half)), rel=0.03)
    assert found["p"] < 0.05


def test_the_share_of_what_vision_gives_that_is_kept():
    results = planted([*CELLS, *(f"{pair}_8f_bli" for pair in SIZES)], seeds=range(4), slope=0, noise=1e-3)
    found = share_kept(results)
    losses = law(results, dict(foveated=lambda N: 0.05, baseline=lambda N: 0, blind=lambda N: 0.3))
    gained = (losses["blind"] - losses["foveated"]) / (losses["blind"] - losses["baseline"])
    assert len(found) == 5 and (found["low"] < 100 * gained.to_numpy()).all()
    assert (found["high"] > 100 * gained.to_numpy()).all() and (found["p"] < 1e-3).all()
    assert not len(share_kept(planted(CELLS)))


def test_holm_is_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1]) and not len(holm([]))


def test_what_can_t_be_compared_is_said():
    results = planted(CELLS, seeds=range(2))
    with pytest.raises(ConfigError, match="valid are clips, flops"):
        contrast(results, axis="seconds")
    with pytest.raises(ConfigError, match="no size has a seed of both foveated and meanpool"):
        contrast(results, b="meanpool")
    doubled = Results(pd.concat([results.runs, results.runs]), results.evaluations, results.samples)
    with pytest.raises(ConfigError, match="several runs of a seed"):
        contrast(doubled)
    fewer = results.samples.drop(results.samples.index[0])
    with pytest.raises(ConfigError, match="different validation clips"):
        contrast(Results(results.runs, results.evaluations, fewer))
    assert list(AXES) == ["clips", "flops", "flops_without_vision", "loss"]
