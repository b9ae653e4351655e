"""What is said of the study of questions follows its rows: planted curves of either kind."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest

from fvlm import plots
from fvlm.config import REPOSITORY, RunConfig
from fvlm.findings import page, sources
from fvlm.findings.figures import draw_questions, questions_figure
from fvlm.findings.questions import (
    LEARNED,
    STUDIES,
    compared,
    contrasts,
    contrasts_table,
    gazes,
    learning,
    learning_rows,
    learning_table,
    questions,
    questions_section,
    ready,
    run_again,
    steered,
    steered_again,
    steering,
    steering_table,
    still_rising,
)
from fvlm.findings.words import p_value
from fvlm.scaling import Results, Study, runs_table
from fvlm.scaling.contrasts import holm
from fvlm.studies.grid import read_grid

SEEN = np.arange(1, 21) * 3200


def study(leaves: dict[str, float], pairs=("T1-T", "T2-T"), seeds=3, spread=0.1) -> Results:
    """Runs that guess, 26 % right, until they have seen `leaves[arch]` clips, then rise to 90 % within 6,400;
    seeds differ by `spread` of that."""
    (cell, *_) = read_grid(REPOSITORY / "params" / "questions.yaml").cells
    rows, samples, configs = [], [], {}
    for pair in pairs:
        for arch, when in leaves.items():
            for seed in range(seeds):
                config = RunConfig.from_cell(f"{pair}_2f_{arch}", seed=seed, device="cpu", task="question")
                config = dataclasses.replace(config, steps=cell.config.steps, effective_batch=8)
                name = f"{config.cell}_seed{seed}"
                who = dict(run=name, cell=config.cell, seed=seed, pair=pair, llm=config.llm, vision="tiny")
                who |= dict(frames=2, arch=config.arch, task="question", schedule="constant")
                start = when * (1 + spread * (seed - (seeds - 1) / 2))
                right = 0.26 + 0.64 * np.clip((SEEN - start) / 6400, 0, 1) + 0.001 * seed
                for step, (seen, share) in enumerate(zip(SEEN, right), 1):
                    rows.append(
                        who
                        | dict(step=step, samples_seen=seen, right=share, flops=seen * 1e11, seconds=60.0)
                        | dict.fromkeys(("loss_parallel", "loss_autoregressive", "loss_static"), 2 - share)
                        | dict(params_total=2e6, params_trainable=1e6, params_embedding=1e5, visual_tokens=2)
                        | dict(weights="planted", device="planted")
                    )
                samples.append(who | dict(clip_id="clip0", text_tokens=2, loss_autoregressive=1.0, right=1.0))
                configs[name] = config
    found = Study(pd.DataFrame(rows), pd.DataFrame(samples))
    return Results(runs_table(found, configs, "planted"), found.evaluations, found.samples)


def test_learned_is_where_the_curve_crosses_or_never():
    runs = learning_rows(study(dict(fov=6400, bas=1e9), seeds=1)).set_index("arch")
    found = runs.loc["foveated", "clips"].iloc[0]
    assert found == pytest.approx(6400 + 6400 * (0.8 - 0.26) / 0.64, rel=1e-6)
    assert math.isinf(runs.loc["baseline", "clips"].iloc[0]) and runs.loc["baseline", "right"].iloc[0] == 0.26


@pytest.mark.parametrize(
    ("leaves", "said", "never", "in_short"),
    [
        (dict(fov=6400, bas=32000), "(sooner)", "(later)", "right after fewer clips than the baseline"),
        (dict(fov=32000, bas=6400), "(later)", "(sooner)", "right after more clips than the baseline"),
        (
            dict(fov=20000, bas=20000),
            "(not to be told apart)",
            "(sooner)",
            "no more clips than the baseline, as far as can be told",
        ),
    ],
)
def test_who_is_sooner_has_the_sign_of_its_rows(leaves, said, never, in_short):
    results = study(leaves)
    told = learning(results)
    assert told.count(said) == 2 and never not in told
    assert f"{in_short} (T1-T, T2-T), ends with no difference that can be told (T1-T, T2-T);" in told
    ratio = compared(learning_rows(results))["times"]
    assert (abs(np.log(ratio) - math.log((leaves["fov"] + 5400) / (leaves["bas"] + 5400))) < 0.05).all()


@pytest.mark.parametrize(
    ("leaves", "said"), [(dict(fov=6400, bas=1e9), "more"), (dict(fov=1e9, bas=6400), "fewer")]
)
def test_who_never_learns_it_is_counted_and_not_averaged(leaves, said):
    results = study(leaves)
    told, table = learning(results), compared(learning_rows(results))
    counts = ("3 of 3", "0 of 3") if said == "more" else ("0 of 3", "3 of 3")
    assert f"{counts[0]} seeds come to 80 % right, of the baseline's {counts[1]}" in told
    assert f"points right ({said})" in told and table["times"].isna().all()
    assert f"the foveated model ends with {said} right answers than the baseline (T1-T, T2-T);" in told
    assert (abs(abs(table["points"]) - 64) < 0.5).all()
    cells = learning_table(results).set_index(["size", "architecture"])
    assert cells.loc[("T1-T", "foveated"), "seeds that came to 80 %"] == counts[0]


def test_two_sizes_of_three_seeds_are_an_answer_and_less_is_none(monkeypatch):
    both = dict(fov=6400, bas=9000)
    for results, enough in (
        (study(both), True),
        (study(both, seeds=2), False),
        (study(both, ("T1-T",)), False),
    ):
        assert ready(results) == enough
    monkeypatch.setattr(sources, "study", lambda name: study(both, seeds=1))
    assert questions() is None and not ready(None), "one seed is compared with nothing"


def test_the_clips_that_all_seeds_are_asked_about_are_noise_too():
    """Seeds that agree on forty clips: another forty would say something else."""
    results = study(dict(fov=6400, bas=1e9), pairs=("T1-T",), spread=0)
    dice, rows = np.random.default_rng(0), []
    hard = dice.random(40)
    for run, arch in results.runs[["run", "arch"]].itertuples(index=False):
        share = 0.9 if arch == "foveated" else 0.3
        rows += [dict(run=run, clip_id=f"clip{i}", right=float(hard[i] < share)) for i in range(40)]
    runs, samples = learning_rows(results), pd.DataFrame(rows)
    seeds, both = compared(runs).iloc[0], compared(runs, samples=samples).iloc[0]
    assert both["points"] == seeds["points"] and seeds["high"] - seeds["low"] < 5
    sides = [
        samples[samples["run"].str.contains(arch)].pivot(index="clip_id", columns="run")
        for arch in ("fov", "bas")
    ]
    error = 100 * (sides[0].mean(axis=1) - sides[1].mean(axis=1)).std() / 40**0.5
    assert 2 * error < (both["high"] - both["low"]) / 2 < 3 * error


def test_seeds_that_never_get_there_count_in_the_median():
    results = study(dict(fov=6400, bas=1e9), pairs=("T1-T",), seeds=3, spread=3)
    runs = learning_rows(results).query("arch == 'foveated'")
    reached = np.sort(runs["clips"])
    assert np.isfinite(reached).tolist() == [True, True, True]
    late = results.evaluations["run"].isin(list(runs.sort_values("clips")["run"])[1:])
    evaluations = results.evaluations.copy()
    evaluations.loc[late, "right"] = 0.3
    row = (
        learning_table(results._replace(evaluations=evaluations)).query("architecture == 'foveated'").iloc[0]
    )
    assert row["seeds that came to 80 %"] == "1 of 3"
    when = row["after so many clips, median"]
    assert when == f"not within the run ({reached[0]:,.0f} to not within the run)"


def test_the_page_and_the_readme_tell_it_once_it_is_there(monkeypatch):
    kept = sources.study
    planted = study(dict(fov=6400, bas=9000, sta=1e9))
    monkeypatch.setattr(page, "captions", lambda: None)  # another study, slow to read
    monkeypatch.setattr(sources, "study", lambda name: planted if name in STUDIES else kept(name))
    text = page.render()
    for name, what in STUDIES.items():
        assert f"params/{name}.yaml" in text and what[1:] in text
    assert (
        all(learning(planted, name) in text for name in STUDIES) and learning(planted) in page.readme_answer()
    )
    monkeypatch.setattr(sources, "study", lambda name: None if name in STUDIES else kept(name))
    assert "Who learns to answer" not in page.render() + page.readme_answer()


def test_the_two_grids_differ_in_what_a_clip_is_asked_alone():
    grids = [read_grid(REPOSITORY / "params" / f"{name}.yaml") for name in STUDIES]
    for cell in (cell for grid in grids for cell in grid.cells):
        assert cell.config.schedule == "constant", "each evaluation is an end, as the page says"
    for one, other in zip(*(grid.cells for grid in grids)):
        (change,) = one.config.changes_from(other.config)
        assert change.startswith("dataset was ")
        assert one.config.dataset.replace("pool=64000", "pool=16000,passes=4") == other.config.dataset


def test_p_values_are_corrected_for_all_but_the_primary_contrast():
    results = study(dict(fov=6400, bas=32000, sta=1e9, avg=30000))
    runs, plain = learning_rows(results), {}
    for arch in ("baseline", "static", "meanpool"):
        for row in compared(runs, ("foveated", arch), results.samples).to_dict("records"):
            plain |= {(arch, row["pair"], name): row[name] for name in ("p", "times_p")}
    plain = {key: p for key, p in plain.items() if np.isfinite(p)}
    assert len(plain) == 6 + 4, "the static query never learned"
    primary = ("baseline", "T2-T", "times_p")
    for name, apart in (("questions", [primary]), ("questions_all", [])):
        table = contrasts(results, name).set_index(["beside", "pair"])
        assert [(*key, kind) for key, kind in table["primary"].items() if kind] == apart
        family = [key for key in plain if key not in apart]
        never_run = [1.0] * (2 * 3 * 3 - len(apart) - len(family))  # tests, architectures, sizes
        for key, p in zip(family, holm([*(plain[key] for key in family), *never_run])):
            assert table.loc[key[:2], key[2]] == pytest.approx(p), key
        for key in apart:
            assert table.loc[key[:2], key[2]] == plain[key], "as it was written down"
        assert ("but that beside the baseline at T2-T" in learning(results, name)) == bool(apart)


def test_a_primary_seed_that_never_learns_leaves_the_points_at_the_end():
    results = study(dict(fov=6400, bas=1e9))
    table = contrasts(results).set_index("pair")
    assert table["primary"].to_dict() == {"T1-T": "", "T2-T": "p"}
    assert "3 of 3 seeds, 0 of 3" in contrasts_table(results).to_markdown()


def test_a_word_needs_its_corrected_p_value():
    """Seeds so wide apart that the interval alone just says something."""
    for spread in np.linspace(0.1, 0.6, 51):
        results = study(dict(fov=6400, bas=20000, avg=20000), seeds=4, spread=spread)
        plain = compared(learning_rows(results)).set_index("pair").loc["T1-T"]
        corrected = contrasts(results).set_index(["beside", "pair"]).loc[("baseline", "T1-T")]
        if plain["times_high"] < 1 and corrected["times_p"] > 0.05:
            break
    else:
        raise AssertionError("no spread leaves the one and not the other")
    first, second = learning(results).split("at T1-T")[1].split("at T2-T")[:2]
    assert "(not to be told apart)" in first
    assert ("(sooner)" in second) == (contrasts(results).query("primary != ''")["times_p"].iloc[0] < 0.05)


def test_flops_until_it_is_learned_are_those_of_the_clips_until_then():
    """Clips cost the foveated model three times as much: sooner in clips is not fewer FLOPs."""
    results = study(dict(fov=6400, bas=12000), spread=0.02)
    runs = results.runs.copy()
    dear = runs["arch"] == "foveated"
    runs.loc[dear, ["flops", "flops_without_vision"]] = 3e15
    runs.loc[~dear, ["flops", "flops_without_vision"]] = 1e15
    results = results._replace(runs=runs)
    rows = learning_rows(results)
    per_clip = np.where(rows["arch"] == "foveated", 3e15, 1e15) / rows["seen"]
    assert np.allclose(rows["flops"] / rows["clips"], per_clip)
    table = contrasts(results)
    assert np.allclose(table["flops"], 3 * table["times"]) and (table["times"] < 1).all()
    told, row = learning(results), table.iloc[0]
    assert told.count("(sooner)") == 2 and row["flops_low"] > 1
    assert (
        f"{row['flops']:.2f} ({row['flops_low']:.2f} to {row['flops_high']:.2f}) times the training FLOPs"
        in told
    )


def test_controls_of_as_many_tokens_stand_beside_the_baseline():
    told = learning(study(dict(fov=6400, bas=32000, sta=1e9, avg=6400)))
    names = ("the baseline's", "one static query", "the mean of all")
    places = [told.index(f"beside {name}") for name in names]
    assert places == sorted(places)
    parts = [told[a:b] for a, b in zip(places, [*places[1:], len(told)])]
    assert "(sooner)" in parts[0] and "of the static query's 0 of 3" in parts[1]
    assert "(not to be told apart)" in parts[2]


def test_coming_to_a_level_is_not_staying_there():
    """Noise takes a run over the line for one evaluation, long before it stays above."""
    results = study(dict(fov=6400, bas=25600), pairs=("T1-T",), spread=0)
    before = learning_rows(results).set_index("arch")
    assert (before["lasting"] == before["clips"]).all()
    evaluations = results.evaluations.copy()
    early = (evaluations["arch"] == "baseline") & (evaluations["samples_seen"] == 9600)
    evaluations.loc[early, "right"] = 0.81
    after = learning_rows(results._replace(evaluations=evaluations)).set_index("arch")
    assert (after.loc["baseline", "clips"] < 9600).all() and (after["lasting"] == before["lasting"]).all()
    table = learning_table(results._replace(evaluations=evaluations)).set_index("architecture")
    first, lasting = table.loc[
        "baseline", ["after so many clips, median", "and were there 2 evaluations later"]
    ]
    assert first != lasting and lasting.startswith(f"{before.loc['baseline', 'lasting'].median():,.0f}")
    evaluations.loc[evaluations["samples_seen"] == SEEN[-1], "right"] = 0.3
    evaluations.loc[evaluations["samples_seen"].isin(SEEN[-3:-1]), "right"] = 0.81
    evaluations.loc[evaluations["samples_seen"] < SEEN[-3], "right"] = 0.3
    ends = learning_rows(results._replace(evaluations=evaluations))
    assert np.isfinite(ends["clips"]).all() and np.isinf(ends["lasting"]).all()


def test_no_answer_without_the_size_that_was_written_down():
    both = dict(fov=6400, bas=9000)
    assert ready(study(both, ("T1-T", "T2-T"))) and not ready(study(both, ("T1-T", "T3-T")))


def test_seeds_that_are_still_to_come_are_told():
    both = dict(fov=6400, bas=9000)
    assert "seeds so far 3 of 5 at T1-T, 3 of 5 at T2-T, looked at as they come" in learning(study(both))
    assert "so far" not in learning(study(both, seeds=5))
    parts, gone = study(both), ("T2-T", "baseline")
    runs = parts.runs[[who != gone for who in zip(parts.runs["pair"], parts.runs["arch"])]]
    assert "0 of 5 at T2-T" in learning(
        parts._replace(runs=runs, evaluations=parts.evaluations[parts.evaluations["run"].isin(runs["run"])])
    )
    assert learning(study(both)).count("(3 and 3 seeds)") == 2
    two, four = (learning(study(both | more)) for more in ({}, dict(sta=1e9, avg=6400)))
    left = "not run yet: static at T1-T, meanpool at T1-T, static at T2-T, meanpool at T2-T"
    assert left in two and "not run yet" not in four and "the 17 comparisons that are planned" in two
    assert "the 18 comparisons" in learning(study(both), "questions_all")


def test_what_else_the_two_sides_differ_in_is_told():
    both = dict(fov=6400, bas=9000)
    results = study(both)
    passes = {1 + run.config.fine_passes for run in results.runs.itertuples() if run.arch == "foveated"}
    assert f"each of which it reads {passes.pop()} times" in learning(results)
    assert "after as many steps, 8,000, but of foveated at T1-T after 4,000" in learning(results)
    earlier = "A look reads patches as they enter the last vision layer"
    assert earlier in questions_section({"questions": results})
    configs = [dataclasses.replace(each, read_final=each.read_attended) for each in results.runs["config"]]
    deeper = results._replace(runs=results.runs.assign(config=configs))
    assert earlier not in questions_section({"questions": deeper})


def test_what_still_rises_at_the_end_is_told():
    """Three quarters are over when the baseline begins; one seed has no interval to tell it by."""
    results = study(dict(fov=6400, bas=44800), spread=0.02)
    clause = re.search(r"where it ends is open, [^:]*: ([^;]*);", learning(results)).group(1)
    found = still_rising(results)
    rows = results.evaluations.query("pair == 'T1-T' and arch == 'baseline'").sort_values("samples_seen")
    quarters = rows.groupby("run")["right"].apply(lambda each: each[-5:].mean() - each[-10:-5].mean())
    rise, low, high = found["T1-T", 2, "baseline"]
    assert rise == pytest.approx(100 * quarters.mean()) and low < rise < high
    assert f"baseline at T1-T ({rise:+.1f} (" in clause and "foveated" not in clause
    assert found["T1-T", 2, "foveated"][0] == pytest.approx(0, abs=1e-9)
    falling = results.evaluations.assign(right=1 - results.evaluations["right"])
    assert "where it ends is open" not in learning(results._replace(evaluations=falling))
    alone, low, _ = still_rising(study(dict(bas=44800), seeds=1))["T1-T", 2, "baseline"]
    assert alone > 0 and math.isnan(low)


def test_seeds_without_any_spread_are_no_missing_p_value():
    table = contrasts(study(dict(fov=6400, bas=6400), spread=0))
    assert (table["times"] == 1).all() and (table["times_p"] == 1).all()
    assert p_value(float("nan")) == "not known"


# ── Where the gaze goes ──────────────────────────────────────────────────────────────────────────


def looks(own: float, other: float, pairs=("T1-T", "T2-T"), seeds=3) -> pd.DataFrame:
    """`fvlm gaze`'s rows: the foveated model on what is asked about in `own` of frames and in `other` while
    another is, the static query in a quarter; the last clip can be asked of one shape alone."""
    dice, rows = np.random.default_rng(0), []
    for pair, arch, seed, i in itertools.product(pairs, ("fov", "sta"), range(seeds), range(41)):
        hits = dict(own=own, other=other) if arch == "fov" else dict.fromkeys(("own", "other"), 0.25)
        luck = dice.random()
        for asked, share in list(hits.items())[: 1 if i == 40 else 2]:
            row = dict(run=f"{pair}_2f_{arch}_seed{seed}", clip_id=f"clip{i}", asked=asked, chance=0.06)
            rows.append(row | dict(hit=float(luck < share)))
    return pd.DataFrame(rows)


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """Writes rows where the study of questions keeps its gazes."""

    def put(rows: pd.DataFrame):
        (tmp_path / "questions").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "questions" / "gaze.parquet")
        monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
        return gazes("questions")

    return put


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [(0.8, 0.1, "it does;"), (0.3, 0.3, "that cannot be told;"), (0.1, 0.8, "that cannot be told;")],
)
def test_whether_a_question_steers_the_gaze_follows_its_rows(scored, own, other, said):
    rows = scored(looks(own, other))
    assert rows["clip_id"].nunique() == 40, "clips with both questions"
    head, *lines = steering(study(dict(fov=6400, bas=9000)), rows)
    assert head.endswith(said) and len(lines) == 2
    table = steered(rows).set_index(["pair", "arch"])
    for line, pair in zip(lines, ("T1-T", "T2-T")):
        fov = table.loc[(pair, "foveated")]
        assert (
            f"at {pair}" in line
            and f"asked about in {100 * fov['own']:.0f} % of frames (mean over 3 seeds" in line
        )
        assert (
            f"everything in {100 * table.loc[(pair, 'static'), 'own']:.0f} %" in line
            and "random in 6.0 %" in line
        )
        assert fov["difference"].value == pytest.approx(fov["own"] - fov["other"])
        assert table.loc[(pair, "static"), "difference"].value == 0
    words = steering_table(rows).set_index(["size", "architecture"])["difference"]
    assert words.loc[("T1-T", "static")].endswith("no difference can be told")
    way = "more" if own > other else "less" if own < other else "no difference can be told"
    assert words.loc[("T1-T", "foveated")].endswith(way)


def test_a_size_that_is_steered_is_named_where_the_other_is_not(scored):
    rows = pd.concat([looks(0.8, 0.1, ("T1-T",)), looks(0.3, 0.3, ("T2-T",))])
    assert steering(study(dict(fov=6400, bas=9000)), scored(rows))[0].endswith("it does at T1-T;")


def test_fewer_seeds_or_no_static_ones_are_no_answer_about_the_gaze(scored):
    results, all_of_it = study(dict(fov=6400, bas=9000)), looks(0.8, 0.1)
    assert steering(results, None) == [] and gazes("nothing of this name") is None
    assert steering(results, scored(looks(0.8, 0.1, seeds=2))) == []
    assert steering(results, scored(all_of_it[all_of_it["run"].str.contains("_fov_")])) == []


def test_the_readme_s_steering_is_of_the_study_once_its_gaze_is_there(monkeypatch):
    kept, planted = sources.study, study(dict(fov=6400, bas=9000, sta=1e9))
    monkeypatch.setattr(sources, "study", lambda name: planted if name in STUDIES else kept(name))
    monkeypatch.setattr(page, "captions", lambda: None)
    monkeypatch.setattr(page, "gazes", lambda name: None)
    before = page.readme_answer().split("\n\n")[1]
    assert "beside that control its loss on the answer" in before and learning(planted) in before
    rows = sources.with_names(looks(0.8, 0.1).query("clip_id != 'clip40'"))
    monkeypatch.setattr(page, "gazes", lambda name: rows)
    after = page.readme_answer().split("\n\n")[1]
    head, *lines = steering(planted, rows)
    assert after.startswith(head) and all(line in after for line in lines) and learning(planted) in after
    assert "beside that control" not in after and not re.search(r"\.\s+[A-Z]", after)


def test_the_page_has_the_gaze_of_a_study_that_was_scored(monkeypatch):
    planted, rows = (
        study(dict(fov=6400, bas=9000)),
        sources.with_names(looks(0.8, 0.1).query("clip_id != 'clip40'")),
    )
    monkeypatch.setattr("fvlm.findings.questions.gazes", lambda name: rows)
    text = questions_section({"questions": planted})
    assert steering_table(rows).to_markdown(index=False) in text and "40 clips" in text
    assert contrasts_table(planted).to_markdown(index=False) in text
    monkeypatch.setattr("fvlm.findings.questions.gazes", lambda name: None)
    assert "Where the gaze goes" not in questions_section({"questions": planted})


def test_the_curves_drawn_are_right_answers_of_every_run(monkeypatch):
    planted, saved = study(dict(fov=6400, bas=9000)), {}
    monkeypatch.setattr(sources, "study", lambda name: planted if name == "questions" else None)
    monkeypatch.setattr(plots, "save_figures", lambda figures, *_: saved.update(figures) or [])
    draw_questions()
    (figure,) = [saved.pop("questions_curves")]
    assert not saved, "nothing of a study that is not there"
    assert "figures/questions_curves.png" in questions_section({"questions": planted})
    runs = planted.evaluations.groupby("run")
    drawn = {trace.hovertext: trace for trace in figure.data}
    assert set(drawn) == set(runs.groups)
    for run, rows in runs:
        assert list(drawn[run].y) == list(rows["right"]) and list(drawn[run].x) == list(rows["samples_seen"])
        assert "right answers" in drawn[run].hovertemplate
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert lines and {line.y0 for line in lines} == {LEARNED}, "in every panel"


def test_notebooks_show_what_the_page_has_and_nothing_before_it_is_there(monkeypatch):
    planted, rows = (
        study(dict(fov=6400, bas=9000)),
        sources.with_names(looks(0.8, 0.1).query("clip_id != 'clip40'")),
    )
    there = {"questions": planted}
    monkeypatch.setattr(sources, "study", there.get)
    monkeypatch.setattr("fvlm.findings.questions.gazes", {"questions": rows}.get)
    assert run_again().equals(contrasts_table(planted)) and len(run_again()) == 2
    assert steered_again().equals(steering_table(rows)) and len(steered_again()) == 4
    assert len(questions_figure().data) == len(planted.runs)
    there.clear()
    monkeypatch.setattr("fvlm.findings.questions.gazes", lambda name: None)
    assert run_again().empty and steered_again().empty and questions_figure() is None
