"""Scaling: from result rows to claims with error bars.

`fits.py` scaling laws · `gaps.py` one architecture against another · `runs.py` the rows of any study, the earlier one
included. `fvlm/plots.py` draws them.

N parameters, D training samples or tokens, V visual tokens, C training FLOPs, L loss in nats per text token.
"""

from fvlm.results import Study, load_study
from fvlm.scaling.fits import Fit, fit_parametric, fit_points, fit_power_law, iso_flop_optima
from fvlm.scaling.gaps import (
    Estimate,
    Gap,
    GapScaling,
    all_gaps,
    flops_corrected_gap,
    gap_scaling,
    line_prediction,
    next_cells,
    paired_gap,
    pairs_of,
    parameter_corrected_gap,
)
from fvlm.scaling.runs import FLOPS, PARAMETERS, Results, earlier_study, gaze_scores, open_results, parameter_counts, runs_table

__all__ = [
    "FLOPS",
    "PARAMETERS",
    "Estimate",
    "Fit",
    "Gap",
    "GapScaling",
    "Results",
    "Study",
    "all_gaps",
    "earlier_study",
    "fit_parametric",
    "fit_points",
    "fit_power_law",
    "flops_corrected_gap",
    "gap_scaling",
    "gaze_scores",
    "iso_flop_optima", "line_prediction",
    "load_study",
    "next_cells",
    "open_results",
    "paired_gap",
    "pairs_of",
    "parameter_corrected_gap",
    "parameter_counts",
    "runs_table",
]  # fmt: skip
