"""Figures of contrasts show what the tables have."""

import numpy as np
import pytest
from planted import SIZES, planted

from fvlm.plots import gap_along_axes, loss_vs_tokens
from fvlm.scaling.contrasts import AXES, contrast
from fvlm.scaling.intervals import t_half_width


@pytest.fixture(scope="module")
def study():
    archs = ("fov", "bas", "avg", "sta", "f04", "a16")
    return planted([f"{pair}_8f_{arch}" for pair in SIZES[:3] for arch in archs], seeds=range(3))


def test_every_axis_has_its_points_and_intervals(study):
    found = [contrast(study, axis=axis) for axis in AXES]
    figure = gap_along_axes(found)
    assert [trace.name for trace in figure.data] == [AXES[one.axis] for one in found if len(one.table)]
    for trace, one in zip(figure.data, (one for one in found if len(one.table))):
        assert list(trace.y) == list(one.table["percent"])
        assert list(np.add(trace.y, trace.error_y.array)) == pytest.approx(list(one.table["high"]))
        assert list(np.subtract(trace.y, trace.error_y.arrayminus)) == pytest.approx(list(one.table["low"]))
        assert list(trace.text) == list(SIZES[:3])
    places = [trace.x[0] for trace in figure.data]
    assert len(set(places)) == len(places), "intervals stand beside each other"
    title, line = 40, 20  # pixels
    assert figure.layout.margin.t >= title + line * len(figure.data), (
        "a legend of so many lines is below the title"
    )
    assert figure.layout.title.yref == "container" and figure.layout.title.y == 1


def test_tokens_and_ways_of_making_them_are_apart(study):
    figure = loss_vs_tokens(study.runs)
    traces = {trace.name: trace for trace in figure.data}
    assert len(traces) == 3 * 4
    queries, means = traces["T2-T, queries of the LLM"], traces["T2-T, means of parts of the frame"]
    assert list(queries.x) == [1, 4] and list(means.x) == [1, 16]
    losses = study.runs.query("pair == 'T2-T' and arch == 'foveated4'")["loss_autoregressive"]
    assert queries.y[1] == pytest.approx(losses.mean())
    assert queries.error_y.array[1] == pytest.approx(t_half_width(losses.std(), 3))


def test_without_runs_the_figures_say_so(study):
    nothing = study.runs.iloc[:0]
    assert "nothing to show" in loss_vs_tokens(nothing).layout.annotations[0].text
    assert "nothing to show" in gap_along_axes([]).layout.annotations[0].text
