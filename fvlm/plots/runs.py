"""What a run shows: its figures say so where it has learned nothing, and where it looks in a clip."""

import plotly.graph_objects as go

from fvlm.data.clips import Clip
from fvlm.gaze.attention import EncodedClip
from fvlm.plots.gaze import gaze_strip
from fvlm.training.learned import BADGE_COLOUR, verdict
from fvlm.training.results import Run


def with_badge(figure: go.Figure, run: Run) -> go.Figure:
    """The figure with a red badge before its title if the run that it shows has learned nothing
    (`fvlm.training.learned`); as it is otherwise."""
    if badge := verdict(run).badge:
        title = figure.layout.title.text or ""
        mark = f'<b style="color:{BADGE_COLOUR}">■ {run.folder.name} {badge}</b>'
        figure.update_layout(title_text=f"{mark}<br>{title}" if title else mark)
    return figure


def run_strip(run: Run, clip: Clip) -> go.Figure:
    """`gaze_strip` of a run on a clip, with what it is asked, what it says and what is true above it."""
    look = EncodedClip(run.model, clip, run.tokenizer, run.config.task).gaze()
    asked = f": {clip.question}" if run.config.task == "question" else ""
    says, truth = look.caption or "(nothing)", clip.text(run.config.task)
    title = f"{run.config.arch}{asked}\nsays: {says}\ntrue: {truth}"
    return with_badge(gaze_strip(look, clip.boxes, clip.target, title), run)


def show_gaze(run: Run, clip: Clip):
    """Show `run_strip` of a run on a clip, or where there is no gaze, say why in a sentence: a model without
    queries, a dataset without frames."""
    if not run.config.architecture.has_queries:
        print(f"A {run.config.arch} model has no queries, so there is no gaze to be shown.")
    elif not len(clip.frames):
        print(f"{run.config.dataset} is text alone: without frames there is no gaze to be shown.")
    else:
        run_strip(run, clip).show()
