"""The study of captions (`params/captions.yaml`): what fewer tokens cost along three axes, and beside what."""

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.findings.depth import depth_section
from fvlm.findings.detail import Detail, detail_of, detail_section
from fvlm.findings.named import named_section
from fvlm.findings.paired import by_seed_and_clip, difference, interval_text, more_or_less
from fvlm.findings.rates import tuned_rates
from fvlm.findings.sources import LEAST, has_seeds
from fvlm.findings.words import DATE, budget, corrected_verdict, p_value, seen_through, verdict_of
from fvlm.scaling import Results
from fvlm.scaling.contrasts import (
    AXES,
    Contrast,
    Parts,
    clips_needed,
    contrast,
    full_rate_until,
    gap_growth,
    gaps_by_clips,
    holm,
    reading_error,
    share_kept,
)
from fvlm.scaling.runs import MICRO
from fvlm.text import span, with_interval

STUDY, FRAMES = "captions", 8
PRIMARY, PRIMARY_SIZE = ("foveated", "baseline"), "T3-T"  # written down in LOG.md before the first run
SEEDS, SIZES = 3, 3  # fewer of either are no answer yet
GAZE = {"hit_any": "on an object", "coverage": "objects seen"}  # scores, and how they are called
COST = "**What one token a frame costs**"
ONE_TOKEN = (
    "meanpool",
    "static",
)  # the controls of as many tokens, whose queries do not move or are not there
BY_FLOPS = ("flops", "flops_without_vision")  # of AXES
NEEDED = "foveated clips over the baseline's for the worse one's loss, times"
NATS = "at equal clips, nats"
POINTS = "points per tenfold parameters"
GAP, CURVES = "figures/captions_gap.png", "figures/captions_curves.png"  # in outputs/, where the page is


def captions() -> Results | None:
    """The finished runs of the study; None before some size has LEAST seeds that see of both sides of the
    primary contrast."""
    study = sources.study(STUDY)
    return study if study is not None and has_seeds(seen(study), *PRIMARY) else None


def ready(study: Results | None) -> bool:
    """Whether there is enough of it to stand for the answer: SIZES sizes with SEEDS seeds of both sides."""
    if study is None or not has_seeds(part := seen(study), *PRIMARY):
        return False
    return int((contrast(part, *PRIMARY, seeds=LEAST).table["seeds"] >= SEEDS).sum()) >= SIZES


def captions_section(study: Results) -> str:
    """The study's section of FINDINGS.md."""
    part, unseeing = seeing(_of(study))
    compared = compared_with(part)
    lines = "\n".join(f"- {line}" for line in sentences(study))
    return f"""## What one token a frame costs, from scratch

{budget(part)} All losses are frame by frame, over {part.samples["clip_id"].nunique()} validation clips; intervals are Student's t over
seeds, with the clips' share by the delta method and no narrower than over the seeds alone (of growth and of the clips needed over the seeds
alone, as only the last evaluation's clips are kept). Sizes share no seed; what has one seed so far is compared with nothing. {_unseeing(unseeing)}
{_interim(part)}{_other_settings(part)}
{losses_table(part).to_markdown(index=False)}

{lines}

The foveated model's loss over the baseline's, in percent, along each axis:

{axes_table(part).to_markdown(index=False)}

![The gap at every size along each axis, with its intervals]({GAP})

Equal FLOPs, and the clips needed, are read before the learning rate is let down, on both learning curves, which between their
evaluations are straight in the logarithms of loss and axis; equal clips at the end. {_at_one_loss(part)}
{_on_the_way(part)}
What each trained, and what its training took:

{sides_table(part).to_markdown(index=False)}

What was chosen by trying which: the second fine pass on foveated runs, the read-out of what is attended to, and after which layer, on
foveated and static ones (LOG.md, 2026-11-25 and 27); of the baseline and mean-pool nothing but the learning rate was tried.{"".join(f" Of what is read: {told}." for told in other_depth(part))}

Architectures beside each other at equal clips, percent of the second one's loss. The primary contrast, written down before the
first run (LOG.md), is {PRIMARY[0]} beside {PRIMARY[1]} at {PRIMARY_SIZE}; all others of this table, trends with size among them
(points per tenfold parameters, seeds of the size with the fewest), are corrected for their number (*p*, by Holm): more than were
written down beforehand, as static, blind and mean-pool beside the baseline came in later. Below 0.05 a difference stands; what is said of the primary contrast along other
axes than equal clips follows each one's own interval.

{compared_table(compared).to_markdown(index=False)}
{_flops_table(part)}{_kept(part)}{_noise(compared)}{depth_section(part)}{_gaze()}{named_section(STUDY)}{_detail(part)}{tuned_rates(STUDY, part)}
Cells: `{STUDY}/`. Again: `fvlm grid params/{STUDY}.yaml --study mine`.
"""


def readme_table(study: Results) -> str:
    """The study in the README: its losses, the primary contrast along every axis, and how to run it again."""
    part, unseeing = seeing(_of(study))
    return f"""Losses in nats per text token, frame by frame, on captions of the built-in world (in brackets: seeds). {_unseeing(unseeing)}

{losses_table(part).to_markdown(index=False)}

The foveated model's loss over the baseline's, in percent with Student's 95 % intervals; below zero the foveated model is
better.

{axes_table(part).to_markdown(index=False)}

![The gap at every size along each axis, with its intervals](outputs/{GAP})

{budget(part)} `fvlm grid params/{STUDY}.yaml --study mine` runs all that is planned, those again.
"""


def seen(study: Results) -> Results:
    """The study's runs with FRAMES frames that see."""
    return seeing(_of(study))[0]


def contrasts_of(study: Results) -> list[Contrast]:
    """The primary contrast along every axis; at equal loss of several sizes alone, as the loss of a single one
    is only its baseline's own."""
    found = [contrast(study, *PRIMARY, axis=axis, seeds=LEAST) for axis in AXES]
    return [each for each in found if each.axis != "loss" or len(each.table) > 1]


def contrasts(study: Results) -> list[tuple[str, str]]:
    """Which architectures are compared: the primary contrast first, then everything with one token beside the
    means that cost as little, and more tokens beside one."""
    asked = [
        PRIMARY,
        ("foveated", "meanpool"),
        ("foveated", "static"),
        ("foveated", "blind"),
        ("meanpool", "baseline"),
        ("foveated4", "foveated"),
        ("foveated16", "foveated"),
        ("meanpool4", "meanpool"),
        ("meanpool16", "meanpool"),
        ("foveated4", "meanpool4"),
        ("foveated16", "meanpool16"),
        ("meanpool16", "baseline"),
    ]
    return [pair for pair in asked if has_seeds(study, *pair)]


def losses_table(study: Results) -> pd.DataFrame:
    """Mean losses in nats per text token, a row per size, a column per architecture."""
    runs = study.runs
    means = runs.pivot_table(index="pair", columns="arch", values="loss_autoregressive")
    sizes = runs[runs["arch"] == PRIMARY[0]].groupby("pair")["params_trainable"].mean().sort_values()
    rows = []
    for pair in [*sizes.index, *means.index.difference(sizes.index)]:
        counts = runs[runs["pair"] == pair].groupby("arch")["seed"].nunique()
        row = {"size": pair, "trained": f"{sizes[pair] / 1e6:.2f} M" if pair in sizes else ""}
        for arch in (arch for arch in ARCHITECTURES if arch in means):
            there = np.isfinite(means.loc[pair, arch])
            row[arch] = f"{means.loc[pair, arch]:.3f} ({counts[arch]})" if there else ""
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={"trained": f"trained parameters, {PRIMARY[0]}"})


def growth_table(study: Results) -> pd.DataFrame:
    """The foveated model's gap to each other architecture at equal clips, at each evaluation at the full rate:
    a row per size and evaluation, a column per architecture."""
    gaps, places = {}, {}
    for arch in ("baseline", "meanpool", "static"):
        if not has_seeds(study, "foveated", arch):
            continue
        for _, row in gaps_by_clips(study, "foveated", arch, seeds=LEAST).iterrows():
            gaps[row["pair"], row["clips"], arch] = _interval(row)
            places.setdefault(row["pair"], set()).add(row["clips"])
    sizes = study.runs[study.runs["arch"] == "foveated"].groupby("pair")["params_trainable"].mean()
    archs = list(dict.fromkeys(arch for *_, arch in gaps))
    return pd.DataFrame(
        {"size": pair, "after clips": f"{clips:,.0f}"}
        | {f"over {arch}": gaps.get((pair, clips, arch), "") for arch in archs}
        for pair in sizes.sort_values().index
        for clips in sorted(places.get(pair, ()))
    )


def _on_the_way(study: Results) -> str:
    """The gap while the learning rate is full; nothing of runs that were not evaluated then."""
    table = growth_table(study)
    if table.empty:
        return ""
    return f"""
The foveated model's loss over that of each other architecture at equal clips on the way, in percent, at the full rate:

{table.to_markdown(index=False)}

{_still_falling(study)}

![Learning curves, frame by frame, a line per run]({CURVES})
"""


def _still_falling(study: Results) -> str:
    """What the last clips at the full rate still gave, smallest and largest over sizes, per architecture."""
    told = []
    for arch in ARCHITECTURES:
        falls = []
        for _, runs in study.runs[study.runs["arch"] == arch].groupby("pair"):
            until = max(full_rate_until(config) for config in runs["config"])
            rows = study.evaluations[study.evaluations["run"].isin(runs["run"])]
            means = rows[rows["step"] <= until].groupby("step")["loss_autoregressive"].mean()
            if len(means) > 1:
                falls.append(100 * (1 - means.iloc[-1] / means.iloc[-2]))
        if falls:
            told.append(
                f"{arch} {span(min(falls), max(falls), 1, signed=False) if len(falls) > 1 else f'{falls[0]:.1f}'}"
            )
    return (
        "Between the last two evaluations at the full rate the loss still fell (below zero: rose) by, in percent, "
        f"{', '.join(told)}: what falls has not shown yet where it ends."
    )


def sides_table(study: Results) -> pd.DataFrame:
    """What a run trained and what that took, a row per size and architecture."""
    rows = []
    for (pair, arch), runs in study.runs.groupby(["pair", "arch"], sort=False):
        rows.append(
            {
                "size": pair,
                "architecture": arch,
                "trained parameters": f"{runs['params_trainable'].mean() / 1e6:.2f} M",
                "training FLOPs, 1e14": f"{runs['flops'].mean() / 1e14:.2g}",
                "without frozen vision": f"{runs['flops_without_vision'].mean() / 1e14:.2g}",
            }
        )
    order = list(ARCHITECTURES)
    return pd.DataFrame(sorted(rows, key=lambda row: (row["size"], order.index(row["architecture"]))))


def axes_table(study: Results) -> pd.DataFrame:
    """The primary contrast along every axis, a row per size and one for the trend."""
    along = {found.axis: found for found in contrasts_of(study)}
    rows = []
    needed = clips_needed(study, *PRIMARY, seeds=LEAST).set_index("pair")
    for row in along["clips"].table.itertuples():
        nats = with_interval(row.nats, row.nats_low, row.nats_high, 3)
        told = {"size": row.pair, "seeds": row.seeds, NATS: nats}
        for axis, found in along.items():
            mine = found.table[found.table["pair"] == row.pair]
            told[_heading(axis, found)] = _interval(mine.iloc[0]) if len(mine) else "no common point"
        told[NEEDED] = _times(needed.loc[row.pair]) if row.pair in needed.index else "no common point"
        rows.append(told)
    trends = {_heading(axis, found): _trend_cell(found) for axis, found in along.items()}
    nats = along["clips"].nats_trend
    trends[NATS] = "not identified" if nats is None else _trend(nats, 3)
    return pd.DataFrame([*rows, {"size": "per tenfold", "seeds": "", NEEDED: ""} | trends])


def run_again() -> pd.DataFrame:
    """The primary contrast along every axis as far as the published study has come; empty before it has."""
    study = captions()
    return axes_table(seen(study)) if study else pd.DataFrame()


def _corrected(compared: dict[tuple[str, str], Contrast]) -> pd.DataFrame:
    """A row per contrast and size, and one for each trend with size, with `primary`, and `adjusted`: the p value,
    which but for the primary one's is what is left after Holm's correction for all of them."""
    rows = []
    for (a, b), found in compared.items():
        rows += [dict(first=a, second=b, **row._asdict()) for row in found.table.itertuples(index=False)]
        if found.trend is not None:
            of, seeds = found.trend.estimate, found.trend.seeds
            told = dict(percent=of.value, low=of.low, high=of.high, p=of.p, seeds=seeds)
            rows.append(dict(first=a, second=b, pair="per tenfold") | told)
    table = pd.DataFrame(rows)
    primary = (table[["first", "second", "pair"]] == [*PRIMARY, PRIMARY_SIZE]).all(axis=1)
    adjusted = table["p"].to_numpy(copy=True)
    adjusted[~primary] = holm(table.loc[~primary, "p"])
    return table.assign(primary=primary, adjusted=adjusted)


def compared_table(compared: dict[tuple[str, str], Contrast]) -> pd.DataFrame:
    """Every contrast at every size, and its trend with size, with its p value as `_corrected` has it."""
    table = _corrected(compared)
    adjusted, primary = table["adjusted"], table["primary"]
    return pd.DataFrame(
        {
            "first": table["first"],
            "second": table["second"],
            "size": table["pair"],
            "seeds": table["seeds"],
            "percent": [_interval(row) for _, row in table.iterrows()],
            "p": [p_value(p) + ", primary" * alone for p, alone in zip(adjusted, primary)],
            "stands": ["yes" if p < 0.05 else "no" for p in adjusted],
        }
    )


def sentences(study: Results) -> list[str]:
    """What the study says, each sentence from its intervals."""
    return [cost_sentence(study), *(f"{told}." for told in controls(seen(study)))]


def controls(study: Results, archs=(*ONE_TOKEN, "blind"), at_flops: bool = False) -> list[str]:
    """The foveated model at equal clips beside each of these that is there, sentences without their full
    stops, in words that follow the p values of `compared_table`; then what of its FLOPs each spends or,
    `at_flops`, what is left of it at equal ones."""
    compared, by_flops = compared_with(study), _flops_words(study) if at_flops else {}
    table, told = _corrected(compared).set_index("pair"), []
    for arch in archs:
        if found := compared.get(("foveated", arch)):
            cost = (
                by_flops.get(arch, "") if at_flops else _share_spent(study, arch, list(found.table["pair"]))
            )
            mine = table[(table["first"] == "foveated") & (table["second"] == arch)]
            by_size = _by_size(found, mine["adjusted"])
            told.append(
                f"**Beside {ARCHITECTURES[arch].description}**, at equal clips, at the end: {by_size}{cost}"
            )
    return told


def at_equal_flops(study: Results) -> dict[tuple[str, str], tuple[Contrast, pd.Series]]:
    """The foveated model beside each of ONE_TOKEN at equal training FLOPs, with and without those of frozen vision,
    by control and axis: the contrast and by size its p values, after Holm's correction for all of these. Only
    where some size has a common point."""
    along = {
        (arch, axis): found
        for arch in ONE_TOKEN
        if has_seeds(study, PRIMARY[0], arch)
        for axis in BY_FLOPS
        if len((found := contrast(study, PRIMARY[0], arch, axis=axis, seeds=LEAST)).table)
    }
    adjusted = iter(holm([p for found in along.values() for p in found.table["p"]]))
    return {
        key: (found, pd.Series({pair: next(adjusted) for pair in found.table["pair"]}))
        for key, found in along.items()
    }


def _flops_words(study: Results) -> dict[str, str]:
    """Of each of ONE_TOKEN that is there: how the foveated model is beside it at equal training FLOPs, clauses."""
    told = {}
    for (arch, _), (found, adjusted) in at_equal_flops(study).items():
        none = f" (no common point at {', '.join(found.left_out)})" if found.left_out else ""
        told[arch] = f"{told.get(arch, '')}; {AXES[found.axis]} {_by_size(found, adjusted)}{none}"
    return told


def _flops_table(study: Results) -> str:
    """`at_equal_flops`, a row per control, axis and size; nothing without any."""
    rows = [
        {
            "beside": arch,
            "equal": AXES[axis].removeprefix("at equal "),
            "size": row["pair"],
            "percent": _interval(row),
            "p": p_value(adjusted[row["pair"]]),
            "so": corrected_verdict(row["low"], row["high"], adjusted[row["pair"]]),
            "clips, foveated and it": f"{row['clips_a']:,.0f} and {row['clips_b']:,.0f}",
        }
        for (arch, axis), (found, adjusted) in at_equal_flops(study).items()
        for _, row in found.table.iterrows()
    ]
    if not rows:
        return ""
    return f"""
Beside controls at equal training FLOPs, while the rate is full; a foveated run reads every clip more than once, and what each side had seen by then is in the last
column (*p* by Holm's correction for these rows; sizes without a common point have none):

{pd.DataFrame(rows).to_markdown(index=False)}
"""


def compared_with(study: Results) -> dict[tuple[str, str], Contrast]:
    """Each of `contrasts` of a study."""
    return {pair: contrast(study, *pair, seeds=LEAST) for pair in contrasts(study)}


def reads_final(study: Results) -> bool:
    """Whether the foveated runs of a study read patches after the last vision layer."""
    return all(config.read_final for config in study.runs.loc[study.runs["arch"] == PRIMARY[0], "config"])


def other_depth(study: Results) -> list[str]:
    """That a look reads patches a layer earlier than the other architectures, a clause; none where it does
    not."""
    if reads_final(study):
        return []
    return [
        "a look reads patches as they enter the last vision layer; the 16 tokens, and the mean of all patches, are made of what "
        "leaves it: how much of these differences is that layer's is open"
    ]


def _share_spent(study: Results, arch: str, pairs: list[str]) -> str:
    """What of the foveated model's training FLOPs a control spends, those of frozen vision left out; nothing where they
    are not known."""
    means = study.runs.pivot_table(index="pair", columns="arch", values="flops_without_vision").reindex(pairs)
    if not {"foveated", arch} <= set(means) or means[["foveated", arch]].isna().any(axis=None):
        return ""
    shares = (means[arch] / means["foveated"]).round(2)
    range_ = f"{shares.min():.2f}" if len(pairs) == 1 else span(shares.min(), shares.max(), signed=False)
    return f"; it spends {range_} times the foveated model's training FLOPs, those of the frozen vision encoder left out"


def cost_sentence(study: Results) -> str:
    """The primary contrast in words: each axis at the smallest and the largest size, and the trend."""
    part, unseeing = seeing(_of(study))
    told = "; ".join([*_costs(contrasts_of(part), part), *_with_unseeing(study, unseeing)])
    return (
        f"{COST}, in percent above the loss of a baseline that reads 16 (captions of the "
        f"built-in world, LLMs from scratch, {FRAMES} frames): {told}."
    )


def _with_unseeing(study: Results, names: list[str]) -> list[str]:
    """What leaving out the runs that do not see did to the primary contrast, a clause; none without any."""
    if not names:
        return []
    whole, sizes = contrast(_of(study), *PRIMARY, seeds=LEAST).table, {name.split("_")[0] for name in names}
    told = " and ".join(
        f"{_interval(row)} at {row['pair']}" for _, row in whole.iterrows() if row["pair"] in sizes
    )
    with_them = f"; with them, at equal clips, {told}" if told else ""
    return [f"left out, as they see nothing: {', '.join(names)}{with_them}"]


def _how_read(study: Results, along: list[Contrast]) -> list[str]:
    """How far it matters how curves are read between evaluations, a clause; none where nothing is."""
    moved = [
        (found.table["curved"] - found.table["percent"]).abs().max() for found in along if len(found.table)
    ]
    if not moved or max(moved) < 0.005:
        return []
    return [
        "how learning curves are read between their evaluations (straight in logarithms, or by a monotone cubic) moves "
        f"these by up to {max(moved):.2f} points, which is in no interval; of evaluations that are left out and read from their "
        f"neighbours they miss {reading_error(study, *PRIMARY, seeds=LEAST):.1f} % of the loss (root mean square)"
    ]


def _costs(along: list[Contrast], study: Results | None = None) -> list[str]:
    """A clause per axis, and one on the trend where there is none; of a study also where curves are read, how the
    gap went with training, and how much hangs on the reading."""
    told = []
    for found in along:
        if len(found.table):
            read = _read_after(found) if study else ""
            told.append(
                f"{_said(found.axis, found)} {_ends(found)}{_told_trend(found, found.trend, POINTS)}{read}"
            )
        if found.axis == "clips":
            told += [*_in_nats(found), *(_growth(study, found) if study else [])]
    if study:
        told += _how_read(study, along)
    return told if any(found.trend for found in along) else [*told, "a trend needs three sizes"]


def _in_nats(found: Contrast) -> list[str]:
    """The gap as a difference, as a percentage of a loss that falls with size can grow where that does not."""
    if not len(found.table):
        return []
    ends = " and ".join(
        f"{with_interval(row['nats'], row['nats_low'], row['nats_high'], 3)} at {row['pair']}"
        for row in _outermost(found)
    )
    return [f"in nats {ends}{_told_trend(found, found.nats_trend, 'per tenfold parameters', 3)}"]


def _read_after(found: Contrast) -> str:
    """After how many clips each side is read, where that is not at the end, for the smallest and the largest
    size."""
    if found.axis not in BY_FLOPS:
        return ""
    read = [
        f"after {row['clips_a']:,.0f} and {row['clips_b']:,.0f} clips at {row['pair']}"
        for row in _outermost(found)
    ]
    return f"; {PRIMARY[0]} and {PRIMARY[1]} are read {', '.join(read)}"


def _growth(study: Results, at_end: Contrast) -> list[str]:
    """How the gap to the baseline at equal clips went with training, for the smallest and the largest size.
    at_end: what it is at equal clips."""
    grown, rows = gap_growth(study, *PRIMARY, seeds=LEAST), gaps_by_clips(study, *PRIMARY, seeds=LEAST)
    ends, told = at_end.table.set_index("pair")["nats"], []
    for pair in dict.fromkeys([*list(grown)[:1], *list(grown)[-1:]]):
        found, mine = grown[pair], rows[rows["pair"] == pair]
        up, down = ("rises", "falls") if (mine["percent"] < 0).all() else ("grows", "shrinks")
        word = (
            f"{up} with training"
            if found.low > 0
            else f"{down} with training"
            if found.high < 0
            else f"neither {up} nor {down} with training as far as can be told"
        )
        first, last = (
            f"{row['percent']:+.2f} after {row['clips']:,.0f} clips ({row['nats']:+.3f} nats)"
            for _, row in mine.iloc[[0, -1]].iterrows()
        )
        points = with_interval(found.value, found.low, found.high)
        nats = ", ".join(f"{value:+.3f}" for value in mine["nats"])
        told.append(
            f"the gap at {pair} {word}, by {points} points: {first}, {last}, both at the full learning rate, in percent of a "
            f"loss that falls; in nats it is {nats} from one to the other, and {ends[pair]:+.3f} at the end"
        )
    return told


def answer(study: Results) -> str:
    """The study's answer, a line and a list, without the last full stop: with a summary in words once there is
    enough of it (`ready`), until then as an interim one. How curves are read, and how gaps went with training, is in
    FINDINGS.md alone."""
    part, unseeing = seeing(_of(study))
    config = part.runs["config"].iloc[0]
    along = [found for found in contrasts_of(part) if found.axis != "loss"]
    how = (
        f"captions of the built-in world, LLMs from scratch, {config.steps * config.effective_batch:,} clips of {FRAMES} "
        "frames; the foveated model's loss in percent above that of a baseline that reads 16 tokens a frame, 95 % intervals "
        "over seeds; equal FLOPs are read while the learning rate is full, equal clips at the end"
    )
    there = _progress(part)
    if not _whole(part):
        there += ", seeds and sizes are looked at as they come, so that this may turn"
    costs = _costs(along)
    head = (
        [f": {summary(along)}", f"run so far: {there}", "\n  - ".join([f"{how}:", *costs])]
        if ready(study)
        else [f", run again, interim: {there}; {how}:", *costs]
    )
    lines = [*_kept_words(part), *controls(part, ONE_TOKEN, at_flops=True)]
    lines += [*other_depth(part), *_with_unseeing(study, unseeing)]
    return COST + "\n- ".join([*head, *lines])


def summary(along: list[Contrast]) -> str:
    """The primary contrast in words: what it is after equal clips, then which way it goes with size along each
    axis; no full stop."""
    table, told = along[0].table, []
    words = [verdict_of(row.low, row.high) for row in table.itertuples()]
    for word in dict.fromkeys(words):
        rows = table[[each == word for each in words]]
        sizes, percent = ", ".join(rows["pair"]), rows["percent"].abs()
        digits = 0 if percent.min() >= 10 else 1
        range_ = span(percent.min(), percent.max(), digits, signed=False)
        range_ = range_ if len(rows) > 1 else f"{percent.min():.{digits}f}"
        how = {verdict_of(1, 2): f"{range_} % more loss", verdict_of(-2, -1): f"{range_} % less loss"}
        told.append(f"{how.get(word, word)} at {sizes}")
    trends = [
        f"{_way(found, trend) or 'shows no trend that can be told'} {where}"
        for found, trend, where in _trends(along)
    ]
    return (
        f"one in place of 16, after the same clips: {', '.join(told)}"
        + f"; with size the gap {'; '.join(trends)}" * bool(trends)
    )


def _trends(along: list[Contrast]) -> list[tuple[Contrast, Parts, str]]:
    """Each trend with its contrast and where it holds, that of equal clips in percent and in nats."""
    found = []
    for each in along:
        if each.trend is not None and each.nats_trend is not None:
            if each.axis == "clips":
                found += [
                    (each, each.trend, f"{AXES['clips']} in percent"),
                    (each, each.nats_trend, "in nats"),
                ]
            else:
                found.append((each, each.trend, AXES[each.axis]))
    return found


def _way(found: Contrast, trend: Parts) -> str:
    """Which way a trend goes as far as its interval tells; empty if it tells neither. A gap grows where it is
    above zero at every size; else it rises."""
    up, down = ("grows", "shrinks") if (found.table["percent"] > 0).all() else ("rises", "falls")
    low, high = trend.estimate.low, trend.estimate.high
    return up if low > 0 else down if high < 0 else ""


def _planned() -> Counter[str]:
    """Seeds of each size that the study's grid file has, of the primary contrast."""
    planned = sources.planned(STUDY, FRAMES)
    return Counter({pair: seeds for (pair, arch), seeds in planned.items() if arch == PRIMARY[0]})


def _progress(study: Results) -> str:
    """How much of what was planned is there, of the primary contrast."""
    planned = _planned()
    table = contrast(study, *PRIMARY, seeds=LEAST).table
    beside = study.runs[study.runs["arch"] == PRIMARY[1]].groupby("pair")["params_trainable"].mean() / 1e6
    sizes = ", ".join(
        f"{row.pair} ({row.params / 1e6:.2f} M trained parameters, {beside[row.pair]:.2f} M the {PRIMARY[1]}'s, "
        f"{row.seeds} of {planned[row.pair]} seeds)"
        for row in table.itertuples()
    )
    chosen = (
        ""
        if PRIMARY_SIZE in set(table["pair"])
        else f"; {PRIMARY_SIZE}, chosen beforehand for the main comparison, is still to come"
    )
    return f"{len(table)} of {len(planned)} sizes, {sizes}{chosen}"


def _interim(study: Results) -> str:
    """How far the study has come; nothing once every planned seed is there."""
    if _whole(study):
        return ""
    return f"""
So far: {_progress(study)}. Seeds are looked at as they come; a verdict before the last of them may turn.
"""


def _whole(study: Results) -> bool:
    """Whether every planned seed of the primary contrast is there."""
    there = contrast(study, *PRIMARY, seeds=LEAST).table.set_index("pair")["seeds"]
    return all(there.get(pair, 0) >= seeds for pair, seeds in _planned().items())


def _other_settings(study: Results) -> str:
    """What else differs from the runs before 2026-11-25 besides the input scale."""
    before = sources.study(MICRO)
    if before is None:
        return ""
    new, old = (
        {
            run.config.cell: dataclasses.replace(run.config, seed=0)
            for run in results.runs.itertuples()
            if run.arch == PRIMARY[0]
        }
        for results in (study, before)
    )
    cell = next((cell for cell in new if cell in old), None)
    if cell is None:
        return ""
    return f"""
Beside the runs of before {DATE} (`{MICRO}/`) more differs than the LLM's input scale, so that their figures can't be set beside
these: of `{cell}`, {", ".join(new[cell].changes_from(old[cell]))}.
"""


def _at_one_loss(study: Results) -> str:
    """What equal loss of the baseline is, where it is one of the axes."""
    if not any(each.axis == "loss" for each in contrasts_of(study)):
        return ""
    return (
        "Equal loss of the baseline is the highest that a size's baseline has at the end of the full rate: that size's gap is "
        "the one there, each other size's is read where its baseline has come as far."
    )


def _shares_kept(study: Results) -> dict[str, pd.DataFrame]:
    return {
        arch: share_kept(study, arch, seeds=LEAST)
        for arch in ("foveated", "meanpool", "static")
        if has_seeds(study, arch, "baseline", "blind")
    }


def _kept_words(study: Results) -> list[str]:
    """The shares that one token keeps, for the smallest and the largest size."""
    tables = {arch: table.set_index("pair") for arch, table in _shares_kept(study).items()}
    sizes = list(tables["foveated"].index) if "foveated" in tables else []
    told = []
    for pair in dict.fromkeys([*sizes[:1], *sizes[-1:]]):
        shares = ", ".join(
            f"{arch} {_interval(table.loc[pair], digits=1, signed=False)} %"
            for arch, table in tables.items()
            if pair in table.index
        )
        told.append(
            f"of what 16 tokens gain on a model that sees nothing, one token a frame keeps at {pair}, made by each of "
            f"these architectures: {shares}"
        )
    return told


def _kept(study: Results) -> str:
    tables = _shares_kept(study)
    sizes = list(dict.fromkeys(pair for table in tables.values() for pair in table["pair"]))
    if not sizes:
        return ""
    rows = [
        {"size": pair}
        | {
            arch: _interval(table.set_index("pair").loc[pair], digits=1, signed=False)
            for arch, table in tables.items()
            if pair in set(table["pair"])
        }
        for pair in sizes
    ]
    return f"""
Of what the baseline's 16 tokens gain on a model that sees nothing, the share that one token keeps, in percent:

{pd.DataFrame(rows).fillna("").to_markdown(index=False)}
"""


def _noise(compared: dict[tuple[str, str], Contrast]) -> str:
    table = compared[PRIMARY].table
    told = ", ".join(f"{row.pair} {100 * row.share_of_seeds:.0f}" for row in table.itertuples())
    return (
        f"\nWhere the uncertainty of {PRIMARY[0]} beside {PRIMARY[1]} comes from: seeds make up so many percent of its "
        f"variance, the draw of validation clips the rest: {told}.\n"
    )


def detail(study: Results) -> Detail | None:
    """The study by what is in a clip (`detail_of`), at the size of the primary contrast, or the largest that is
    there while that is not."""
    sizes = contrast(study, *PRIMARY, seeds=LEAST).table["pair"].tolist()
    return detail_of(study, PRIMARY_SIZE if PRIMARY_SIZE in sizes else sizes[-1])


def _detail(study: Results) -> str:
    found = detail(study)
    return detail_section(found) if found else ""


def _gaze() -> str:
    path = sources.OUTPUTS / STUDY / "gaze.parquet"
    if not path.exists():
        return ""
    rows = read_table(path)
    compared = "; ".join(gaze_compared(rows))
    beside = f"\nThe foveated model's less the static query's: {compared}.\n" if compared else ""
    return f"""
Where it looks while it reads a clip to describe it. *On an object*: the share of frames whose most attended patch is
inside the box of any object; *objects seen*: the share of a clip's objects that it was on in some frame. Beside each
the same with the boxes of another clip (*null*), and the difference with Student's interval over seeds.

{gaze_table(rows).to_markdown(index=False)}
{beside}{seen_through(sources.study(STUDY))}
Again: `fvlm gaze --run outputs/mine/T?-T_8f_{{fov,sta}}_seed? --clips 128 --out outputs/mine/gaze.parquet`.
"""


def gaze_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`fvlm gaze`'s rows of several runs: a row per size and architecture that has queries."""
    table = sources.with_names(rows[rows["asked"] == "caption"])
    lines = []
    for (pair, arch), mine in table.groupby(["pair", "arch"], observed=True):
        row = {"size": pair, "architecture": arch, "seeds": mine["seed"].nunique()}
        for score, words in GAZE.items():
            own, null = (by_seed_and_clip(mine, name) for name in (score, f"{score}_null"))
            row |= {
                words: f"{own.to_numpy().mean():.3f}",
                f"{words}, null": f"{null.to_numpy().mean():.3f}",
                f"{words}, difference": interval_text(difference(own, null)),
            }
        lines.append(row)
    return pd.DataFrame(lines)


def gaze_compared(rows: pd.DataFrame) -> list[str]:
    """`fvlm gaze`'s rows: the foveated model's gaze beside the static query's, a sentence without its full stop
    per size and score that seeds of both have, its word corrected for their number."""
    table = sources.with_names(rows[rows["asked"] == "caption"])
    compared = {}
    for pair, mine in table.groupby("pair", observed=True):
        for score, words in GAZE.items():
            sides = [by_seed_and_clip(mine[mine["arch"] == arch], score) for arch in ("foveated", "static")]
            seeds = sides[0].index.intersection(sides[1].index)
            if len(seeds) < LEAST:
                continue
            compared[f"{words} at {pair}"] = difference(*(side.loc[seeds] for side in sides))
    told = more_or_less(list(compared.values()))
    return [
        f"{where}: {interval_text(found)}, {word}" for (where, found), word in zip(compared.items(), told)
    ]


def seeing(study: Results) -> tuple[Results, list[str]]:
    """The runs that see, and the names of those that do not: whose loss is not under that of the blind run of
    their size and seed, where there is one."""
    runs = study.runs
    blind = runs[runs["arch"] == "blind"].set_index(["pair", "seed"])["loss_autoregressive"]
    own = pd.MultiIndex.from_frame(runs[["pair", "seed"]])
    limit = blind.reindex(own).to_numpy()
    unseeing = (runs["arch"] != "blind").to_numpy() & (runs["loss_autoregressive"].to_numpy() >= limit)
    names = list(runs.loc[unseeing, "run"])
    return Results(*(table[~table["run"].isin(names)] for table in study)), names


def _unseeing(names: list[str]) -> str:
    if not names:
        return "Every run is under the blind run of its seed, where there is one."
    return f"Left out, as their loss is not under that of the blind run of their seed: {', '.join(names)}."


def _times(row) -> str:
    if not np.isfinite(row["low"]):
        return f"{row['times']:.2f}"
    return with_interval(row["times"], row["low"], row["high"], signed=False)


def _of(study: Results) -> Results:
    """The study's runs with FRAMES frames."""
    return Results(*(table[table["frames"] == FRAMES] for table in study))


def _heading(axis: str, found: Contrast) -> str:
    return f"{_said(axis, found)}, %"


def _said(axis: str, found: Contrast) -> str:
    return AXES[axis] + (f", {found.level:.3f} nats" if axis == "loss" else "")


def _ends(found: Contrast) -> str:
    """The smallest and the largest size, in words that follow their intervals."""
    return ", and ".join(
        f"{_interval(row)} at {row['pair']}, where {verdict_of(row['low'], row['high'])}"
        for row in _outermost(found)
    )


def _outermost(found: Contrast) -> list[pd.Series]:
    """Its rows of the smallest and the largest size."""
    return [found.table.iloc[i] for i in sorted({0, len(found.table) - 1})]


def _by_size(found: Contrast, adjusted: pd.Series) -> str:
    """Each size, in a word that follows its p value, by size."""
    return "; ".join(
        f"{_interval(row)} % at {row['pair']}, "
        + corrected_verdict(row["low"], row["high"], adjusted[row["pair"]])
        for _, row in found.table.iterrows()
    )


def _told_trend(found: Contrast, trend: Parts | None, unit: str, digits: int = 2) -> str:
    """A trend of it in brackets, in a word that follows its interval; empty where there is none."""
    if trend is None:
        return ""
    way = _way(found, trend)
    word = f"it {way} with size" if way else "no trend with size can be told"
    return f" ({_trend(trend, digits)} {unit}: {word})"


def _trend_cell(found: Contrast) -> str:
    return "not identified" if found.trend is None else _trend(found.trend)


def _trend(parts: Parts, digits: int = 2) -> str:
    return with_interval(parts.estimate.value, parts.estimate.low, parts.estimate.high, digits)


def _interval(row, digits: int = 2, signed: bool = True) -> str:
    return with_interval(row["percent"], row["low"], row["high"], digits, signed)
