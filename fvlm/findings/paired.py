"""Scores of runs, seed by seed and clip by clip, and what one side has more of."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fvlm.scaling.contrasts import Levels, holm
from fvlm.scaling.intervals import Estimate
from fvlm.text import with_interval


def by_seed_and_clip(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """A score of one architecture and size (S, R)."""
    return rows.pivot(index="seed", columns="clip_id", values=score)


def difference(one: pd.DataFrame, other: pd.DataFrame) -> Estimate:
    """The first (S, R) less the second over the same seeds and clips, with Student's interval. ValueError where
    they are not the same, or a score is missing."""
    same = one.index.equals(other.index) and one.columns.equals(other.columns)
    if not same or one.isna().any(axis=None) or other.isna().any(axis=None):
        raise ValueError("scores of other seeds or clips, or some are missing")
    sides = [side.to_numpy() for side in (one, other)]
    levels = Levels(
        [np.stack([side.mean(1) for side in sides])],
        [np.stack([side.mean(0) - side.mean() for side in sides])],
    )
    return levels.estimate(lambda means: float(means[0, 0] - means[0, 1])).estimate


def interval_text(found: Estimate, digits: int = 3) -> str:
    return with_interval(found.value, found.low, found.high, digits)


def more_or_less(found: Sequence[Estimate]) -> list[str]:
    """Each in a word, as far as its p value says after Holm's correction for all of them."""
    adjusted = holm([each.p for each in found]) if len(found) else []
    return [
        ("more" if each.value > 0 else "less") if p < 0.05 else "no difference can be told"
        for each, p in zip(found, adjusted)
    ]
