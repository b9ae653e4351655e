"""Data cards: tables that say what is in a dataset, before anything is trained on it."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from fvlm.config import PATCH
from fvlm.data.clips import Clip, plain_ids
from fvlm.data.prepared import PreparedDataset
from fvlm.data.shapes import ANSWERS, ShapesWorld
from fvlm.data.video import SHORT
from fvlm.text import with_interval


def attributes(world: ShapesWorld, scenes: int = 2000) -> pd.DataFrame:
    """How often each colour, shape, size and motion is drawn: the share of objects, a row per value."""
    things = [thing for index in range(scenes) for thing in world.scene(index).things]
    rows = []
    for name in ("colour", "shape", "size", "motion"):
        for value, count in sorted(Counter(getattr(thing, name) for thing in things).items()):
            rows.append(dict(attribute=name, value=value, share=count / len(things)))
    rows += [
        dict(
            attribute="enters",
            value="during the clip",
            share=sum(thing.enters > 0 for thing in things) / len(things),
        )
    ]
    return pd.DataFrame(rows)


def box_sides(world: ShapesWorld, clips: int = 100) -> pd.DataFrame:
    """Larger side of the objects' boxes, in patches of 14 pixels: a row per box in sight, with its object's
    size."""
    rows = []
    for index in range(clips):
        scene = world.scene(index)
        boxes = world.place(scene).boxes
        sides = (boxes[..., 2:] - boxes[..., :2]).max(-1) / PATCH  # (T, n)
        rows += [
            dict(size=t.size, patches=side)
            for i, t in enumerate(scene.things)
            for side in sides[:, i]
            if side > 0
        ]
    return pd.DataFrame(rows)


def language_only(world: ShapesWorld, fit: int = 20_000, test: int = 5_000) -> pd.DataFrame:
    """How far the question alone leads: a row per kind of question.

    chance: one over the number of answers. most_common: always the answer seen most often. guesser: naive
    Bayes on the words of the question, fitted on `fit` scenes. Shares of right answers on `test` other
    scenes."""
    training, testing = _asked(world, range(fit)), _asked(world, range(fit, fit + test))
    rows = []
    for kind in world.questions:
        if not training[kind] or not testing[kind]:
            continue
        guess, common = (
            _naive_bayes(training[kind]),
            Counter(answer for _, answer in training[kind]).most_common(1)[0][0],
        )
        right = [(guess(question) == answer, common == answer) for question, answer in testing[kind]]
        answers = ANSWERS.get(kind) or world.objects[1] - world.objects[0] + 1
        rows.append(
            dict(
                question=kind,
                example=testing[kind][0][0],
                chance=1 / answers,
                most_common=sum(r for _, r in right) / len(right),
                guesser=sum(r for r, _ in right) / len(right),
                asked=len(right),
            )
        )
    return pd.DataFrame(rows)


def _asked(world: ShapesWorld, indices: range) -> dict[str, list[tuple[str, str]]]:
    """Questions and answers of every kind, all that each scene has."""
    found = defaultdict(list)
    for index in indices:
        for kind, (question, answer, _) in world.scene(index).questions.items():
            found[kind].append((question, answer))
    return found


def answer_odds(pairs: list[tuple[str, str]]) -> Callable[[str], dict[str, float]]:
    """What language alone says: a function from a question to the log-probability of every answer, by naive
    Bayes on the words of the question, counts smoothed by one. pairs: questions with their answers, that it
    is fitted on."""
    answers, words = Counter(answer for _, answer in pairs), defaultdict(Counter)
    for question, answer in pairs:
        words[answer].update(question.split())
    vocabulary = len({word for counts in words.values() for word in counts})

    def score(question, answer):
        total = words[answer].total() + vocabulary
        return math.log(answers[answer]) + sum(
            math.log((words[answer][word] + 1) / total) for word in question.split()
        )

    def odds(question: str) -> dict[str, float]:
        scores = {answer: score(question, answer) for answer in answers}
        highest = max(scores.values())
        total = highest + math.log(sum(math.exp(each - highest) for each in scores.values()))
        return {answer: each - total for answer, each in scores.items()}

    return odds


def _naive_bayes(pairs: list[tuple[str, str]]):
    """A function from a question to the likeliest answer."""
    odds = answer_odds(pairs)

    def likeliest(question: str) -> str:
        found = odds(question)
        return max(found, key=lambda answer: found[answer])

    return likeliest


def prepared_card(folder: str | Path, tokenizer=None, sample: int = 100) -> pd.DataFrame:
    """What a prepared dataset holds, as one column: clips by split, what was skipped, captions, how fast it
    decodes.

    Caption lengths and the decoding rate (of one process) are those of the first `sample` training clips."""
    dataset = PreparedDataset(folder, "train")
    manifest, count = dataset.manifest, min(sample, len(dataset))
    start = time.perf_counter()
    clips = [dataset[i] for i in range(count)]
    rate = count / max(time.perf_counter() - start, 1e-9)
    rows = {
        "clips": manifest["clips"],
        **{f"clips, {split}": n for split, n in manifest["splits"].items()},
        **{f"skipped, {reason}": n for reason, n in manifest["skipped"].items()},
        "fewer frames than asked, last one repeated": manifest["clips_with_repeated_last_frame"],
        **{note: n for note, n in manifest.get("notes", {}).items() if note != SHORT},
        "frames a clip": manifest["frames"],
        "side in pixels": manifest["size"],
        "shards": len(manifest["shards"]),
        "clips a second, one process": round(rate),
        **_lengths(clips, tokenizer),
        "fingerprint": manifest["fingerprint"],
    }
    return pd.DataFrame({"": rows})


def _lengths(clips: list[Clip], tokenizer) -> dict:
    captions = [clip.caption for clip in clips]
    words = pd.Series([len(c.split()) for c in captions])
    rows = {
        "caption, words": _spread(words),
        "captions that occur more than once": len(captions) - len(set(captions)),
    }
    if tokenizer is not None:
        rows["caption, tokens"] = _spread(
            pd.Series([len(plain_ids(tokenizer, caption)) for caption in captions])
        )
    return rows


def _spread(numbers: pd.Series) -> str:
    return with_interval(numbers.median(), numbers.min(), numbers.max(), digits=0, signed=False)
