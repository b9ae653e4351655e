"""Scaling: from result rows to claims with error bars.

`fits.py` scaling laws · `gaps.py` one architecture against another · `contrasts.py` along three axes ·
`detail.py` by what is in a clip · `intervals.py` intervals of few runs ·
`runs.py` the rows of any study, nanoSmol included · `tables.py` what notebooks show of them · `mix.py` laws
of mixtures of data · `mixtures.py` runs of mixtures, predictions · `mix_tables.py` what mix.ipynb shows.
`fvlm/plots/` draws them.

N parameters, D training samples or tokens, V visual tokens, C training FLOPs, L loss in nats per text token.
"""

from fvlm.costs.plan import parameter_counts
from fvlm.scaling.fits import Fit, fit_parametric, fit_points, fit_power_law, iso_flop_optima
from fvlm.scaling.gaps import (
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
from fvlm.scaling.intervals import Estimate
from fvlm.scaling.runs import (
    FLOPS,
    PARAMETERS,
    Results,
    nanosmol,
    open_results,
    read_gaze_scores,
    runs_table,
)
from fvlm.training.results import Study, load_study

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
    "fit_parametric",
    "fit_points",
    "fit_power_law",
    "flops_corrected_gap",
    "gap_scaling",
    "iso_flop_optima",
    "line_prediction",
    "load_study",
    "nanosmol",
    "next_cells",
    "open_results",
    "paired_gap",
    "pairs_of",
    "parameter_corrected_gap",
    "parameter_counts",
    "read_gaze_scores",
    "runs_table",
]
