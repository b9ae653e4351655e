"""What the captions of runs name right, attribute by attribute: which part of a clip fewer tokens cost."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fvlm.data.captions import ATTRIBUTES, attributes_named, things_named
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.findings.paired import by_seed_and_clip, difference, interval_text, more_or_less
from fvlm.findings.sources import LEAST
from fvlm.scaling.intervals import Estimate

COLUMNS = {  # of a caption, and how tables call them
    "colour": "colour",
    "shape": "shape",
    "size": "size of objects",
    "motion": "motion",
    "number": "the number of objects, of clips",
}
STILL, MARK = "still", re.compile(r"\bmarked (\w)\b")  # in captions
BESIDE = ("baseline", "meanpool")  # that the foveated model's captions are compared with
GUESS = "the commonest, always"


def named_section(study: str) -> str:
    """What captions of a study name right, from `measured/texts.parquet` in its folder; empty without it."""
    rows = _of_study(study)
    if rows is None:
        return ""
    lines = "\n".join(f"- {line}" for line in named_sentences(rows))
    return f"""
What they write, frame by frame and the likeliest token each time, of the first {rows["clip_id"].nunique()} validation clips: of the
objects that are there the share whose attribute a caption names right, in percent, mean over clips, named objects paired with
true ones, one to one, so that as many attributes as possible agree, of such pairings as many colours, then shapes, then sizes; and the
share of clips of which it names as many objects as there are. Brackets: the lowest and highest seed. The last row is what is right if
every object is said to have the commonest colour, shape, size and motion, and every clip the commonest number.

{named_table(rows).to_markdown(index=False, disable_numparse=True)}

{lines}

"More" and "less" are said after Holm's correction for all of these; intervals are each one's own.

{_never_said(rows)}
Again: `fvlm evaluate --run outputs/mine/T?-T_8f_???_seed? --clips {rows["clip_id"].nunique()} --out outputs/mine/measured`.
"""


def named_line(study: str) -> str:
    """For the README: what captions of the largest size with LEAST seeds of both sides name right, the
    foveated model's and the baseline's; empty where there is none."""
    rows = _of_study(study)
    found = [each for each in _worded(rows) if each[0] == BESIDE[0]] if rows is not None else []
    if rows is None or not found:
        return ""
    _, pair, compared = found[-1]
    sides, parts = _of_both(rows[rows["pair"] == pair], BESIDE[0]), []
    right = guess(rows.drop_duplicates("clip_id")["truth"].tolist())
    for name, of in COLUMNS.items():
        ours, theirs = (100 * side[name].mean() for side in sides)
        difference, word = compared[name]
        parts.append(
            f"{of} {ours:.0f} and {theirs:.0f}, {interval_text(difference, 1)}, {word} ({GUESS}: {100 * right[name]:.0f})"
        )
    return (
        f"**What their captions name right** at {pair}, the likeliest token each time, of the objects in a clip in percent, "
        f"mean over {rows['clip_id'].nunique()} clips, foveated and {BESIDE[0]}, and the difference in points, its word "
        f"corrected for their number: {'; '.join(parts)}"
    )


def _of_study(study: str) -> pd.DataFrame | None:
    """`named` rows of the captions that are kept of a study; None where none are."""
    path = sources.OUTPUTS / study / "measured" / "texts.parquet"
    return named(read_table(path)) if path.exists() else None


def named(texts: pd.DataFrame) -> pd.DataFrame:
    """`fvlm.measures.measure`'s rows of captions, with a column for each of COLUMNS, and what the runs' names
    say."""
    own = [attributes_named(row.truth, row.text) for row in texts.itertuples()]
    return sources.with_names(pd.concat([texts.reset_index(drop=True), pd.DataFrame(own)], axis=1))


def guess(truths: Sequence[str]) -> dict[str, float]:
    """What is right of captions, in each of COLUMNS, if the commonest is said of every object and clip."""
    clips = [things_named(truth) for truth in truths]
    right = {}
    for name in ATTRIBUTES:
        commonest = Counter(thing[name] for things in clips for thing in things).most_common(1)[0][0]
        right[name] = float(np.mean([np.mean([t[name] == commonest for t in things]) for things in clips]))
    numbers = Counter(map(len, clips))
    return right | dict(number=numbers.most_common(1)[0][1] / len(clips))


def _never_said(rows: pd.DataFrame) -> str:
    """How often captions say what writing the likeliest token each time may never say, and what they say of
    marks, of which there is no column."""
    said = []
    for (pair, arch), mine in rows.groupby(["pair", "arch"], observed=True):
        things = [thing for text in mine["text"] for thing in things_named(text)]
        still = np.mean([thing["motion"] == STILL for thing in things]) if things else 0.0
        marks = [
            letter in MARK.findall(row.text)
            for row in mine.itertuples()
            for letter in MARK.findall(row.truth)
        ]
        read = f" and {100 * np.mean(marks):.0f} % of marks" if marks else ""
        said.append(f"{arch} at {pair} {100 * still:.0f} %{read}")
    truths = rows.drop_duplicates("clip_id")["truth"]
    still = np.mean([thing["motion"] == STILL for truth in truths for thing in things_named(truth)])
    return (
        f"Of the true objects {100 * still:.0f} % stay still. So many of the objects that captions name are said to, and so "
        f"many of the marks on true objects stand in the clip's caption: {'; '.join(said)}. As most objects move, to say so may "
        "always be likelier, so that what is written is not all that a model knows of motion.\n"
    )


def named_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per size and architecture: percent named right, means over seeds and clips, and the lowest and
    highest seed; that of a `guess` last."""
    table = []
    for (pair, arch), mine in rows.groupby(["pair", "arch"], observed=True):
        row = {"size": pair, "architecture": arch, "seeds": str(mine["seed"].nunique())}
        for name, words in COLUMNS.items():
            seeds = 100 * by_seed_and_clip(mine, name).mean(axis=1)
            row[words] = f"{seeds.mean():.1f} ({seeds.min():.1f} to {seeds.max():.1f})"
        table.append(row)
    right = guess(rows.drop_duplicates("clip_id")["truth"].tolist())
    last = {words: f"{100 * right[name]:.1f}" for name, words in COLUMNS.items()}
    return pd.DataFrame([*table, {"size": "", "architecture": GUESS, "seeds": ""} | last])


def named_sentences(rows: pd.DataFrame) -> list[str]:
    """The foveated model's captions beside each of BESIDE's, in points: a sentence per size and architecture
    that LEAST seeds of both have, its words corrected for the number of all of them."""
    lines = []
    for arch, pair, found in _worded(rows):
        parts = (f"{of} {interval_text(found[name][0], 1)}, {found[name][1]}" for name, of in COLUMNS.items())
        lines.append(f"**At {pair} the foveated model less {arch}, points**: {'; '.join(parts)}")
    return lines


def _worded(rows: pd.DataFrame) -> list[tuple[str, str, dict[str, tuple[Estimate, str]]]]:
    """Every architecture of BESIDE and size that can be compared, with each of COLUMNS' difference and word."""
    compared = [(arch, *found) for arch in BESIDE for found in _compared(rows, arch).items()]
    words = iter(more_or_less([found[name] for *_, found in compared for name in COLUMNS]))
    return [
        (arch, pair, {name: (found[name], next(words)) for name in COLUMNS}) for arch, pair, found in compared
    ]


def _compared(rows: pd.DataFrame, arch: str) -> dict[str, dict[str, Estimate]]:
    """By size, if LEAST seeds have both, how many points more of each of COLUMNS the foveated model's captions
    name right than another architecture's of the same seeds."""
    found = {}
    for pair, mine in rows.groupby("pair", observed=True):
        sides = _of_both(mine, arch)
        if sides[0]["seed"].nunique() >= LEAST:
            found[pair] = {
                name: difference(*(100 * by_seed_and_clip(side, name) for side in sides)) for name in COLUMNS
            }
    return found


def _of_both(rows: pd.DataFrame, arch: str) -> list[pd.DataFrame]:
    """The foveated model's rows and another architecture's, of the seeds that both have."""
    sides = [rows[rows["arch"] == side] for side in ("foveated", arch)]
    seeds = set(sides[0]["seed"]) & set(sides[1]["seed"])
    return [side[side["seed"].isin(seeds)] for side in sides]
