"""How training goes, and what language alone can guess."""

import html

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.plots.style import ARCH_COLOURS, COLOURS, GUESS_COLOURS, LAYOUT, empty_figure, nothing


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
    frames; the architectures by colour, seeds by line."""
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
            row=i // columns + 1,
            col=i % columns + 1,
        )
        shown.add(arch)
    figure.update_xaxes(title="training samples", row=rows)
    figure.update_yaxes(title="nats per text token", col=1)
    return figure.update_layout(LAYOUT, height=60 + 300 * rows)


def question_guesses(table: pd.DataFrame) -> go.Figure:
    """How far language alone leads, per kind of question, beside chance: the table of
    `fvlm.data.card.language_only`."""
    figure = go.Figure(
        layout=LAYOUT | dict(barmode="group", height=320, yaxis_title="right answers", yaxis_range=[0, 1])
    )
    for name, colour in GUESS_COLOURS.items():
        figure.add_bar(x=table["question"], y=table[name], name=name.replace("_", " "), marker_color=colour)
    return figure
