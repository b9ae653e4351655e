"""What is said of runs that read after the last vision layer follows their rows."""

import re

import numpy as np
import pytest
from planted import planted

from fvlm.findings import depth, sources
from fvlm.findings.captions import answer, captions, captions_section, seen
from fvlm.findings.depth import AFTER, BEFORE, MEAN, depth_line, depth_section, depth_table
from fvlm.scaling import Results
from fvlm.scaling.contrasts import holm

CELLS = [f"{pair}_8f_{arch}" for pair in ("T1-T", "T2-T") for arch in ("fov", "sta", "bas", "avg")]


def of(name: str, cells=CELLS, seeds=range(4)) -> Results:
    return Results(*(table.assign(study=name) for table in planted(cells, seeds=seeds)))


@pytest.fixture
def study():
    return of(BEFORE)


@pytest.fixture
def final(monkeypatch):
    """Runs that read after the last layer, put where they are looked for."""

    def put(results: Results | None):
        monkeypatch.setattr(sources, "study", lambda name: results if name == AFTER else None)

    return put


def losses_times(results: Results, factor, arch="foveated") -> Results:
    """The runs of an architecture and the static one, the former's losses times a factor (of rows)."""
    tables = []
    for table in results:
        table = table[table["arch"].isin([arch, "static"])].assign(study=AFTER)
        mine = table["arch"] == arch
        for column in table.columns.intersection(["loss_autoregressive", "loss_parallel", "loss_static"]):
            table.loc[mine, column] *= factor(table[mine])
        tables.append(table)
    return Results(*tables)


@pytest.mark.parametrize("factor, word", [(0.9, "it is better"), (1.1, "it is worse")])
def test_each_size_and_their_mean_say_whether_it_is_better(study, final, factor, word):
    final(losses_times(study, lambda mine: factor * (1 + 0.001 * mine["seed"])))
    table = depth_table(study).query("arch == 'foveated' and beside == 'foveated'")
    assert list(table["pair"]) == ["T1-T", "T2-T", MEAN] and set(table["seeds"]) == {4}
    assert np.allclose(table["percent"], 100 * (factor * 1.0015 - 1), atol=0.01)
    rows = [line for line in depth_section(study).splitlines() if line.startswith("| foveated ")]
    own = [row for row in rows if row.count("| foveated ") == 2]
    assert len(own) == 3 and all(word in row for row in own)
    told = depth_line(study)
    (value,) = re.findall(r"model's loss changes by ([-+][\d.]+) \(", told)
    assert float(value) == pytest.approx(table["percent"].iloc[-1], abs=0.005)
    assert f"(the mean over T1-T, T2-T, 4 seeds each or more), {word} (corrected" in told
    assert told in answer(study), "until all of them are there the answer is of the others"


def test_the_mean_over_sizes_is_theirs_with_an_interval_of_all_their_runs(study, final):
    final(losses_times(study, lambda mine: 0.98 * (1 - 0.02 * (mine["seed"] % 2))))
    sizes = depth_table(study).query("arch == 'foveated' and beside == 'foveated'").set_index("pair")
    mean, (one, other) = sizes.loc[MEAN], (sizes.loc[pair] for pair in ("T1-T", "T2-T"))
    assert mean["percent"] == pytest.approx((one["percent"] + other["percent"]) / 2)
    assert mean["loss_a"] == pytest.approx((one["loss_a"] + other["loss_a"]) / 2)
    assert mean["high"] - mean["low"] < min(each["high"] - each["low"] for each in (one, other))


def test_no_difference_is_said_where_seeds_go_either_way(study, final):
    final(losses_times(study, lambda mine: np.where(mine["seed"] % 2, 0.8, 1.25)))
    assert "no difference can be told (corrected" in depth_line(study)
    rows = [line for line in depth_section(study).splitlines() if line.startswith("| foveated ")]
    own = [row for row in rows if row.count("| foveated ") == 2]
    assert len(own) == 3 and all("no difference can be told" in row for row in own)


def test_words_are_corrected_for_all_rows(study, final):
    final(losses_times(study, lambda mine: 0.95 + 0.02 * mine["seed"]))
    table = depth_table(study)
    beside = [*table["beside"].unique()]
    assert beside == ["foveated", "static", "meanpool", f"{depth.FINAL}static", "baseline"]
    assert np.allclose(table["adjusted"], holm(table["p"])) and len(table) == 5 * 3
    assert (table["adjusted"] > table["p"]).any()


def test_seeds_of_both_are_compared_alone_and_one_is_too_few(study, final):
    final(None)
    assert depth_table(study).empty and depth_section(study) == depth_line(study) == ""
    final(of(AFTER, ["T1-T_8f_fov"], seeds=(3, 5)))
    assert depth_table(study).empty
    final(of(AFTER, ["T1-T_8f_fov"], seeds=(2, 3, 5)))
    table = depth_table(study).query("beside == 'foveated'")
    assert (
        list(table["pair"]) == ["T1-T"]
        and table["seeds"].item() == 2
        and "(T1-T, 2 seeds)" in depth_line(study)
    )
    assert depth_table(of("mine")).empty, "of another study"


def test_what_is_published_differs_in_where_it_reads_alone_and_is_told():
    now, after = captions(), sources.study(AFTER)
    assert len(depth_table(seen(now))) and depth_section(seen(now)) in captions_section(now)
    before, final = (results.runs.set_index("run")["config"] for results in (now, after))
    assert all("_fov_" in run or "_sta_" in run for run in final.index) and set(final.index) <= set(
        before.index
    )
    for run, config in final.items():
        assert [told.split(" was ")[0] for told in config.changes_from(before[run])] == ["read_final"]
