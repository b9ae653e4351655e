"""What is said of the study of questions follows its rows: planted curves of either kind."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from fvlm.config import REPOSITORY, RunConfig
from fvlm.findings import page, sources
from fvlm.findings.questions import (
    STUDIES,
    compared,
    learning,
    learning_rows,
    learning_table,
    questions,
    ready,
)
from fvlm.scaling import Results, Study, runs_table
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
                        | dict(step=step, samples_seen=seen, right=share, flops=seen * 1e9, seconds=60.0)
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
    ("leaves", "said", "never"),
    [
        (dict(fov=6400, bas=32000), "(sooner)", "(later)"),
        (dict(fov=32000, bas=6400), "(later)", "(sooner)"),
        (dict(fov=20000, bas=20000), "(not to be told apart)", "(sooner)"),
    ],
)
def test_who_is_sooner_has_the_sign_of_its_rows(leaves, said, never):
    results = study(leaves)
    told = learning(results)
    assert told.count(said) == 2 and never not in told
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
    monkeypatch.setattr(sources, "study", lambda name: planted if name in STUDIES else kept(name))
    text = page.render()
    for name, what in STUDIES.items():
        assert f"params/{name}.yaml" in text and what[1:] in text
    assert learning(planted) in text and learning(planted) in page.readme_answer()
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
