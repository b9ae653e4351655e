"""The study of data mixes (`params/mix/`): what its laws predicted, what came, and what that says."""

import pandas as pd

from fvlm.findings.words import verdict_of
from fvlm.scaling.mix_tables import ONE_TOKEN, SIXTEEN, evaluation, failures_table, tried_table
from fvlm.scaling.mixtures import outcomes
from fvlm.text import span, with_interval


def mix_section(prediction: dict | None = None, came: pd.DataFrame | None = None) -> str:
    """The section of FINDINGS.md, of the published evaluation where none is given; "" before any of its runs is
    there."""
    if came is None:
        prediction, came = evaluation()
    if prediction is None or came.empty:
        return ""
    found = outcomes(prediction, came)
    together = found[found["domain"] == "all"]
    rows = [
        {
            "trained on": row.mixture,
            "architecture": row.arch,
            "predicted": f"{row.predicted:.3f} ({span(row.low, row.high, 3, signed=False)})",
            "came": f"{row.came:.3f} ({span(row.came_low, row.came_high, 3, signed=False)})",
            "seeds": row.seeds,
            "off, %": f"{row.error_percent:+.1f}",
            "inside": "yes" if row.inside else "no",
        }
        for row in together.itertuples()
    ]
    domains = failures_table(found[found["domain"] != "all"])
    inside = [
        {
            "architecture": row.arch,
            "domain": row.domain,
            "inside": f"{row.inside} of {row.of}",
            "off at most, %": f"{row.largest_error_percent:.1f}",
        }
        for row in domains.itertuples()
    ]
    tried = tried_table(prediction, came)
    beside = [
        {
            "trained on": row.mixture,
            "architecture": row.arch,
            "percent": with_interval(row.percent, row.low, row.high),
            "": verdict_of(row.low, row.high),
        }
        for row in (tried.itertuples() if "percent" in tried else ())
    ]
    return f"""## Which data, in which proportions

Mixing laws were fitted to {prediction["runs"]} runs on {prediction["samples"]:,.0f} samples each, of four built-in domains (video, stills, several
stills compared, text alone), with foveated models and baselines. On {prediction["date"]} they predicted the mixtures below, before these
were run, with other seeds. Losses in nats per text token, the mean of the domains; intervals hold 95 %: of a prediction for the mean of
{prediction["seeds"]} seeds, of what came by Student's t over seeds. Two sources of noise are in no interval: what one seed does to all of its
runs (those that the laws were fitted to share one seed), and which validation clips were drawn.

{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}

{_held(found)} By domain:

{pd.DataFrame(inside).to_markdown(index=False, disable_numparse=True)}

Beside training on SmolVLM's proportions, in percent of that loss, paired by seed, each by itself (not corrected for their number):

{pd.DataFrame(beside).to_markdown(index=False)}

{_wanted(prediction)}
Rows: `mix/runs.parquet`, `mix_evaluation/`. Again: `fvlm mix params/mix/design.yaml`; `notebooks/mix.ipynb` has the laws.
"""


def _held(found: pd.DataFrame) -> str:
    """How far the laws held, in words that follow the counts."""
    single = found[found["domain"] != "all"]
    share = single["inside"].mean()
    word = "the laws held" if share >= 0.9 else "the laws held in part" if share >= 0.7 else "the laws failed"
    return f"Of {len(single)} predictions of a domain's loss {single['inside'].sum()} came inside their interval: {word}."


def _wanted(prediction: dict) -> str:
    """The mixture that each architecture's laws hold for the best, with its intervals."""
    told = []
    for arch in (ONE_TOKEN, SIXTEEN):
        if best := prediction["optima"].get(arch):
            domains = [name for name in prediction["mixtures"][f"optimum of {arch}"]]
            weights = ", ".join(
                f"{domain} {100 * best[domain]:.0f} ({100 * low:.0f} to {100 * high:.0f})"
                for domain, low, high in zip(domains, best["low"], best["high"])
            )
            told.append(
                f"{arch} {weights}; within one percent of its loss are {100 * best['flat']:.0f} % of all mixtures"
            )
    return f"What the laws hold for best, in percent of the samples: {'. '.join(told)}.\n"
