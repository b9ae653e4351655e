"""Learning rates: what sweeps tried, what they found, and what they leave open."""

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.config import REPOSITORY
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.scaling import Results
from fvlm.studies.grid import read_grid
from fvlm.studies.tune import best_rates, mean_losses, own_rates


def tuned_rates(name: str, study: Results) -> str:
    """The sweep of a study of that name, whose every size and architecture has a rate of its own; nothing
    before it ran."""
    path = sources.rates_path(name)
    if not path.exists():
        return ""
    rows = read_table(path)
    return f"""
Rates were tuned for each size and architecture of this table, on one held-out seed and the study's own validation clips: losses in nats after as many steps as the
study has{swept_shorter(study, rows)} (all frames at once), the best one of a row in bold. {rates_at_the_edge(rows)}{_unswept(study, rows)}{several_precisions(rows)}{swept_before(study, rows)}

{rates_table(rows).to_markdown(index=False)}
"""


def rates_at_the_edge(table: pd.DataFrame) -> str:
    """Of `fvlm tune`'s longest runs: whose best rate is the lowest or the highest that was tried, a sentence."""
    table, told = _longest(table), []
    for (pair, arch), losses in table.groupby(["pair", "arch"], sort=False):
        means = losses.groupby("rate")["loss"].mean()
        best = means.idxmin()
        if best in (means.index.min(), means.index.max()):
            end = "only one" if len(means) == 1 else "lowest" if best == means.index.min() else "highest"
            told.append(f"{arch} at {pair} ({best:g}, the {end} of {len(means)})")
    if not told:
        return "No best rate is at the edge of what was tried."
    return f"At the edge of what was tried, so that a rate beyond may be better: {', '.join(told)}."


def several_precisions(table: pd.DataFrame) -> str:
    """Of `fvlm tune`'s longest runs: whose rates were not all tried in one precision, as far as is known; a
    sentence or nothing."""
    if "precision" not in table:
        return ""
    told = []
    for (pair, arch), mine in (
        _longest(table).dropna(subset="precision").groupby(["pair", "arch"], sort=False)
    ):
        if mine["precision"].nunique() > 1:
            rates = "; ".join(
                f"{', '.join(f'{rate:g}' for rate in sorted(each['rate']))} in {precision}"
                for precision, each in mine.groupby("precision")
            )
            told.append(f"{arch} at {pair} ({rates})")
    return f" Not all in one precision: {', '.join(told)}." if told else ""


def _longest(table: pd.DataFrame) -> pd.DataFrame:
    """`fvlm tune`'s rows of the longest runs of each size and architecture."""
    return table[table["steps"] == table.groupby(["pair", "arch"])["steps"].transform("max")]


def swept_shorter(study: Results, table: pd.DataFrame) -> str:
    """Of `fvlm tune`'s longest runs: whose are shorter than the study's, a clause or nothing."""
    whole = max(config.steps for config in study.runs["config"])
    steps = _longest(table).groupby(["pair", "arch"], sort=False)["steps"].first()
    told = [f"{arch} at {pair} after {count:,}" for (pair, arch), count in steps.items() if count < whole]
    return f", {whole:,}, but of {', '.join(told)}" if told else ""


def _unswept(study: Results, table: pd.DataFrame) -> str:
    """Which of the study's architectures no sweep has seen at their size; a sentence or nothing."""
    swept = set(map(tuple, table[["pair", "arch"]].to_numpy()))
    there = dict.fromkeys(map(tuple, study.runs[["pair", "arch"]].to_numpy()))
    left = [f"{arch} at {pair}" for pair, arch in there if (pair, arch) not in swept]
    return f" Not swept, at the rate of others: {', '.join(left)}." if left else ""


def swept_before(study: Results, table: pd.DataFrame) -> str:
    """Of `fvlm tune`'s longest runs: which of a study's looks are read after the last vision layer, and were
    read before it when their rates were tried; a sentence or nothing."""
    later = study.runs[[config.read_final for config in study.runs["config"]]]
    swept = _longest(table)
    if "read_final" in swept:
        swept = swept[swept["read_final"] != True]  # noqa: E712, rows of before the choice have none
    earlier = set(map(tuple, swept[["pair", "arch"]].to_numpy()))
    told = [
        f"{arch} at {pair}"
        for pair, arch in dict.fromkeys(map(tuple, later[["pair", "arch"]].to_numpy()))
        if (pair, arch) in earlier and ARCHITECTURES[arch].has_queries
    ]
    return (
        f" Tried with looks that were read before the last vision layer: {', '.join(told)}." if told else ""
    )


def rates_table(table: pd.DataFrame) -> pd.DataFrame:
    """`fvlm tune`'s rows of the longest runs: a row per size and architecture, a column per rate."""
    table = _longest(table)
    losses = table.pivot_table(index=["pair", "arch"], columns="rate", values="loss")
    order = [arch for arch in ARCHITECTURES if arch in losses.index.get_level_values("arch")]
    losses = losses.reindex(order, level="arch")
    rows = []
    for (pair, arch), found in losses.sort_index(level="pair", sort_remaining=False).iterrows():
        told = {
            f"{rate:g}": f"**{loss:.3f}**" if loss == found.min() else f"{loss:.3f}"
            for rate, loss in found.items()
            if np.isfinite(loss)
        }
        rows.append(dict(size=pair, architecture=arch) | told)
    columns = ["size", "architecture", *(f"{rate:g}" for rate in losses.columns)]
    return pd.DataFrame(rows, columns=columns).fillna("")


def rates_section(study: str, table: pd.DataFrame) -> str:
    """study: the name of its grid file; table: `fvlm tune`'s rows."""
    config = read_grid(REPOSITORY / "params" / f"{study}.yaml").cells[0].config
    losses = mean_losses(table).unstack().sort_index(axis=1)
    few, all_ = losses.index.levels[0].min(), losses.index.levels[0].max()
    short, full = losses.loc[few], losses.loc[all_]
    lines = []
    for pair in short.index.intersection(full.index):
        both = pd.DataFrame({few: short.loc[pair], all_: full.loc[pair]}).dropna()
        early, late = (both[steps].idxmin() if len(both) else None for steps in (few, all_))
        if early != late:
            less, more = (both[steps][late] - both[steps][early] for steps in (few, all_))
            change = (
                f"{late:g} beside {early:g}: {less:+.3f} nats after {few} steps, {more:+.3f} after {all_}"
            )
            lines.append(f"- **A short sweep misleads** at {pair}, {change}.")
    edges = best_rates(table).query("edge")["pair"].tolist()
    lines.append(
        "- At the edge of what was tried at full length, so that a rate beyond may be better: "
        f"{', '.join(edges) or 'no size'}."
    )
    others = own_rates(table).query("cost > 0").sort_values("arch", ascending=False)
    alone = ", ".join(
        f"{row.arch} {row.cost:.3f} nats at {row.pair} ({row.rate:g})" for row in others.itertuples()
    )
    costs = f"{alone}; nothing elsewhere" if alone else "nothing"
    lines.append(f"- Of the rates tried, what one for both costs beside an architecture's own best: {costs}.")
    rows = losses.map("{:.4f}".format).where(losses.notna(), "").rename(columns="{:g}".format)
    tried = f" --rates {','.join(f'{rate:g}' for rate in losses.columns)}`"
    first = " --share 0.4`, then without `--share` for the rates that are left" if few < all_ else tried
    return f"""## The learning rate of each size, on {config.task}s

Parallel loss, the mean of foveated and baseline, at the last step, {config.frames} frames, seed {table["seed"].iloc[0]}, which
no study uses: one seed, no interval. The longest runs decide.

{rows.reset_index().to_markdown(index=False, disable_numparse=True)}

{chr(10).join(lines)}

Again: `fvlm tune params/{study}.yaml{first}.
"""
