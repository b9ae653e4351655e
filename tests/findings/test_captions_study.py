"""What is said of the study of captions follows its rows: planted ones of either sign."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from planted import SIZES, planted

from fvlm.architectures import ARCHITECTURES
from fvlm.config import REPOSITORY
from fvlm.findings import captions as module
from fvlm.findings import page, sources
from fvlm.findings.captions import (
    STUDY,
    answer,
    axes_table,
    captions,
    captions_section,
    compared_table,
    contrasts,
    cost_sentence,
    gaze_compared,
    gaze_table,
    growth_table,
    readme_table,
    ready,
    seeing,
    sentences,
    sides_table,
    summary,
)
from fvlm.findings.rates import (
    rates_at_the_edge,
    rates_table,
    several_precisions,
    swept_before,
    tuned_rates,
)
from fvlm.scaling import Results
from fvlm.scaling.contrasts import AXES, contrast, full_rate_until, gaps_by_clips, holm, reading_error
from fvlm.studies.grid import read_grid

ARCHS = ("fov", "bas", "avg", "sta", "bli")


def study(slope=0.0, gap=1.0, seeds=4, sizes=SIZES, archs=ARCHS) -> Results:
    """The planted study, with the foveated model's losses times `gap`."""
    cells = [f"{pair}_8f_{arch}" for pair in sizes for arch in archs]
    results = planted(cells, seeds=range(seeds), slope=slope, noise=0.002)
    tables = []
    for table in results:
        table = table.copy()
        losses = [c for c in table if c.startswith("loss_")]
        table.loc[table["arch"] == "foveated", losses] *= gap
        tables.append(table)
    return Results(*tables)


@pytest.mark.parametrize(("gap", "said"), [(1.0, "it is worse"), (0.8, "it is better")])
def test_the_cost_has_the_sign_of_its_rows(gap, said):
    told = cost_sentence(study(gap=gap)).partition("at equal training FLOPs")[0]
    assert told.count(said) == 2, told
    other = {"it is worse": "it is better", "it is better": "it is worse"}[said]
    assert other not in told


def test_where_no_difference_is_none_is_told():
    size = SIZES[2:3]
    by = contrast(study(sizes=size)).table["percent"].iloc[0]
    told = cost_sentence(study(gap=1 / (1 + by / 100), sizes=size)).partition("at equal training FLOPs")[0]
    assert "no difference can be told" in told and "it is worse" not in told


def with_last_gap(results: Results, change: float) -> Results:
    """The same runs, the foveated ones' losses at the last evaluation at the full rate changed by a share."""
    evaluations = results.evaluations.copy()
    steps = sorted(
        step
        for step in evaluations["step"].unique()
        if step <= full_rate_until(results.runs["config"].iloc[0])
    )
    there = (evaluations["arch"] == "foveated") & (evaluations["step"] == steps[-1])
    evaluations.loc[there, "loss_autoregressive"] *= 1 + change
    return Results(results.runs, evaluations, results.samples)


@pytest.mark.parametrize(("change", "said"), [(0.3, "grows with training"), (-0.3, "shrinks with training")])
def test_how_the_gap_goes_with_training_has_the_sign_of_its_rows(change, said):
    results = with_last_gap(study(sizes=SIZES[:1]), change)
    told = cost_sentence(results)
    assert f"the gap at {SIZES[0]} {said}, by " in told
    numbers = gaps_by_clips(results)["percent"]
    assert f"{numbers.iloc[0]:+.2f} after" in told and f"{numbers.iloc[-1]:+.2f} after" in told
    table = growth_table(results)
    assert list(table.columns) == ["size", "after clips", "over baseline", "over meanpool", "over static"]
    assert [value.split()[0] for value in table["over baseline"]] == [f"{value:+.2f}" for value in numbers]


@pytest.mark.parametrize(("change", "said"), [(0.1, "rises with training"), (-0.1, "falls with training")])
def test_a_lead_neither_grows_nor_shrinks_but_rises_or_falls(change, said):
    told = cost_sentence(with_last_gap(study(sizes=SIZES[:1], gap=0.7), change))
    assert f"the gap at {SIZES[0]} {said}, by " in told


def test_the_way_is_told_in_the_order_of_clips_whatever_is_missing():
    results = study(sizes=SIZES[:2], seeds=2)
    runs = results.runs[~((results.runs["pair"] == SIZES[1]) & (results.runs["arch"] == "static"))]
    table = growth_table(Results(runs, results.evaluations, results.samples))
    clips = table["after clips"].str.replace(",", "").astype(float)
    for _, mine in table.assign(clips=clips).groupby("size"):
        assert mine["clips"].is_monotonic_increasing and mine["clips"].is_unique
    assert table["size"].is_monotonic_increasing
    assert (table.loc[table["size"] == SIZES[1], "over static"] == "").all()
    assert (table["over baseline"] != "").all()


def test_runs_that_were_never_at_the_full_rate_are_told_at_their_end_alone():
    results = study(sizes=SIZES[:2], seeds=2)
    configs = [dataclasses.replace(config, schedule="cosine") for config in results.runs["config"]]
    text = captions_section(
        Results(results.runs.assign(config=configs), results.evaluations, results.samples)
    )
    assert "at equal clips" in text and "on the way" not in text and "still fell" not in text


def test_a_study_that_is_whole_is_not_interim(monkeypatch):
    assert "a verdict before the last of them may turn" in captions_section(study(seeds=2, sizes=SIZES[:1]))
    monkeypatch.setattr(module, "_planned", lambda: Counter({SIZES[0]: 2}))
    assert "a verdict before the last" not in captions_section(study(seeds=2, sizes=SIZES[:1]))


def test_a_gap_that_stays_is_said_to_stay():
    results = study(sizes=SIZES[:1])
    same = results.evaluations.copy()
    noise = np.random.default_rng(0).normal(1, 0.01, len(same))
    same["loss_autoregressive"] = noise * np.where(same["arch"] == "foveated", 1.1, 1.0)
    told = cost_sentence(Results(results.runs, same, results.samples))
    assert "neither grows nor shrinks with training as far as can be told" in told


@pytest.mark.parametrize(
    ("gap", "slope", "said", "way"),
    [
        (1.1, 0.06, "% more loss at T1-T, T2-T, T3-T, T4-T, T5-T;", "grows"),
        (1.1, -0.02, "% more loss at T1-T, T2-T, T3-T, T4-T, T5-T;", "shrinks"),
        (0.8, -0.06, "% less loss at T1-T, T2-T, T3-T, T4-T, T5-T;", "falls"),
        (0.8, 0.06, "% less loss at T1-T, T2-T, T3-T, T4-T, T5-T;", "rises"),
    ],
)
def test_the_summary_has_the_sign_and_the_trend_of_its_rows(gap, slope, said, way):
    along = [contrast(study(gap=gap, slope=slope), axis=axis) for axis in ("clips", "flops")]
    told = summary(along)
    assert said in told and f"with size the gap {way} at equal clips in percent; " in told
    found = re.search(r"clips: ([\d.]+) to ([\d.]+) %", told).groups()
    ends = sorted(along[0].table["percent"].abs().iloc[[0, -1]])
    assert list(map(float, found)) == pytest.approx(ends, abs=0.05 if ends[0] < 10 else 0.5)
    nats = along[0].nats_trend.estimate
    word = "shows no trend" if nats.low <= 0 <= nats.high else way
    assert re.search(rf"; {word}[a-z ]* in nats; ", told), "a ratio can grow where a difference does not"


def test_the_gap_in_nats_has_its_interval_and_its_trend():
    results = study(sizes=SIZES[:3])
    table, ends = (
        contrast(results).table,
        results.runs.groupby(["pair", "arch"])["loss_autoregressive"].mean(),
    )
    for row in table.itertuples():
        assert row.nats == pytest.approx(row.loss_a - row.loss_b)
        assert row.nats == pytest.approx(ends[row.pair, "foveated"] - ends[row.pair, "baseline"], rel=0.05)
        assert row.nats_low < row.nats < row.nats_high
    told = axes_table(results)["at equal clips, nats"]
    assert [cell.split()[0] for cell in told[:3]] == [f"{value:+.3f}" for value in table["nats"]]
    slope = np.polyfit(np.log10(table["params"]), table["nats"], 1)[0]
    assert told.iloc[-1].startswith(f"{slope:+.3f} (")


def test_how_far_curves_are_off_between_evaluations_is_measured_by_leaving_some_out():
    results = study(sizes=SIZES[:1], archs=("fov", "bas"), seeds=2)
    evaluations = results.evaluations.copy()
    evaluations["loss_autoregressive"] = 3 * evaluations["samples_seen"] ** -0.2
    straight = Results(results.runs, evaluations, results.samples)
    assert reading_error(straight) == pytest.approx(0, abs=1e-9)
    middle = evaluations["step"] == sorted(evaluations["step"].unique())[3]
    evaluations.loc[middle, "loss_autoregressive"] *= 1.1
    assert 3 < reading_error(Results(results.runs, evaluations, results.samples)) < 6
    assert np.isnan(
        reading_error(Results(results.runs, evaluations[evaluations["step"] < 3], results.samples))
    )


def test_the_summary_tells_sizes_apart_and_no_trend_of_two():
    results, size = study(sizes=SIZES[:2]), SIZES[0]
    by = contrast(results).table.set_index("pair").loc[size, "percent"]
    table = results.samples
    table.loc[(table["arch"] == "foveated") & (table["pair"] == size), "loss_autoregressive"] /= 1 + by / 100
    told = summary([contrast(results)])
    assert re.search(r"no difference can be told at T1-T, [\d.]+ % more loss at T2-T$", told), told


@pytest.mark.parametrize("change", [0.2, -0.2])
def test_what_the_last_clips_at_the_full_rate_gave_is_told(change):
    results = study(sizes=SIZES[:1])
    before = re.search(r"by, in percent, foveated (-?[\d.]+)", captions_section(results)).group(1)
    after = captions_section(with_last_gap(results, change))
    found = re.search(r"by, in percent, foveated (-?[\d.]+)", after).group(1)
    left = (1 - float(before) / 100) * (1 + change)
    assert float(found) == pytest.approx(100 * (1 - left), abs=0.1)


def test_one_size_is_not_compared_at_a_loss_of_its_own():
    assert "at equal loss" not in captions_section(study(sizes=SIZES[:1]))
    assert "at equal loss of the baseline" in captions_section(study(sizes=SIZES[:2]))


def test_an_interim_result_says_what_is_there_of_what_was_planned():
    planned = read_grid(REPOSITORY / "params" / f"{STUDY}.yaml").cells
    seeds = {c.config.seed for c in planned if c.config.pair == "T1-T" and c.config.arch == "foveated"}
    told = answer(study(sizes=SIZES[:1], seeds=3))
    assert "interim: 1 of 5 sizes, T1-T (" in told and f"3 of {len(seeds)} seeds)" in told
    assert "T3-T, chosen beforehand for the main comparison, is still to come" in told
    assert "still to come" not in answer(study(sizes=SIZES[2:3], seeds=3))
    assert (
        told.count("\n- ") > 4
        and "one token a frame keeps at T1-T, made by each of these architectures: foveated " in told
    )


def test_each_side_s_parameters_and_flops_are_told():
    results = study(sizes=SIZES[:2])
    table = sides_table(results)
    assert list(table["architecture"]) == 2 * ["foveated", "baseline", "static", "meanpool", "blind"]
    means = results.runs.groupby(["pair", "arch"])["params_trainable"].mean() / 1e6
    for row in table.to_dict("records"):
        assert row["trained parameters"] == f"{means[row['size'], row['architecture']]:.2f} M"


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([0.3, 0.2, 0.1], "foveated at T1-T (0.004, the highest of 3)"),
        ([0.1, 0.2, 0.3], "foveated at T1-T (0.001, the lowest of 3)"),
        ([0.2, 0.1, 0.3], "No best rate is at the edge"),
    ],
)
def test_a_best_rate_at_the_edge_of_what_was_tried_is_named(losses, said):
    rows = [
        dict(pair="T1-T", arch="foveated", steps=steps, rate=rate, seed=100, loss=loss + steps)
        for rate, loss in zip((1e-3, 2e-3, 4e-3), losses)
        for steps in (1, 2)
    ]
    assert said in rates_at_the_edge(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("slope", "said"),
    [(0.06, "it grows with size"), (-0.02, "it shrinks with size"), (-0.06, "it falls with size")],
)
def test_the_trend_has_the_sign_of_its_rows(slope, said):
    told = cost_sentence(study(slope=slope)).partition("; at equal training FLOPs")[0]
    assert said in told
    few = cost_sentence(study(sizes=SIZES[:2]))
    assert "a trend needs three sizes" in few and "with size" not in few


def test_each_control_has_its_sentence_and_its_numbers():
    results = study()
    told = sentences(results)
    assert len(told) == 4
    for line, arch in zip(told[1:], ("meanpool", "static", "blind")):
        table = contrast(results, "foveated", arch).table
        for row in table.itertuples():
            assert f"{row.percent:+.2f} ({row.low:+.2f} to {row.high:+.2f}) % at {row.pair}" in line
    assert "it is better" in told[3] and "it is worse" not in told[3], "blind was planted at 30 %"


def test_what_is_said_of_controls_is_what_stands_in_the_table(monkeypatch):
    results = study(sizes=SIZES[:3])
    assert all("it is " in line for line in sentences(results)[1:])
    monkeypatch.setattr(module, "holm", lambda p: np.full(len(p), 0.06))
    table = compared_table(module.compared_with(results)).query("size != 'T3-T' or second != 'baseline'")
    assert set(table["stands"]) == {"no"}
    for line in sentences(results)[1:]:
        assert line.count("no difference can be told") == 3 and "it is " not in line


@pytest.mark.parametrize(("gap", "word"), [(0.85, "it is better"), (1.25, "it is worse")])
def test_controls_at_equal_flops_are_told_as_their_rows_are(gap, word, monkeypatch):
    results = study(gap=gap, sizes=SIZES[:3])
    found = module.at_equal_flops(results)
    assert {arch for arch, _ in found} == {"meanpool", "static"}
    told, page = answer(results), captions_section(results)
    for (arch, axis), (of, adjusted) in found.items():
        line = next(line for line in told.splitlines() if ARCHITECTURES[arch].description in line)
        clause = re.split(rf"; {AXES[axis]} (?=[+-])", line)[1].split("; at equal")[0]
        table = contrast(results, "foveated", arch, axis=axis).table
        assert list(adjusted.index) == list(of.table["pair"]) == list(table["pair"]) and len(table)
        assert clause.count(word) == len(table) and clause.count("it is ") == len(table)
        for row in table.itertuples():
            words = f"{row.percent:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
            assert f"{words} % at {row.pair}, {word}" in clause
            (cells,) = [line for line in page.splitlines() if f"| {words} " in line and f"| {arch} " in line]
            assert word in cells and f"{row.clips_a:,.0f} and {row.clips_b:,.0f}" in cells
    raw = [p for of, _ in found.values() for p in of.table["p"]]
    assert np.allclose([p for _, adjusted in found.values() for p in adjusted], holm(raw))
    monkeypatch.setattr(module, "holm", lambda p: np.full(len(p), 0.06))
    lines = [line for line in answer(results).splitlines() if line.startswith("- **Beside")]
    assert len(lines) == 2 and not any("it is " in line for line in lines)


def test_a_control_s_share_of_the_flops_and_where_curves_are_read_are_its_runs():
    results = study(sizes=SIZES[:2], seeds=2)
    means = results.runs.groupby(["pair", "arch"])["flops_without_vision"].mean()
    for line, arch in zip(sentences(results)[1:], ("meanpool", "static", "blind")):
        shares = sorted(means[pair, arch] / means[pair, "foveated"] for pair in SIZES[:2])
        assert f"; it spends {shares[0]:.2f} to {shares[1]:.2f} times the foveated model's" in line
    unknown = results.runs.assign(flops_without_vision=np.nan)
    assert "it spends" not in sentences(Results(unknown, results.evaluations, results.samples))[1]
    told = cost_sentence(results)
    for axis in ("flops", "flops_without_vision"):
        row = contrast(results, axis=axis).table.iloc[0]
        assert f"are read after {row['clips_a']:,.0f} and {row['clips_b']:,.0f} clips at T1-T" in told


def test_that_a_look_reads_a_layer_less_than_the_others_is_told_while_it_does():
    results = study(sizes=SIZES[:1], seeds=2)
    words = "a look reads patches as they enter the last vision layer"
    assert words in answer(results) and words in captions_section(results)
    configs = [dataclasses.replace(each, read_final=each.read_attended) for each in results.runs["config"]]
    deeper = Results(results.runs.assign(config=configs), results.evaluations, results.samples)
    assert words not in answer(deeper) and words not in captions_section(deeper)


def test_holm_counts_every_comparison_of_the_table_but_the_primary_one():
    results = study()
    compared = {pair: contrast(results, *pair) for pair in contrasts(results)}
    table = compared_table(compared)
    assert len(table) == 5 * (5 + 1) and next(iter(compared)) == ("foveated", "baseline")
    assert (table["size"] == "per tenfold").sum() == 5, "trends are claims too"
    raw = np.concatenate([[*found.table["p"], found.trend.estimate.p] for found in compared.values()])
    (primary,) = np.flatnonzero(table["p"].str.endswith(", primary"))
    assert list(table.loc[primary, ["first", "second", "size"]]) == ["foveated", "baseline", "T3-T"]
    p = table["p"].str.removesuffix(", primary").str.removeprefix("< ").astype(float).to_numpy()
    assert p[primary] == pytest.approx(max(raw[primary], 0.001), abs=5e-4)
    others = np.delete(raw, primary)
    worst, best = np.argmax(others), np.argmin(others)
    assert np.delete(p, primary)[best] == pytest.approx(max(others[best] * 29, 0.001), abs=5e-4)
    assert np.delete(p, primary)[worst] >= min(1, others[worst]) - 5e-4
    assert list(table["stands"]) == ["yes" if value < 0.05 else "no" for value in p]


def test_a_run_that_does_not_see_is_left_out_and_named():
    results = study(seeds=3)
    runs = results.runs.copy()
    lost = "T2-T_8f_fov_seed1"
    runs.loc[runs["run"] == lost, "loss_autoregressive"] = 99.0
    changed = Results(runs, results.evaluations, results.samples)
    kept, names = seeing(changed)
    assert names == [lost] and lost not in set(kept.samples["run"]) | set(kept.evaluations["run"])
    assert f"not under that of the blind run of their seed: {lost}" in captions_section(changed)
    for told in (answer(changed), cost_sentence(changed), readme_table(changed)):
        assert lost in told, "left out means that the gap is of those that learned to see"
    whole = contrast(changed).table.set_index("pair").loc["T2-T"]
    with_it = f"; with them, at equal clips, {whole['percent']:+.2f} ({whole['low']:+.2f} to"
    assert all(with_it in told(changed).partition(lost)[2] for told in (answer, cost_sentence))
    assert seeing(study(archs=("fov", "bas")))[1] == [] and "Every run is under" in captions_section(results)


def test_the_section_has_every_axis_the_kept_share_and_the_seeds_share():
    results = study(seeds=3)
    text = captions_section(results)
    for axis in ("at equal clips", "at equal training FLOPs", "left out", "at equal loss of the baseline"):
        assert axis in text
    shares = re.search(r"draw of validation clips the rest: (.*)\.", text).group(1)
    table = contrast(results).table
    assert shares == ", ".join(f"{row.pair} {100 * row.share_of_seeds:.0f}" for row in table.itertuples())
    kept = re.findall(r"^\| T1-T +\| +([\d.]+) \(", text, re.M)
    assert any(80 < float(value) < 90 for value in kept), "0.05 of 0.3 was lost"


def test_three_sizes_of_three_seeds_are_an_answer_and_less_is_none(monkeypatch):
    assert ready(study(seeds=3)) and ready(study(seeds=3, sizes=SIZES[:3]))
    assert not ready(study(seeds=2)) and not ready(study(sizes=SIZES[:2])) and not ready(None)
    assert not ready(study(archs=("fov", "avg")))
    micro = sources.study("micro")
    monkeypatch.setattr(sources, "study", lambda name: micro if name == "micro" else None)
    for seeds, has in ((3, True), (2, False)):
        results = study(seeds=seeds)
        micro = sources.study("micro")
        monkeypatch.setattr(page, "captions", lambda results=results: results)
        monkeypatch.setattr(
            page.sources, "study", lambda name, micro=micro: micro if name == "micro" else None
        )
        monkeypatch.setattr(page, "beside_the_cost", lambda *told: [])
        monkeypatch.setattr(page, "named_line", lambda study: "")
        said = page.readme_answer()
        assert said.startswith(answer(results)) and has == ("run again" not in said)
        assert has == (summary([contrast(results, axis=axis) for axis in list(AXES)[:3]]) in said)
        table = contrast(results).table
        assert f"{table['percent'].iloc[0]:+.2f} ({table['low'].iloc[0]:+.2f}" in said
        assert ("in brackets: seeds" in page.readme_results()) == has


def test_a_study_begun_is_told_as_far_as_it_is(monkeypatch):
    text = captions_section(study(sizes=SIZES[:1], archs=("fov", "bas"), seeds=2))
    assert "keeps, in percent" not in text and "a trend needs three sizes" in text
    monkeypatch.setattr(sources, "study", lambda name: study(seeds=1))
    assert captions() is None
    one = study(seeds=3)
    keep = ~((one.runs["arch"] == "static") & (one.runs["seed"] > 0))
    few = Results(one.runs[keep], one.evaluations, one.samples)
    assert ("foveated", "static") not in contrasts(few) and ("foveated", "meanpool") in contrasts(few)
    assert "static (1)" not in captions_section(few) and "(1)" in captions_section(few)


@pytest.mark.parametrize("better", [0.2, -0.2])
def test_gaze_is_told_beside_another_clip_s_boxes(better):
    rng = np.random.default_rng(0)
    rows = [
        dict(run=f"T1-T_8f_{arch}_seed{seed}", clip_id=str(clip), asked="caption")
        | {
            f"{name}{null}": 0.4 + (better if arch == "fov" and not null else 0) + rng.normal(0, 0.02)
            for name in ("hit_any", "coverage")
            for null in ("", "_null")
        }
        for arch in ("fov", "sta")
        for seed in range(3)
        for clip in range(30)
    ]
    fov, sta = gaze_table(pd.DataFrame(rows)).to_dict("records")
    assert (fov["architecture"], sta["architecture"], fov["seeds"]) == ("foveated", "static", 3)
    for words in ("on an object", "objects seen"):
        assert float(fov[words]) == pytest.approx(0.4 + better, abs=0.01)
        value, low, high = map(float, re.findall(r"[-+][\d.]+", fov[f"{words}, difference"]))
        assert low < better < high and (low > 0) == (better > 0) == (value > 0)
        _, low, high = map(float, re.findall(r"[-+][\d.]+", sta[f"{words}, difference"]))
        assert low < 0 < high
    word = "more" if better > 0 else "less"
    told = gaze_compared(pd.DataFrame(rows))
    assert [line.partition(" at T1-T: ")[0] for line in told] == ["on an object", "objects seen"]
    for line in told:
        value, low, high = map(float, re.findall(r"[-+][\d.]+", line.partition(": ")[2]))
        assert line.endswith(f", {word}") and value == pytest.approx(better, abs=0.02) and low < better < high
    alone = [row for row in rows if "fov" in row["run"] or "seed0" in row["run"]]
    assert gaze_compared(pd.DataFrame(alone)) == []
    same = [row | dict(hit_any=0.4, coverage=0.4 + 0.1 * row["clip_id"].endswith("1")) for row in rows]
    assert all(line.endswith("no difference can be told") for line in gaze_compared(pd.DataFrame(same)))


def test_a_rate_table_has_the_best_of_each_row_in_bold():
    rows = [
        dict(pair="T1-T", steps=steps, rate=rate, arch=arch, seed=100, loss=loss)
        for steps, rate, arch, loss in [
            (3000, 1e-3, "baseline", 0.5),
            (3000, 5e-4, "baseline", 0.6),
            (600, 2e-3, "baseline", 0.1),
            (3000, 1e-3, "foveated", 0.8),
            (3000, 5e-4, "foveated", 0.7),
        ]
    ]
    table = rates_table(pd.DataFrame(rows))
    assert list(table.columns) == ["size", "architecture", "0.0005", "0.001"]
    assert table.to_numpy().tolist() == [
        ["T1-T", "foveated", "**0.700**", "0.800"],
        ["T1-T", "baseline", "0.600", "**0.500**"],
    ]


def test_rates_tried_in_several_precisions_are_named():
    def row(arch, rate, precision):
        return dict(pair="T1-T", arch=arch, rate=rate, steps=9, seed=100, loss=1.0, precision=precision)

    rows = [
        row("foveated", 1e-3, "bf16"),
        row("foveated", 2e-3, "bf16"),
        row("foveated", 5e-4, "bf16_vision"),
    ]
    rows += [row("baseline", 1e-3, "fp32"), row("baseline", 2e-3, None)]
    told = several_precisions(pd.DataFrame(rows))
    assert (
        told == " Not all in one precision: foveated at T1-T (0.001, 0.002 in bf16; 0.0005 in bf16_vision)."
    )
    assert several_precisions(pd.DataFrame(rows[3:])) == ""
    assert several_precisions(pd.DataFrame(rows).drop(columns="precision")) == ""


def test_rates_tried_over_fewer_steps_than_the_study_s_are_named(monkeypatch, tmp_path):
    results = study(sizes=SIZES[:1], seeds=2)
    whole = max(config.steps for config in results.runs["config"])
    row = dict(pair="T1-T", rate=1e-3, seed=100, loss=1.0)
    sides = {"foveated": (whole // 2,), "baseline": (whole // 2, whole)}
    rows = [row | dict(arch=arch, steps=steps) for arch, tried in sides.items() for steps in tried]
    pd.DataFrame(rows).to_parquet(tmp_path / "rates.parquet")
    monkeypatch.setattr(sources, "rates_path", lambda name: tmp_path / "rates.parquet")
    told = " ".join(tuned_rates("any", results).split())
    assert f"as the study has, {whole:,}, but of foveated at T1-T after {whole // 2:,} (all frames" in told
    pd.DataFrame([each | dict(steps=whole) for each in rows]).to_parquet(tmp_path / "rates.parquet")
    assert "as the study has (all frames" in " ".join(tuned_rates("any", results).split())


def test_rates_tried_with_looks_of_another_layer_are_named():
    results = study(sizes=SIZES[:2], seeds=2)
    configs = [dataclasses.replace(each, read_final=each.pair == "T1-T") for each in results.runs["config"]]
    results = Results(results.runs.assign(config=configs), *results[1:])
    row = dict(rate=1e-3, steps=9, seed=100, loss=1.0)
    rows = pd.DataFrame(
        [
            row | dict(pair=pair, arch=arch)
            for pair in ("T1-T", "T2-T", "T3-T")
            for arch in ("foveated", "baseline")
        ]
    )
    told = " Tried with looks that were read before the last vision layer: foveated at T1-T."
    assert swept_before(results, rows) == told
    again = rows.assign(read_final=[True] + 5 * [None])
    assert swept_before(results, again) == ""
    some = pd.concat([again, rows.iloc[:1].assign(rate=2e-3)], ignore_index=True)
    assert swept_before(results, some) == told, "not all of them again"
    configs = [dataclasses.replace(each, read_final=False) for each in configs]
    assert swept_before(Results(results.runs.assign(config=configs), *results[1:]), rows) == ""


def test_the_grid_trains_at_the_rates_that_the_sweep_found():
    path = sources.rates_path(STUDY)
    if not path.exists():
        pytest.skip("no sweep of this study's rates is committed yet")
    table = pd.read_parquet(path)
    table = table[table["steps"] == table["steps"].max()]
    best = table.loc[table.groupby(["pair", "arch"])["loss"].idxmin()]
    rates = {
        (cell.config.pair, cell.config.arch): cell.config.learning_rate
        for cell in read_grid(REPOSITORY / "params" / f"{STUDY}.yaml").cells
    }
    for row in best.itertuples():
        assert rates[row.pair, row.arch] == row.rate, f"{row.pair} {row.arch}"
