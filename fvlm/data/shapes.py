"""The built-in world: textured scenes of moving shapes, drawn on the fly from (seed, index).

Every clip comes with a caption, a question about one object with its answer, and the box of every object in
every frame. All drawing is integer arithmetic on the raw output of PCG64, so that a clip is the same, bit for
bit, on every machine.

T frames, S side in pixels, n objects.
"""

import functools
from dataclasses import dataclass, field, replace

import numpy as np

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
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring")
SOLID = ("circle", "square", "triangle", "diamond")  # with room for a mark
SIZES = {"small": 125, "medium": 230, "large": 340}  # thousandths of the frame's side
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
MARKS = "0123456789ACEFHJKLNPRTUXYZ"  # without letters that look like digits at this size
QUESTIONS = ("mark", "colour", "shape", "motion")
UNIT = 1000  # positions are thousandths of the frame's side

VALIDATION_SHARE = 10  # every tenth index is validation: the split depends on the index alone
_SEED_STRIDE = 10 << 40  # room for a trillion training clips per run seed


@dataclass(frozen=True)
class ShapesWorld:
    """How hard the world is. Two worlds with the same settings are the same world."""

    seed: int = 0
    frames: int = 8
    size: int = 112
    objects: tuple[int, int] = (2, 4)  # fewest and most
    texture: int = 24  # contrast of the background, grey levels
    drift: int = 150  # how far the background moves during a clip, thousandths of the side

    def clip(self, index: int) -> Clip:
        """Clip number `index`, complete with frames."""
        scene = self.scene(index)
        frames, boxes = self.draw(scene)
        question, answer, target = scene.questions[scene.asked]
        return Clip(
            frames=frames, caption=scene.caption(), question=question, answer=answer, boxes=boxes, target=target,
            question_kind=scene.asked, clip_id=f"shapes-{self.seed}-{index}", source="shapes",
        )  # fmt: skip

    def scene(self, index: int) -> "Scene":
        """What is in clip number `index`: everything but the pixels."""
        dice = Dice(self.seed, index)
        count = dice.between(*self.objects)
        looks = [(dice.choice(list(COLOURS)), dice.choice(SOLID))]  # the first object carries the mark
        others = [(c, s) for c in COLOURS for s in SHAPES if c != looks[0][0] and s != looks[0][1]]
        looks += dice.sample(others, count - 1, distinct=(0, 1))
        cells = dice.sample([(x, y) for x in (200, 500, 800) for y in (200, 500, 800)], count)
        things = []
        for (colour, shape), (x, y) in zip(looks, cells):
            size, motion = dice.choice(list(SIZES)), dice.choice(list(MOTIONS))
            dx, dy = MOTIONS[motion]
            distance = dice.between(300, 450)
            x, y = x + dice.between(-60, 60), y + dice.between(-60, 60)
            start = (_inside(x - dx * distance // 2, dx, distance), _inside(y - dy * distance // 2, dy, distance))
            things.append(Thing(shape, colour, size, motion, start, (start[0] + dx * distance, start[1] + dy * distance)))
        things[0] = replace(things[0], mark=dice.choice(MARKS))
        scene = Scene(things, dice)
        scene.asked = dice.choice(sorted(scene.questions))
        return scene

    def draw(self, scene: "Scene") -> tuple[np.ndarray, np.ndarray]:
        """Pixels (T, 3, S, S) uint8 and boxes (T, n, 4) int32: left, top, right, bottom, ends excluded, clipped."""
        T, S = self.frames, self.size
        drift = self.drift * S // UNIT
        canvas = background(scene.dice, S + drift, self.texture)
        reverse = scene.dice.between(0, 1)
        frames = np.empty((T, 3, S, S), np.uint8)
        boxes = np.zeros((T, len(scene.things), 4), np.int32)
        order = sorted(range(len(scene.things)), key=lambda i: -SIZES[scene.things[i].size])  # small ones on top
        stamps = [stamp(t.shape, t.colour, SIZES[t.size] * S // UNIT, t.mark) for t in scene.things]
        for t in range(T):
            along = t if reverse else T - 1 - t
            offset = drift * along // max(T - 1, 1)
            frames[t] = canvas[:, offset : offset + S, offset // 2 : offset // 2 + S]
            for i in order:
                colour, alpha = stamps[i]
                x, y = scene.things[i].position(t, T)
                left, top = x * S // UNIT - len(alpha) // 2, y * S // UNIT - len(alpha) // 2
                boxes[t, i] = paste(frames[t], colour, alpha, left, top)
        return frames, boxes


@dataclass(frozen=True)
class Thing:
    """One object: how it looks, what it does, and where it starts and ends (x, y of its centre)."""

    shape: str
    colour: str
    size: str
    motion: str
    start: tuple[int, int]
    end: tuple[int, int]
    mark: str = ""

    def position(self, t: int, frames: int) -> tuple[int, int]:
        x, y = ((a * (frames - 1 - t) + b * t) // max(frames - 1, 1) for a, b in zip(self.start, self.end))
        return x, y

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"

    def sentence(self) -> str:
        moves = "stays still" if self.motion == "still" else f"moves {self.motion}"
        return f"a {self.name}{f' marked {self.mark}' if self.mark else ''} {moves}"


@dataclass
class Scene:
    """The objects of a clip, and the dice that go on to decide the rest."""

    things: list[Thing]
    dice: "Dice"
    asked: str = ""
    questions: dict[str, tuple[str, str, int]] = field(init=False)  # kind: (question, answer, target object)

    def __post_init__(self):
        marked = self.things[0]
        self.questions = {"mark": (f"What is written on the {marked.name}?", marked.mark, 0)}
        for kind in ("colour", "shape", "motion"):
            i = self.dice.between(0, len(self.things) - 1)
            t = self.things[i]
            self.questions[kind] = {
                "colour": (f"What colour is the {t.shape}?", t.colour, i),
                "shape": (f"Which shape is {t.colour}?", t.shape, i),
                "motion": (f"Where does the {t.colour} {t.shape} go?", "nowhere" if t.motion == "still" else t.motion, i),
            }[kind]

    def caption(self) -> str:
        """One sentence per object, in the alphabetical order of their colours, so that a clip has one caption."""
        ordered = sorted(self.things, key=lambda t: t.colour)
        return " ".join(f"{t.sentence().capitalize()}.".replace(f"marked {t.mark.lower()} ", f"marked {t.mark} ") for t in ordered)


class ShapesDataset:
    """A split of the world as a map-style dataset without end: item k is its k-th clip.

    Validation has every tenth index of the world; training the others, each run seed its own stretch."""

    def __init__(self, world: ShapesWorld, split: str, seed: int = 0):
        self.world, self.split, self.seed = world, split, seed

    def index(self, item: int) -> int:
        if self.split == "validation":
            return VALIDATION_SHARE * item
        block, rest = divmod(item, VALIDATION_SHARE - 1)
        return self.seed * _SEED_STRIDE + VALIDATION_SHARE * block + rest + 1

    def __getitem__(self, item: int) -> Clip:
        return self.world.clip(self.index(item))

    @property
    def fingerprint(self) -> str:
        w = self.world
        return f"shapes-v1 seed={w.seed} objects={w.objects[0]}-{w.objects[1]} texture={w.texture} drift={w.drift} size={w.size}"


class Dice:
    """Random choices from the raw 64-bit output of PCG64, which NumPy promises never to change."""

    def __init__(self, seed: int, index: int):
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, index]))

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + (int(self._bits.random_raw()) * (high - low + 1) >> 64)

    def choice(self, options):
        return options[self.between(0, len(options) - 1)]

    def sample(self, options: list, count: int, distinct: tuple[int, ...] = ()) -> list:
        """`count` different options; with `distinct`, also different in each of these parts."""
        options, taken = list(options), []
        while len(taken) < count:
            pick = options.pop(self.between(0, len(options) - 1))
            taken.append(pick)
            options = [o for o in options if not any(o[part] == pick[part] for part in distinct)]
        return taken

    def bytes(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return self._bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(shape)


def background(dice: Dice, size: int, contrast: int) -> np.ndarray:
    """A texture (3, size, size) uint8: smooth patches of greyish colour with fine grain."""
    cells = 7
    coarse = dice.bytes(3, cells + 1, cells + 1).astype(np.int32)
    coarse = (coarse.sum(axis=0) + coarse) // 4 * contrast // 128 + 120 - contrast  # three quarters grey
    at = np.arange(size) * cells * 256 // size
    cell, part = at // 256, (at % 256).astype(np.uint16)  # part of the way to the next cell, in 256ths
    coarse = coarse.clip(0, 255).astype(np.uint16)
    rows = (coarse[:, cell] * (256 - part)[:, None] + coarse[:, cell + 1] * part[:, None]) >> 8
    smooth = (rows[:, :, cell] * (256 - part) + rows[:, :, cell + 1] * part) >> 8
    grain = dice.bytes(size, size).astype(np.uint16) * contrast >> 9
    return np.minimum(smooth + grain, 255).astype(np.uint8)


@functools.lru_cache(maxsize=4096)
def stamp(shape: str, colour: str, size: int, mark: str) -> tuple[np.ndarray, np.ndarray]:
    """Colour (3, size, size) and opacity (size, size) of one object, both 0-255."""
    paint = np.empty((3, size, size), np.uint16)
    paint[:] = np.array(COLOURS[colour])[:, None, None]
    if mark:
        height = max(size * 55 // 100, 7)
        width = height * 5 // 7
        glyph = GLYPHS[mark][np.arange(height) * 7 // height][:, np.arange(width) * 5 // width]
        top, left = (size - height) // 2 + (size // 8 if shape == "triangle" else 0), (size - width) // 2
        paint[:, top : top + height, left : left + width][:, glyph] = 255 if sum(COLOURS[colour]) < 400 else 0
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


def paste(frame: np.ndarray, colour: np.ndarray, alpha: np.ndarray, left: int, top: int) -> tuple[int, int, int, int]:
    """Blend a stamp into a frame (3, S, S) in place; returns the part of its box that is inside the frame."""
    S, size = frame.shape[-1], len(alpha)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, S), min(top + size, S)
    if x0 >= x1 or y0 >= y1:
        return 0, 0, 0, 0
    cut = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under = frame[:, y0:y1, x0:x1]
    under[:] = (under * (255 - alpha[cut]) + colour[(slice(None), *cut)] * alpha[cut] + 127) // 255
    return x0, y0, x1, y1


def _inside(start: int, direction: int, distance: int) -> int:
    """A start such that the way from it stays within the frame."""
    low, high = 100 + max(-direction, 0) * distance, 900 - max(direction, 0) * distance
    return min(max(start, low), high)


# Five by seven dots per character, a hexadecimal digit pair per row.
_DOTS = {
    "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E", "4": "02060A121F0202",
    "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204080808", "8": "0E11110E11110E", "9": "0E11110F01020C",
    "A": "0E11111F111111", "C": "0E11101010110E", "E": "1F10101E10101F", "F": "1F10101E101010", "H": "1111111F111111",
    "J": "0702020202120C", "K": "11121418141211", "L": "1010101010101F", "N": "11111915131111", "P": "1E11111E101010",
    "R": "1E11111E141211", "T": "1F040404040404", "U": "1111111111110E", "X": "11110A040A1111", "Y": "1111110A040404",
    "Z": "1F01020408101F",
}  # fmt: skip
GLYPHS = {
    mark: np.array([[(row >> (4 - column)) & 1 for column in range(5)] for row in bytes.fromhex(dots)], bool)
    for mark, dots in _DOTS.items()
}
