"""Scaling figures show what the tables hold: with one run, with missing cells, with a hundred runs."""

import shutil

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from planted import BUDGETS, SIZES, planted

from fvlm import ConfigError
from fvlm.gaze.scores import SAME_CLIPS
from fvlm.plots import all_figures, cells_of, save_figures
from fvlm.scaling import gap_scaling, open_results

EVERY = (
    "gap_vs_scale",
    "loss_vs_flops_fitted",
    "training_curves",
    "run_curves",
    "model_size_scaling",
    "efficiency_frontier",
    "smolvlm_extrapolation",
    "token_efficiency",
    "perplexity_vs_flops",
    "iso_flop_curves",
    "chinchilla_ratio",
    "iso_loss",
    "frame_scaling",
    "train_inference_gap",
    "parameter_breakdown",
    "flops_breakdown",
    "gaze_vs_loss",
)


ONE = ("T3-T_8f_fov",)
MISSING = ("T1-T_8f_fov", "T1-T_8f_bas", "T2-T_8f_fov", "T3-T_16f_bas", "T3-T_8f_bli", "S-S_8f_fov")
MANY = tuple(f"{pair}_{frames}f_{arch}" for pair in SIZES for frames in (8, 16) for arch in ("fov", "bas"))


@pytest.fixture(scope="module")
def many():
    return planted(MANY, seeds=range(5))


def everything(results, **settings):
    settings = dict(bootstrap=40) | settings
    return {name: draw() for name, draw in all_figures(results, **settings).items()}


def points(figure: go.Figure) -> int:
    """Points drawn as markers, bars left out."""
    return sum(len(t.x) for t in figure.data if t.type == "scatter" and "markers" in t.mode)


def said(figure: go.Figure) -> str:
    return " ".join(a.text for a in figure.layout.annotations)


def test_all_figures_are_there():
    assert set(all_figures(planted(ONE))) == set(EVERY)


def test_one_run_shows_one_point_or_says_what_is_missing():
    for name, figure in everything(planted(ONE)).items():
        if name in ("gap_vs_scale", "gaze_vs_loss"):
            assert not figure.data and "nothing to show" in said(figure)
        elif name == "training_curves":
            assert len(figure.data[0].x) == len(BUDGETS)
        elif name.endswith("breakdown"):
            assert all(len(bar.y) == 1 for bar in figure.data)
        elif name in ("iso_flop_curves", "iso_loss"):
            assert all(len(t.x) <= 1 for t in figure.data), "one size: no curve over sizes, no optimum"
        else:
            assert points(figure) >= 1, name
        if name in ("loss_vs_flops_fitted", "smolvlm_extrapolation"):
            assert "1 points for 3" in said(figure) or "three different values" in said(figure)
            assert not [t for t in figure.data if t.fill == "toself"], "no law from one point"


def test_missing_cells_are_left_out_not_made_up():
    results = planted(MISSING)
    figures = everything(
        results, gaps={"8 frames": gap_scaling(results.samples.query("frames == 8"), results.runs)}
    )
    assert points(figures["gap_vs_scale"]) == 1, "only T1-T has both"
    assert points(figures["efficiency_frontier"]) == len(MISSING)
    assert {tuple(t.x) for t in figures["frame_scaling"].data} == {(8,), (16,)}
    assert "T3-T_8f_bli" in said(figures["token_efficiency"])
    assert points(figures["token_efficiency"]) == len(MISSING) - 1
    assert len(figures["parameter_breakdown"].data[0].y) == len(MISSING)


def test_a_hundred_runs_are_all_in_the_figures(many):
    assert len(many.runs) == 100
    gap = gap_scaling(many.samples.query("frames == 8"), many.runs.query("frames == 8"))
    figures = everything(many, gaps={"8 frames": gap})
    cells = cells_of(many.runs)
    drawn = {round(y, 9) for t in figures["efficiency_frontier"].data if "markers" in t.mode for y in t.y}
    assert drawn == set(cells["loss"].round(9)) and len(cells) == 20
    assert all(
        len(t.error_y.array) == len(t.x) and np.all(np.array(t.error_y.array) > 0)
        for t in figures["model_size_scaling"].data
    )
    assert sum(len(t.x) for t in figures["training_curves"].data) == 100 * len(BUDGETS)
    assert points(figures["train_inference_gap"]) == 50
    shown = {y for t in figures["train_inference_gap"].data for y in np.round(t.y, 6)}
    assert shown == {0.2}
    table = gap.table
    assert list(figures["gap_vs_scale"].data[0].y) == list(table["raw_percent"])
    assert list(figures["gap_vs_scale"].data[0].error_y.array) == list(
        table["raw_percent_high"] - table["raw_percent"]
    )


def test_the_law_drawn_is_the_law_planted(many):
    """In the figure's own line: the loss against size of a fixed budget is E' + 60 / N^0.35."""
    from fvlm.plots import smolvlm_extrapolation

    figure = smolvlm_extrapolation(
        many.runs.query("frames == 8 and arch == 'baseline'"), "loss_parallel", bootstrap=40
    )
    lines = [t for t in figure.data if t.mode == "lines" and t.fill is None]
    assert len(lines) == 2 and max(lines[1].x) == pytest.approx(2.25e9), "as measured, and on to SmolVLM"
    floor = 0.5 + 8 / BUDGETS[-1] ** 0.45
    assert np.allclose(lines[0].y, floor + 60 / np.array(lines[0].x) ** 0.35, rtol=0.02)


def test_equal_compute_curves_show_the_losses_at_that_compute(many):
    figure = all_figures(many, loss="loss_parallel")["iso_flop_curves"]()
    curves = [t for t in figure.data if t.mode == "lines+markers"]
    assert len(curves) == 16 and all(len(c.x) >= 2 for c in curves)
    wsd = everything(planted(MANY[:4], schedule="wsd"))
    assert "decaying schedule" in said(wsd["iso_flop_curves"]), (
        "points on the way of a decaying rate are no such curve"
    )
    assert wsd["iso_loss"].data


def test_compute_bars_are_the_counted_flops():
    results = planted(("S-S_8f_fov", "S-S_8f_bas"))
    figure = everything(results)["flops_breakdown"]
    for i, row in enumerate(results.runs.itertuples()):
        assert sum(bar.y[i] for bar in figure.data if bar.type == "bar") == pytest.approx(
            row.flops / row.samples_seen
        )
    assert list(figure.data[-1].y) == pytest.approx(
        list(results.runs["flops_nanosmol"] / results.runs["samples_seen"])
    )


def test_data_per_parameter_counts_text_tokens(many):
    figure = all_figures(many)["chinchilla_ratio"]()
    runs = many.runs.drop_duplicates("cell")
    wanted = runs["samples_seen"] * runs["text_tokens"] / runs["params_trainable"]
    assert sorted(y for t in figure.data for y in t.y) == pytest.approx(sorted(wanted))


def test_gaze_and_loss_are_joined_by_run(many):
    runs = many.runs["run"].iloc[:3]
    truth = pd.DataFrame(
        dict(
            study="planted",
            run=runs,
            asked="caption",
            hit=[0.2, 0.3, 0.4],
            hit_low=0.1,
            hit_high=0.5,
            chance=0.05,
        )
    )
    figure = all_figures(many, truth=truth)["gaze_vs_loss"]()
    assert sorted(x for t in figure.data for x in t.x) == [0.2, 0.3, 0.4] and "chance" in said(figure)
    other = [truth.assign(asked=asked, hit=0.9) for asked in (SAME_CLIPS, "other")]
    figure = all_figures(many, truth=pd.concat([truth, *other]))["gaze_vs_loss"]()
    assert sorted(x for t in figure.data for x in t.x) == [0.2, 0.3, 0.4], "a point per run"


def test_the_earlier_study_is_drawn_without_intervals():
    figures = everything(open_results("nanosmol"))
    gap = figures["gap_vs_scale"]
    assert len(gap.data) == 2 and all("no interval" in t.name and t.error_y.array is None for t in gap.data)
    assert [round(y, 2) for y in gap.data[0].y] == [2.90, 2.24, 2.38], "S-S, S-B and M-S at 8 frames"
    assert "final losses only" in said(figures["iso_loss"])


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


def test_figures_are_written_as_pages_that_need_no_kernel(tmp_path):
    (path,) = save_figures({"loss": go.Figure(go.Scatter(y=[1, 2]))}, tmp_path)
    assert (
        path.name == "loss.html"
        and (tmp_path / "plotly.min.js").exists()
        and "Plotly.newPlot" in path.read_text()
    )
    with pytest.raises(ConfigError, match="valid are html, svg, png"):
        save_figures({}, tmp_path, ["pdf"])


def test_figures_are_written_as_pictures_or_it_says_what_to_install(tmp_path, monkeypatch):
    pytest.importorskip("kaleido")
    figure = go.Figure(go.Scatter(y=[1, 2]))
    if shutil.which("chromium") or shutil.which("google-chrome"):
        png, svg = save_figures({"loss": figure}, tmp_path, ["png", "svg"])
        assert png.read_bytes()[:4] == b"\x89PNG" and "<svg" in svg.read_text()[:300]

    def no_browser(*_, **__):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(go.Figure, "write_image", no_browser)
    with pytest.raises(ConfigError, match="Chromium"):
        save_figures({"loss": figure}, tmp_path, ["png"])
