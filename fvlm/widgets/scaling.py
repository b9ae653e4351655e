"""Choose studies, filters and conventions with widgets, and see every figure follow. Needs ipywidgets and
Plotly."""

import base64
import html
import math
import mimetypes
import re
from pathlib import Path

import ipywidgets as ipw
import plotly.graph_objects as go

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import where
from fvlm.plots import all_figures, save_figures
from fvlm.plots.scaling import TITLES
from fvlm.scaling.gaps import KINDS, all_gaps
from fvlm.scaling.runs import FLOPS, PARAMETERS, Results, open_results, read_gaze_scores

AS_DRAWN, SCALES = "as drawn", ("as drawn", "log", "linear")
LOSSES = {"frame by frame": "loss_autoregressive", "parallel": "loss_parallel"}


class ScalingExplorer(ipw.VBox):
    """Every scaling figure of any studies: `ScalingExplorer()` at the end of a cell shows it.

    One figure widget, as wide as the notebook, whose parts are updated in place; what was drawn once is shown
    again from memory. A click on a point leaves its runs out, of the fits too; they stand in `left_out`,
    where they are taken back.

    Every control is an attribute and may be set from Python: `studies`, `frames`, `pairs`, `archs` (each a
    selection of several), `loss`, `flops`, `params`, `kind`, `interpolation`, `bootstrap`, `figure`,
    `x_scale`, `y_scale`, `title` (empty: the figure's own), `left_out`, `read_again` (for a study that is
    still running), `kinds` and `export`. `drawn` is the figure on show, `view` its widget. A stored notebook
    keeps that figure."""

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
        names_ = list(all_figures(self.results))
        self.figure = ipw.Dropdown(
            options=[(TITLES[name], name) for name in names_], description="figure", **wide
        )
        self.x_scale, self.y_scale = (
            ipw.ToggleButtons(
                options=SCALES,
                description=axis,
                style=dict(button_width="90px", description_width="20px"),
            )
            for axis in ("x", "y")
        )
        self.title = ipw.Text(
            description="title", placeholder="the figure's own", continuous_update=False, **wide
        )
        self.left_out = ipw.TagsInput(value=[], allow_duplicates=False, placeholder="click a point")
        self.read_again = ipw.Button(
            description="read again", tooltip="a study that is still running has more by now"
        )
        self.kinds = ipw.SelectMultiple(
            options=["html", "png", "svg"], value=["html"], rows=3, layout=ipw.Layout(width="90px")
        )
        self.export = ipw.Button(description="export figure")
        self.message = ipw.HTML()
        self.view = go.FigureWidget(layout=dict(autosize=True))
        self._view = ipw.Box([self.view], layout=ipw.Layout(width="100%", display="block"))
        self._drawn = {}
        self._offer()
        super().__init__(
            [
                ipw.HBox([self.studies, self.frames, self.pairs, self.archs]),
                ipw.HBox(
                    [
                        ipw.VBox([self.figure, self.loss, self.kind]),
                        ipw.VBox([self.flops, self.params, self.interpolation]),
                        ipw.VBox([self.bootstrap, self.title, self.read_again]),
                    ],
                    layout=ipw.Layout(flex_flow="row wrap"),
                ),
                ipw.HBox([self.x_scale, self.y_scale], layout=ipw.Layout(flex_flow="row wrap")),
                self._view,
                ipw.HBox([ipw.Label("left out"), self.left_out]),
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
            self.x_scale,
            self.y_scale,
            self.title,
            self.left_out,
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
            there = sorted(there) if column == "frames" else there  # 8 before 64
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
        runs = runs[~(runs["study"] + "/" + runs["cell"]).isin(self.left_out.value)]
        tables = [
            table[table["run"].isin(runs["run"]) & table["study"].isin(runs["study"])]
            if len(table)
            else table
            for table in self.results[1:]
        ]
        return Results(runs.reset_index(drop=True), *tables)

    def _draw(self):
        self.message.value = ""
        key = tuple(control.value for control in self._controls())
        key = (id(self.results), *(tuple(value) if isinstance(value, list) else value for value in key))
        if key not in self._drawn:
            self._drawn[key] = self._make()
            for oldest in list(self._drawn)[:-KEPT]:
                del self._drawn[oldest]
        self.drawn: go.Figure = self._drawn[key]
        show_in_place(self.view, self.drawn)
        for trace in self.view.data:
            trace.on_click(self._clicked)

    def _make(self) -> go.Figure:
        """The figure that is chosen, drawn anew."""
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
        figure = draw[self.figure.value]()
        for axis, control in (("x", self.x_scale), ("y", self.y_scale)):
            if control.value != AS_DRAWN:
                set_scale(figure, axis, control.value)
        figure.update_layout(legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom"))  # fits any width
        if self.title.value.strip():
            figure.update_layout(title_text=html.escape(self.title.value.strip()))
        return figure

    def _clicked(self, trace, points, _state):
        """Leave out the runs of the point that was clicked, and say where their page is."""
        for index in points.point_inds:
            runs = self._runs_at(trace, index)
            if len(runs):
                row = runs.iloc[0]
                self.left_out.value = [*self.left_out.value, f"{row['study']}/{row['cell']}"]
                page = REPOSITORY / "outputs" / row["study"] / str(row["run"]) / "train.html"
                told = f"left out: {row['cell']} of {row['study']}"
                self.message.value = html.escape(f"{told}; {where(page)}" if page.exists() else told)
                return

    def _runs_at(self, trace, index: int):
        """The runs that a point stands for, by what hovering says of it; none for one that names no cell."""
        text = trace.text if trace.text is not None else trace.hovertext
        named = text if isinstance(text, str) or text is None else text[index]
        runs = self.results.runs
        if not named:
            return runs[:0]
        cell, _, rest = str(named).partition(", ")
        study = rest.partition(", ")[0]
        found = runs[(runs["cell"] == cell) & (runs["study"] == study)]
        return found if len(found) else runs[runs["run"] == named]

    def _read(self):
        self.results, self.truth = open_results(self.names), read_gaze_scores(self.names)
        self._drawn.clear()
        self._offer()
        self._draw()

    def _export(self):
        try:
            files = save_figures({self.figure.value: self.drawn}, self.folder, self.kinds.value)
            self.message.value = "download: " + ", ".join(map(download_link, files))
        except ConfigError as error:
            self.message.value = html.escape(str(error))

    def _repr_mimebundle_(self, **kwargs):
        """The live widgets, and for where no kernel runs the figure they show."""
        import json

        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | {"application/vnd.plotly.v1+json": json.loads(self.drawn.to_json())}


KEPT = 64  # figures that stay in memory


def show_in_place(view: go.FigureWidget, figure: go.Figure):
    """Make a figure widget show another figure by what is different, so that nothing is loaded again."""
    traces = [trace.to_plotly_json() for trace in figure.data]
    same = [trace.type for trace in view.data] == [trace["type"] for trace in traces]
    there, wanted = view.layout.to_plotly_json(), figure.layout.to_plotly_json()
    panels = {name: wanted[name] for name in wanted.keys() - there.keys() if re.match(r"[xy]axis\d", name)}
    if panels:  # axes that the widget has not had yet
        view.update_layout(panels)
    changes = layout_changes(view.layout.to_plotly_json(), wanted)
    if same:
        with view.batch_update():
            for trace, new in zip(view.data, traces):
                old = trace.to_plotly_json()
                gone = {name: None for name in old if name not in new and name not in ("uid", "type")}
                trace.update(gone | {name: value for name, value in new.items() if name != "type"})
    else:
        view.data = ()
        view.add_traces(figure.data)
    if changes:
        view.plotly_relayout(changes)


def layout_changes(old: dict, new: dict, path: str = "") -> dict:
    """What makes one layout of another: values by their dotted paths, None for what is there no more. Lists
    (annotations, shapes) and templates are taken whole."""
    changes = {}
    for name in old.keys() | new.keys():
        before, after = old.get(name), new.get(name)
        place = f"{path}{name}"
        if isinstance(before, dict) and isinstance(after, dict) and name != "template":
            changes |= layout_changes(before, after, f"{place}.")
        elif before is None and isinstance(after, dict) and name != "template":
            changes |= layout_changes({}, after, f"{place}.")
        elif isinstance(before, dict) and after is None and name != "template":
            changes |= layout_changes(before, {}, f"{place}.")
        elif before != after:
            changes[place] = () if name in ("annotations", "shapes") and after is None else after
    if not path:
        changes["autosize"] = True
    return changes


def set_scale(figure: go.Figure, axis: str, kind: str):
    """Make every x or y axis of a figure "log" or "linear", with the notes that stand on it; bars, which have
    names on theirs, stay as they are."""
    if axis == "x" and any(trace.type == "bar" for trace in figure.data):
        return
    was = figure.layout[f"{axis}axis"].type or "linear"
    if kind == was:
        return
    getattr(figure, f"update_{axis}axes")(type=kind)
    for annotation in figure.layout.annotations:
        value = annotation[axis]
        if (annotation[f"{axis}ref"] or axis) == axis and isinstance(value, int | float):
            annotation[axis] = 10**value if kind == "linear" else math.log10(value) if value > 0 else None


def download_link(file: Path) -> str:
    """A file as a link that downloads it, whatever the notebook's server shows of the disk."""
    kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
    data = base64.b64encode(file.read_bytes()).decode()
    name = html.escape(file.name)
    return (
        f'<a download="{name}" href="data:{kind};base64,{data}" title="{html.escape(where(file))}">{name}</a>'
    )
