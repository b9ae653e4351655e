"""A Plotly figure as a widget that shows any other figure in its place. Needs anywidget and Plotly.

Plotly's own widget updates one figure's parts: between figures of other panels the browser refuses that, and
it puts plotly.js, 5 MB, into every notebook that stores it. Here figures are messages, and the script is one
as well."""

from collections.abc import Callable
from pathlib import Path

import anywidget
import plotly.graph_objects as go

PLAIN_HEIGHT, PLAIN_BOTTOM = 460, 50  # pixels of a figure that does not say
ROW, COLUMNS = 20, 2  # pixels of a legend's line; its columns where nobody knows the width


class Plot(anywidget.AnyWidget):
    """A figure, as wide as there is room: `show` puts another in its place. `data` and `layout` are the
    figure's."""

    _esm = Path(__file__).with_name("plot.js")

    def __init__(self, figure: go.Figure | None = None):
        super().__init__()
        self.figure = figure or go.Figure()
        self.on_msg(self._asked)

    @property
    def data(self) -> tuple:
        return self.figure.data

    @property
    def layout(self) -> go.Layout:
        return self.figure.layout

    def show(self, figure: go.Figure):
        """Show a figure in the place of the one before."""
        self.figure = figure
        self.send(dict(figure=figure.to_json()))

    def on_point(self, function: Callable[[str, int, int], None]):
        """Call `function("click" or "hover", number of the trace, number of the point)`."""
        self.on_msg(
            lambda _, content, __: (
                function(content["point"], content["trace"], content["index"]) if "point" in content else None
            )
        )

    def _asked(self, _, content, __):
        if content.get("ask") == "figure":
            self.show(self.figure)
        elif content.get("ask") == "library":
            from plotly.offline import get_plotlyjs

            self.send(dict(library=True), [get_plotlyjs().encode()])


def below_its_legend(figure: go.Figure) -> go.Figure:
    """A figure whose legend stands below it, with all the height that its entries take; plot.js lays it out
    anew for the width there is."""
    named = [trace for trace in figure.data if trace.showlegend is not False and trace.name]
    entries = len(
        {trace.name if trace.legendgroup is None else (trace.legendgroup, trace.name) for trace in named}
    )
    entries += len({trace.legendgrouptitle.text for trace in named} - {None})
    if not entries or figure.layout.showlegend is False:
        return figure
    height = figure.layout.height or PLAIN_HEIGHT
    bottom = (figure.layout.margin.b or PLAIN_BOTTOM) + 15
    lines = -(-entries // COLUMNS) * ROW
    legend = dict(
        orientation="h",
        x=0,
        xanchor="left",
        yref="container",
        y=0.005,
        yanchor="bottom",
        font_size=11,
        tracegroupgap=0,
        maxheight=lines + 60,
    )
    return figure.update_layout(
        legend=legend,
        height=height + lines,
        margin_b=bottom + lines,
        meta=dict(entries=entries, height=height, bottom=bottom),
    )
