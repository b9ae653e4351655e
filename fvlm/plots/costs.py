"""What a training step costs against frames, LLM and batch, from what `fvlm bench scaling` measured."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.plots.style import ARCH_COLOURS, LAYOUT

AXES = dict(frames="frames per clip", llm="LLM parameters without embeddings", batch="clips per step")
MEASURES = dict(
    seconds=("seconds", "seconds per step", 1.0), memory=("peak_memory_bytes", "memory, GB", 1e-9)
)


def cost_scaling(measured: dict) -> go.Figure:
    """Time and memory (rows) along each axis that was measured (columns), on log axes: points as measured,
    lines as fitted (`fvlm.bench.scaling.fit_cost`).

    measured: what `bench_scaling` returns. ValueError if it holds no point."""
    axes = [axis for axis in AXES if any(p["axis"] == axis for p in measured["points"])]
    if not axes:
        raise ValueError("no point was measured")
    figure = make_subplots(len(MEASURES), len(axes), shared_xaxes=True, vertical_spacing=0.06)
    for row, (measure, (column, title, unit)) in enumerate(MEASURES.items(), 1):
        for place, axis in enumerate(axes, 1):
            for arch in dict.fromkeys(p["arch"] for p in measured["points"]):
                points = [p for p in measured["points"] if (p["axis"], p["arch"]) == (axis, arch)]
                shown = dict(row=row, col=place)
                figure.add_trace(
                    go.Scatter(
                        x=[p["x"] for p in points],
                        y=[unit * p[column] for p in points],
                        mode="markers",
                        name=arch,
                        legendgroup=arch,
                        showlegend=(row, place) == (1, 1),
                        marker=dict(color=ARCH_COLOURS[arch], size=8),
                        text=[p["cell"] for p in points],
                        hovertemplate="%{text}: %{y:.3g}<extra></extra>",
                    ),
                    **shown,
                )
                for fit in measured["fits"]:
                    if (fit["axis"], fit["arch"], fit["measure"]) == (axis, arch, measure):
                        x = np.geomspace(points[0]["x"], points[-1]["x"], 60)
                        y = fit["fixed"] + fit["slope"] * x + fit["quadratic"] * x**2
                        line = go.Scatter(
                            x=x,
                            y=unit * y,
                            mode="lines",
                            line=dict(color=ARCH_COLOURS[arch], width=1.5),
                            legendgroup=arch,
                            showlegend=False,
                            hoverinfo="skip",
                        )
                        figure.add_trace(line, **shown)
            figure.update_xaxes(type="log", dtick="D2", row=row, col=place)
            figure.update_yaxes(type="log", dtick="D2", row=row, col=place)
        figure.update_yaxes(title_text=title, row=row, col=1)
    for place, axis in enumerate(axes, 1):
        figure.update_xaxes(title_text=AXES[axis], row=len(MEASURES), col=place)
    return figure.update_layout(**LAYOUT, legend=dict(orientation="h", y=1.08))
