"""What all figures share: every colour, axes, how a point, an interval or the lack of data is drawn."""

import plotly.graph_objects as go

from fvlm.architectures import ARCHITECTURES
from fvlm.costs.flops import CONVENTIONS
from fvlm.notebooks import import_jsonschema_quickly

import_jsonschema_quickly()  # Plotly does when it draws

PALE, GREY, BLUE, RED = "#c9d6ea", "#8d99ae", "#1f5fbf", "#d1495b"

COLOURS = {"parallel": BLUE, "autoregressive": RED, "static": GREY, "training": PALE}

ARCH_COLOURS = {name: record.colour for name, record in ARCHITECTURES.items()}

GUESS_COLOURS = {"chance": PALE, "most_common": GREY, "guesser": BLUE}

REFERENCE = "#888888"  # a line to compare with: zero, chance, a rule of thumb
PUBLISHED, PUBLISHED_LINE = "#555555", "#999999"  # nanoSmol's own points, and what joins them
CLAIMED = "black"  # what nanoSmol counted of a cell
OTHER_MODELS = "#bbbbbb"  # where published models of other kinds lie
JOIN = "#cccccc"  # joins points of several architectures

SCALE = "Viridis"  # of attention and of sizes
SCALES = (SCALE, "Inferno", "Cividis", "Hot", "Greys")  # on offer in the gaze explorer

DIFFERENCES = "RdBu_r"  # of attention: red where there is more

FIXATION, FIXATION_RIM = "#ff2d55", "white"
BOX, TARGET_BOX = "rgba(255,255,255,0.5)", "white"  # an object's, and that of the one asked about
HIDDEN, HIDDEN_RIM = "white", "black"  # the cross on a hidden patch
LIGHT = (255, 214, 80)  # red, green and blue of what attention lights
PAPER, INK, CAPTION = "white", "black", "#555555"  # of a picture of frames: ground, text, small text

LAYOUT = dict(template="plotly_white", font_size=12, margin=dict(l=60, r=20, t=60, b=50))

AXES = {
    "loss_parallel": "loss, nats per text token (parallel)",
    "loss_autoregressive": "loss, nats per text token (frame by frame)",
    "params_total": "parameters",
    "params_trainable": "parameters that are trained",
    "params_without_embeddings": "parameters without embeddings",
    "params_claimed": "parameters as nanoSmol counted",
    "visual_tokens": "visual tokens per clip",
    "frames": "frames per clip",
} | {convention.column: convention.axis for convention in CONVENTIONS}

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")

GROUP_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#E69F00", "#D55E00", "#CC79A7")

GAP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def hover(x: str, y: str) -> str:
    """What stands at a point: its `text`, both values with their units (axes of AXES, or words), and of its
    `customdata` (`told`) the interval of y and the page of its run."""
    x, y = (AXES.get(name, name).removeprefix("loss, ") for name in (x, y))
    values = f"%{{x:.3~s}} {x}<br>%{{y:.4~g}}%{{customdata[0]}} {y}"
    return f"%{{text}}<br>{values}%{{customdata[1]}}<extra></extra>"


def told(intervals, pages) -> list[list[str]]:
    """The `customdata` of `hover`: intervals as they are read (" ± 0.01"), pages as paths; "" where there is
    none."""
    return [[interval, page and f"<br>{page}"] for interval, page in zip(intervals, pages)]


def from_to(low, high, form: str = ".3g") -> list[str]:
    """Intervals as they are read; "" where one is not known."""
    return [f" ({a:{form}} to {b:{form}})" if a == a and b == b else "" for a, b in zip(low, high)]


def empty_figure(title, x, y, log=False) -> go.Figure:
    figure = go.Figure(
        layout=LAYOUT | dict(title=title, xaxis_title=AXES[x], yaxis_title=AXES[y], height=460)
    )
    return figure.update_xaxes(type="log", exponentformat="power") if log else figure


def nothing(figure: go.Figure, reason: str) -> go.Figure:
    """The figure without data, saying why there is none."""
    figure.add_annotation(
        text=f"nothing to show: {reason}", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False
    )
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def note(figure, text):
    """Lines of small text below the axis, for which the figure becomes so much higher."""
    lines = 1 + text.count("<br>")
    figure.add_annotation(
        text=text,
        x=0,
        y=0,
        yshift=-55,
        xref="paper",
        yref="paper",
        showarrow=False,
        align="left",
        yanchor="top",
        font_size=10,
    )
    figure.update_layout(height=(figure.layout.height or 460) + 14 * lines, margin_b=75 + 14 * lines)


def add_points(figure, cells, x, loss, name, arch, dash, symbol="circle"):
    """Cells (`cells_of`) of one architecture; symbol: one, or one for each."""
    figure.add_scatter(
        x=cells[x],
        y=cells["loss"],
        error_y=error_bar(cells["error"]),
        mode="lines+markers" if dash else "markers",
        name=name,
        legendgroup=name,
        text=cells["hover"],
        customdata=told(cells["interval"], cells["page"]),
        hovertemplate=hover(x, loss),
        line=dict(color=ARCH_COLOURS[arch], dash=dash or "solid"),
        marker=dict(color=ARCH_COLOURS[arch], size=9, symbol=symbol),
    )


def error_bar(half_widths) -> dict:
    return dict(type="data", array=half_widths, thickness=1)


def uneven_error_bar(middle, low, high, thickness=None) -> dict:
    """An interval that is not symmetric, around its middle."""
    return dict(
        type="data", symmetric=False, array=high - middle, arrayminus=middle - low, thickness=thickness
    )


def dash_of(values, value) -> str:
    return DASHES[sorted(set(values)).index(value) % len(DASHES)]


def symbol_of(values, value) -> str:
    return SYMBOLS[sorted(set(values)).index(value) % len(SYMBOLS)]


def faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def shade(i: int, count: int) -> str:
    from plotly.colors import sample_colorscale

    return sample_colorscale(SCALE, [0.85 * i / max(1, count - 1)])[0]


def labels(cells) -> list[str]:
    several = cells["study"].nunique() > 1
    return [f"{row.cell}<br>{row.study}" if several else row.cell for row in cells.itertuples()]
