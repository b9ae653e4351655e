"""Does the gaze find what is asked about? Scores against the boxes of `shapes`, per clip, then with
intervals.

T frames, h x w patches.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fvlm.config import ConfigError
from fvlm.data import open_dataset
from fvlm.data.clips import Clip
from fvlm.data.shapes import ASKED_OF_ANY, ShapesDataset, ShapesWorld
from fvlm.gaze.attention import EncodedClip, Gaze, patches_of_boxes
from fvlm.training.results import Run

SCORES = {
    "hit": "pointing game: share of the frames in which the most attended patch's centre is inside the "
    "target's box",
    "chance": "the same for a patch at random",
    "centre": "the same for the middle of the frame",
    "mass": "share of the map inside the box over the share of the frame's patches it touches; "
    "1 is no preference",
    "lag": "frames from the first in which the target is there until the gaze is on it; as many as there are "
    "if it never is",
}

SAME_CLIPS = "own, same clips"  # what `summarise` calls the clip's question on the clips that "other" covers

# A hit on one object says little of captions, which name them all: at a time it can look at only one of them.
OBJECT_SCORES = {
    "hit_any": "share of the frames with objects in which the most attended patch's centre is inside one of "
    "their boxes",
    "hit_any_null": "the same with the boxes of another clip",
    "coverage": "share of a clip's objects on which the most attended patch was in some frame",
    "coverage_null": "the same with the boxes of another clip",
}


def gaze_scores(
    run: Run,
    clips: int = 100,
    mode: str = "autoregressive",
    summary: str = "mean",
    progress: Callable[[int], None] | None = None,
) -> list[dict]:
    """Scores of a run's gaze on its first validation clips that have a target: a row per clip and question.

    Columns: run, clip_id, kind, objects (how many there are), asked, mode, summary, SCORES and OBJECT_SCORES.
    asked = "own": the clip's question, scored on its target. asked = "other": a question of the same kind
    about another object, but scored on the same target as before; a gaze that follows the question leaves it.
    A run that was not asked (captions) has "caption" rows alone, whose target is that of the question it was
    not asked: of kinds other than ASKED_OF_ANY no object drawn by lot, but the marked one or the last to come
    in. The null of OBJECT_SCORES has the boxes of the next clip. ConfigError if the run was not made with
    `shapes`."""
    world = _world(run)
    task, rows = run.config.task, []
    shown = run.validation_clips(clips)
    for number, clip in enumerate(shown):
        if progress:
            progress(number)
        if clip.target < 0:
            continue
        asked = {"own" if task == "question" else "caption": clip}
        if task == "question" and (other := other_question(world, clip)):
            asked["other"] = other
        encoded = EncodedClip(run.model, clip, run.tokenizer, task)
        for which, question in asked.items():
            look = encoded.asked(question).gaze(mode, write=False)
            objects = clip.boxes.shape[1]
            identity = dict(
                run=run.folder.name,
                clip_id=clip.clip_id,
                kind=clip.question_kind,
                objects=objects,
                asked=which,
                mode=mode,
                summary=summary,
            )
            elsewhere = shown[(number + 1) % len(shown)].boxes if len(shown) > 1 else None
            rows.append(
                identity
                | score(look, clip.boxes[:, clip.target], summary)
                | object_scores(look, clip.boxes, elsewhere, summary)
            )
    return rows


def layer_hits(run: Run, clips: int = 50, mode: str = "autoregressive") -> np.ndarray:
    """Which layers and heads find what is asked about, or of a run that is not asked an object drawn by lot:
    the `hit` of each one's own map (layers, H), the mean over clips and frames in which the target is there.
    ConfigError as `gaze_scores`."""
    _world(run)
    hits = []
    for clip in run.validation_clips(clips):
        by_lot = run.config.task == "question" or clip.question_kind in ASKED_OF_ANY
        if clip.target < 0 or not by_lot:
            continue
        look = EncodedClip(run.model, clip, run.tokenizer, run.config.task).gaze(mode, write=False)
        hits.append(head_hits(look, clip.boxes[:, clip.target]))
    return np.concatenate(hits, axis=2).mean(axis=2)


def head_hits(look: Gaze, boxes: np.ndarray) -> np.ndarray:
    """Whether each head's most attended patch has its centre inside the target's box (T, 4) in pixels, in the
    frames in which that is there: (layers, H, frames)."""
    there = boxes[:, 2] > boxes[:, 0]
    layers, heads = look.maps.shape[1:3]
    return np.array(
        [[_inside(look.peaks(layer=i, head=j), boxes)[there] for j in range(heads)] for i in range(layers)]
    )


def chance_hit(look: Gaze, boxes: np.ndarray) -> float:
    """How often a patch at random has its centre inside a box (T, 4), over the frames in which that is
    there."""
    (h, w), (height, width) = look.maps.shape[3:], look.frames.shape[2:]
    rows, columns = np.mgrid[0:h, 0:w]
    centres = np.stack([(columns + 0.5) * width / w, (rows + 0.5) * height / h], axis=-1).reshape(-1, 2)
    there = boxes[boxes[:, 2] > boxes[:, 0]]
    return float(np.mean([_inside(centres, np.broadcast_to(box, (len(centres), 4))).mean() for box in there]))


def askable(run: Run, clip: Clip) -> list[Clip]:
    """A clip of the built-in world with each question that it can be asked, its answer and its target: the
    clip's own first, then the kinds that the run was trained on, then the others. No clips of another world:
    [].

    Of a kind that every object can be asked there is one question per object."""
    dataset = open_dataset(run.config, "validation")
    if not isinstance(dataset, ShapesDataset) or clip.boxes is None:
        return []
    world = dataset.world
    if not clip.clip_id.startswith(f"{world.name}-{world.seed}-"):
        return []
    scene = world.scene(int(clip.clip_id.rpartition("-")[2]))
    asked = [(clip.question_kind, clip.question, clip.answer, clip.target)]
    for kind in sorted(world.kinds, key=lambda kind: kind not in world.questions):
        if kind in ASKED_OF_ANY:
            asked += [(kind, *scene.ask(kind, i)) for i in range(len(scene.things))]
        elif kind in scene.questions:
            asked.append((kind, *scene.questions[kind]))
    clips = {}
    for kind, question, answer, target in asked:
        told = dict(question=question, answer=answer, target=target, question_kind=kind)
        clips.setdefault(question, replace(clip, **told))
    return list(clips.values())


def another_question(run: Run, clip: Clip) -> Clip:
    """A validation clip of a run, asked about another object. ConfigError if it can't be."""
    other = other_question(_world(run), clip)
    if other is None:
        raise ConfigError(
            f"clip {clip.clip_id}: {clip.question!r} is a question that only one object answers"
        )
    return other


def asked_twice(run: Run, start: int = 0) -> list[Clip]:
    """The first validation clip, from number `start` on, that can be asked the same kind of question about
    another object: with its own question and with that one. Empty for a run that is asked nothing, and where
    there is no such clip among those it was evaluated on. ConfigError as `gaze_scores`."""
    world = _world(run)
    if run.config.task != "question":
        return []
    dataset = open_dataset(run.config, "validation")
    for number in range(start, start + run.config.eval_samples):
        if other := other_question(world, dataset[number]):
            return [dataset[number], other]
    return []


def _world(run: Run) -> ShapesWorld:
    """The world of its validation clips."""
    dataset = open_dataset(run.config, "validation")
    if not isinstance(dataset, ShapesDataset):
        raise ConfigError(f"{run.folder}: gaze is scored where boxes are known, with dataset = shapes")
    if not run.config.architecture.has_queries:
        raise ConfigError(f"{run.folder}: a {run.config.arch} model has no queries, so it has no gaze")
    return dataset.world


def other_question(world: ShapesWorld, clip: Clip) -> Clip | None:
    """The same clip, asked the same kind of question about another object; None where there is no such
    question."""
    if clip.question_kind not in ASKED_OF_ANY:
        return None
    scene = world.scene(int(clip.clip_id.rpartition("-")[2]))
    if len(scene.things) < 2:
        return None
    question, answer, target = scene.ask(clip.question_kind, (clip.target + 1) % len(scene.things))
    return replace(clip, question=question, answer=answer, target=target)


def score(look: Gaze, boxes: np.ndarray, summary: str = "mean") -> dict:
    """SCORES of one gaze for a target's boxes (T, 4) in pixels, over the frames in which it is there."""
    maps = look.map(summary)
    (h, w), (height, width) = maps.shape[1:], look.frames.shape[2:]
    there = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    hits = _inside(look.peaks(summary), boxes)[there]
    touched = patches_of_boxes(boxes, (height, width), (h, w))[there]
    shares = maps[there] / maps[there].sum(axis=(1, 2), keepdims=True)
    return dict(
        hit=hits.mean(),
        chance=chance_hit(look, boxes),
        centre=_inside(np.tile([width / 2, height / 2], (len(boxes), 1)), boxes)[there].mean(),
        mass=((shares * touched).sum(axis=(1, 2)) / touched.mean(axis=(1, 2))).mean(),
        lag=int(hits.argmax()) if hits.any() else len(hits),
    )


def object_scores(look: Gaze, boxes: np.ndarray, elsewhere: np.ndarray | None, summary: str = "mean") -> dict:
    """OBJECT_SCORES of one gaze for all objects' boxes (T, n, 4) in pixels. elsewhere: those of another clip
    (T, m, 4), where a gaze that does not see would be as often; None leaves the null NaN."""
    found = dict.fromkeys(OBJECT_SCORES, float("nan"))
    peaks = look.peaks(summary)
    for name, where in (("", boxes), ("_null", elsewhere)):
        if where is None:
            continue
        there = where[..., 2] > where[..., 0]  # (T, n)
        hits = np.stack([_inside(peaks, where[:, i]) for i in range(where.shape[1])], axis=1) & there
        found[f"hit_any{name}"] = hits.any(1)[there.any(1)].mean()
        found[f"coverage{name}"] = hits.any(0)[there.any(0)].mean()
    return found


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points (n, 2) are inside boxes (n, 4)."""
    x, y = points.T
    return (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])


def summarise(rows: list[dict]):
    """Means of SCORES, and of OBJECT_SCORES where the rows have them, with bootstrap 95 % intervals over
    clips: a DataFrame, a row per run and question asked.

    `clips` is how many SCORES are of: of captions those alone whose target is an object drawn by lot (`kind`
    is one of ASKED_OF_ANY). "other" covers the clips alone that have another object to ask about. Where "own"
    covers more, a row SAME_CLIPS follows it, the clip's question on the clips of "other": the two that may be
    compared."""
    import pandas as pd

    table, given = [], pd.DataFrame(rows)
    scores = [*SCORES, *(name for name in OBJECT_SCORES if name in given)]
    given = given.reindex(columns=["run", "clip_id", "kind", "asked", *scores])
    groups = {}
    for (run, asked), group in given.groupby(["run", "asked"], sort=False):
        groups[run, asked] = group
        other = given.loc[(given["run"] == run) & (given["asked"] == "other"), "clip_id"]
        shared = group[group["clip_id"].isin(other)]
        if asked == "own" and 0 < len(shared) < len(group):
            groups[run, SAME_CLIPS] = shared
    for (run, asked), group in groups.items():
        by_lot = of_any_object(group) if asked == "caption" else group
        line = dict(run=run, asked=asked, clips=len(by_lot))
        for name in scores:
            values = (group if name in OBJECT_SCORES else by_lot)[name]
            low, high = interval(values.to_numpy(float))
            line |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
        table.append(line)
    return pd.DataFrame(table)


def of_any_object(rows):
    """Of `gaze_scores`' rows those whose target is an object drawn by lot, or of which no kind is known."""
    return rows[rows["kind"].isin(ASKED_OF_ANY) | rows["kind"].isna()] if "kind" in rows else rows


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a mean (percentile method, 2,000 resamples, always the same)."""
    from scipy.stats import bootstrap

    if not len(values) or not np.isfinite(values).all():
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
