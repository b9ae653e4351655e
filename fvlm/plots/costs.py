"""What a training step costs against frames, LLM and batch, from what `fvlm bench scaling` measured."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.plots.style import ARCH_COLOURS, LAYOUT

AXES = dict(
    frames="frames per clip", llm="LLM parameters without embeddings, millions", batch="clips per step"
)
UNITS = dict(llm=1e-6)  # of an axis: what a tick's number is multiplied by
MEASURES = dict(
    seconds=("seconds", "time, seconds per step", 1.0), memory=("peak_memory_bytes", "peak memory, GB", 1e-9)
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
            of_axis = [p for p in measured["points"] if p["axis"] == axis]
            there = sorted({p["x"] for p in of_axis})
            written = [f"{UNITS.get(axis, 1) * x:.2g}" if axis in UNITS else f"{x:g}" for x in there]
            figure.update_xaxes(type="log", tickvals=there, ticktext=written, row=row, col=place)
            steps = round_steps([unit * p[column] for p in of_axis])
            texts = [f"{step:g}" for step in steps]
            figure.update_yaxes(type="log", tickvals=steps, ticktext=texts, row=row, col=place)
        figure.update_yaxes(title_text=title, row=row, col=1)
    for place, axis in enumerate(axes, 1):
        figure.update_xaxes(title_text=AXES[axis], row=len(MEASURES), col=place)
    legend = dict(orientation="h", x=0, y=1.02, yanchor="bottom", title_text="points measured, lines fitted:")
    return figure.update_layout(LAYOUT | dict(margin=dict(l=70, r=20, t=45, b=55)), legend=legend)


def round_steps(values: list[float]) -> list[float]:
    """The numbers 1, 2 and 5 times a power of ten from just below the least of some values to just above the
    greatest."""
    low, high = min(values) / 1.3, max(values) * 1.3
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [float(f"{m}e{power}") for power in powers for m in (1, 2, 5) if low <= m * 10.0**power <= high]
