"""How much a caption asks to be seen, and what one token a frame costs there: the study of captions by what is in
its validation clips."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.findings.sources import LEAST, OUTPUTS
from fvlm.scaling import Results
from fvlm.scaling.contrasts import Parts, holm
from fvlm.scaling.detail import AXES, LEAST_CLIPS, details, gaps_by_detail
from fvlm.text import with_interval

BESIDE = ("baseline", "meanpool", "static")  # the foveated model is compared with
FIGURE = "figures/captions_detail.png"  # in outputs/, where the page is


@dataclass(frozen=True)
class Detail:
    """The gaps of one size by what is in a clip: a table of `gaps_by_detail` per architecture of BESIDE that is
    there, with `adjusted`, p values corrected by Holm for all parts beside all of them; and how each gap
    changes along each axis, with p values corrected for all of these."""

    pair: str
    gaps: dict[str, pd.DataFrame]
    slopes: dict[tuple[str, str], Parts]
    adjusted: dict[tuple[str, str], float]


def detail_of(study: Results, pair: str) -> Detail | None:
    """A study's size by what is in a clip. None where its clips are not of the built-in world, or no
    architecture of BESIDE has LEAST seeds that the foveated model has too."""
    runs = study.runs[study.runs["pair"] == pair]
    if not len(runs):
        return None
    mine = study.samples[study.samples["run"].isin(runs["run"])]
    detail = details(runs["config"].iloc[0], list(mine["clip_id"].unique()))
    if detail is None:
        return None
    seeds = {arch: set(found["seed"]) for arch, found in runs.groupby("arch")}
    own, gaps, slopes = seeds.get("foveated", set()), {}, {}
    for arch in BESIDE:
        if len(own & seeds.get(arch, set())) >= LEAST:
            gaps[arch], found = gaps_by_detail(study, detail, pair, "foveated", arch)
            slopes |= {(axis, arch): parts for axis, parts in found.items()}
    adjusted = dict(zip(slopes, holm([parts.estimate.p for parts in slopes.values()])))
    parts = holm([p for table in gaps.values() for p in table["p"]])
    ends = np.cumsum([len(table) for table in gaps.values()])
    gaps = {
        arch: table.assign(adjusted=mine)
        for (arch, table), mine in zip(gaps.items(), np.split(parts, ends[:-1]))
    }
    return Detail(pair, gaps, slopes, adjusted) if gaps else None


def detail_section(found: Detail) -> str:
    """Where it costs most: a table, what it says, and the figure's place."""
    seeds = min(int(table["seeds"].min()) for table in found.gaps.values())
    lines = "\n".join(f"- {line}" for line in detail_sentences(found))
    there = (OUTPUTS / FIGURE).exists()
    picture = f"\n![The gap by what is in a clip]({FIGURE})\n" if there else ""
    return f"""
### How much the caption asks to be seen

The same runs ({found.pair}, {seeds} seeds), their validation clips parted by what is in them: the foveated model's loss less each
other one's, in nats per text token frame by frame, with Student's 95 % intervals; below zero the foveated model is better.
Words are said after Holm's correction for all parts, intervals are each one's own. No run was trained for a part, and what is in a clip changes its caption's length too. Parts of fewer than {LEAST_CLIPS} clips are
left out.
{picture}
{detail_table(found).to_markdown(index=False)}

{lines}
"""


def detail_table(found: Detail) -> pd.DataFrame:
    """A row per axis and count, a column per architecture that the foveated model is beside."""
    first = next(iter(found.gaps.values()))
    rows = []
    for row in first.itertuples():
        told = {"what": AXES[row.axis], "how many": row.value, "clips": row.clips}
        for arch, table in found.gaps.items():
            (mine,) = table[(table["axis"] == row.axis) & (table["value"] == row.value)].itertuples()
            told[f"less {arch}"] = with_interval(mine.nats, mine.low, mine.high, 3)
        rows.append(told)
    return pd.DataFrame(rows)


def detail_sentences(found: Detail) -> list[str]:
    """Where the foveated model breaks even with each other one, and whether more of an axis changes that."""
    return [
        f"**Beside {ARCHITECTURES[arch].description}**: {_break_even(table)}. {_changes(found, arch)}."
        for arch, table in found.gaps.items()
    ]


def _break_even(table: pd.DataFrame) -> str:
    """In which parts it is better, worse, or neither, after Holm's correction."""
    stands = table["adjusted"] < 0.05
    better, worse = table[stands & (table["nats"] < 0)], table[stands & (table["nats"] > 0)]
    if len(better) == len(table):
        return "it is better in every part"
    if len(worse) == len(table):
        return "it breaks even in no part: it is worse in every one"
    neither = table[~stands]
    told = [
        f"{word} {_parts(rows)}"
        for word, rows in (
            ("is better with", better),
            ("breaks even (no difference can be told) with", neither),
            ("is worse with", worse),
        )
        if len(rows)
    ]
    return f"it {'; '.join(told)}"


def _parts(rows: pd.DataFrame) -> str:
    return ", ".join(
        f"{' or '.join(str(value) for value in mine['value'])} {AXES[axis]}"
        for axis, mine in rows.groupby("axis", sort=False)
    )


def _changes(found: Detail, arch: str) -> str:
    """How the gap changes with each one more of an axis: those that stand after Holm's correction, and the
    others by name."""
    stands, others = [], []
    for axis in AXES:
        if (parts := found.slopes.get((axis, arch))) is None:
            continue
        estimate = parts.estimate
        if found.adjusted[axis, arch] < 0.05:
            value = with_interval(estimate.value, estimate.low, estimate.high, 3)
            stands.append(f"{value} nats ({AXES[axis]})")
        else:
            others.append(AXES[axis])
    told = f"Each one more changes the difference by {', '.join(stands)}" if stands else ""
    none = f"no change can be told with more {', '.join(others)}" if others else ""
    return "; ".join(filter(None, [told, none if told else none.capitalize()])) or "No axis has two parts"
