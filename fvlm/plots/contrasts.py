"""One architecture's gap to another along every axis and by what is in a clip, and loss against the number of
visual tokens."""

import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.architectures import ARCHITECTURES
from fvlm.plots.style import (
    ARCH_COLOURS,
    DASHES,
    GAP_COLOURS,
    LAYOUT,
    REFERENCE,
    SYMBOLS,
    empty_figure,
    error_bar,
    nothing,
    uneven_error_bar,
)
from fvlm.scaling.contrasts import AXES, Contrast
from fvlm.scaling.detail import AXES as DETAIL
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
    figure.update_yaxes(title="gap, %", rangemode="tozero", zeroline=True, zerolinecolor=REFERENCE)
    there = [found for found in contrasts if len(found.table)]
    sizes = {row.pair: row.params for found in there for row in found.table.itertuples()}
    named = [f"{pair}<br>{params / 1e6:.3g} M" for pair, params in sizes.items()]
    figure.update_xaxes(title="size, parameters trained", tickvals=list(sizes.values()), ticktext=named)
    for i, found in enumerate(there):
        table, colour = found.table, GAP_COLOURS[i % len(GAP_COLOURS)]
        figure.add_scatter(
            x=table["params"] * 1.03 ** (i - (len(there) - 1) / 2),
            y=table["percent"],
            error_y=uneven_error_bar(table["percent"], table["low"], table["high"]),
            mode="lines+markers",
            name=AXES[found.axis],
            text=table["pair"],
            hovertemplate="%{text}: %{y:.2f} %<extra></extra>",
            line=dict(color=colour, width=1, dash=DASHES[i % len(DASHES)]),
            marker=dict(color=colour, size=9, symbol=SYMBOLS[i % len(SYMBOLS)]),
        )
    above = 22 * len(there)  # names are long: each may have a line of the legend for itself
    figure.update_layout(legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom"))
    figure.update_layout(margin_t=60 + above, height=figure.layout.height + above)
    figure.update_layout(title=dict(y=1, yref="container", yanchor="top", pad_t=14))
    return figure if there else nothing(figure, "no size has a seed of both")


def gap_by_detail(gaps: Mapping[str, pd.DataFrame], title: str = "") -> go.Figure:
    """A part per axis of what a clip holds: the gap at every count with its 95 % interval, a line per
    architecture that is compared with. gaps: `gaps_by_detail`'s table of each."""
    axes = list(dict.fromkeys(axis for table in gaps.values() for axis in table["axis"]))
    if not axes:
        return nothing(empty_figure(title, "params_trainable", LOSS), "no part has clips enough")
    figure = make_subplots(1, len(axes), shared_yaxes=True, horizontal_spacing=0.03)
    for place, axis in enumerate(axes, 1):
        for i, (arch, table) in enumerate(gaps.items()):
            mine, colour = table[table["axis"] == axis], ARCH_COLOURS[arch]
            figure.add_scatter(
                x=mine["value"] + 0.06 * (i - (len(gaps) - 1) / 2),
                y=mine["nats"],
                error_y=uneven_error_bar(mine["nats"], mine["low"], mine["high"]),
                mode="lines+markers",
                name=f"less {arch}",
                legendgroup=arch,
                showlegend=place == 1,
                customdata=mine[["value", "clips"]],
                hovertemplate="%{customdata[0]}: %{y:+.3f} nats, %{customdata[1]} clips<extra></extra>",
                line=dict(color=colour, width=1, dash=DASHES[i % len(DASHES)]),
                marker=dict(color=colour, size=8, symbol=SYMBOLS[i % len(SYMBOLS)]),
                row=1,
                col=place,
            )
        title_text = "<br>".join(textwrap.wrap(DETAIL[axis], 22))
        figure.update_xaxes(title_text=title_text, dtick=1, row=1, col=place)
    figure.update_yaxes(zeroline=True, zerolinecolor=REFERENCE)
    figure.update_yaxes(title_text="foveated less the other, nats per token", row=1, col=1)
    legend = dict(orientation="h", x=0, y=1.02, yanchor="bottom")
    return figure.update_layout(LAYOUT, title=title, legend=legend, margin=dict(t=90, b=75))


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
