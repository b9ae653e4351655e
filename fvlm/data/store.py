"""Features of clips on disk: what a frozen vision model made of them, kept for every run that sees them
again.

A file per clip, written under another name and renamed, so that several processes may fill one store at once
and a kill leaves nothing half written. Its head carries a checksum, so that what a power cut or a bad disk
left is noticed when it is read, and made again. All stores lie in `$FVLM_CACHE/features/`, one folder each.
"""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fvlm.cache import cache_folder
from fvlm.config import ConfigError
from fvlm.data.clips import Clip
from fvlm.files import scratch_path, sweep, write_json

MAGIC = b"fvlm-features-1\0"
HEAD = 64  # bytes before the features: MAGIC, their checksum, that of the clip's name
SHARE = 0.25  # of the disk that is free, for all stores together, unless FVLM_FEATURES_GB says otherwise
RESERVE = 2 << 30  # bytes of disk that are left free, unless FVLM_FEATURES_GB says how much to take
LEAST_FREE = 256 << 20  # bytes of disk that are left free whatever it says
LOOK_AGAIN = 256  # clips written before the folder is measured again, for what other processes wrote


@dataclass(frozen=True)
class Stored:
    """A store as `fvlm features --list` shows it."""

    folder: Path
    about: dict
    clips: int
    size: int  # bytes


class FeatureStore:
    """One store: arrays of one shape, by the name of their clip.

    about: everything that decides the numbers (weights, layers, precision, frames, …); it names the folder.
    shape, dtype: of a clip's array."""

    def __init__(self, about: dict, shape: tuple[int, ...], dtype: str):
        self.about = about | dict(shape=list(shape), dtype=dtype)
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.size = HEAD + int(np.prod(shape)) * self.dtype.itemsize  # bytes of a clip's file
        name = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = root() / name
        self._room, self._sure_for = 0.0, 0  # bytes that may be written; clips until they are measured again
        self.full = False

    def path(self, clip: str) -> Path:
        name = hashlib.sha256(clip.encode()).hexdigest()[:32]
        return self.folder / name[:2] / name

    def has(self, clip: str) -> bool:
        return self.path(clip).exists()

    def read(self, clip: str) -> np.ndarray | None:
        """The clip's array, memory-mapped; None if it is not there. A damaged file is taken away first."""
        path = self.path(clip)
        try:
            raw = np.memmap(path, np.uint8, "c")  # PyTorch wants it writable; the file stays
        except (OSError, ValueError):  # not there, or empty
            if path.exists():
                path.unlink(missing_ok=True)
            return None
        if len(raw) != self.size or bytes(raw[:HEAD]) != self._head(clip, raw[HEAD:]):
            path.unlink(missing_ok=True)
            return None
        return raw[HEAD:].view(self.dtype).reshape(self.shape)

    def write(self, clip: str, features: np.ndarray) -> bool:
        """Keep a clip's array. False if there is no room (`FVLM_FEATURES_GB`, a full disk)."""
        if self.full or self.has(clip):
            return False
        path = self.path(clip)
        payload = np.ascontiguousarray(features, self.dtype).reshape(-1).view(np.uint8)
        scratch = scratch_path(path)
        try:
            if not self._make_room():
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "about.json").exists():
                write_json(self.folder / "about.json", self.about)
            with scratch.open("wb", buffering=0) as file:
                file.write(self._head(clip, payload))
                file.write(payload)
            scratch.replace(path)
        except OSError:  # no room after all, or no right to write: what is computed is not kept
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            self.full = True
            return False
        self._room, self._sure_for = self._room - self.size, self._sure_for - 1
        return True

    def soon(self, clip: str):
        """Have the system read a clip's file ahead."""
        try:
            descriptor = os.open(self.path(clip), os.O_RDONLY)
        except OSError:
            return
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        except (AttributeError, OSError):  # a system without it reads when it must
            pass
        finally:
            os.close(descriptor)

    def _head(self, clip: str, payload: np.ndarray) -> bytes:
        """What must stand before a payload (n,) uint8 of this clip."""
        from xxhash import xxh3_128_digest  # a clip in 0.03 ms; SHA-256 takes 2

        return (MAGIC + xxh3_128_digest(payload) + xxh3_128_digest(clip.encode())).ljust(HEAD, b"\0")

    def _make_room(self) -> bool:
        if self._sure_for == 0:
            for part in self.folder.glob("??"):
                sweep(part)
            used = sum(stored.size for stored in stores())
            self._room, self._sure_for = limit(used) - used, LOOK_AGAIN
        self.full = self._room < self.size
        return not self.full


class Known:
    """A dataset, but clips whose features a store has come without their frames: those need not be drawn or
    decoded. The system starts to read their files ahead."""

    def __init__(self, dataset, store: FeatureStore):
        self.dataset, self.store = dataset, store

    def __getitem__(self, position: int) -> Clip:
        told = self.dataset.told(position)
        if not told.shows:
            return replace(told, position=position)
        key = self.dataset.key(position)
        if self.store.has(key):
            self.store.soon(key)
            clip = told
        else:
            clip = self.dataset[position]
        return replace(clip, key=key, position=position)


def root() -> Path:
    return cache_folder() / "features"


def limit(used: int = 0) -> float:
    """Bytes that all stores may take together, of which `used` are taken. ConfigError for a bad
    FVLM_FEATURES_GB."""
    root().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root()).free
    wanted = os.environ.get("FVLM_FEATURES_GB", "")
    try:
        asked = float(wanted) * 1e9 if wanted else SHARE * (free + used)
        if not asked >= 0:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"FVLM_FEATURES_GB = {wanted!r}: expected gigabytes, such as 20; 0 keeps nothing"
        ) from None
    return min(asked, max(0, used + free - (LEAST_FREE if wanted else RESERVE)))


def stores() -> list[Stored]:
    """Every store that is there, the largest first."""
    found = []
    for about in root().glob("*/about.json"):
        sizes = [
            entry.stat().st_size
            for part in os.scandir(about.parent)
            if part.is_dir()
            for entry in os.scandir(part.path)
        ]
        try:
            content = json.loads(about.read_text())
        except (OSError, ValueError):
            content = {}
        found.append(Stored(about.parent, content, len(sizes), sum(sizes)))
    return sorted(found, key=lambda stored: -stored.size)


def clear() -> int:
    """Remove all stores; returns the bytes that they took. Runs that read them compute what they miss."""
    size = sum(stored.size for stored in stores())
    shutil.rmtree(root(), ignore_errors=True)
    return size
