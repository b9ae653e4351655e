"""Choose studies, filters and conventions with widgets, and see every figure follow. Needs ipywidgets and
Plotly."""

import contextlib
import html
import math
import mimetypes
import os
from pathlib import Path

import ipywidgets as ipw
import plotly.graph_objects as go

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import where
from fvlm.plots import all_figures, parameter_breakdown, save_figures
from fvlm.plots.scaling import TITLES
from fvlm.plots.training import CURVES_OVER
from fvlm.scaling.gaps import KINDS, all_gaps
from fvlm.scaling.runs import FLOPS, PARAMETERS, Results, open_results, read_gaze_scores
from fvlm.text import with_suffix
from fvlm.widgets.canvas import Download
from fvlm.widgets.plot import Plot, below_its_legend

AS_DRAWN, SCALES = "as drawn", ("as drawn", "log", "linear")
CURVES = "run_curves"  # the figure whose runs are picked one by one
FITTED = ("loss_vs_flops_fitted", "smolvlm_extrapolation", "gap_vs_scale")  # figures with laws or trends
FILTERS = ("studies", "frames", "pairs", "archs", "left_out")
LOOKS = ("x_scale", "y_scale", "title")
USES = dict(  # controls that only some figures follow, all others every one
    flops=("loss_vs_flops_fitted", "efficiency_frontier", "perplexity_vs_flops", "gap_vs_scale"),
    params=(
        "gap_vs_scale",
        "model_size_scaling",
        "smolvlm_extrapolation",
        "iso_flop_curves",
        "chinchilla_ratio",
        "iso_loss",
        "train_inference_gap",
    ),
    kind=("gap_vs_scale",),
    interpolation=("gap_vs_scale",),
    bootstrap=FITTED,
    fit_range=FITTED,
    runs=(CURVES,),
    over=(CURVES,),
    smoothing=(CURVES,),
)
DRAWS = (50, 100, 200, 300)  # of the bootstrap; more take longer than a reaction may
FILES = ("html", "png", "svg", "csv")
PICKED = 6  # runs whose curves are shown at first
LOSSES = {"frame by frame": "loss_autoregressive", "parallel": "loss_parallel"}


class ScalingExplorer(ipw.VBox):
    """Every scaling figure of any studies: `ScalingExplorer()` at the end of a cell shows it.

    One widget, as wide as the notebook, shows them all in place; what was drawn once is shown again from
    memory. Under the pointer a point says whose it is, its values with their units and interval;
    below the figure stands the same with a link to the run's page. A click on a point leaves its runs out, of
    the fits too; they stand in `left_out`, where they are taken back.

    Every control is an attribute and may be set from Python: `studies`, `frames`, `pairs`, `archs` (each a
    selection of several), `loss`, `flops`, `params`, `kind`, `interpolation`, `bootstrap`, `figure`,
    `x_scale`, `y_scale`, `fit_range` (the least and the most compute, or size, that laws and trends go
    through), `title` (empty: the figure's own), `left_out`, `read_again` (for a study that is still running)
    and `downloads`, a button each for a page, two kinds of pictures and the runs' table. Of the figure
    "Curves of single runs": `runs`, `filter` (words that a run's name must have), `over`, `smoothing`.
    `drawn` is the figure on show, `view` its widget. A stored notebook keeps that figure."""

    def __init__(self, names: str = "auto", folder: str | Path = REPOSITORY / "outputs" / "exports"):
        """names: as in `open_results`. folder: where exports go. ConfigError if there is nothing to read."""
        self.names, self.folder = names, Path(folder)
        self.results, self.truth = open_results(names), read_gaze_scores(names)
        self._make_controls()
        self.view = Plot()
        self.view.on_point(self._pointed_at)
        self._view = ipw.Box([self.view], layout=ipw.Layout(width="100%", display="block"))
        self._drawn, self._gaps, self._quiet = {}, {}, False
        self._offer()
        parameter_breakdown(self.results.runs)  # counts what is counted but once: no click waits for it
        super().__init__(self._layout())
        for control in self._controls():
            control.observe(lambda _: self._draw(), "value")
        self.filter.observe(lambda _: self._offer_runs(), "value")
        self.read_again.on_click(lambda _: self._read())
        for kind, button in self.downloads.items():
            button.on_click(lambda _, kind=kind: self._export(kind))
        self._draw()

    def _make_controls(self):
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
        self.bootstrap = ipw.Dropdown(options=DRAWS, value=200, description="bootstrap", **wide)
        names = list(all_figures(self.results))
        self.figure = ipw.Dropdown(
            options=[(TITLES[name], name) for name in names], description="figure", **wide
        )
        self.x_scale, self.y_scale = (
            ipw.ToggleButtons(
                options=SCALES,
                description=axis,
                style=dict(button_width="90px", description_width="20px"),
            )
            for axis in ("x", "y")
        )
        self.fit_range = ipw.SelectionRangeSlider(
            options=[("", 0.0), (" ", 1.0)],
            value=(0.0, 1.0),
            description="fit from, to",
            continuous_update=False,
            layout=ipw.Layout(width="min(680px, 100%)"),
            style=dict(description_width="100px"),
        )
        self.title = ipw.Text(
            description="title", placeholder="the figure's own", continuous_update=False, **wide
        )
        self.left_out = ipw.TagsInput(value=[], allow_duplicates=False, placeholder="click a point")
        self.read_again = ipw.Button(
            description="read again", tooltip="a study that is still running has more by now"
        )
        self.runs = ipw.SelectMultiple(
            description="runs",
            rows=7,
            layout=ipw.Layout(width="min(430px, 100%)"),
            style=dict(description_width="60px"),
        )
        self.filter = ipw.Text(description="filter", placeholder="words in a run's name", **wide)
        self.over = ipw.Dropdown(
            options=[(meaning, name) for name, meaning in CURVES_OVER.items()], description="over", **wide
        )
        self.smoothing = ipw.FloatSlider(min=0, max=0.95, step=0.05, description="smoothing", **wide)
        self.downloads = {
            kind: ipw.Button(description=kind, icon="download", layout=ipw.Layout(width="80px"))
            for kind in FILES
        }
        self.download, self.message, self.pointed = Download(), ipw.HTML(), ipw.HTML()

    def _layout(self) -> list:
        wraps = ipw.Layout(flex_flow="row wrap", align_items="center")
        self._fits = ipw.Box([self.fit_range], layout=ipw.Layout(width="100%"))
        picking = ipw.VBox([self.filter, self.over, self.smoothing])
        self._curves = ipw.HBox([self.runs, picking], layout=ipw.Layout(flex_flow="row wrap"))
        return [
            ipw.HBox([self.studies, self.frames, self.pairs, self.archs], layout=wraps),
            ipw.HBox(
                [
                    ipw.VBox([self.figure, self.loss, self.kind]),
                    ipw.VBox([self.flops, self.params, self.interpolation]),
                    ipw.VBox([self.bootstrap, self.title, self.read_again]),
                ],
                layout=ipw.Layout(flex_flow="row wrap"),
            ),
            ipw.HBox([self.x_scale, self.y_scale], layout=wraps),
            self._fits,
            self._curves,
            self._view,
            self.pointed,
            ipw.HBox([ipw.Label("left out"), self.left_out]),
            ipw.HBox(
                [ipw.Label("download"), *self.downloads.values(), self.download, self.message], layout=wraps
            ),
        ]

    def _controls(self):
        return [getattr(self, name) for name in (*FILTERS, "loss", "figure", *USES, *LOOKS)]

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
            chosen = [value for value in there if value not in left_out]
            self._set(control, options=there, value=chosen)

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
        mine = set(_names(runs))
        if len(mine) == len(self.results.runs):
            return self.results
        tables = [table[_names(table).isin(mine)] if len(table) else table for table in self.results[1:]]
        return Results(runs.reset_index(drop=True), *tables)

    def _offer_runs(self):
        """The runs of the chosen results that the filter lets through; what was picked stays picked."""
        evaluations, words = self.chosen().evaluations, self.filter.value.lower().split()
        there = list(dict.fromkeys(_names(evaluations))) if len(evaluations) else []
        there = [name for name in there if all(word in name.lower() for word in words)]
        if tuple(there) != self.runs.options:
            picked = [name for name in there if name in self.runs.value] or there[:PICKED]
            self._set(self.runs, options=there, value=picked)
            self._draw()

    def _offer_range(self, results: Results):
        """What a law may be fitted to: from which to which compute, or size, of the cells that are chosen; an
        end that was chosen stays while it is there."""
        column = self.flops.value if self.figure.value == FITTED[0] else self.params.value
        means = results.runs.groupby(["study", "cell"])[column].mean().dropna()
        values = sorted({float(f"{value:.3g}") for value in means})
        options = [(with_suffix(value), value) for value in values] or [("none", 0.0)]
        if tuple(options) != tuple(self.fit_range.options):
            old, was = [value for _, value in self.fit_range.options], self.fit_range.value
            low = was[0] if was[0] in values and was[0] != old[0] else options[0][1]
            high = was[1] if was[1] in values and was[1] != old[-1] else options[-1][1]
            self._set(self.fit_range, options=options, value=(low, high))

    def _within(self) -> tuple[float, float] | None:
        """The ends of `fit_range`, half a rounding wider; None where it is all there is."""
        values = [value for _, value in self.fit_range.options]
        low, high = self.fit_range.value
        return None if (low, high) == (values[0], values[-1]) else (low * 0.995, high * 1.005)

    @contextlib.contextmanager
    def _quietly(self):
        """Controls that change meanwhile draw nothing."""
        quiet, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = quiet

    def _set(self, control, **traits):
        """Set traits of a control without drawing."""
        with self._quietly():
            for name, value in traits.items():
                setattr(control, name, value)

    def _draw(self):
        if self._quiet:
            return
        self.message.value = self.pointed.value = ""
        results, shown = self.chosen(), self.figure.value
        if shown in FITTED:
            self._offer_range(results)
        if shown == CURVES:
            with self._quietly():
                self._offer_runs()
        self._fits.layout.display = "" if shown in FITTED else "none"
        self._curves.layout.display = "" if shown == CURVES else "none"
        followed = [name for name, figures in USES.items() if shown in figures]
        key = self._values(*FILTERS, "loss", "figure", *followed)
        base = self._kept(self._drawn, key, lambda: self._make(results))
        key += self._values(*LOOKS)
        self.drawn: go.Figure = self._kept(self._drawn, key, lambda: self._finished(base))
        self.view.show(self.drawn)

    def _values(self, *names: str) -> tuple:
        """The results, and what these controls say, as a key."""
        values = (getattr(self, name).value for name in names)
        return id(self.results), *(tuple(value) if isinstance(value, list) else value for value in values)

    def _kept(self, memory: dict, key: tuple, make):
        """What was made for a key before, or is made now; the oldest are forgotten."""
        if key not in memory:
            memory[key] = make()
            for oldest in list(memory)[:-KEPT]:
                del memory[oldest]
        return memory[key]

    def _make(self, results: Results) -> go.Figure:
        """The figure that is chosen, with its own scales and title."""
        settings = dict(loss=self.loss.value, flops=self.flops.value, params=self.params.value)
        gaps, shown = {}, self.figure.value
        if shown == "gap_vs_scale" and len(results.runs):
            how = settings | dict(interpolation=self.interpolation.value, bootstrap=self.bootstrap.value)
            key = self._values(*FILTERS) + tuple(how.values())
            gaps = self._kept(self._gaps, key, lambda: all_gaps(results, **how))
        picked = dict(picked=self.runs.value or ("",), over=self.over.value, smoothing=self.smoothing.value)
        draw = all_figures(
            results,
            gaps,
            self.truth,
            **settings,
            kind=self.kind.value,
            bootstrap=self.bootstrap.value,
            within=self._within() if shown in FITTED else None,
            curves=picked | dict(pages=dict(zip(_names(results.runs), results.runs["page"]))),
        )
        return below_its_legend(draw[shown]())

    def _finished(self, base: go.Figure) -> go.Figure:
        """A figure with the scales and the title that are chosen; itself, where none is."""
        title = self.title.value.strip()
        scales = {axis: getattr(self, f"{axis}_scale").value for axis in "xy"}
        if not title and set(scales.values()) == {AS_DRAWN}:
            return base
        figure = go.Figure(base)
        for axis, scale in scales.items():
            if scale != AS_DRAWN:
                set_scale(figure, axis, scale)
        if title:
            figure.update_layout(title_text=html.escape(title))
        return figure

    def _pointed_at(self, how: str, trace: int, index: int):
        """Of the point under the pointer say below the figure whose it is, with a link to its page; of one
        that was clicked leave the runs out."""
        runs = self._runs_at(self.drawn.data[trace], index)
        if not len(runs):
            return
        if how == "hover":
            self.pointed.value = _described(runs, self.loss.value)
            return
        row = runs.iloc[0]
        self.left_out.value = [*self.left_out.value, f"{row['study']}/{row['cell']}"]
        self.message.value = html.escape(f"left out: {row['cell']} of {row['study']}")

    def _runs_at(self, trace, index: int):
        """The runs that a point stands for, by what hovering says of it; none for one that names no cell."""
        text = trace.text if trace.text is not None else trace.hovertext
        named = text if isinstance(text, str) or text is None else text[index]
        runs = self.results.runs
        if not named:
            return runs[:0]
        cell, _, rest = html.unescape(str(named)).partition(", ")
        study = rest.partition(", ")[0]
        of_study = runs[runs["study"] == study] if study else runs
        for column in ("cell", "run"):
            if len(found := of_study[of_study[column] == cell]):
                return found
        return runs[_names(runs) == cell]

    def _read(self):
        self.results, self.truth = open_results(self.names), read_gaze_scores(self.names)
        self._drawn.clear()
        self._gaps.clear()
        self._offer()
        self._draw()

    def _export(self, kind: str):
        """Write the figure, or the table of the runs in it, and have the browser save it."""
        name = self.figure.value
        try:
            if kind == "csv":
                self.folder.mkdir(parents=True, exist_ok=True)
                file = self.folder / f"{name}.csv"
                self.chosen().runs.drop(columns="config").to_csv(file, index=False)
            else:
                (file,) = save_figures({name: self.drawn}, self.folder, [kind], whole=True)
        except ConfigError as error:
            self.message.value = html.escape(str(error))
            return
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        self.download.show(name=file.name, type=kind, content=file.read_bytes(), at_once=True)
        self.message.value = f"written: {html.escape(where(file))}"

    def _repr_mimebundle_(self, **kwargs):
        """The live widgets, and for where no kernel runs the figure they show."""
        import json

        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | {"application/vnd.plotly.v1+json": json.loads(self.drawn.to_json())}


def _names(table):
    """`study/run` of each row."""
    return table["study"] + "/" + table["run"]


def _described(runs, loss: str) -> str:
    """A cell's runs in a line: seeds, losses, their spread, and a link to each page there is."""
    row, values = runs.iloc[0], runs[loss]
    seeds = ", ".join(f"{value:.4f}" for value in values)
    links = []
    for run, page in zip(runs["run"], runs["page"]):
        if page:
            address = html.escape(os.path.relpath(REPOSITORY / page, Path.cwd()), quote=True)
            links.append(f'<a href="{address}" target="_blank" title="{html.escape(page)}">page of {run}</a>')
    told = f"<b>{html.escape(row['cell'])}</b> of {html.escape(row['study'])}: {seeds} nats per text token"
    return ", ".join([told + (" (a value per seed)" if len(runs) > 1 else ""), *links])


KEPT = 64  # figures that stay in memory


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
