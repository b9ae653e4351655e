"""Scaling figures, from `fvlm.scaling.open_results(...)`'s tables.

A point is a cell: the mean over its seeds, with the 95 % interval of that mean (Student's t) where there are
several; hovering names it. Colour is the architecture. Studies are never pooled: their texts differ, and so
do their nats."""

import functools
import itertools

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fvlm.config import ConfigError
from fvlm.costs.flops import GROUPS, flops_per_sample
from fvlm.plots.style import (
    ARCH_COLOURS,
    AXES,
    CLAIMED,
    DASHES,
    GAP_COLOURS,
    GROUP_COLOURS,
    JOIN,
    LAYOUT,
    OTHER_MODELS,
    PUBLISHED,
    PUBLISHED_LINE,
    REFERENCE,
    add_points,
    dash_of,
    empty_figure,
    error_bar,
    faint,
    from_to,
    hover,
    labels,
    note,
    nothing,
    shade,
    symbol_of,
    told,
    uneven_error_bar,
)
from fvlm.plots.training import run_curves, training_curves
from fvlm.scaling import (
    fit_points,
    fit_power_law,
    flops_corrected_gap,
    iso_flop_optima,
    pairs_of,
    parameter_corrected_gap,
    parameter_counts,
)
from fvlm.scaling.fits import Fit
from fvlm.scaling.intervals import t_half_width
from fvlm.scaling.runs import NANOSMOL
from fvlm.text import with_interval

SMOLVLM = {"SmolVLM 256M": 256e6, "SmolVLM 500M": 507e6, "SmolVLM 2.2B": 2.25e9}  # published parameters


Range = tuple[float, float] | None  # both ends included; None: everything


def _inside(values, within: Range) -> np.ndarray:
    """Which values lie in a range, whose ends may be rounded to a millionth."""
    low, high = within or (-np.inf, np.inf)
    values = np.asarray(values, float)
    return (values >= low * (1 - 1e-6)) & (values <= high * (1 + 1e-6))


@functools.lru_cache(maxsize=256)
def _power_law(x: tuple, loss: tuple, bootstrap: int) -> Fit:
    """`fit_power_law`, from memory where the same points were fitted before: most of what somebody changes in
    the scaling explorer leaves most fits as they are."""
    return fit_power_law(np.array(x), np.array(loss), bootstrap=bootstrap)


def cells_of(runs: pd.DataFrame, loss: str = "loss_autoregressive") -> pd.DataFrame:
    """A row per cell: means over seeds of loss (`loss`, `error`: half its 95 % interval, NaN with one seed),
    compute and size, and `seeds`, what hovering says (`hover`, `interval`) and the `page` of the first of its
    runs that has one ("" if none has)."""
    by = ["study", "cell", "pair", "llm", "vision", "frames", "arch", "task"]
    numbers = [
        name
        for name in runs.columns
        if (name in AXES or name in ("samples_seen", "text_tokens", "loss_static")) and name not in by
    ]
    runs = runs[runs[loss].notna()] if len(runs) else runs
    cells = runs.groupby(by, sort=False, as_index=False)[numbers].mean()
    spread = runs.groupby(by, sort=False)[loss].agg(["std", "count"]).reset_index(drop=True)
    cells["loss"], cells["seeds"] = cells[loss], spread["count"]
    cells["error"] = t_half_width(spread["std"], spread["count"])
    seeds = cells["seeds"].map(lambda n: "one seed" if n == 1 else f"{n} seeds")
    cells["hover"] = cells["cell"] + ", " + cells["study"] + ", " + seeds
    cells["interval"] = ["" if np.isnan(error) else f" ± {error:.2g}" for error in cells["error"]]
    cells["page"] = (
        runs.groupby(by, sort=False)["page"].agg(lambda pages: next(filter(None, pages), "")).to_numpy()
    )
    return cells


def loss_vs_flops_fitted(
    runs, loss="loss_autoregressive", flops="flops", bootstrap: int = 200, within: Range = None
) -> go.Figure:
    """Loss against training compute, and the power law through each architecture's runs, with its band; where
    the data do not identify one, no line is drawn, and below stands why.

    within: the least and the most compute of runs that the law is fitted to; others are drawn hollow."""
    return _fitted(runs, loss, flops, "Loss against training compute", bootstrap, within)


def _fitted(runs, loss, x, title, bootstrap, within, until=None):
    figure = empty_figure(title, x, loss, log=True)
    runs = runs[runs[x].notna() & runs[loss].notna()]
    if not len(runs):
        return nothing(figure, f"no run has a value for {AXES[x]}")
    unfitted, by = [], ["study", "arch", "frames"]
    cells = dict(list(cells_of(runs, loss).groupby(by, sort=False)))
    for (study, arch, frames), part in runs.groupby(by, sort=False):
        name, symbol = f"{arch}, {frames} frames, {study}", symbol_of(runs["frames"], frames)
        mine = cells[study, arch, frames]
        symbols = [symbol if inside else f"{symbol}-open" for inside in _inside(mine[x], within)]
        add_points(figure, mine, x, loss, name, arch, dash=None, symbol=symbols)
        part = part[_inside(part[x], within)]
        if not len(part):
            continue
        fit = _power_law(tuple(part[x]), tuple(part[loss]), bootstrap)
        if not fit.identified:
            unfitted.append(f"{name}: {fit.reason}")
            continue
        grid = np.geomspace(part[x].min(), max(part[x].max(), until or 0), 60)
        low, high = fit.band(grid)
        colour = ARCH_COLOURS[arch]
        figure.add_scatter(
            x=[*grid, *grid[::-1]],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor=faint(colour),
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            mode="lines",
        )
        exponent = with_interval(fit.alpha, *fit.interval("alpha"), digits=3, signed=False)
        for piece, dash in ((grid <= part[x].max(), DASHES[0]), (grid >= part[x].max(), "dot")):
            if piece.sum() > 1:
                figure.add_scatter(
                    x=grid[piece],
                    y=fit.predict(grid[piece]),
                    mode="lines",
                    line=dict(color=colour, dash=dash),
                    hoverinfo="skip",
                    name=f"{name}: exponent {exponent}",
                    legendgroup=name,
                    showlegend=dash != "dot",
                )
    if unfitted:
        note(figure, "No power law: " + "<br>".join(unfitted))
    return figure


def model_size_scaling(runs, loss="loss_autoregressive", params="params_trainable") -> go.Figure:
    """Loss against size; a line joins the sizes of an architecture with the same vision model, frames and
    study."""
    figure = empty_figure("Loss against size", params, loss, log=True)
    cells = cells_of(runs, loss)
    cells = cells[cells[params].notna()]
    for (study, arch, frames, vision), part in cells.groupby(
        ["study", "arch", "frames", "vision"], sort=False
    ):
        name = f"{arch}, {frames} frames, {vision} vision, {study}"
        add_points(
            figure, part.sort_values(params), params, loss, name, arch, dash=dash_of(cells["frames"], frames)
        )
    return figure if len(cells) else nothing(figure, f"no run has a value for {AXES[params]}")


def efficiency_frontier(runs, loss="loss_autoregressive", flops="flops") -> go.Figure:
    """Every cell's loss and compute; a stepped line per architecture joins those that no cheaper cell of it
    beats."""
    figure = empty_figure("What is bought with compute", flops, loss, log=True)
    cells = cells_of(runs, loss)
    cells = cells[cells[flops].notna()]
    for (study, arch), part in cells.groupby(["study", "arch"], sort=False):
        name = f"{arch}, {study}"
        add_points(figure, part, flops, loss, name, arch, dash=None)
        part = part.sort_values(flops)
        best = part[part["loss"] <= part["loss"].cummin()]
        figure.add_scatter(
            x=best[flops],
            y=best["loss"],
            mode="lines",
            line=dict(color=ARCH_COLOURS[arch], shape="hv"),
            name=f"{name}, frontier",
            legendgroup=name,
            hoverinfo="skip",
        )
    return figure if len(cells) else nothing(figure, f"no run has a value for {AXES[flops]}")


def smolvlm_extrapolation(
    runs,
    loss="loss_autoregressive",
    params="params_trainable",
    bootstrap: int = 200,
    within: Range = None,
) -> go.Figure:
    """The power laws in size, drawn on (dotted, with their bands) to SmolVLM's sizes. What these data and
    this recipe would give there, if the law held; not what SmolVLM gives, which saw other data.

    within: the smallest and the largest size that a law is fitted to; others are drawn hollow."""
    title, furthest = "As large as SmolVLM?", max(SMOLVLM.values())
    figure = _fitted(runs, loss, params, title, bootstrap, within, until=furthest)
    for name, size in SMOLVLM.items():
        figure.add_vline(x=size, line=dict(color=OTHER_MODELS, dash="dot"))
        figure.add_annotation(
            x=np.log10(size),
            y=0.98,
            yref="paper",
            text=name,
            textangle=-90,
            showarrow=False,
            xanchor="right",
            yanchor="top",
        )
    return figure


def token_efficiency(runs, loss="loss_autoregressive") -> go.Figure:
    """Loss against visual tokens per clip: a line per size and number of frames, through its architectures.
    Blind cells, which have none, stand as level lines."""
    figure = empty_figure("What visual tokens buy", "visual_tokens", loss, log=True)
    cells = cells_of(runs, loss)
    for (study, pair, frames), part in cells.groupby(["study", "pair", "frames"], sort=False):
        name, seen = (
            f"{pair}, {frames} frames, {study}",
            part[part["visual_tokens"] > 0].sort_values("visual_tokens"),
        )
        figure.add_scatter(
            x=seen["visual_tokens"],
            y=seen["loss"],
            error_y=error_bar(seen["error"]),
            mode="lines+markers",
            name=name,
            marker=dict(
                color=[ARCH_COLOURS[a] for a in seen["arch"]], symbol=symbol_of(cells["pair"], pair), size=9
            ),
            line=dict(color=JOIN, dash=dash_of(cells["frames"], frames)),
            text=seen["hover"],
            customdata=told(seen["interval"], seen["page"]),
            hovertemplate=hover("visual_tokens", loss),
        )
    # blind losses are close: labels apart
    corners = itertools.cycle(["top left", "top right", "bottom left", "bottom right"])
    for row, corner in zip(cells[cells["visual_tokens"] == 0].itertuples(), corners):
        figure.add_hline(
            y=row.loss,
            line=dict(color=ARCH_COLOURS[row.arch], dash="dot"),
            annotation_text=row.cell,
            annotation_position=corner,
        )
    return figure if len(cells) else nothing(figure, "no run")


def perplexity_vs_flops(runs, loss="loss_autoregressive", flops="flops") -> go.Figure:
    """Perplexity, exp(loss), against compute. The interval is that of the loss, so it is not symmetric."""
    figure = empty_figure("Perplexity against training compute", flops, loss, log=True)
    cells = cells_of(runs, loss)
    cells = cells[cells[flops].notna()]
    for (study, arch, frames), part in cells.groupby(["study", "arch", "frames"], sort=False):
        middle, error = np.exp(part["loss"]), part["error"].fillna(0)
        low, high = np.exp(part["loss"] - error), np.exp(part["loss"] + error)
        figure.add_scatter(
            x=part[flops],
            y=middle,
            mode="markers",
            name=f"{arch}, {frames} frames, {study}",
            text=part["hover"],
            customdata=told(from_to(low.where(error > 0), high), part["page"]),
            hovertemplate=hover(flops, "perplexity"),
            marker=dict(
                color=ARCH_COLOURS[arch], symbol=[symbol_of(cells["pair"], p) for p in part["pair"]], size=9
            ),
            error_y=uneven_error_bar(middle, low, high, thickness=1),
        )
    figure.update_yaxes(title="perplexity")
    return figure if len(cells) else nothing(figure, f"no run has a value for {AXES[flops]}")


def iso_flop_curves(
    evaluations, loss="loss_autoregressive", params="params_trainable", budgets: int = 4
) -> go.Figure:
    """Loss against size at equal compute, from the evaluations on the way of runs with a constant rate, a
    panel per architecture and number of frames; a star is the best size, where one lies between the sizes
    that were run."""
    figure = empty_figure("Which size is best for a budget?", params, loss, log=True)
    panels, reason = _curves(evaluations, loss, params)
    if not panels:
        return nothing(figure, reason)

    keys = list(panels)
    columns = min(2, len(keys))
    titles = [f"{arch}, {frames} frames, {study}" for study, arch, frames in keys]
    figure = make_subplots(
        rows=-(-len(keys) // columns), cols=columns, subplot_titles=titles, shared_xaxes="all"
    )
    for number, (key, curves) in enumerate(panels.items()):
        where = dict(row=number // columns + 1, col=number % columns + 1)
        low, high = _shared_budgets(curves)
        table, each = pd.concat([c.assign(n=n) for n, c in curves.items()]), np.geomspace(low, high, budgets)
        optima = iso_flop_optima(table["flops"], table["n"], table["loss"], each).to_dict("records")
        for i, (budget, best) in enumerate(zip(each, optima)):
            read = [
                (n, np.interp(np.log(budget), np.log(c["flops"]), c["loss"]))
                for n, c in curves.items()
                if c["flops"].min() <= budget * 1.0001 and budget <= c["flops"].max() * 1.0001
            ]
            colour = shade(i, budgets)
            figure.add_scatter(
                x=[n for n, _ in read],
                y=[y for _, y in read],
                mode="lines+markers",
                line_color=colour,
                name=f"{budget:.1e} FLOPs",
                **where,
                legendgroup=str(key),
                legendgrouptitle_text=titles[number],
                hovertemplate="%{x:.3s} parameters<br>%{y:.4f} nats",
            )
            if best["identified"]:
                figure.add_scatter(
                    x=[best["params"]],
                    y=[best["loss"]],
                    mode="markers",
                    marker=dict(symbol="star", size=13, color=colour),
                    **where,
                    showlegend=False,
                    hovertemplate="best: %{x:.3s} parameters<br>%{y:.4f} nats<extra></extra>",
                )
    figure.update_xaxes(type="log", title=AXES[params]).update_yaxes(title=AXES[loss], col=1)
    return figure.update_layout(
        LAYOUT, height=80 + 320 * -(-len(keys) // columns), title="Which size is best for a budget?"
    )


def chinchilla_ratio(runs, params="params_trainable") -> go.Figure:
    """Text tokens trained on per parameter, against compute; the line is the 20 that Hoffmann et al. (2022)
    found best for text alone. Tokens are training samples times the mean length of the validation texts (in
    nanoSmol, of 65)."""
    figure = empty_figure("Data per parameter", "flops", "loss_parallel", log=True)
    unit = "text tokens per parameter"
    figure.add_hline(y=20, line=dict(color=REFERENCE, dash="dot"))
    figure.add_annotation(
        x=0.98,
        xref="paper",
        y=np.log10(20),
        text="20: Hoffmann et al., text alone",
        showarrow=False,
        yanchor="bottom",
    )
    cells = cells_of(runs, "loss_parallel")
    cells["ratio"] = cells["samples_seen"] * cells["text_tokens"] / cells[params]
    cells = cells[cells["ratio"].notna() & cells["flops"].notna()]
    for arch, part in cells.groupby("arch", sort=False):
        figure.add_scatter(
            x=part["flops"],
            y=part["ratio"],
            mode="markers",
            name=arch,
            text=part["hover"],
            customdata=told([""] * len(part), part["page"]),
            hovertemplate=hover("flops", unit),
            marker=dict(
                color=ARCH_COLOURS[arch], symbol=[symbol_of(cells["pair"], p) for p in part["pair"]], size=9
            ),
        )
    figure.update_yaxes(title=unit, type="log")
    return figure if len(cells) else nothing(figure, "no run with text tokens and sizes")


def iso_loss(
    evaluations, loss="loss_autoregressive", params="params_trainable", levels: int = 3
) -> go.Figure:
    """The compute each size needed to come down to a loss, from its evaluations: a line per architecture,
    frames and level. Levels are those that most runs reach. Runs whose rate decays reach a loss later than a
    shorter run would have."""
    figure = empty_figure("What a loss costs", params, "flops", log=True)
    panels, reason = _curves(evaluations, loss, params, mid_schedule=True)
    if not panels:
        return nothing(figure, reason)
    for (study, arch, frames), curves in panels.items():
        for i, level in enumerate(
            _levels([c for key, group in panels.items() if key[0] == study for c in group.values()], levels)
        ):
            found = [(n, _reached(curve, level)) for n, curve in sorted(curves.items())]
            found = [(n, c) for n, c in found if c is not None]
            figure.add_scatter(
                x=[n for n, _ in found],
                y=[c for _, c in found],
                mode="lines+markers",
                name=f"{arch}, {frames} frames, {study}: {level:.3f} nats",
                line=dict(color=ARCH_COLOURS[arch], dash=DASHES[i % len(DASHES)]),
                hovertemplate="%{x:.3s} parameters<br>%{y:.2e} FLOPs",
            )
    figure.update_yaxes(type="log")
    return figure


def frame_scaling(runs, loss="loss_autoregressive") -> go.Figure:
    """Loss against frames per clip, a line per size and architecture."""
    figure = empty_figure("Do more frames help?", "frames", loss)
    cells = cells_of(runs, loss)
    for (study, pair, arch), part in cells.groupby(["study", "pair", "arch"], sort=False):
        add_points(
            figure,
            part.sort_values("frames"),
            "frames",
            loss,
            f"{pair}, {arch}, {study}",
            arch,
            dash=dash_of(cells["pair"], pair),
        )
    figure.update_xaxes(
        type="log",
        tickvals=sorted(set(cells["frames"])),
        ticktext=[str(f) for f in sorted(set(cells["frames"]))],
    )
    return figure if len(cells) else nothing(figure, "no run")


def gap_vs_scale(
    runs,
    gaps: dict | None = None,
    loss="loss_autoregressive",
    params="params_trainable",
    kind: str = "raw",
    within: Range = None,
) -> go.Figure:
    """The foveated model's gap to the baseline against size. gaps: name to `GapScaling`, drawn with their
    intervals and, from three sizes on, their trend with its band; the studies in `runs` that published no
    samples (nanoSmol) are drawn hollow and without intervals, which nobody can know. within: the smallest
    and the largest size that a trend is drawn through; others are hollow too, with their intervals."""
    figure = empty_figure("What 16 times fewer visual tokens cost", params, loss, log=True)
    unit = f"% of the baseline's loss ({kind.replace('_', ' ')})"
    figure.update_yaxes(
        title=f"gap, {unit}",
        zeroline=True,
        zerolinecolor=REFERENCE,
    )
    for i, (name, gap) in enumerate((gaps or {}).items()):
        table, column, colour = (
            gap.table.dropna(subset=f"{kind}_percent"),
            f"{kind}_percent",
            GAP_COLOURS[i % len(GAP_COLOURS)],
        )
        counts = _inside(table["params_fov"], within)
        figure.add_scatter(
            x=table["params_fov"],
            y=table[column],
            mode="markers",
            name=name,
            text=[
                f"{pair}, {name}, {n} {'seeds' if n > 1 else 'seed'}"
                for pair, n in zip(table["pair"], table["seeds"])
            ],
            customdata=told(
                from_to(table[f"{column}_low"], table[f"{column}_high"], "+.2f"), [""] * len(table)
            ),
            hovertemplate=hover(params, unit),
            marker=dict(
                color=colour, size=10, symbol=["circle" if inside else "circle-open" for inside in counts]
            ),
            error_y=uneven_error_bar(table[column], table[f"{column}_low"], table[f"{column}_high"]),
        )
        if counts.sum() > 2:
            sizes = table["params_fov"][counts]
            grid = np.geomspace(sizes.min(), sizes.max(), 20)
            line = [gap.predict(n, kind, sizes) for n in grid]
            figure.add_scatter(
                x=[*grid, *grid[::-1]],
                y=[*(e.high for e in line), *(e.low for e in reversed(line))],
                fill="toself",
                mode="lines",
                fillcolor=faint(colour),
                line_width=0,
                hoverinfo="skip",
                showlegend=False,
            )
            figure.add_scatter(
                x=grid,
                y=[e.value for e in line],
                mode="lines",
                line_color=colour,
                name=f"{name}, trend",
                hoverinfo="skip",
            )
    bare = _published_pairs(runs, loss, params, kind)
    for i, ((study, frames), part) in enumerate(
        bare.groupby(["study", "frames"], sort=False) if len(bare) else ()
    ):
        part = part.sort_values("params")
        figure.add_scatter(
            x=part["params"],
            y=part["gap"],
            mode="lines+markers",
            name=f"{study}, {frames} frames: one seed, no interval",
            text=part["pair"] + f", {frames} frames, {study}, one seed",
            customdata=told([""] * len(part), [""] * len(part)),
            hovertemplate=hover(params, unit),
            line=dict(color=PUBLISHED_LINE, dash=DASHES[i % len(DASHES)]),
            marker=dict(symbol="circle-open", size=10, color=PUBLISHED),
        )
    return figure if len(figure.data) else nothing(figure, "no size has both a foveated and a baseline run")


def _published_pairs(runs, loss, params, kind):
    """Gaps of the studies that have runs but no samples: a row per size."""
    runs = runs[(runs["study"] == NANOSMOL) & runs[params].notna()]
    found = []
    for _, part in runs.groupby(["study", "frames", "vision"], sort=False):
        table = pairs_of(part, by=("study", "pair", "llm", "vision", "frames"))
        if not len(table):
            continue
        gap = 100 * (table[f"{loss}_fov"] / table[f"{loss}_bas"] - 1)
        if kind != "raw":
            if len(table) < 2:
                continue
            corrected, x = (
                (parameter_corrected_gap, params)
                if kind == "parameter_corrected"
                else (flops_corrected_gap, "flops")
            )
            gap = corrected(table[f"{x}_fov"], table[f"{loss}_fov"], table[f"{x}_bas"], table[f"{loss}_bas"])[
                "corrected_percent"
            ].to_numpy()
        found.append(table.assign(gap=gap, params=table[f"{params}_fov"]))
    return pd.concat(found) if found else pd.DataFrame()


def train_inference_gap(runs, params="params_trainable") -> go.Figure:
    """How much more a foveated model loses frame by frame, as it is used, than in parallel, as it was
    trained."""
    figure = empty_figure("Trained in parallel, used frame by frame", params, "loss_parallel", log=True)
    figure.update_yaxes(title="frame by frame over parallel, %", zeroline=True, zerolinecolor=REFERENCE)
    runs = runs[(runs["arch"] == "foveated") & runs[params].notna()]
    for (study, frames), part in runs.groupby(["study", "frames"], sort=False):
        figure.add_scatter(
            x=part[params],
            y=100 * (part["loss_autoregressive"] / part["loss_parallel"] - 1),
            mode="markers",
            text=part["run"] + ", " + study,
            customdata=told([""] * len(part), part["page"]),
            name=f"{frames} frames, {study}",
            hovertemplate=hover(params, "% more, frame by frame"),
            marker=dict(color=ARCH_COLOURS["foveated"], symbol=symbol_of(runs["frames"], frames), size=9),
        )
    return figure if len(runs) else nothing(figure, "no foveated run")


def parameter_breakdown(runs) -> go.Figure:
    """Parameters of every cell by group, from shapes."""
    cells = runs.drop_duplicates(["study", "cell"])
    counts = [parameter_counts(config) for config in cells["config"]]
    return _stacked(
        "Where the parameters are", cells, counts, ("vision", "connector", "llm", "embedding"), "parameters"
    )


def flops_breakdown(runs) -> go.Figure:
    """Training FLOPs of one clip by group, counted from shapes; diamonds: what nanoSmol's convention makes of
    the same cell. Gradient checkpointing's recomputation is in neither."""
    cells = runs.drop_duplicates(["study", "cell"])
    counts = [
        flops_per_sample(config, tokens) for config, tokens in zip(cells["config"], cells["text_tokens"])
    ]
    figure = _stacked("Where the compute goes, per training clip", cells, counts, GROUPS, "FLOPs")
    claimed = cells[cells["flops_nanosmol"].notna()]
    if len(claimed):
        figure.add_scatter(
            x=labels(claimed),
            y=claimed["flops_nanosmol"] / claimed["samples_seen"],
            mode="markers",
            name="nanoSmol's 6N",
            marker=dict(symbol="diamond-open", size=10, color=CLAIMED),
        )
    return figure


def _stacked(title, cells, counts, groups, unit):
    figure = go.Figure(layout=LAYOUT | dict(title=title, barmode="stack", height=460, yaxis_title=unit))
    for i, group in enumerate(groups):
        figure.add_bar(
            x=labels(cells),
            y=[count[group] for count in counts],
            name=group.replace("_", " "),
            marker_color=GROUP_COLOURS[i],
            hovertemplate="%{x}<br>" + group.replace("_", " ") + ": %{y:.3s}<extra></extra>",
        )
    return figure if len(cells) else nothing(figure, "no run")


def gaze_vs_loss(runs, truth: pd.DataFrame | None = None, loss="loss_autoregressive") -> go.Figure:
    """Do models that look at the right thing lose less? Pointing-game hit rate of each run with queries (its
    95 % interval over clips) against its loss. truth: `fvlm.scaling.read_gaze_scores(...)`."""
    figure = empty_figure("Does a better gaze go with a lower loss?", "frames", loss)
    figure.update_xaxes(title="hit: most attended patch inside the target's box")
    if truth is None or not len(truth):
        return nothing(figure, "no gaze scores: fvlm gaze --run FOLDER makes them")
    table = runs.merge(truth[truth["asked"].isin(["own", "caption"])], on=["study", "run"])
    for arch, part in table.groupby("arch", sort=False):
        figure.add_scatter(
            x=part["hit"],
            y=part[loss],
            mode="markers",
            name=arch,
            text=part["run"] + ", " + part["study"],
            customdata=told(from_to(part["hit_low"], part["hit_high"]), part["page"]),
            hovertemplate="%{text}<br>hit %{x:.3f}%{customdata[0]}<br>%{y:.4f} "
            + AXES[loss].removeprefix("loss, ")
            + "%{customdata[1]}<extra></extra>",
            marker=dict(
                color=ARCH_COLOURS[arch], symbol=[symbol_of(table["pair"], p) for p in part["pair"]], size=9
            ),
            error_x=uneven_error_bar(part["hit"], part["hit_low"], part["hit_high"]),
        )
    if len(table):
        figure.add_vline(
            x=table["chance"].mean(), line=dict(color=REFERENCE, dash="dot"), annotation_text="chance"
        )
    return figure if len(table) else nothing(figure, "none of these runs has gaze scores")


def _curves(evaluations, loss, params, mid_schedule=False):
    """Loss against compute of every size, seeds averaged, by study, architecture and frames; or {} and why
    there are none."""
    if not len(evaluations):
        return {}, "these results have final losses only"
    try:
        points = fit_points(evaluations, every=True, mid_schedule=mid_schedule)
    except ConfigError as error:
        return {}, str(error)
    if params == "params_without_embeddings":
        points = points.assign(params_without_embeddings=points["params_total"] - points["params_embedding"])
    if params not in points:
        return {}, f"no evaluation has a value for {AXES[params]}"
    panels = {}
    for (study, arch, frames, _), part in points.groupby(["study", "arch", "frames", "pair"], sort=False):
        curve = part.groupby("step")[["flops", loss]].mean().rename(columns={loss: "loss"})
        if curve["loss"].notna().all() and (curve["flops"] > 0).all():
            panels.setdefault((study, arch, frames), {})[float(part[params].mean())] = curve
    return panels, "no evaluation"


def _shared_budgets(curves) -> tuple[float, float]:
    """The budgets that at least half of the sizes reached, a factor two apart at least."""
    low = float(np.median([curve["flops"].min() for curve in curves.values()]))
    high = float(np.median([curve["flops"].max() for curve in curves.values()]))
    return low, max(high, low)


def _levels(curves, count: int) -> np.ndarray:
    """Losses between where most runs start and where most end."""
    start, end = (np.median([value(curve["loss"]) for curve in curves]) for value in (np.max, np.min))
    return np.linspace(end, start, count + 2)[1:-1] if start > end else np.empty(0)


def _reached(curve, level) -> float | None:
    """Compute at which a curve's running minimum first comes down to a level; None if it never does or began
    below it."""
    best = curve["loss"].cummin().to_numpy()
    if best[0] < level or best[-1] > level:
        return None
    i = int(np.argmax(best <= level))
    if i == 0:
        return float(curve["flops"].iloc[0])
    share = (best[i - 1] - level) / (best[i - 1] - best[i])
    low, high = np.log(curve["flops"].iloc[i - 1]), np.log(curve["flops"].iloc[i])
    return float(np.exp(low + share * (high - low)))


TITLES = {  # of all_figures, as a menu shows them
    "gap_vs_scale": "What 16 times fewer visual tokens cost",
    "loss_vs_flops_fitted": "Loss against training compute",
    "training_curves": "Training curves",
    "run_curves": "Curves of single runs",
    "model_size_scaling": "Loss against size",
    "efficiency_frontier": "What is bought with compute",
    "smolvlm_extrapolation": "As large as SmolVLM?",
    "token_efficiency": "What visual tokens buy",
    "perplexity_vs_flops": "Perplexity against training compute",
    "iso_flop_curves": "Which size is best for a budget?",
    "chinchilla_ratio": "Data per parameter",
    "iso_loss": "What a loss costs",
    "frame_scaling": "Do more frames help?",
    "train_inference_gap": "Trained in parallel, used frame by frame",
    "parameter_breakdown": "Where the parameters are",
    "flops_breakdown": "Where the compute goes, per training clip",
    "gaze_vs_loss": "Does a better gaze go with a lower loss?",
}


def all_figures(
    results,
    gaps: dict | None = None,
    truth: pd.DataFrame | None = None,
    loss="loss_autoregressive",
    flops="flops",
    params="params_trainable",
    kind="raw",
    bootstrap: int = 200,
    within: Range = None,
    curves: dict | None = None,
) -> dict:
    """Functions that draw every figure of `fvlm.scaling.open_results(...)`, by name, with the same settings
    for all. within: the range of sizes, or compute, that laws and trends go through. curves: further
    arguments of `run_curves`."""
    runs, evaluations, _ = results
    return {
        "gap_vs_scale": lambda: gap_vs_scale(runs, gaps, loss, params, kind, within),
        "loss_vs_flops_fitted": lambda: loss_vs_flops_fitted(runs, loss, flops, bootstrap, within),
        "training_curves": lambda: training_curves(evaluations, loss),
        "run_curves": lambda: run_curves(evaluations, loss, **curves or {}),
        "model_size_scaling": lambda: model_size_scaling(runs, loss, params),
        "efficiency_frontier": lambda: efficiency_frontier(runs, loss, flops),
        "smolvlm_extrapolation": lambda: smolvlm_extrapolation(runs, loss, params, bootstrap, within),
        "token_efficiency": lambda: token_efficiency(runs, loss),
        "perplexity_vs_flops": lambda: perplexity_vs_flops(runs, loss, flops),
        "iso_flop_curves": lambda: iso_flop_curves(evaluations, loss, params),
        "chinchilla_ratio": lambda: chinchilla_ratio(runs, params),
        "iso_loss": lambda: iso_loss(evaluations, loss, params),
        "frame_scaling": lambda: frame_scaling(runs, loss),
        "train_inference_gap": lambda: train_inference_gap(runs, params),
        "parameter_breakdown": lambda: parameter_breakdown(runs),
        "flops_breakdown": lambda: flops_breakdown(runs),
        "gaze_vs_loss": lambda: gaze_vs_loss(runs, truth, loss),
    }
