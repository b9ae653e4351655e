"""What a text asks to be seen, and what fewer tokens cost there: validation clips of the built-in world
parted by what is in them, and the gap between architectures in each part.

The parts are of the same runs: no model was trained for one. So they say where a model that was trained on
all of them falls behind, not what a model of its own would do.

S seeds, R validation clips, K parts.
"""

import re
from collections.abc import Sequence

import pandas as pd

from fvlm.config import RunConfig
from fvlm.data.shapes import ShapesWorld
from fvlm.scaling.contrasts import Levels, Parts, parted
from fvlm.scaling.runs import Results

AXES = {  # what a caption may tell of more or less, and how that is said
    "objects": "objects in the clip",
    "one_patch": "objects one patch large",
    "entering": "objects that enter during the clip",
    "small_mark": "marks on an object one patch large",
}
LEAST_CLIPS = 50  # of a part; fewer have no interval worth a line


def details(config: RunConfig, clip_ids: Sequence[str]) -> pd.DataFrame | None:
    """What is in clips of the built-in world, by `clip_id`: a column of counts per name of AXES. None where a
    clip is of another dataset."""
    kind, _, settings = config.dataset.partition(":")
    found = [re.fullmatch(rf"{ShapesWorld.name}-(\d+)-(\d+)", str(clip)) for clip in clip_ids]
    if kind != ShapesWorld.name or not all(found):
        return None
    world = ShapesWorld.parse(settings, frames=config.frames)
    rows = []
    for clip, match in zip(clip_ids, found):
        if match is None or int(match[1]) != world.seed:
            return None
        scene = world.scene(int(match[2]))
        small = [thing.size == "small" for thing in scene.things]
        entering = sum(thing.enters > 0 for thing in scene.things)
        rows.append(
            dict(
                clip_id=clip,
                objects=len(scene.things),
                one_patch=sum(small),
                entering=entering,
                small_mark=int(small[scene.marked]),
            )
        )
    return pd.DataFrame(rows).set_index("clip_id")


def gaps_by_detail(
    results: Results, detail: pd.DataFrame, pair: str, a: str, b: str
) -> tuple[pd.DataFrame, dict[str, Parts]]:
    """The gap of `a` to `b` at one size, in nats per text token frame by frame, along every axis of `detail`
    (see `details`).

    Returns a row per axis and count that LEAST_CLIPS clips or more have, with `axis`, `value`, `clips`,
    `loss_a`, `loss_b`, `nats`, `low`, `high`, `p` (Student's 95 %, seeds and clips as in `contrast`),
    `seeds`; and for each axis with two counts or more how far the gap changes with each one more, by a
    straight line through the counts."""
    rows, slopes = [], {}
    for axis in detail.columns:
        counts = detail[axis].value_counts().sort_index()
        values = [int(value) for value, clips in counts.items() if clips >= LEAST_CLIPS]
        groups = [list(detail.index[detail[axis] == value]) for value in values]
        if not groups:
            continue
        levels = parted(results, pair, (a, b), groups)
        means = levels.means[0].reshape(-1, 2)
        for k, (value, group) in enumerate(zip(values, groups)):
            found = levels.estimate(lambda m, k=k: float(m[0, 2 * k] - m[0, 2 * k + 1]))
            rows.append(
                dict(
                    axis=axis,
                    value=value,
                    clips=len(group),
                    loss_a=means[k, 0],
                    loss_b=means[k, 1],
                    nats=found.estimate.value,
                    low=found.estimate.low,
                    high=found.estimate.high,
                    p=found.estimate.p,
                    seeds=found.seeds,
                )
            )
        if len(values) > 1:
            slopes[axis] = _slope(levels, values)
    columns = ["axis", "value", "clips", "loss_a", "loss_b", "nats", "low", "high", "p", "seeds"]
    return pd.DataFrame(rows, columns=columns), slopes


def _slope(levels: Levels, values: Sequence[int]) -> Parts:
    """Of a straight line through the gaps of parts at these counts."""
    centre = sum(values) / len(values)
    spread = sum((value - centre) ** 2 for value in values)

    def slope(means) -> float:
        gaps = means[0, 0::2] - means[0, 1::2]
        return float(sum((value - centre) * gap for value, gap in zip(values, gaps)) / spread)

    return levels.estimate(slope)
