"""One architecture's gap to another along every axis, and loss against the number of visual tokens."""

from collections.abc import Sequence

import plotly.graph_objects as go

from fvlm.architectures import ARCHITECTURES
from fvlm.plots.style import (
    ARCH_COLOURS,
    DASHES,
    GAP_COLOURS,
    REFERENCE,
    SYMBOLS,
    empty_figure,
    error_bar,
    nothing,
    uneven_error_bar,
)
from fvlm.scaling.contrasts import AXES, Contrast
from fvlm.scaling.intervals import t_half_width

LOSS = "loss_autoregressive"
WAYS = {  # of making visual tokens: architectures that differ in their number alone, fewest first
    "queries of the LLM": ("foveated", "foveated4", "foveated16"),
    "means of parts of the frame": ("meanpool", "meanpool4", "meanpool16"),
    "one static query": ("static",),
    "all patches, through an MLP": ("baseline",),
}


def gap_along_axes(contrasts: Sequence[Contrast], title: str = "") -> go.Figure:
    """The gap in percent at every size with its 95 % interval, a colour per axis; those of a size stand a
    little apart, so that intervals do not cover each other."""
    figure = empty_figure(title, "params_trainable", LOSS, log=True)
    figure.update_yaxes(title="gap, %", zeroline=True, zerolinecolor=REFERENCE)
    there = [found for found in contrasts if len(found.table)]
    for i, found in enumerate(there):
        table, colour = found.table, GAP_COLOURS[i % len(GAP_COLOURS)]
        figure.add_scatter(
            x=table["params"] * 1.06 ** (i - (len(there) - 1) / 2),
            y=table["percent"],
            error_y=uneven_error_bar(table["percent"], table["low"], table["high"]),
            mode="lines+markers",
            name=AXES[found.axis],
            text=table["pair"],
            hovertemplate="%{text}: %{y:.2f} %<extra></extra>",
            line=dict(color=colour, width=1, dash=DASHES[i % len(DASHES)]),
            marker=dict(color=colour, size=9, symbol=SYMBOLS[i % len(SYMBOLS)]),
        )
    figure.update_layout(legend=dict(orientation="h", y=1.02, yanchor="bottom"))
    return figure if there else nothing(figure, "no size has a seed of both")


def loss_vs_tokens(runs, loss: str = LOSS) -> go.Figure:
    """Last losses against visual tokens per frame at every size, means over seeds with Student's 95 %
    intervals: how many tokens, and how they are made, as two axes. runs: `Results.runs`."""
    figure = empty_figure("How many visual tokens, and how they are made", "visual_tokens", loss)
    figure.update_xaxes(title="visual tokens per frame", type="log", tickvals=[1, 4, 16])
    sizes = runs.groupby("pair")["params_trainable"].mean().sort_values().index
    for k, pair in enumerate(sizes):
        for i, (way, archs) in enumerate(WAYS.items()):
            mine = runs[(runs["pair"] == pair) & runs["arch"].isin(archs)]
            found = mine.groupby("arch")[loss].agg(["mean", "std", "count"])
            found = found.loc[[arch for arch in archs if arch in found.index]]
            if not len(found):
                continue
            colour = ARCH_COLOURS[archs[0]]
            figure.add_scatter(
                x=[ARCHITECTURES[arch].tokens_per_frame for arch in found.index],
                y=found["mean"],
                error_y=error_bar([t_half_width(*row) for row in found[["std", "count"]].to_numpy()]),
                mode="lines+markers",
                name=f"{pair}, {way}",
                text=list(found.index),
                hovertemplate=f"{pair}, %{{text}}: %{{y:.3f}}<extra></extra>",
                line=dict(color=colour, width=1.5, dash=DASHES[k % len(DASHES)]),
                marker=dict(color=colour, size=9, symbol=SYMBOLS[i]),
            )
    return figure if len(figure.data) else nothing(figure, "no run")
