"""Choose studies, filters and conventions with widgets, and see every figure follow. Needs ipywidgets and
Plotly."""

import html
from pathlib import Path

import ipywidgets as ipw
import plotly.graph_objects as go

from fvlm.config import REPOSITORY, ConfigError
from fvlm.plots import all_figures, save_figures
from fvlm.scaling.gaps import KINDS, all_gaps
from fvlm.scaling.runs import FLOPS, PARAMETERS, Results, open_results, read_gaze_scores

LOSSES = {"frame by frame": "loss_autoregressive", "parallel": "loss_parallel"}


class ScalingExplorer(ipw.VBox):
    """Every scaling figure of any studies: `ScalingExplorer()` at the end of a cell shows it.

    Every control is an attribute and may be set from Python: `studies`, `frames`, `pairs`, `archs` (each a
    selection of several), `loss`, `flops`, `params`, `kind`, `interpolation`, `bootstrap`, `figure`,
    `read_again` (for a study that is still running), `kinds` and `export`. `drawn` is the figure on show. A
    stored notebook keeps that figure."""

    def __init__(self, names: str = "auto", folder: str | Path = REPOSITORY / "outputs" / "exports"):
        """names: as in `open_results`. folder: where exports go. ConfigError if there is nothing to read."""
        self.names, self.folder = names, Path(folder)
        self.results, self.truth = open_results(names), read_gaze_scores(names)
        several = dict(rows=4, layout=ipw.Layout(width="230px"), style=dict(description_width="60px"))
        self.studies, self.frames, self.pairs, self.archs = (
            ipw.SelectMultiple(description=name, **several) for name in ("study", "frames", "pair", "arch")
        )
        wide = dict(layout=ipw.Layout(width="330px"), style=dict(description_width="100px"))
        self.loss = ipw.Dropdown(options=LOSSES, description="loss", **wide)
        self.flops = ipw.Dropdown(options=FLOPS, description="compute", **wide)
        self.params = ipw.Dropdown(options=PARAMETERS, description="parameters", **wide)
        self.kind = ipw.Dropdown(
            options=[(kind.replace("_", " "), kind) for kind in KINDS], description="gap", **wide
        )
        self.interpolation = ipw.Dropdown(options=["log", "linear"], description="correction in", **wide)
        self.bootstrap = ipw.IntSlider(
            value=200, min=50, max=2000, step=50, description="bootstrap", continuous_update=False, **wide
        )
        self.figure = ipw.Dropdown(options=list(all_figures(self.results)), description="figure", **wide)
        self.read_again = ipw.Button(
            description="read again", tooltip="a study that is still running has more by now"
        )
        self.kinds = ipw.SelectMultiple(
            options=["html", "png", "svg"], value=["html"], rows=3, layout=ipw.Layout(width="90px")
        )
        self.export = ipw.Button(description="export figure")
        self.message = ipw.HTML()
        self._view = ipw.VBox()
        self._offer()
        super().__init__(
            [
                ipw.HBox([self.studies, self.frames, self.pairs, self.archs]),
                ipw.HBox(
                    [
                        ipw.VBox([self.figure, self.loss, self.kind]),
                        ipw.VBox([self.flops, self.params, self.interpolation]),
                        ipw.VBox([self.bootstrap, self.read_again]),
                    ]
                ),
                self._view,
                ipw.HBox([self.kinds, self.export, self.message]),
            ]
        )
        for control in self._controls():
            control.observe(lambda _: self._draw(), "value")
        self.read_again.on_click(lambda _: self._read())
        self.export.on_click(lambda _: self._export())
        self._draw()

    def _controls(self):
        return (
            self.studies,
            self.frames,
            self.pairs,
            self.archs,
            self.loss,
            self.flops,
            self.params,
            self.kind,
            self.interpolation,
            self.bootstrap,
            self.figure,
        )

    def _offer(self):
        """Offer what there is; what was chosen stays chosen, and what is new is chosen too."""
        runs = self.results.runs
        for control, column in (
            (self.studies, "study"),
            (self.frames, "frames"),
            (self.pairs, "pair"),
            (self.archs, "arch"),
        ):
            there = list(dict.fromkeys(runs[column]))
            left_out = set(control.options) - set(control.value)
            control.options = there
            control.value = [value for value in there if value not in left_out]

    def chosen(self) -> Results:
        """The results that the filters let through."""
        runs = self.results.runs
        for column, control in (
            ("study", self.studies),
            ("frames", self.frames),
            ("pair", self.pairs),
            ("arch", self.archs),
        ):
            runs = runs[runs[column].isin(control.value)]
        tables = [
            table[table["run"].isin(runs["run"]) & table["study"].isin(runs["study"])]
            if len(table)
            else table
            for table in self.results[1:]
        ]
        return Results(runs.reset_index(drop=True), *tables)

    def _draw(self):
        self.message.value = ""
        results, settings = (
            self.chosen(),
            dict(loss=self.loss.value, flops=self.flops.value, params=self.params.value),
        )
        gaps = {}
        if self.figure.value == "gap_vs_scale" and len(results.runs):
            gaps = all_gaps(
                results, **settings, interpolation=self.interpolation.value, bootstrap=self.bootstrap.value
            )
        draw = all_figures(
            results, gaps, self.truth, **settings, kind=self.kind.value, bootstrap=self.bootstrap.value
        )
        self.drawn: go.Figure = draw[self.figure.value]()
        self._view.children = [go.FigureWidget(self.drawn)]

    def _read(self):
        self.results, self.truth = open_results(self.names), read_gaze_scores(self.names)
        self._offer()
        self._draw()

    def _export(self):
        try:
            files = save_figures({self.figure.value: self.drawn}, self.folder, self.kinds.value)
            self.message.value = "written: " + html.escape(", ".join(map(str, files)))
        except ConfigError as error:
            self.message.value = html.escape(str(error))

    def _repr_mimebundle_(self, **kwargs):
        """The live widgets, and for where no kernel runs the figure they show."""
        import json

        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | {"application/vnd.plotly.v1+json": json.loads(self.drawn.to_json())}
