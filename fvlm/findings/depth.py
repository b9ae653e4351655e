"""Where a look reads patches, before the last vision layer or after: runs of the same seeds beside each other."""

import pandas as pd

from fvlm.findings import sources
from fvlm.findings.sources import LEAST
from fvlm.findings.words import corrected_verdict, p_value
from fvlm.scaling import Results
from fvlm.scaling.contrasts import Contrast, contrast, holm, percent
from fvlm.text import with_interval

BEFORE = "captions"  # the study that they belong to
AFTER = "captions_final"  # the study of the runs that read what leaves the last layer
FINAL = "after the last layer, "  # before the name of such an architecture
PAIRS = (
    ("foveated", "foveated"),
    ("static", "static"),
    ("foveated", "meanpool"),
    ("foveated", f"{FINAL}static"),
    ("foveated", "baseline"),
)  # one that reads after the last layer, and what it is compared with
MEAN = "mean of them"


def depth_section(study: Results) -> str:
    """A part of the study's section; empty where no size has LEAST seeds of both."""
    table = depth_table(study)
    if table.empty:
        return ""
    shown = pd.DataFrame(
        {
            "reads after it": table["arch"],
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
Runs of the same seeds, settings and clips whose looks are made of what leaves the last vision layer (`{AFTER}/`, `read_final`), where those above are made of
what enters it; rates and the number of fine passes are what suited the latter. Losses in nats at equal clips, at the end, *p* by Holm's correction for the rows,
intervals each one's own. Once they have all seeds they take the place of those above; until then every other number of this page is of looks that read before it.

{shown.to_markdown(index=False, disable_numparse=True)}

Again: `fvlm grid params/captions.yaml --study final --only '*_fov_*' --set read_final=true`, and with `'*_sta_*'`.
"""


def depth_line(study: Results) -> str:
    """For the README: what reading after the last layer changes, a clause; empty where there are no runs."""
    table = depth_table(study)
    rows = table[(table["arch"] == "foveated") & (table["beside"] == "foveated")] if len(table) else table
    if rows.empty:
        return ""
    row, sizes = rows.iloc[-1], rows.loc[rows["pair"] != MEAN, "pair"]
    where = (
        f"the mean over {', '.join(sizes)}, {row['seeds']} seeds each or more"
        if len(sizes) > 1
        else f"{sizes.iloc[0]}, {row['seeds']} seeds"
    )
    word = corrected_verdict(row["low"], row["high"], row["adjusted"])
    change = with_interval(row["percent"], row["low"], row["high"])
    return (
        f"where a look is made of that too, the foveated model's loss changes by {change} % ({where}), {word} (corrected "
        "for all that is compared so): such runs are to take the place of these"
    )


def depth_table(study: Results) -> pd.DataFrame:
    """The runs of AFTER at equal clips, at the end: a row per pair of architectures and size that has LEAST
    seeds of both, and one for the mean over sizes, as of `Contrast`, with `arch` and `beside`, and `adjusted`,
    the p value after Holm's correction for all rows. Empty without such runs, and for
    another study than theirs."""
    final = sources.study(AFTER)
    if final is None or set(study.runs["study"]) != {BEFORE}:
        return pd.DataFrame()
    both, rows = _with_final(study, final), []
    for arch, beside in PAIRS:
        if sources.has_seeds(both, FINAL + arch, beside):
            found = contrast(both, FINAL + arch, beside, seeds=LEAST)
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


def _with_final(study: Results, final: Results) -> Results:
    """Both studies' runs as one's, those that read after the last layer as architectures of their own."""
    tables = []
    for before, after in zip(study, final):
        named = after.assign(arch=FINAL + after["arch"], run=f"{AFTER}/" + after["run"])
        named["study"] = before["study"].iloc[0]
        tables.append(pd.concat([before, named], ignore_index=True))
    return Results(*tables)
