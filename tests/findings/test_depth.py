"""What is said of runs that read after the last vision layer follows their rows."""

import re

import numpy as np
import pytest
from planted import planted

from fvlm.findings import depth, sources
from fvlm.findings.captions import captions, captions_section, seen
from fvlm.findings.depth import BEFORE, EARLIER, MEAN, STUDY, depth_section, depth_table
from fvlm.scaling import Results
from fvlm.scaling.contrasts import holm

CELLS = [f"{pair}_8f_{arch}" for pair in ("T1-T", "T2-T") for arch in ("fov", "sta", "bas", "avg")]


def of(name: str, cells=CELLS, seeds=range(4)) -> Results:
    return Results(*(table.assign(study=name) for table in planted(cells, seeds=seeds)))


@pytest.fixture
def study():
    return of(STUDY)


@pytest.fixture
def before(monkeypatch):
    """Runs that read before the last layer, put where they are looked for."""

    def put(results: Results | None):
        monkeypatch.setattr(sources, "study", lambda name: results if name == BEFORE else None)

    return put


def losses_over(results: Results, factor, arch="foveated") -> Results:
    """The runs of an architecture and the static one, the former's losses over a factor (of rows), by which
    the study's differ."""
    tables = []
    for table in results:
        table = table[table["arch"].isin([arch, "static"])].assign(study=BEFORE)
        mine = table["arch"] == arch
        for column in table.columns.intersection(["loss_autoregressive", "loss_parallel", "loss_static"]):
            table.loc[mine, column] /= factor(table[mine])
        tables.append(table)
    return Results(*tables)


def own(study: Results) -> list[str]:
    """The section's rows of the foveated model beside itself."""
    words = f"| foveated | {EARLIER}foveated "
    return [
        row for row in (" ".join(line.split()) for line in depth_section(study).splitlines()) if words in row
    ]


@pytest.mark.parametrize("factor, word", [(0.9, "it is better"), (1.1, "it is worse")])
def test_each_size_and_their_mean_say_whether_it_is_better(study, before, factor, word):
    before(losses_over(study, lambda mine: factor * (1 + 0.001 * mine["seed"])))
    table = depth_table(study).query(f"arch == 'foveated' and beside == '{EARLIER}foveated'")
    assert list(table["pair"]) == ["T1-T", "T2-T", MEAN] and set(table["seeds"]) == {4}
    assert np.allclose(table["percent"], 100 * (factor * 1.0015 - 1), atol=0.01)
    assert len(own(study)) == 3 and all(word in row for row in own(study))
    for row, value in zip(own(study), table["percent"]):
        (told,) = re.findall(r"\| ([-+][\d.]+) \(", row)
        assert float(told) == pytest.approx(value, abs=0.005)


def test_the_mean_over_sizes_is_theirs_with_an_interval_of_all_their_runs(study, before):
    before(losses_over(study, lambda mine: 0.98 * (1 - 0.02 * (mine["seed"] % 2))))
    sizes = depth_table(study).query(f"beside == '{EARLIER}foveated'").set_index("pair")
    mean, (one, other) = sizes.loc[MEAN], (sizes.loc[pair] for pair in ("T1-T", "T2-T"))
    assert mean["percent"] == pytest.approx((one["percent"] + other["percent"]) / 2)
    assert mean["loss_a"] == pytest.approx((one["loss_a"] + other["loss_a"]) / 2)
    assert mean["high"] - mean["low"] < min(each["high"] - each["low"] for each in (one, other))


def test_no_difference_is_said_where_seeds_go_either_way(study, before):
    before(losses_over(study, lambda mine: np.where(mine["seed"] % 2, 0.8, 1.25)))
    assert len(own(study)) == 3 and all("no difference can be told" in row for row in own(study))


def test_words_are_corrected_for_all_rows(study, before):
    before(losses_over(study, lambda mine: 0.95 + 0.02 * mine["seed"]))
    table = depth_table(study)
    pairs = [*table[["arch", "beside"]].drop_duplicates().itertuples(index=False, name=None)]
    assert pairs == [*depth.PAIRS] and {beside for _, beside in pairs} == {
        *(EARLIER + arch for arch in ("foveated", "static")),
        *("baseline", "meanpool"),
    }
    assert np.allclose(table["adjusted"], holm(table["p"])) and len(table) == 5 * 3
    assert (table["adjusted"] > table["p"]).any()


def test_seeds_of_both_are_compared_alone_and_one_is_too_few(study, before):
    before(None)
    assert depth_table(study).empty and depth_section(study) == ""
    before(of(BEFORE, ["T1-T_8f_fov"], seeds=(3, 5)))
    assert depth_table(study).empty
    before(of(BEFORE, ["T1-T_8f_fov"], seeds=(2, 3, 5)))
    table = depth_table(study).query(f"beside == '{EARLIER}foveated'")
    assert list(table["pair"]) == ["T1-T"] and table["seeds"].item() == 2 and len(own(study)) == 1
    assert depth_table(of("mine")).empty, "of another study"


def test_what_is_published_differs_in_where_it_reads_alone_and_is_told():
    now, earlier = captions(), sources.study(BEFORE)
    assert len(depth_table(seen(now))) and depth_section(seen(now)) in captions_section(now)
    after, before = (results.runs.set_index("run")["config"] for results in (now, earlier))
    assert all("_fov_" in run or "_sta_" in run for run in before.index)
    assert set(before.index) <= set(after.index)
    for run, config in before.items():
        assert [told.split(" was ")[0] for told in after[run].changes_from(config)] == ["read_final"]
