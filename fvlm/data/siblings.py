"""The built-in world's siblings: stills, several stills compared, text about scenes.

With `shapes` they mirror the four kinds of data that video language models are trained on: video, image,
several images, text alone. Their texts are true, exact, and in the words of `shapes`, so that the tiny
tokenizer serves all four.

T frames, S side in pixels, n objects.
"""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fvlm.config import BUILT_IN, ConfigError
from fvlm.data.clips import Clip, no_frames
from fvlm.data.shapes import (
    UNIT,
    Dice,
    Scene,
    ShapesWorld,
    Thing,
)

LOW, HIGH = 350, 650  # thousandths of the side: before and beyond, an object is said to be at an edge


class StillScene(Scene):
    """A scene in which nothing moves, so that nobody asks where something goes."""

    def __post_init__(self):
        super().__post_init__()
        del self.questions["motion"]


@dataclass(frozen=True)
class Stills(ShapesWorld):
    """One picture for all frames; its text says where each object is. No object comes in."""

    name: ClassVar[str] = "shapes-stills"
    salt: ClassVar[int] = 1 << 40
    kinds: ClassVar[tuple[str, ...]] = ("mark", "colour", "shape", "count")
    questions: tuple[str, ...] = kinds

    def scene(self, index: int) -> Scene:
        return super().scene(index, StillScene)

    def _thing(self, dice: Dice, shape: str, colour: str, cell: tuple[int, int], may_enter: bool) -> Thing:
        size = "small" if dice.per_cent(self.small) else dice.choice(["medium", "large"])
        centre = (cell[0] + dice.between(-60, 60), cell[1] + dice.between(-60, 60))
        return Thing(shape, colour, size, "still", centre, centre)

    def draw(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        frame, boxes = ShapesWorld.draw(replace(self, frames=1), scene)
        return np.repeat(frame, self.frames, axis=0), np.repeat(boxes, self.frames, axis=0)

    def caption(self, scene: Scene) -> str:
        """A sentence per object, by the alphabet of their colours."""
        things = sorted(scene.things, key=lambda thing: thing.colour)
        return " ".join(f"A {_told(thing)} is {place_of(*thing.start)}." for thing in things)


def place_of(x: int, y: int) -> str:
    """Where a point (thousandths of the side) is, in words: "up left", "right", "there" in the middle."""
    down = "up" if y < LOW else "down" if y > HIGH else ""
    across = "left" if x < LOW else "right" if x > HIGH else ""
    return f"{down} {across}".strip() or "there"


def _told(thing: Thing) -> str:
    return f"{thing.name} marked {thing.mark}" if thing.mark else thing.name


@dataclass(frozen=True)
class Compared(Stills):
    """Two to four pictures one after the other, each with a background of its own. What is in one is in those
    after it, moved a little, and in each after the first there is one object more: the text says which stay
    and which is new in which. Needs two frames."""

    name: ClassVar[str] = "shapes-compared"
    salt: ClassVar[int] = 2 << 40
    kinds: ClassVar[tuple[str, ...]] = ("mark", "colour", "shape", "enters", "count")
    questions: tuple[str, ...] = kinds

    def __post_init__(self):
        super().__post_init__()
        if self.frames < 2:
            raise ConfigError(f"{self.name}: frames = {self.frames}: pictures to compare take two at least")

    def stills(self, index: int) -> int:
        """How many pictures a clip has."""
        return min(Dice(self.seed + self.salt + 1, index).between(2, 4), self.frames)

    def scene(self, index: int) -> Scene:
        """`enters` of an object is when the picture begins in which it is new, thousandths of the clip."""
        stills = self.stills(index)
        fewest, most = max(self.objects[0], stills), max(self.objects[1], stills)
        scene = Stills.scene(replace(self, objects=(fewest, most)), index)
        for number in range(1, stills):
            i = len(scene.things) - stills + number
            scene.things[i] = replace(scene.things[i], enters=number * UNIT // stills)
        scene.__post_init__()  # what may be asked now that something comes in
        scene.asked = scene.dice.choice([kind for kind in self.questions if kind in scene.questions])
        return scene

    def draw(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        T, S, dice = self.frames, self.size, scene.dice
        starts = sorted({0, *(thing.first(T) for thing in scene.things)})
        frames, boxes = np.empty((T, 3, S, S), np.uint8), np.zeros((T, len(scene.things), 4), np.int32)
        for start, end in zip(starts, [*starts[1:], T]):
            there = [i for i, thing in enumerate(scene.things) if thing.first(T) <= start]
            picture = copy.copy(scene)
            picture.things = [self._nearby(dice, scene.things[i]) for i in there]
            frame, box = ShapesWorld.draw(replace(self, frames=2), picture)
            frames[start:end], boxes[start:end, there] = frame[0], box[0]
        return frames, boxes

    def _nearby(self, dice: Dice, thing: Thing) -> Thing:
        centre = (thing.start[0] + dice.between(-40, 40), thing.start[1] + dice.between(-40, 40))
        return replace(thing, start=centre, end=centre, enters=0)

    def caption(self, scene: Scene) -> str:
        """Those that stay by the alphabet of their colours, then the new ones in their order."""
        things = sorted(scene.things, key=lambda thing: (thing.enters, thing.colour))
        return " ".join(
            f"Then a {_told(thing)} enters." if thing.enters else f"A {_told(thing)} stays."
            for thing in things
        )


@dataclass(frozen=True)
class Texts(ShapesWorld):
    """Text about scenes of `shapes` that nobody sees: a question, a description that answers it, the answer.
    There is no frame. The question comes first, so that each word is a token of the tiny tokenizer. As a
    caption all of it is to be written; as a question the answer alone."""

    name: ClassVar[str] = "shapes-text"
    salt: ClassVar[int] = 3 << 40

    def clip(self, index: int, draw: bool = True, further: int = 0) -> Clip:
        scene = self.scene(index)
        question, answer, target = scene.questions[scene.asked]
        if further:
            question, answer, target = scene.ask(scene.asked, (target + further) % len(scene.things))
        described = scene.caption()
        return Clip(
            frames=no_frames(self.size),
            caption=f"{question} {described} {answer}",
            question=f"{question} {described}",
            answer=answer,
            target=target,
            question_kind=scene.asked,
            clip_id=f"{self.name}-{self.seed}-{index}",
            source=self.name,
        )


WORLDS = {world.name: world for world in (ShapesWorld, Stills, Compared, Texts)}
assert set(WORLDS) == set(BUILT_IN)


def parse_world(dataset: str, **fixed) -> ShapesWorld:
    """The built-in world that a dataset such as `shapes-stills:small=60` names; ConfigError lists valid
    settings."""
    name, _, settings = dataset.partition(":")
    return WORLDS[name].parse(settings, **fixed)
