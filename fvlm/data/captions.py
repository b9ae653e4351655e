"""Captions of the built-in world, read back: which objects does a text name, and are they there?"""

import math
import re
from dataclasses import dataclass

import numpy as np

from fvlm.data.shapes import COLOURS, MOTIONS, SHAPES, SIZES

ATTRIBUTES = ("colour", "shape", "size", "motion")

_THING = re.compile(
    rf"\b(?P<size>{'|'.join(SIZES)}) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})\b"
    rf"(?: marked \w)?(?: enters and)?(?: (?:moves (?P<motion>{'|'.join(MOTIONS)})|stays (?P<still>still)))?"
)


def things_named(caption: str) -> list[dict[str, str]]:
    """The objects that a caption names, in its order: colour, shape, size and motion of each; a motion that
    is not told is empty."""
    named = []
    for match in _THING.finditer(caption):
        thing = match.groupdict(default="")
        named.append(thing | dict(motion=thing["motion"] or thing.pop("still")))
    return [{name: thing[name] for name in ATTRIBUTES} for thing in named]


@dataclass(frozen=True)
class AttributeAccuracy:
    """How many of the objects that are there captions name, by attribute.

    right: share of the true objects whose attribute is named right. chance: the same for each text beside the
    next clip's objects, what a model reaches that knows the world but does not look. count: share of clips of
    which a caption names as many objects as there are. objects: true objects in all."""

    right: dict[str, float]
    chance: dict[str, float]
    count: float
    objects: int

    def __str__(self) -> str:
        parts = (f"{name} {self.right[name]:.0%} ({self.chance[name]:.0%})" for name in ATTRIBUTES)
        return (
            f"of {self.objects} objects it names right: {', '.join(parts)}; number of objects right in "
            f"{self.count:.0%} of clips (in brackets: beside another clip)"
        )


def attribute_accuracy(captions: list[str], written: list[str]) -> AttributeAccuracy:
    """Captions as they should be, one a clip, against what a model wrote.

    Named objects are paired with true ones, one to one, so that as many attributes as possible agree, of such
    pairings as many colours, then shapes, then sizes; what is left of the true ones counts as wrong in all.
    ValueError on fewer than two clips, or if a true caption names no object."""
    true, named = [things_named(text) for text in captions], [things_named(text) for text in written]
    if len(true) != len(named) or len(true) < 2 or not all(true):
        raise ValueError("two clips or more, and for each a caption of the built-in world and a text")
    objects = sum(map(len, true))
    right, chance = (
        np.sum([_agreement(t, n) for t, n in zip(true, texts)], axis=0) / objects
        for texts in (named, named[1:] + named[:1])
    )
    return AttributeAccuracy(
        dict(zip(ATTRIBUTES, right.tolist())),
        dict(zip(ATTRIBUTES, chance.tolist())),
        float(np.mean([len(t) == len(n) for t, n in zip(true, named)])),
        objects,
    )


def attributes_right(caption: str, written: str) -> float:
    """The share of the attributes of a caption's objects that a text names right, paired as in
    `attribute_accuracy`; NaN if the caption names no object."""
    true = things_named(caption)
    if not true:
        return math.nan
    return float(_agreement(true, things_named(written)).sum() / (len(true) * len(ATTRIBUTES)))


def attributes_named(caption: str, written: str) -> dict[str, float]:
    """As `attributes_right`, attribute by attribute; and `number`, 1.0 if the text names as many objects as
    the caption, else 0.0."""
    true, named = things_named(caption), things_named(written)
    right = _agreement(true, named) / len(true) if true else [math.nan] * len(ATTRIBUTES)
    return dict(zip(ATTRIBUTES, map(float, right))) | dict(number=float(len(true) == len(named)))


def _agreement(true: list[dict], named: list[dict]) -> np.ndarray:
    """How many true objects have each attribute right (4,), each paired with a named one or with none: the
    same in whatever order they are named."""
    from scipy.optimize import linear_sum_assignment

    first = 1 + 100.0 ** -np.arange(1, 1 + len(ATTRIBUTES))  # whole attributes count, then which they are

    same = np.zeros((len(true), len(named), len(ATTRIBUTES)))
    for i, thing in enumerate(true):
        for j, other in enumerate(named):
            same[i, j] = [thing[name] == other[name] for name in ATTRIBUTES]
    pairs = linear_sum_assignment(same @ first, maximize=True)
    return same[pairs].sum(0)
