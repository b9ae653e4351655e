"""From runs of mixtures to a prediction, to what came of it, and to the recommendation."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from test_mix_laws import DESIGN, DOMAINS, truth

from fvlm import ConfigError, RunConfig
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.mixes import PEAK, REACHED, SIZES, mix_costs
from fvlm.data.mix import read_mix
from fvlm.scaling import mix_tables
from fvlm.scaling.mixtures import (
    forms_compared,
    mixing_laws,
    outcomes,
    points,
    predict,
    read_prediction,
    seed_spread,
)

MIXTURES = {
    "uniform": dict.fromkeys(DOMAINS, 0.25),
    "video": dict(video=0.7, image=0.1, images=0.1, text=0.1),
}


def planted_runs(mixtures, seeds=(0,), noise=0.01, shift=None):
    """Rows as `fvlm mix` keeps them, of runs that follow planted laws, but for a factor on each domain."""
    rng, rows = np.random.default_rng(1), []
    for arch, factor in (("foveated", 1.05), ("baseline", 1.0)):
        for number, weights in enumerate(mixtures):
            for seed in seeds:
                luck = np.exp(noise * rng.standard_normal(4))
                for step, samples in ((200, 1600), (400, 3200), (600, 4800)):
                    row = dict(mixture=f"m{number}", cell=f"T1-T_4f_{arch[:3]}", arch=arch, pair="T1-T")
                    row |= dict(seed=seed, step=step, steps=600, samples=samples)
                    for i, domain in enumerate(DOMAINS):
                        loss = factor * truth(domain, weights, samples)[0] * luck[i]
                        row[f"weight_{domain}"] = row[f"share_{domain}"] = weights[i]
                        row[f"loss_{domain}"] = loss * (shift or {}).get(domain, 1)
                    rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def runs():
    return planted_runs(DESIGN)


@pytest.fixture(scope="module")
def predicted(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return folder, predict(runs, MIXTURES, 3, folder)


def test_laws_are_fitted_to_settled_evaluations_of_each_architecture(runs):
    assert sorted(set(points(runs, "foveated")["step"])) == [400, 600]
    laws = {arch: mixing_laws(runs, arch, bootstrap=0) for arch in ("foveated", "baseline")}
    at = np.full(4, 0.25)
    ratio = laws["foveated"].loss(at, 4800) / laws["baseline"].loss(at, 4800)
    assert ratio[0] == pytest.approx(1.05, abs=0.02) and laws["foveated"].fits[0].runs == 24
    table = forms_compared(runs, "foveated", forms=("mean", "exponential"))
    assert len(table) == 8 and (table["fails"] == "").all()


def test_seeds_of_one_mixture_say_how_far_runs_differ():
    spread = seed_spread(planted_runs(DESIGN[:8], seeds=range(6), noise=0.03), "video")
    assert spread == pytest.approx(0.03, rel=0.3) and seed_spread(planted_runs(DESIGN), "video") is None


def test_a_prediction_is_written_once_and_before_its_runs(predicted, runs):
    folder, content = predicted
    assert read_prediction(folder) == json.loads(json.dumps(content))
    assert set(content["mixtures"]) == {*MIXTURES, "optimum of foveated", "optimum of baseline"}
    assert len(content["predicted"]) == 2 * 4 * 5 and content["runs"] == 48 and content["seeds"] == 3
    for arch in ("foveated", "baseline"):
        assert sum(content["optima"][arch][domain] for domain in DOMAINS) == pytest.approx(1)
    with pytest.raises(ConfigError, match="once"):
        predict(runs, MIXTURES, 3, folder)
    with pytest.raises(ConfigError, match="run it first"):
        predict(pd.DataFrame(), MIXTURES, 3, folder / "elsewhere")


def test_what_came_is_set_beside_what_was_predicted_and_a_failure_is_seen(predicted):
    _, content = predicted
    mixtures = content["mixtures"].values()  # both architectures may have one optimum
    at = list(dict.fromkeys(tuple(weights[domain] for domain in DOMAINS) for weights in mixtures))
    came = outcomes(content, planted_runs(at, seeds=(10, 11, 12)))
    assert len(came) == 40 and (came["seeds"] == 3).all() and came["inside"].mean() > 0.85
    assert (came["came_low"] < came["came"]).all() and came["error_percent"].abs().max() < 5
    other = outcomes(content, planted_runs(at, seeds=(10, 11, 12), shift=dict(text=1.5)))
    table = mix_tables.failures_table(other).set_index(["arch", "domain"])
    assert table.loc[("foveated", "text"), "inside"] == 0 < table.loc[("foveated", "video"), "inside"]
    assert outcomes(content, pd.DataFrame()).empty
    only = outcomes(content, planted_runs(at[:1], seeds=(10,)))
    assert set(only["mixture"]) == {"uniform"} and only["came_low"].isna().all()


def test_tables_are_shown_with_names_units_and_intervals(predicted, runs):
    _, content = predicted
    came = outcomes(content, planted_runs([(0.25,) * 4], seeds=(10, 11)))
    found = mix_tables.shown(came)
    assert list(found.columns)[3:7] == [
        "predicted, nats per text token",
        "95 % interval",
        "came",
        "came, 95 % interval",
    ]
    row = came.iloc[0]
    assert found.iloc[0]["came, 95 % interval"] == f"{row['came_low']:.3f} to {row['came_high']:.3f}"
    every = [mix_tables.laws_table(runs), mix_tables.optimum_table(runs), mix_tables.moved_table(runs)]
    every += [mix_tables.cost_table(), mix_tables.needs_table(), mix_tables.counts_table(runs), came]
    for table in every:
        raw = {column for column in mix_tables.shown(table) if "_" in column}
        assert not raw, "a column by its name in the code"
        assert mix_tables.shown(table).map(lambda text: len(text) < 60).all(axis=None)


def test_before_there_are_runs_every_table_says_what_is_missing():
    none = pd.DataFrame()
    for name in ("counts_table", "laws_table", "validation_table", "optimum_table", "moved_table"):
        table = getattr(mix_tables, name)(none)
        assert table["command"].tolist() == ["fvlm mix params/mix/design.yaml"], name
    weights, rests = mix_tables.recommended(none)
    assert rests.startswith("published") and sum(weights.values()) == pytest.approx(1)


def test_with_runs_every_table_has_both_architectures(runs):
    assert len(mix_tables.laws_table(runs)) == 8 and mix_tables.counts_table(runs)["off_percent"].max() == 0
    optimum = mix_tables.optimum_table(runs)
    assert (optimum["low"] <= optimum["weight"] + 1e-9).all() and len(optimum) == 8
    moved = mix_tables.moved_table(runs)
    assert ((moved["low"] <= 0) & (moved["high"] >= 0)).all(), "the same laws but for a factor"


def test_the_interval_of_a_difference_reaches_as_far_as_those_of_both(runs, monkeypatch):
    """One weight may be far higher and hardly lower, so the difference may as well."""
    ends = {"foveated": ([0.1], [0.1], [0.6]), "baseline": ([0.1], [0.0], [0.1])}
    best = {arch: dict(zip(("weights", "low", "high"), map(np.array, found))) for arch, found in ends.items()}
    monkeypatch.setattr(
        mix_tables, "best_mixture", lambda _, arch: SimpleNamespace(domains=["video"], **best[arch])
    )
    (row,) = mix_tables.moved_table(runs).itertuples()
    assert (row.difference, row.low) == (0, 0) and row.high == pytest.approx(np.hypot(0.5, 0.1))


# ── The recommendation ───────────────────────────────────────────────────────────────────────────


def test_it_follows_what_came_not_what_the_law_says(runs, tmp_path):
    published = dict(video=0.33, image=0.34, images=0.12, text=0.2)
    prediction = predict(runs, MIXTURES | {"SmolVLM": published}, 3, tmp_path)
    best = prediction["optima"]["foveated"]
    at = [[weights[domain] for domain in DOMAINS] for weights in (best, published)]
    came = planted_runs(at, seeds=(10, 11, 12))
    weights, rests = mix_tables.recommended(runs, prediction, came)
    assert rests.startswith("fitted to 24") and weights == {domain: best[domain] for domain in DOMAINS}
    assert weights != pytest.approx(mix_tables.size_mix("5k").domains)
    tried = mix_tables.tried_table(prediction, came)
    assert set(tried["mixture"]) >= {"optimum of foveated"} and not set(tried["mixture"]) & {
        "SmolVLM",
        "video",
    }
    row = tried.set_index(["arch", "mixture"]).loc["foveated", "optimum of foveated"]
    assert (
        row["low"] < row["percent"] < row["high"] < 0 and f"{row['percent']:+.2f} ({row['low']:+.2f}" in rests
    )
    losses = [f"loss_{domain}" for domain in DOMAINS]
    came.loc[came["mixture"] == "m0", losses] *= 1.5
    for found in (came, came[came["seed"] == 10], came[came["mixture"] == "m0"], pd.DataFrame()):
        weights, rests = mix_tables.recommended(runs, prediction, found)
        assert rests.startswith("published") and weights == mix_tables.size_mix("5k").domains
    worst = mix_tables._at_stake(mix_tables.tried_table(prediction, came))[0]
    assert re.search(r"the worst \*optimum of (foveated|baseline)\*, \+", worst)
    assert mix_tables._at_stake(mix_tables.tried_table(prediction, pd.DataFrame())) == []
    assert "not better: +" in mix_tables.recommended(runs, prediction, came)[1]
    assert "put the law's best mixture to the test" in mix_tables.recommended(runs)[1]


def test_its_numbers_are_those_of_shapes_and_files():
    """Recomputed from the files' weights and a clip's FLOPs alone."""
    for size, samples in SIZES.items():
        mix = read_mix(f"params/mix/{size}.yaml")
        table = mix_costs(mix, samples, cells=("S-S_8f",)).set_index("cell")
        total = sum(part.weight for part in mix.parts)
        for cell, tokens in (("S-S_8f_fov", 8), ("S-S_8f_bas", 128)):
            config = RunConfig.from_cell(cell, device="cpu")
            flops = sum(
                samples
                * part.weight
                / total
                * flops_per_sample(config, part.text_tokens, visual=part.domain != "text")["total"]
                for part in mix.parts
            )
            assert table.loc[cell, "flops"] == pytest.approx(flops)
            assert table.loc[cell, "gpu_hours"] == pytest.approx(flops / (PEAK * REACHED * 3600))
            seen = sum(part.weight for part in mix.parts if part.domain != "text") / total
            assert table.loc[cell, "visual_tokens"] == pytest.approx(samples * seen * tokens)
        assert table.loc["S-S_8f_bas", "times_foveated"] > 1 == table.loc["S-S_8f_fov", "times_foveated"]


def test_the_stored_notebook_ends_with_what_is_computed_now():
    import nbformat

    cells = nbformat.read(REPOSITORY / "notebooks/mix.ipynb", as_version=4).cells
    (output,) = cells[-1].outputs
    stored = output["data"]["text/markdown"]
    assert stored == mix_tables.recommendation(mix_tables.study_runs(), *mix_tables.evaluation())
    assert stored.count("samples**: `fvlm train") == 3 and "(counted)" in stored and "(assumed" in stored


def test_smolvlm_s_proportions_are_those_published_and_samples_suffice():
    published = dict(video=0.33, image=0.34, images=0.12, text=0.2)
    for size, samples in SIZES.items():
        mix = read_mix(f"params/mix/{size}.yaml")
        for domain, weight in mix.domains.items():
            assert weight == pytest.approx(published[domain] / 0.99, abs=1e-6)
        for part, weight in zip(mix.parts, mix.weights):
            assert part.samples is None or samples * weight < part.samples * part.epochs
            assert part.prepare.endswith(f"--out {part.data}") and part.text_tokens


def test_every_fit_of_the_study_on_mixtures_arrives(monkeypatch):
    """Of this repository's own runs, bootstrap refits as well: one that is stopped on the way is nearer to
    where it began, and its interval too narrow."""
    import scipy.optimize

    solve, statuses = scipy.optimize.least_squares, []

    def watched(*arguments, **settings):
        result = solve(*arguments, **settings)
        statuses.append(result.status)
        return result

    monkeypatch.setattr(scipy.optimize, "least_squares", watched)
    runs = pd.read_parquet(REPOSITORY / "outputs/mix/runs.parquet")
    for arch in ("baseline", "foveated"):
        mixing_laws(runs, arch, bootstrap=30)
    assert len(statuses) > 240 and min(statuses) > 0, "0: stopped before it arrived"
