"""Learning rates are tried on a seed of their own, and chosen for both architectures together."""

import dataclasses

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, python

from fvlm import ConfigError
from fvlm.studies import tune
from fvlm.studies.grid import read_grid
from fvlm.studies.tune import SEED, best_rates, own_rates, sweep
from fvlm.training.results import load_run


def test_the_rate_with_the_lowest_mean_of_both_architectures_is_chosen():
    losses = {
        ("foveated", 1e-3): 1.0,
        ("baseline", 1e-3): 1.2,
        ("foveated", 2e-3): 1.05,
        ("baseline", 2e-3): 1.0,
        ("foveated", 4e-3): 0.9,
        ("baseline", 4e-3): 1.3,
        ("foveated", 8e-3): 0.1,
    }
    table = pd.DataFrame(
        [
            dict(pair="T1-T", arch=arch, rate=rate, steps=20, loss=loss)
            for (arch, rate), loss in losses.items()
        ]
    )
    (row,) = best_rates(table).to_dict("records")
    assert row == dict(pair="T1-T", rate=2e-3, loss=pytest.approx(1.025), steps=20, edge=False), (
        "8e-3 was tried in one alone"
    )
    assert own_rates(table).to_dict("records") == [
        dict(pair="T1-T", arch="baseline", rate=2e-3, cost=0.0),
        dict(pair="T1-T", arch="foveated", rate=8e-3, cost=pytest.approx(0.95)),
    ]
    assert best_rates(table[table["rate"] < 3e-3])["edge"].tolist() == [True]
    longer = [
        dict(pair="T1-T", arch=arch, rate=rate, steps=50, loss=1 - rate)
        for arch in ("foveated", "baseline")
        for rate in (1e-3, 2e-3)
    ]
    (row,) = best_rates(pd.concat([table, pd.DataFrame(longer)])).to_dict("records")
    assert (row["rate"], row["steps"]) == (2e-3, 50), "the longest runs decide"
    assert row["edge"], "4e-3 was tried in short runs alone"


def test_a_sweep_trains_every_pair_at_every_rate_and_keeps_its_table(tmp_path):
    grid = dict(
        study="small",
        seeds=[0, 1],
        settings=dict(steps=4, eval_every=2, eval_samples=2, effective_batch=2),
        cells=[dict(pairs=["T1-T"], frames=[2, 3], archs=["fov", "bas", "bli"])],
    )
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(grid | dict(settings=grid["settings"] | dict(out=str(tmp_path / "out")))))
    grids = sweep(path, [1e-3, 2e-3], share=0.5, out=tmp_path / "rates")
    assert [len(g.cells) for g in grids] == [2, 2]
    for grid_, rate in zip(grids, (1e-3, 2e-3)):
        for cell in grid_.cells:
            assert (cell.config.learning_rate, cell.config.seed, cell.config.steps, cell.config.frames) == (
                rate,
                SEED,
                2,
                2,
            )
            assert cell.config.out != read_grid(path).cells[0].config.out, "beside the study, not in it"
            assert cell.settings["seed"] == SEED
    blind = sweep(path, [1e-3], archs=("blind",), out=tmp_path / "rates")
    assert [cell.config.arch for g in blind for cell in g.cells] == ["blind"]
    with pytest.raises(ConfigError, match="no cell of foveated or baseline"):
        path.write_text(yaml.safe_dump(grid | dict(cells=[dict(pairs=["T1-T"], frames=[2], archs=["bli"])])))
        sweep(path, [1e-3])


def test_a_table_keeps_the_rows_of_runs_that_are_elsewhere(tmp_path, monkeypatch):
    def row(pair, rate, loss):
        return dict(pair=pair, arch="foveated", rate=rate, steps=20, seed=SEED, loss=loss)

    before = [row("T3-T", 1e-3, 0.5), row("T3-T", 2e-3, 0.6)]
    monkeypatch.setattr(tune, "found", lambda folder: before)
    tune.keep(tmp_path)
    monkeypatch.setattr(tune, "found", lambda folder: [row("T1-T", 1e-3, 0.4), row("T3-T", 2e-3, 0.7)])
    table = tune.keep(tmp_path)
    assert sorted(table["loss"]) == [0.4, 0.5, 0.7], "the new row of a run that was tried again"
    stored = pd.read_parquet(tmp_path / "rates.parquet").to_dict("records")
    assert stored == [row("T1-T", 1e-3, 0.4), row("T3-T", 1e-3, 0.5), row("T3-T", 2e-3, 0.7)]


@pytest.mark.slow
def test_a_mistake_ends_with_status_2():
    done = python("-m", "fvlm", "tune", "params/none.yaml", check=False)
    assert done.returncode == 2 and "no such grid file" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("study", ["micro", "question"])
def test_a_study_trains_each_size_at_the_rate_its_sweep_found(study):
    table = pd.read_parquet(REPOSITORY / "outputs" / f"{study}_rates" / "rates.parquet")
    best, grid = best_rates(table).set_index("pair"), read_grid(REPOSITORY / "params" / f"{study}.yaml")
    rates = {cell.config.cell.partition("_")[0]: cell.config.learning_rate for cell in grid.cells}
    assert rates == best["rate"].to_dict(), "all of them"
    assert set(best["steps"]) == {cell.config.steps for cell in grid.cells}, "as long as the study's own runs"
    assert set(table["seed"]) == {SEED} and SEED not in {cell.config.seed for cell in grid.cells}


def test_the_longer_question_runs_differ_from_the_study_s_in_steps_and_rate_alone():
    """They have the rate that suits the baseline alone best of those tried, and are what their grid file
    says."""
    longer, study = (
        read_grid(REPOSITORY / "params" / f"{name}.yaml") for name in ("question_long", "question")
    )
    runs = {cell.name: cell.config for cell in study.cells}
    own = own_rates(pd.read_parquet(REPOSITORY / "outputs/question_rates/rates.parquet")).set_index(
        ["arch", "pair"]
    )["rate"]
    for cell in longer.cells:
        config, short = cell.config, runs[cell.name]
        rates = dict(
            learning_rate=config.learning_rate, connector_learning_rate=config.connector_learning_rate
        )
        expected = dataclasses.replace(
            short, steps=4 * short.steps, eval_every=config.eval_every, study=config.study, **rates
        )
        assert config == expected and config.learning_rate == own[config.arch, config.cell.partition("_")[0]]
        assert not config.changes_from(load_run(config.folder).config)
