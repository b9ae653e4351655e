"""Where a look reads patches, before the last vision layer or after: runs of the same seeds beside each other."""

import pandas as pd

from fvlm.findings import sources
from fvlm.findings.sources import LEAST
from fvlm.findings.words import corrected_verdict, p_value
from fvlm.scaling import Results
from fvlm.scaling.contrasts import Contrast, contrast, holm, percent
from fvlm.text import with_interval

STUDY = "captions"  # the study, whose looks are made of what leaves the last layer
BEFORE = "captions_before"  # runs of the same seeds, whose looks were made of what enters it
EARLIER = "before the last layer, "  # in front of the name of such an architecture
PAIRS = (
    ("foveated", f"{EARLIER}foveated"),
    ("static", f"{EARLIER}static"),
    (f"{EARLIER}foveated", "baseline"),
    (f"{EARLIER}foveated", "meanpool"),
    (f"{EARLIER}foveated", f"{EARLIER}static"),
)  # what is gained by reading later, then what was to be said of those that read before
MEAN = "mean of them"


def depth_section(study: Results) -> str:
    """A part of the study's section; empty where no size has LEAST seeds of both."""
    table = depth_table(study)
    if table.empty:
        return ""
    shown = pd.DataFrame(
        {
            "architecture": table["arch"],
            "beside": table["beside"],
            "size": table["pair"],
            "seeds": table["seeds"],
            "its loss": [f"{loss:.3f}" for loss in table["loss_a"]],
            "the other's": [f"{loss:.3f}" for loss in table["loss_b"]],
            "difference, %": [with_interval(*row) for row in table[["percent", "low", "high"]].to_numpy()],
            "p": table["adjusted"].map(p_value),
            "so": [corrected_verdict(*row) for row in table[["low", "high", "adjusted"]].to_numpy()],
        }
    )
    return f"""
A look of this study is made of what leaves the last vision layer (`read_final`), as the 16 tokens and the mean patch are. Until 2026-11-27 it was made of
what enters that layer; those runs, of the same seeds, settings and clips, are in `{BEFORE}/`. They were trained on another CPU, as most runs of the other
architectures were (what was trained on both: LOG.md, 2026-11-27). Learning rates and the number of fine passes are what suited them. Losses in nats at equal
clips, at the end, *p* by Holm's correction for the rows, intervals each one's own.

{shown.to_markdown(index=False, disable_numparse=True)}

Again: `fvlm grid params/{STUDY}.yaml --study before --only '*_fov_*' --set read_final=false`, and with `'*_sta_*'`.
"""


def depth_table(study: Results) -> pd.DataFrame:
    """The study's runs and those of BEFORE at equal clips, at the end: a row per pair of architectures and size
    that has LEAST seeds of both, and one for the mean over sizes, as of `Contrast`, with `arch` and `beside`,
    and `adjusted`, the p value after Holm's correction for all rows. Empty without such runs, and for another
    study than theirs."""
    before = sources.study(BEFORE)
    if before is None or set(study.runs["study"]) != {STUDY}:
        return pd.DataFrame()
    both, rows = _with_earlier(study, before), []
    for arch, beside in PAIRS:
        if sources.has_seeds(both, arch, beside):
            found = contrast(both, arch, beside, seeds=LEAST)
            of = [table for table in (found.table, _over_sizes(found)) if len(table)]
            rows += [table.assign(arch=arch, beside=beside) for table in of]
    if not rows:
        return pd.DataFrame()
    table = pd.concat(rows, ignore_index=True)
    return table.assign(adjusted=holm(table["p"]))


def _over_sizes(found: Contrast) -> pd.DataFrame:
    """A row with the mean over the sizes of a contrast, as one of its table's; none of a single size."""
    if len(found.table) < 2 or found.levels is None:
        return pd.DataFrame()
    parts = found.levels.estimate(lambda means: float(percent(means).mean()))
    of, losses = parts.estimate, found.table[["loss_a", "loss_b"]].mean()
    row = dict(pair=MEAN, percent=of.value, low=of.low, high=of.high, p=of.p, seeds=parts.seeds)
    return pd.DataFrame([row | losses.to_dict()])


def _with_earlier(study: Results, before: Results) -> Results:
    """Both studies' runs as one's, those that read before the last layer as architectures of their own."""
    tables = []
    for now, earlier in zip(study, before):
        named = earlier.assign(arch=EARLIER + earlier["arch"], run=f"{BEFORE}/" + earlier["run"])
        named["study"] = now["study"].iloc[0]
        tables.append(pd.concat([now, named], ignore_index=True))
    return Results(*tables)
