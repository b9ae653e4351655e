"""Several datasets as one, mixed by weight: which of them a position of the run's order falls on, and which
of its clips that is.

Both follow from seed and position alone. So going on from a position needs nothing else, and however many
processes and workers share the positions, they see the same clips.
"""

from collections.abc import Sized
from dataclasses import replace

import numpy as np

from fvlm.config import MOST
from fvlm.data.clips import Clip

STRIDE = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiples of it fall evenly on any part of a circle
CHUNK = 1 << 16  # positions that are worked out together


class _Parts:
    """A dataset whose items are those of several, `parts`: `find` says whose an item is and which."""

    parts: list

    def find(self, item: int) -> tuple[int, int]:
        raise NotImplementedError

    def __getitem__(self, item: int) -> Clip:
        part, number = self.find(item)
        return self.parts[part][number]

    def told(self, item: int) -> Clip:
        """Item `item` without its frames."""
        part, number = self.find(item)
        return self.parts[part].told(number)

    def key(self, item: int) -> str:
        """Names the frames of an item."""
        part, number = self.find(item)
        return self.parts[part].key(number)


class Mixture(_Parts):
    """Training clips of several datasets: item p is the clip at position p.

    parts: datasets by the number of their turn, each in its own order, without end. weights: as often are
    they in turn, whatever their sum; 0: never. limits: clips of each that may be seen, infinity where there
    is no limit. So many positions as none goes beyond is the length; positions after it go on all the same.

    Among any n positions a part of weight w (of 1) has its n w, give or take a few."""

    def __init__(self, parts: list, weights: list[float], seed: int, limits: list[float]):
        self.parts, self.weights, self.seed, self.limits = parts, weights, seed, limits
        self._used = [i for i, weight in enumerate(weights) if weight > 0]
        shares = np.cumsum([weights[i] for i in self._used]) / sum(weights)
        self._edges = np.array([int(share * 2.0**64) for share in shares[:-1]], np.uint64)
        self._first = np.uint64(np.random.PCG64(np.random.SeedSequence([seed, len(parts)])).random_raw())
        self._before = [np.zeros(len(parts), np.int64)]  # clips of each part before each chunk
        self._chunk = (-1, np.zeros(0, int), np.zeros(0, int))

    def __len__(self) -> int:
        """At most MOST."""
        limits = np.array(self.limits, float)
        if min(limits[i] * sum(self.weights) / self.weights[i] for i in self._used) >= MOST:
            return MOST
        chunk = 0
        while (self.counts((chunk + 1) * CHUNK) <= limits).all():
            chunk += 1
        whose, turns = self._worked_out(chunk)
        return chunk * CHUNK + int(np.argmax(turns >= limits[whose]))

    def counts(self, positions: int) -> np.ndarray:
        """How many of the first so many positions fall on each part."""
        chunk, rest = divmod(positions, CHUNK)
        counts = self._counted(chunk)
        return counts + np.bincount(self._worked_out(chunk)[0][:rest], minlength=len(self.parts))

    def find(self, item: int) -> tuple[int, int]:
        """Which part a position falls on, and the number of its turn."""
        chunk, rest = divmod(int(item), CHUNK)
        whose, turns = self._worked_out(chunk)
        return int(whose[rest]), int(turns[rest])

    @property
    def fingerprint(self) -> str:
        return " + ".join(f"{weight:g} {part.fingerprint}" for part, weight in zip(self.parts, self.weights))

    def _whose(self, chunk: int) -> np.ndarray:
        """The part of each position of a chunk (CHUNK,)."""
        positions = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint64)
        places = positions * np.uint64(STRIDE) + self._first  # modulo 2^64
        return np.array(self._used)[np.searchsorted(self._edges, places, side="right")]

    def _counted(self, chunk: int) -> np.ndarray:
        while len(self._before) <= chunk:
            new = np.bincount(self._whose(len(self._before) - 1), minlength=len(self.parts))
            self._before.append(self._before[-1] + new)
        return self._before[chunk]

    def _worked_out(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of each position of a chunk, and the number of its turn."""
        if self._chunk[0] != chunk:
            whose, turns = self._whose(chunk), np.empty(CHUNK, np.int64)
            for part, before in enumerate(self._counted(chunk)):
                mine = whose == part
                turns[mine] = before + np.arange(mine.sum())
            self._chunk = chunk, whose, turns
        return self._chunk[1:]


class InTurns(_Parts):
    """Datasets that take turns, item by item, until each is used up: so the first items are of all of them
    alike."""

    def __init__(self, parts: list):
        self.parts = parts

    def __len__(self) -> int:
        return min(MOST, sum(_length(part) for part in self.parts))

    def find(self, item: int) -> tuple[int, int]:
        """Which part an item is of, and the number it has there. IndexError beyond the last."""
        left, begun, alive = int(item), 0, list(range(len(self.parts)))
        while alive:
            end = min(_length(self.parts[i]) for i in alive)
            if left < (end - begun) * len(alive):
                number, which = divmod(left, len(alive))
                return alive[which], begun + number
            left -= (end - begun) * len(alive)
            begun, alive = end, [i for i in alive if _length(self.parts[i]) > end]
        raise IndexError(item)

    def part_by_part(self, items: int) -> list[int]:
        """The first so many items, those of the first part before those of the second and so on."""
        return sorted(range(items), key=lambda item: self.find(item))

    @property
    def fingerprint(self) -> str:
        return " + ".join(part.fingerprint for part in self.parts)


class OfDomain:
    """A dataset whose clips say of which domain they are, with ids of their own among other parts'."""

    def __init__(self, dataset, domain: str, name: str):
        self.dataset, self.domain, self.name = dataset, domain, name

    def __getitem__(self, item: int) -> Clip:
        return self._named(self.dataset[item])

    def told(self, item: int) -> Clip:
        return self._named(self.dataset.told(item))

    def key(self, item: int) -> str:
        return self.dataset.key(item)

    def _named(self, clip: Clip) -> Clip:
        return replace(clip, domain=self.domain, clip_id=f"{self.name}:{clip.clip_id}")

    @property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint


def _length(part) -> int:
    """Items of a part; MOST of one without end."""
    dataset = part.dataset if isinstance(part, OfDomain) else part
    return len(dataset) if isinstance(dataset, Sized) else MOST
