"""Reading prepared datasets: one clip by its number, or all in a shuffled order that any position of it gives
again."""

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import numpy as np

from fvlm.config import ConfigError
from fvlm.data.clips import Clip, no_frames
from fvlm.data.mixture import Mixture
from fvlm.data.prepare import read_manifest
from fvlm.data.video import decode_jpegs

BUFFER = 1000  # clips among which the shuffled order mixes neighbours, after shuffling the shards
OPEN_GROUPS = 160  # row groups kept decoded from Parquet: more than a buffer's clips need


class PreparedDataset:
    """A split of a prepared dataset, map-style: item i is its i-th clip, in stored order.

    Nothing is loaded but the row groups of the clips that are asked for. `size`: side in pixels to decode
    to."""

    def __init__(self, folder: str | Path, split: str, size: int | None = None):
        self.folder, self.split, self.size = Path(folder), split, size
        self.manifest = read_manifest(folder)
        self.shards = [shard for shard in self.manifest["shards"] if shard["split"] == split]
        self.ends = np.cumsum([shard["clips"] for shard in self.shards])
        self._groups = OrderedDict()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, item: int) -> Clip:
        return self._clip(item, decode=True)

    def told(self, item: int) -> Clip:
        """Item `item` without its frames."""
        return self._clip(item, decode=False)

    def key(self, item: int) -> str:
        """Names the frames of an item."""
        return f"{self.fingerprint} {self.row(item)['clip_id']}"

    def drawn(self, item: int, draw: tuple[int, ...], decode: bool = True) -> Clip:
        """Item `item`; of several captions the one that `draw`, any whole numbers, falls on."""
        return self._clip(item, decode, draw)

    def _clip(self, item: int, decode: bool, draw: tuple[int, ...] = ()) -> Clip:
        row = self.row(item)
        captions = row.get("captions") or [row["caption"] or ""]
        number = np.random.default_rng(draw).integers(len(captions)) if draw and len(captions) > 1 else 0
        return Clip(
            frames=self._frames(row["frames"], decode),
            caption=captions[number],
            clip_id=row["clip_id"],
            source=row["source"] or "",
            question=row["question"],
            answer=row["answer"],
            boxes=self._boxes(row["boxes"]),
            target=row["target"],
            question_kind=row["question_kind"] or "",
        )

    def _frames(self, jpegs: list[bytes], decode: bool) -> np.ndarray | None:
        """None if they are not to be decoded; a text alone has none, and says so."""
        if not jpegs:
            return no_frames(self.size or self.manifest["size"])
        return decode_jpegs(jpegs, self.size) if decode else None

    def row(self, item: int) -> dict:
        """What is stored of a clip; its frames as JPEG bytes."""
        if not 0 <= item < len(self):
            raise IndexError(item)
        shard = int(np.searchsorted(self.ends, item, side="right"))
        first = int(self.ends[shard]) - self.shards[shard]["clips"]
        path = str(self.folder / self.shards[shard]["file"])
        group_ends = _row_groups(path)
        group = int(np.searchsorted(group_ends, item - first, side="right"))
        rows = self._group(path, group)
        return rows[item - first - (int(group_ends[group - 1]) if group else 0)]

    def _group(self, path: str, group: int) -> list[dict]:
        key = path, group
        if key not in self._groups:
            self._groups[key] = _parquet(path).read_row_group(group).to_pylist()
            if len(self._groups) > OPEN_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _boxes(self, boxes) -> np.ndarray | None:
        if boxes is None:
            return None
        return np.array(boxes, np.int32) * (self.size or self.manifest["size"]) // self.manifest["size"]

    def order(self, seed: int, epoch: int = 0) -> np.ndarray:
        """All item numbers, shards shuffled and then clips within a buffer; so that reading stays local, as
        in a stream."""
        rng = np.random.default_rng([seed, epoch])
        starts = self.ends - [shard["clips"] for shard in self.shards]
        parts = [np.arange(starts[i], self.ends[i]) for i in rng.permutation(len(self.shards))]
        items = np.concatenate(parts) if parts else np.arange(0)
        return items[np.argsort(np.arange(len(items)) + rng.integers(0, BUFFER, len(items)), kind="stable")]

    @property
    def fingerprint(self) -> str:
        return f"prepared-{self.manifest['fingerprint']}"

    def __getstate__(self):  # worker processes open files of their own
        return self.__dict__ | dict(_groups=OrderedDict())


@lru_cache(maxsize=64)
def _parquet(path: str):
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, memory_map=True)


@lru_cache(maxsize=100_000)
def _row_groups(path: str) -> np.ndarray:
    metadata = _parquet(path).metadata
    return np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])


class Shuffled:
    """A prepared split in a shuffled order: item p is the clip at position p, of epoch p // len. Of a clip's
    several captions one is drawn for each position.

    The order follows from the seed alone, so going on from a position needs nothing but the position. limit:
    only so many of the clips, the same ones for every seed."""

    def __init__(self, dataset: PreparedDataset, seed: int, limit: int | None = None):
        self.dataset, self.seed = dataset, seed
        self.limit = len(dataset) if limit is None else min(limit, len(dataset))
        self._orders = {}

    def _order(self, epoch: int) -> np.ndarray:
        """Positions of an epoch to clips."""
        if epoch not in self._orders:
            order = self.dataset.order(self.seed, epoch)
            if self.limit < len(self.dataset):
                order = order[np.isin(order, self.dataset.order(0)[: self.limit])]
            self._orders = {epoch: order}
        return self._orders[epoch]

    def __len__(self) -> int:
        return self.limit

    def __getitem__(self, position: int) -> Clip:
        return self.dataset.drawn(self._find(position), (self.seed, int(position)))

    def told(self, position: int) -> Clip:
        """The clip at a position without its frames."""
        return self.dataset.drawn(self._find(position), (self.seed, int(position)), decode=False)

    def key(self, position: int) -> str:
        """Names the frames of the clip at a position."""
        return self.dataset.key(self._find(position))

    def _find(self, position: int) -> int:
        epoch, place = divmod(int(position), self.limit)
        return int(self._order(epoch)[place])

    @property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint


def open_prepared(spec: str, split: str, frames: int, size: int, seed: int) -> Shuffled | Mixture:
    """`folder`, or a mixture `folder:weight,folder:weight` that is as long as until the first of them is used
    up; ConfigError if it does not fit the run."""
    named = parse_mixture(spec)
    parts = [open_folder(folder, split, frames, size, seed) for folder, _ in named]
    if len(parts) == 1:
        return parts[0]
    return Mixture(parts, [weight for _, weight in named], seed, [len(part) for part in parts])


def open_folder(
    folder: str, split: str, frames: int, size: int, seed: int, limit: int | None = None
) -> Shuffled:
    """A split of one prepared dataset; ConfigError if it does not fit the run. limit: of its clips."""
    part = PreparedDataset(folder, split, size)
    if part.manifest["frames"] != frames and not part.manifest.get("text_only"):
        raise ConfigError(f"{folder} has clips of {part.manifest['frames']} frames, but frames = {frames}")
    if not len(part):
        raise ConfigError(
            f"{folder} has no {split} clips, of {part.manifest['clips']} in all: prepare more, or a "
            "folder with train/ and test/"
        )
    return Shuffled(part, seed, limit)


def parse_mixture(spec: str) -> list[tuple[str, float]]:
    """`a:0.7,b:0.3` to folders and weights; a folder alone weighs 1. ConfigError on a weight that is none."""
    found = []
    for part in spec.split(","):
        folder, colon, weight = part.strip().rpartition(":")
        if not colon or Path(part).is_dir():
            folder, weight = part.strip(), "1"
        try:
            found.append((folder, float(weight)))
        except ValueError:
            raise ConfigError(f"dataset = {spec!r}: the weight {weight!r} of {folder} is no number") from None
        if not 0 < found[-1][1] < float("inf"):
            raise ConfigError(f"dataset = {spec!r}: weights must be positive")
    return found
