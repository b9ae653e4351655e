"""The built-in world: textured scenes of moving shapes, drawn on the fly from (seed, index).

Every clip comes with a caption, a question about one object with its answer, and the box of every object in
every frame. All drawing is integer arithmetic on the raw output of PCG64, so that a clip is the same, bit for
bit, on every machine.

T frames, S side in pixels, n objects.
"""

import functools
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np

from fvlm.config import ConfigError
from fvlm.data.clips import Clip

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 190),
    "orange": (250, 140, 20),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
GREY = (105, 105, 105)  # distractors and pillars: no colour that a text names
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring")
SOLID = ("circle", "square", "triangle", "diamond")  # with room for a mark
SIZES = {"small": 125, "medium": 230, "large": 340}  # thousandths of the frame's side
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
MARKS = "0123456789ACEFHJKLNPRTUXYZ"  # without letters that look like digits at this size
QUESTIONS = ("mark", "colour", "shape", "motion", "enters", "count")
ASKED_OF_ANY = ("colour", "shape", "motion")  # kinds that can be asked about every object
ANSWERS = {  # how many answers each kind of question has
    "mark": len(MARKS),
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "motion": len(MOTIONS),
    "enters": len(COLOURS),
}
UNIT = 1000  # positions and times are thousandths of the frame's side and the clip's length

VALIDATION_SHARE = 10  # every tenth index is validation: the split depends on the index alone
_SEED_STRIDE = 10 << 40  # room for a trillion training clips per run seed
_FIRST_POOL = 1 << 40  # stretches from here on are those of pools, beyond all run seeds

OF_RUNS = (
    "pool",
    "stretch",
    "passes",
    "crowded",
)  # settings of what a run is shown, not of how a clip is drawn


@dataclass(frozen=True)
class ShapesWorld:
    """How hard the world is. Two worlds with the same settings are the same world.

    As text, `shapes:small=60,distractors=3`, wherever a dataset is named. Its siblings
    (`fvlm.data.siblings`) have names and kinds of questions of their own; `salt`: so that siblings of
    one seed have other scenes."""

    name: ClassVar[str] = "shapes"
    kinds: ClassVar[tuple[str, ...]] = QUESTIONS
    salt: ClassVar[int] = 0
    seed: int = 0
    frames: int = 8
    size: int = 112
    objects: tuple[int, int] = (2, 4)  # fewest and most
    small: int = 33  # per cent of objects that are one patch large at 112 px, two at 224
    enter: int = 20  # per cent of objects, after the first, that come in during the clip
    distractors: int = 0  # at most so many grey shapes, marked too, that no text speaks of
    camera: int = 30  # how far everything pans during a clip, thousandths of the side
    occlusion: int = 10  # per cent of clips with a pillar that objects pass behind
    texture: int = 24  # contrast of the background, grey levels
    drift: int = 150  # how far the background moves on its own during a clip, thousandths of the side
    questions: tuple[str, ...] = QUESTIONS  # kinds that are asked
    pool: int = 0  # training clips that all run seeds share, each in its own order; 0: each its own, no end
    stretch: int = 0  # which part of the world a pool is from: pools of different stretches share no clip
    passes: int = 1  # so often is a pool gone through, each time with a question about another object
    crowded: int = 0  # fewest objects of a validation clip, where it is to have more than a training clip has

    def __post_init__(self):
        fewest, most = self.objects
        if not 1 <= fewest <= most <= 6:
            raise ConfigError(
                f"{self.name}: objects = {fewest}-{most}: valid are 1-1 to 6-6, the fewest first"
            )
        for name, limit in dict(
            small=100, enter=100, occlusion=100, distractors=3, camera=200, texture=100, drift=500
        ).items():
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"{self.name}: {name} = {getattr(self, name)}: valid are 0 to {limit}")
        if not 0 <= self.crowded <= most:
            raise ConfigError(
                f"{self.name}: crowded = {self.crowded}: valid are 0 to {most}, the most objects"
            )
        for name in ("pool", "stretch"):
            if not 0 <= getattr(self, name) < 1 << 32:
                raise ConfigError(
                    f"{self.name}: {name} = {getattr(self, name)}: valid are 0 to {(1 << 32) - 1}"
                )
        if not 1 <= self.passes <= 6:
            raise ConfigError(f"{self.name}: passes = {self.passes}: valid are 1 to 6")
        if self.passes > 1 and not (self.pool and set(self.questions) <= set(ASKED_OF_ANY)):
            raise ConfigError(
                f"{self.name}: passes = {self.passes} needs a pool, and only questions that every object can "
                f"be asked: {', '.join(ASKED_OF_ANY)}"
            )
        unknown = [kind for kind in self.questions if kind not in self.kinds]
        if unknown or not self.questions:
            raise ConfigError(
                f"{self.name}: questions = {'+'.join(self.questions)}: valid are {', '.join(self.kinds)}, "
                "joined by +"
            )
        if not set(self.questions) - {"enters"}:
            raise ConfigError(
                f"{self.name}: not every clip has an object that enters; ask something else too "
                "(questions=enters+colour)"
            )

    @classmethod
    def parse(cls, settings: str, **fixed) -> "ShapesWorld":
        """From text such as "objects=3-5,small=60,questions=shape+colour"; ConfigError lists the valid
        names."""
        names = [f.name for f in fields(cls) if f.name not in ("frames", "size")]
        values = {}
        for pair in filter(None, settings.split(",")):
            name, _, value = pair.partition("=")
            if name not in names:
                raise ConfigError(
                    f"{cls.name}: no setting {name!r}; valid are {', '.join(names)} (as in "
                    f"{cls.name}:small=60,distractors=3)"
                )
            try:
                if name == "objects":
                    fewest, _, most = value.partition("-")
                    values[name] = int(fewest), int(most or fewest)
                else:
                    values[name] = tuple(value.split("+")) if name == "questions" else int(value)
            except ValueError:
                raise ConfigError(
                    f"{cls.name}: {name} = {value!r}: expected a whole number"
                    + (" or a range, 3-5" * (name == "objects"))
                ) from None
        return cls(**values, **fixed)

    def clip(self, index: int, draw: bool = True, further: int = 0) -> Clip:
        """Clip number `index`, complete with frames; without frames and boxes if it is not to be drawn.
        further: so many objects on from the one that the clip's question is about (of a kind in
        ASKED_OF_ANY)."""
        scene = self.scene(index)
        frames, boxes = self.draw(scene) if draw else (None, None)
        question, answer, target = scene.questions[scene.asked]
        if further:
            question, answer, target = scene.ask(scene.asked, (target + further) % len(scene.things))
        return Clip(
            frames=frames,
            caption=self.caption(scene),
            question=question,
            answer=answer,
            boxes=boxes,
            target=target,
            question_kind=scene.asked,
            clip_id=f"{self.name}-{self.seed}-{index}",
            source=self.name,
        )

    def caption(self, scene: "Scene") -> str:
        """The text of a scene."""
        return scene.caption()

    def scene(self, index: int, kind: "type[Scene] | None" = None) -> "Scene":
        """What is in clip number `index`: everything but the pixels. kind: a class of its own for it."""
        dice = Dice(self.seed + self.salt, index)
        count = dice.between(*self.objects)
        shapes = dice.sample(SHAPES, count)
        while not set(shapes) & set(SOLID):  # one object carries the mark
            shapes = dice.sample(SHAPES, count)
        colours = dice.sample(COLOURS, count)
        cells = dice.sample([(x, y) for x in (200, 500, 800) for y in (200, 500, 800)], count)
        things = [
            self._thing(dice, *look, may_enter=i > 0) for i, look in enumerate(zip(shapes, colours, cells))
        ]
        marked = dice.choice([i for i, thing in enumerate(things) if thing.shape in SOLID])
        things[marked] = replace(things[marked], mark=dice.choice(MARKS))
        others = dice.sample([s for s in SOLID if s not in shapes] or ["circle"], min(1, self.distractors))
        grey = [self._distractor(dice, others[0]) for _ in range(dice.between(0, self.distractors))]
        scene = (kind or Scene)(things, marked, dice, grey, pillar=self._pillar(dice, things))
        scene.asked = dice.choice([kind for kind in self.questions if kind in scene.questions])
        return scene

    def _thing(
        self, dice: "Dice", shape: str, colour: str, cell: tuple[int, int], may_enter: bool
    ) -> "Thing":
        """An object that crosses the middle of its cell, or comes in at an edge and ends in it."""
        size = "small" if dice.per_cent(self.small) else dice.choice(["medium", "large"])
        enters = dice.between(250, 650) if may_enter and dice.per_cent(self.enter) else 0
        motion = dice.choice(list(MOTIONS)[:4] if enters else list(MOTIONS))
        dx, dy = MOTIONS[motion]
        distance = dice.between(300, 450)
        x, y = cell[0] + dice.between(-60, 60), cell[1] + dice.between(-60, 60)
        if enters:
            end = (_inside(x, 0, 0), _inside(y, 0, 0))
            start = ({-1: UNIT, 1: 0}.get(dx, end[0]), {-1: UNIT, 1: 0}.get(dy, end[1]))
            return Thing(shape, colour, size, motion, start, end, enters=enters)
        start = (_inside(x - dx * distance // 2, dx, distance), _inside(y - dy * distance // 2, dy, distance))
        return Thing(shape, colour, size, motion, start, (start[0] + dx * distance, start[1] + dy * distance))

    def _pillar(self, dice: "Dice", things: list["Thing"]) -> int | None:
        """Where a pillar's middle is, if there is one; none that would hide an object all the time."""
        x, there = dice.between(150, 850), dice.per_cent(self.occlusion)
        hides = any(t.start[0] == t.end[0] and abs(t.start[0] - x) < 100 for t in things)
        return x if there and not hides else None

    def _distractor(self, dice: "Dice", shape: str) -> "Thing":
        start, end = ((dice.between(100, 900), dice.between(100, 900)) for _ in range(2))
        return Thing(
            shape, "grey", dice.choice(["small", "medium"]), "still", start, end, mark=dice.choice(MARKS)
        )

    def draw(self, scene: "Scene") -> tuple[np.ndarray, np.ndarray]:
        """Pixels (T, 3, S, S) uint8 and boxes (T, n, 4) int32 (see `place`) of a scene, once: drawing uses up
        its dice."""
        T, S = self.frames, self.size
        drift, camera = self.drift * S // UNIT, self.camera * S // UNIT
        placement = self.place(scene)
        canvas = background(*placement.texture, self.texture)
        frames = np.empty((T, 3, S, S), np.uint8)
        things = scene.things + scene.distractors
        order = sorted(range(len(things)), key=lambda i: -SIZES[things[i].size])  # small ones on top
        stamps = [stamp(t.shape, t.colour, SIZES[t.size] * S // UNIT, t.mark) for t in things]
        last = max(T - 1, 1)
        for t in range(T):
            along = drift * (t if placement.reverse else T - 1 - t) // last
            across, down = placement.shifts[t]
            top, left = along + camera // 2 - down, along // 2 + camera // 2 - across
            frames[t] = canvas[:, top : top + S, left : left + S]
            for i in order:
                if t >= things[i].first(T):
                    paste(frames[t], *stamps[i], *placement.corners[t, i])
            if scene.pillar is not None:
                left = max(scene.pillar * S // UNIT + across - S // 16, 0)
                frames[t, :, :, left : left + S // 8] = np.array(GREY, np.uint8)[:, None, None] // 2
        return frames, placement.boxes

    def place(self, scene: "Scene") -> "Placement":
        """Where everything is in every frame: all that the dice decide of a clip's pixels, but no pixel yet.
        A sixth of the time of `draw`; like it, it uses up the scene's dice."""
        T, S = self.frames, self.size
        camera, last = self.camera * S // UNIT, max(T - 1, 1)
        texture = roll_background(scene.dice, S + self.drift * S // UNIT + camera)
        reverse, pan = scene.dice.between(0, 1), scene.dice.choice([(1, 0), (-1, 0), (0, 1), (0, -1)])
        things = scene.things + scene.distractors
        # of everything seen, from - to + half
        shifts = [[camera * (2 * t - (T - 1)) * way // (2 * last) for way in pan] for t in range(T)]
        corners = np.zeros((T, len(things), 2), np.int32)
        boxes = np.zeros((T, len(scene.things), 4), np.int32)
        for i, thing in enumerate(things):
            side = SIZES[thing.size] * S // UNIT
            for t in range(thing.first(T), T):
                centre = zip(thing.position(t, T), shifts[t])
                left, top = corners[t, i] = [x * S // UNIT + shift - side // 2 for x, shift in centre]
                if i < len(scene.things):
                    boxes[t, i] = visible_part(left, top, side, S)
        return Placement(texture, bool(reverse), shifts, corners, boxes)


@dataclass(frozen=True)
class Placement:
    """Where everything is in a clip's frames.

    texture: what the dice say of the background (`roll_background`). reverse: whether it drifts backwards.
    shifts: how far the camera has moved everything in each frame, pixels across and down. corners: (T, things
    and distractors, 2) left and top in pixels, perhaps outside the frame. boxes: (T, n, 4) of the objects,
    not the distractors: left, top, right, bottom, ends excluded, clipped to the frame; all zero while an
    object has not come in yet. What a pillar hides keeps its box."""

    texture: tuple[np.ndarray, np.ndarray]
    reverse: bool
    shifts: list[list[int]]
    corners: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Thing:
    """One object: how it looks, what it does, and where it starts and ends (x, y of its centre).

    enters: when it comes in, thousandths of the clip; 0: it is there from the start."""

    shape: str
    colour: str
    size: str
    motion: str
    start: tuple[int, int]
    end: tuple[int, int]
    mark: str = ""
    enters: int = 0

    def first(self, frames: int) -> int:
        """The first frame that it is in."""
        return min(-(-self.enters * frames // UNIT), frames - 1)

    def position(self, t: int, frames: int) -> tuple[int, int]:
        """Its centre in frame t, which must not be before it enters."""
        first = self.first(frames)
        done, all = t - first, max(frames - 1 - first, 1)
        x, y = ((a * (all - done) + b * done) // all for a, b in zip(self.start, self.end))
        return x, y

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"

    def sentence(self) -> str:
        marked = f" marked {self.mark}" if self.mark else ""
        if self.enters:
            return f"Then a {self.name}{marked} enters and moves {self.motion}."
        return f"A {self.name}{marked} {'stays still' if self.motion == 'still' else f'moves {self.motion}'}."


@dataclass
class Scene:
    """The objects of a clip, and the dice that go on to decide the rest."""

    things: list[Thing]
    marked: int
    dice: "Dice"
    distractors: list[Thing] = field(default_factory=list)
    pillar: int | None = None  # x of its middle
    asked: str = ""
    questions: dict[str, tuple[str, str, int]] = field(
        init=False
    )  # kind: (question, answer, target object or -1)

    def __post_init__(self):
        thing = self.things[self.marked]
        self.questions = {"mark": (f"What is written on the {thing.name}?", thing.mark, self.marked)}
        for kind in ASKED_OF_ANY:
            self.questions[kind] = self.ask(kind, self.dice.between(0, len(self.things) - 1))
        self.questions["count"] = ("How many coloured objects are there?", str(len(self.things)), -1)
        if latest := max(t.enters for t in self.things):
            i = [t.enters for t in self.things].index(latest)
            self.questions["enters"] = (
                "What colour is the object that enters last?",
                self.things[i].colour,
                i,
            )

    def ask(self, kind: str, i: int) -> tuple[str, str, int]:
        """Question, answer and target of a kind in ASKED_OF_ANY, about object i."""
        t = self.things[i]
        return {
            "colour": (f"What colour is the {t.shape}?", t.colour, i),
            "shape": (f"Which shape is {t.colour}?", t.shape, i),
            "motion": (
                f"Where does the {t.colour} {t.shape} go?",
                "nowhere" if t.motion == "still" else t.motion,
                i,
            ),
        }[kind]

    def caption(self) -> str:
        """One sentence per object: those there from the start by the alphabet of their colours, then the
        others as they come in. So a clip has one caption."""
        return " ".join(t.sentence() for t in sorted(self.things, key=lambda t: (t.enters, t.colour)))


def open_shapes(world: ShapesWorld, split: str, seed: int = 0) -> "ShapesDataset":
    """A split of the world, "train" or "validation", for a run's seed."""
    fewest, most = world.objects
    if split == "validation":
        world = replace(world, objects=(max(fewest, world.crowded), most))
    world = replace(world, crowded=0)
    return ShapesPool(world, seed) if world.pool and split == "train" else ShapesDataset(world, split, seed)


class ShapesDataset:
    """A split of the world as a map-style dataset without end: item k is its k-th clip.

    Validation has every tenth index of the world; training the others, each run seed its own stretch."""

    def __init__(self, world: ShapesWorld, split: str, seed: int = 0):
        self.world, self.split, self.seed = world, split, seed

    def index(self, item: int) -> int:
        if self.split == "validation":
            return VALIDATION_SHARE * item
        return _training_index(self.seed, item)

    def __getitem__(self, item: int) -> Clip:
        return self.world.clip(self.index(item))

    def told(self, item: int) -> Clip:
        """Item `item` without its frames and boxes."""
        return self.world.clip(self.index(item), draw=False)

    def key(self, item: int) -> str:
        """Names the frames of an item: the same for every dataset whose world draws them so."""
        return f"{self._settings('frames', 'questions', *OF_RUNS)} {self.index(item)}"

    @property
    def fingerprint(self) -> str:
        return self._settings("frames", *OF_RUNS)

    def _settings(self, *without: str) -> str:
        settings = (
            (f.name, getattr(self.world, f.name)) for f in fields(self.world) if f.name not in without
        )
        shown = (
            f"{name}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in settings
        )
        return f"{self.world.name}-v2 {' '.join(shown)}"


class ShapesPool(ShapesDataset):
    """Training clips that all run seeds share, each seed in an order of its own, a new one every pass: what
    a frozen vision model makes of them is then computed once for all. A pass after the first asks each clip
    about another object, as far as it has others; all of the world's passes are one epoch."""

    def __init__(self, world: ShapesWorld, seed: int):
        super().__init__(world, "train", seed)
        self._orders = {}

    def __len__(self) -> int:
        return self.world.pool * self.world.passes

    def __getitem__(self, item: int) -> Clip:
        return self.world.clip(self.index(item), further=self._pass(item))

    def told(self, item: int) -> Clip:
        return self.world.clip(self.index(item), draw=False, further=self._pass(item))

    def index(self, item: int) -> int:
        number, place = divmod(int(item), self.world.pool)
        if number not in self._orders:
            order = np.random.default_rng([self.seed, number]).permutation(self.world.pool)
            self._orders = {number: order}
        return _training_index(_FIRST_POOL + self.world.stretch, int(self._orders[number][place]))

    def _pass(self, item: int) -> int:
        """Which pass of its epoch an item is in."""
        return int(item) // self.world.pool % self.world.passes

    @property
    def fingerprint(self) -> str:
        return self._settings("frames", "crowded", *(["passes"] if self.world.passes == 1 else []))


def _training_index(stretch: int, item: int) -> int:
    """The world's index of a stretch's item-th training clip."""
    block, rest = divmod(item, VALIDATION_SHARE - 1)
    return stretch * _SEED_STRIDE + VALIDATION_SHARE * block + rest + 1


class Dice:
    """Random choices from the raw 64-bit output of PCG64, which NumPy promises never to change."""

    def __init__(self, seed: int, index: int):
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, index]))

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + (int(self._bits.random_raw()) * (high - low + 1) >> 64)

    def per_cent(self, share: int) -> bool:
        """True in `share` of a hundred cases."""
        return self.between(1, 100) <= share

    def choice(self, options):
        return options[self.between(0, len(options) - 1)]

    def sample(self, options, count: int) -> list:
        """`count` different options, in random order."""
        options = list(options)
        return [options.pop(self.between(0, len(options) - 1)) for _ in range(count)]

    def bytes(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return self._bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(shape)


_CELLS = 7  # smooth patches of the background, along a side


def roll_background(dice: Dice, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What the dice decide of a background: colours at the corners of its cells (3, _CELLS + 1, _CELLS + 1)
    and its grain (size, size)."""
    return dice.bytes(3, _CELLS + 1, _CELLS + 1), dice.bytes(size, size)


def background(colours: np.ndarray, grain: np.ndarray, contrast: int) -> np.ndarray:
    """A texture (3, size, size) uint8: smooth patches of greyish colour with fine grain."""
    coarse, size = colours.astype(np.int32), len(grain)
    coarse = (coarse.sum(axis=0) + coarse) // 4 * contrast // 128 + 120 - contrast  # three quarters grey
    at = np.arange(size) * _CELLS * 256 // size
    cell, part = at // 256, (at % 256).astype(np.uint16)  # part of the way to the next cell, in 256ths
    coarse = coarse.clip(0, 255).astype(np.uint16)
    rows = (coarse[:, cell] * (256 - part)[:, None] + coarse[:, cell + 1] * part[:, None]) >> 8
    smooth = (rows[:, :, cell] * (256 - part) + rows[:, :, cell + 1] * part) >> 8
    return np.minimum(smooth + (grain.astype(np.uint16) * contrast >> 9), 255).astype(np.uint8)


@functools.lru_cache(maxsize=4096)
def stamp(shape: str, colour: str, size: int, mark: str) -> tuple[np.ndarray, np.ndarray]:
    """Colour (3, size, size) and opacity (size, size) of one object, both 0-255."""
    rgb = COLOURS.get(colour, GREY)
    paint = np.empty((3, size, size), np.uint16)
    paint[:] = np.array(rgb)[:, None, None]
    if mark:
        height = max(size * 55 // 100, 7)
        width = height * 5 // 7
        glyph = GLYPHS[mark][np.arange(height) * 7 // height][:, np.arange(width) * 5 // width]
        top, left = (size - height) // 2 + (size // 8 if shape == "triangle" else 0), (size - width) // 2
        paint[:, top : top + height, left : left + width][:, glyph] = 255 if sum(rgb) < 400 else 0
    return paint, opacity(shape, size)


def opacity(shape: str, size: int) -> np.ndarray:
    """How much of each pixel a shape covers (size, size), 0-255, from four by four samples a pixel."""
    n = 4 * size
    v, u = np.mgrid[0:n, 0:n] * 2 + 1 - n  # odd numbers from 1 - n to n - 1
    inside = {
        "circle": lambda: u * u + v * v <= n * n,
        "ring": lambda: (u * u + v * v <= n * n) & (u * u + v * v >= n * n * 9 // 25),
        "square": lambda: np.maximum(abs(u), abs(v)) * 100 <= n * 88,
        "triangle": lambda: 2 * abs(u) <= v + n,
        "diamond": lambda: abs(u) + abs(v) <= n,
        "cross": lambda: np.minimum(abs(u), abs(v)) * 10 <= n * 3,
        "star": lambda: _in_polygon(u, v, n, _STAR),
    }[shape]()
    covered = inside.reshape(size, 4, size, 4).sum(axis=(1, 3), dtype=np.uint16)
    return covered * 255 // 16


# A five-pointed star, thousandths of its half side, clockwise from the top.
_STAR = [
    (0, -1000),
    (230, -310),
    (951, -309),
    (372, 121),
    (588, 809),
    (0, 390),
    (-588, 809),
    (-372, 121),
    (-951, -309),
    (-230, -310),
]


def _in_polygon(u, v, n, corners):
    """Even-odd rule, in whole numbers."""
    inside = np.zeros(u.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1]):
        x1, y1, x2, y2 = (c * n // 1000 for c in (x1, y1, x2, y2))
        if y1 == y2:
            continue
        crosses = (y1 > v) != (y2 > v)
        side = (u - x1) * (y2 - y1) - (v - y1) * (x2 - x1)
        inside ^= crosses & ((side < 0) if y2 > y1 else (side > 0))
    return inside


def paste(frame: np.ndarray, colour: np.ndarray, alpha: np.ndarray, left: int, top: int):
    """Blend a stamp into a frame (3, S, S) in place."""
    x0, y0, x1, y1 = visible_part(left, top, len(alpha), frame.shape[-1])
    cut = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under = frame[:, y0:y1, x0:x1]
    if under.size:
        under[:] = (under * (255 - alpha[cut]) + colour[(slice(None), *cut)] * alpha[cut] + 127) // 255


def visible_part(left: int, top: int, side: int, size: int) -> tuple[int, int, int, int]:
    """The part of a square that is inside a frame of `size` pixels: left, top, right, bottom; zeros if
    none."""
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, size), min(top + side, size)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, 0, 0)


def _inside(start: int, direction: int, distance: int) -> int:
    """A start such that the way from it stays within the frame."""
    low, high = 100 + max(-direction, 0) * distance, 900 - max(direction, 0) * distance
    return min(max(start, low), high)


# Five by seven dots per character, a hexadecimal digit pair per row.
_DOTS = {
    "0": "0E11131519110E",
    "1": "040C040404040E",
    "2": "0E11010204081F",
    "3": "1F02040201110E",
    "4": "02060A121F0202",
    "5": "1F101E0101110E",
    "6": "0608101E11110E",
    "7": "1F010204080808",
    "8": "0E11110E11110E",
    "9": "0E11110F01020C",
    "A": "0E11111F111111",
    "C": "0E11101010110E",
    "E": "1F10101E10101F",
    "F": "1F10101E101010",
    "H": "1111111F111111",
    "J": "0702020202120C",
    "K": "11121418141211",
    "L": "1010101010101F",
    "N": "11111915131111",
    "P": "1E11111E101010",
    "R": "1E11111E141211",
    "T": "1F040404040404",
    "U": "1111111111110E",
    "X": "11110A040A1111",
    "Y": "1111110A040404",
    "Z": "1F01020408101F",
}
GLYPHS = {
    mark: np.array([[(row >> (4 - column)) & 1 for column in range(5)] for row in bytes.fromhex(dots)], bool)
    for mark, dots in _DOTS.items()
}
