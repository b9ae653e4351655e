"""Every figure, from data to Plotly. Functions take what the results hold and return a
`plotly.graph_objects.Figure`.

`training.py` curves of runs · `runs.py` what a run shows · `scaling.py` the figures of `scaling.ipynb` ·
`clips.py` · `gaze.py` · `style.py` what they share, every colour among it · `files.py` figures as files."""

from fvlm.plots.contrasts import gap_along_axes, gap_by_detail, loss_vs_tokens
from fvlm.plots.costs import cost_scaling
from fvlm.plots.files import save_figures
from fvlm.plots.runs import run_strip, show_gaze, with_badge
from fvlm.plots.scaling import (
    all_figures,
    cells_of,
    chinchilla_ratio,
    efficiency_frontier,
    flops_breakdown,
    frame_scaling,
    gap_vs_scale,
    gaze_vs_loss,
    iso_flop_curves,
    iso_loss,
    loss_vs_flops_fitted,
    model_size_scaling,
    parameter_breakdown,
    perplexity_vs_flops,
    smolvlm_extrapolation,
    token_efficiency,
    train_inference_gap,
)
from fvlm.plots.style import ARCH_COLOURS, COLOURS, LAYOUT
from fvlm.plots.training import question_guesses, training_curve, training_curves

__all__ = [
    "ARCH_COLOURS",
    "COLOURS",
    "LAYOUT",
    "all_figures",
    "cells_of",
    "chinchilla_ratio",
    "cost_scaling",
    "efficiency_frontier",
    "flops_breakdown",
    "frame_scaling",
    "gap_along_axes",
    "gap_by_detail",
    "gap_vs_scale",
    "gaze_vs_loss",
    "iso_flop_curves",
    "iso_loss",
    "loss_vs_flops_fitted",
    "loss_vs_tokens",
    "model_size_scaling",
    "parameter_breakdown",
    "perplexity_vs_flops",
    "question_guesses",
    "run_strip",
    "save_figures",
    "show_gaze",
    "smolvlm_extrapolation",
    "token_efficiency",
    "train_inference_gap",
    "training_curve",
    "training_curves",
    "with_badge",
]
