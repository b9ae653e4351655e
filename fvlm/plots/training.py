"""How training goes, and what language alone can guess."""

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.plots.style import (
    ARCH_COLOURS,
    AXES,
    COLOURS,
    DASHES,
    GROUP_COLOURS,
    GUESS_COLOURS,
    LAYOUT,
    empty_figure,
    nothing,
)


def training_curve(
    evaluations: pd.DataFrame | list[dict], training: list[tuple[int, float]] = (), title: str = ""
) -> go.Figure:
    """Validation loss in every mode against training samples; `training` adds the loss of single steps."""
    table = pd.DataFrame(evaluations)
    figure = go.Figure(
        layout=LAYOUT
        | dict(title=title, xaxis_title="training samples", yaxis_title="nats per text token", height=380)
    )
    if training:
        x, y = zip(*training)
        figure.add_scatter(
            x=x, y=y, name="training step", mode="lines", line=dict(color=COLOURS["training"], width=1.5)
        )
    for mode in ("parallel", "autoregressive", "static"):
        if len(table) and table[f"loss_{mode}"].notna().any():
            dash = "dot" if mode == "autoregressive" else "solid"
            figure.add_scatter(
                x=table["samples_seen"],
                y=table[f"loss_{mode}"],
                name=f"validation, {mode}",
                mode="lines+markers",
                line=dict(color=COLOURS[mode], width=2.5, dash=dash),
            )
    return figure


def training_curves(evaluations: pd.DataFrame, loss: str = "loss_parallel") -> go.Figure:
    """Validation loss of every run of a study against training samples, a panel per pair and number of
    frames; the architectures by colour, seeds by line. loss: one of the losses, or `right`, the
    share of right answers."""
    unit = "right answers" if loss == "right" else "nats per text token"
    if not len(evaluations):
        return nothing(empty_figure("Training curves", "flops", loss), "these results have final losses only")
    panels = list(evaluations[["pair", "frames"]].drop_duplicates().itertuples(index=False, name=None))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    titles = [f"{pair}, {frames} frames" for pair, frames in panels]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, shared_xaxes="all")
    shown = set()
    studies = ["study"] if "study" in evaluations else []
    for (*_, run, arch), table in evaluations.groupby([*studies, "run", "arch"], sort=False):
        i = panels.index((table["pair"].iloc[0], table["frames"].iloc[0]))
        figure.add_scatter(
            x=table["samples_seen"],
            y=table[loss],
            name=arch,
            legendgroup=arch,
            showlegend=arch not in shown,
            mode="lines+markers",
            marker_size=4,
            line=dict(color=ARCH_COLOURS[arch], width=1.5),
            hovertext=html.escape(run),
            hovertemplate="%{hovertext}<br>%{x:.3~s} training samples<br>%{y:.4f} "
            f"{unit}<extra></extra>",
            row=i // columns + 1,
            col=i % columns + 1,
        )
        shown.add(arch)
    figure.update_xaxes(title="training samples", row=rows)
    figure.update_yaxes(title=unit, col=1)
    return figure.update_layout(LAYOUT, height=60 + 300 * rows)


CURVES_OVER = {  # what runs' curves stand over: column of `evaluations`, what the axis says
    "samples_seen": "training samples",
    "step": "training steps",
    "flops": "training FLOPs (multiply-accumulate = 2)",
    "seconds": "seconds of training",
}
FEW = 12  # runs whose curves are shown as they are beneath the smoothed ones


def run_curves(
    evaluations: pd.DataFrame,
    loss: str = "loss_autoregressive",
    picked: Sequence[str] = (),
    over: str = "samples_seen",
    smoothing: float = 0.0,
    pages: dict[str, str] | None = None,
) -> go.Figure:
    """Validation losses of single runs on their way, one over the other, each in a colour of its own.

    picked: runs as `study/run`; all if none is named. over: of CURVES_OVER. smoothing: how much of the
    average before stays at each evaluation, from 0 (none) to below 1 (`smoothed`); of few runs the curve as
    it was stays beneath, pale. pages: of runs that have one, by the same names."""
    figure = empty_figure("Curves of single runs", "flops", loss)
    figure.update_xaxes(title=CURVES_OVER[over])
    if not len(evaluations):
        return nothing(figure, "these results have final losses only")
    of_run = {
        f"{study}/{run}": part for (study, run), part in evaluations.groupby(["study", "run"], sort=False)
    }
    names = [name for name in picked if name in of_run] if picked else list(of_run)
    for i, name in enumerate(names):
        part = of_run[name][[over, loss]].dropna().sort_values(over)
        line = dict(color=GROUP_COLOURS[i % len(GROUP_COLOURS)], width=2)
        line["dash"] = DASHES[i // len(GROUP_COLOURS) % len(DASHES)]
        if smoothing and len(names) <= FEW:
            figure.add_scatter(
                x=part[over],
                y=part[loss],
                mode="lines",
                line=line | dict(width=1),
                opacity=0.3,
                showlegend=False,
                hoverinfo="skip",
            )
        exact = "" if smoothing == 0 else " smoothed (%{customdata[0]:.4f} measured)"
        page = (pages or {}).get(name, "")
        figure.add_scatter(
            x=part[over],
            y=smoothed(part[loss].to_numpy(), smoothing),
            mode="lines+markers",
            marker_size=4,
            name=html.escape(name),
            line=line,
            customdata=part[[loss]].to_numpy().tolist(),
            text=[html.escape(name)] * len(part),
            hovertemplate=f"%{{text}}<br>%{{x:.3~s}} {CURVES_OVER[over]}<br>%{{y:.4f}}{exact} "
            f"{AXES[loss].removeprefix('loss, ')}{page and '<br>' + page}<extra></extra>",
        )
    return figure if names else nothing(figure, "no run is picked")


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """An exponential moving average (n,) of values (n,), each of which keeps `weight` of the average before
    it; without the pull of a start at 0, as in TensorBoard."""
    if not weight:
        return values
    kept = weight ** np.arange(len(values))
    average = [
        (kept[: i + 1][::-1] * values[: i + 1]).sum() / kept[: i + 1].sum() for i in range(len(values))
    ]
    return np.array(average)


def question_guesses(table: pd.DataFrame) -> go.Figure:
    """How far language alone leads, per kind of question, beside chance: the table of
    `fvlm.data.card.language_only`."""
    figure = go.Figure(
        layout=LAYOUT | dict(barmode="group", height=320, yaxis_title="right answers", yaxis_range=[0, 1])
    )
    for name, colour in GUESS_COLOURS.items():
        figure.add_bar(x=table["question"], y=table[name], name=name.replace("_", " "), marker_color=colour)
    return figure
