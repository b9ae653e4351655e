"""Preparing a dataset: any source in, a folder of Parquet shards and `manifest.json` out.

Records are decoded by several processes, but written by one, in the source's order; so the bytes are the same
however many there are. Everything that is finished goes to disk at once (`.progress/`), so a killed
preparation goes on where it was. Each shard says itself which records it holds: what a power failure takes of
the journal, or of the shards, is found out and made again.

<folder>/data/train-00000.parquet, …, validation-00000.parquet, …
<folder>/manifest.json
"""

import base64
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fvlm.config import BUILT_IN, LARGEST, REPOSITORY, ConfigError, RunConfig, shown
from fvlm.data.clips import Clip
from fvlm.data.download import Downloader
from fvlm.data.shapes import VALIDATION_SHARE
from fvlm.data.sources import CAPTIONS, Drawn, Record, open_source
from fvlm.data.video import MOST_BYTES, SHORT, BadClip, Seen, decode_jpegs, encode_jpeg
from fvlm.files import disk_refuses, require_writable, sha256, sweep, sync, whole, write_json
from fvlm.parameters import notebook_parameters

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
SPLITS = ("train", "validation")
VALIDATION_PERMILLE = 90  # 5,000 clips leave about 4,550 for training, safely more than a cell's 4,480
ROW_GROUP = 8  # clips
CAPTION_PART = re.compile(r"#(\d+|[0-9a-f]{8})$")  # of an id: which caption of the clip it is
PART = re.compile(rf"(@[\d.e+]+-[\d.e+]*)?({CAPTION_PART.pattern})?$")  # that, and which cut of the file
LEAST_DRAWN = 56  # pixels, of the built-in world's frames
MOST_SECONDS = 900  # to decode one clip
MOST_MEMORY = 6 << 30  # bytes that decoding may take
FEW_VALIDATION = 20  # clips; with fewer, losses say little
NO_PIXELS = hashlib.sha256(b"").hexdigest()[:16]  # digest of the frames of a text alone
RENAMED = "another clip has the same name: its id has a part of its own"
SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d+\.parquet")
ABOUT = b"fvlm"  # key of a shard's own metadata: the settings, and what is known of each of its clips
OVERWRITING = ".overwriting"  # there while what was in a folder goes: none of it may be found again
UNGUARDED = (
    "the processes that decode end as they start, so that no clip could be tried: a script that prepares "
    'needs `if __name__ == "__main__":` around what it does'
)


class PrepareError(RuntimeError):
    """A preparation that can't be used; the message says why. What was done is kept."""


@dataclass(frozen=True)
class Settings:
    """What decides a prepared dataset's bytes."""

    source: str
    frames: int = 8
    size: int = 224
    clips: int | None = None  # how many good clips; None: all
    shard: int = 100  # clips per shard
    caption: str | None = None  # column, where it has not a usual name
    video: str | None = None
    split: str = "train"  # of a Hugging Face dataset
    quality: int = 90  # of the JPEGs
    captions: str = "draw"  # what becomes of several of one clip: draw, all, first

    def __post_init__(self):
        for f in fields(self):
            _check_type(f.name, getattr(self, f.name), NUMBERS.get(f.name, str), f.default is None)
        if self.captions not in CAPTIONS:
            raise ConfigError(f"captions = {shown(self.captions)}: valid are {', '.join(CAPTIONS)}")
        for name in NUMBERS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} = {value}: must be at least 1")
        if (size := 3 * self.frames * self.size**2) > MOST_BYTES:
            raise ConfigError(
                f"frames = {shown(self.frames)}, size = {shown(self.size)}: a clip would have {shown(size)} "
                f"bytes, at most {MOST_BYTES} are kept of one"
            )
        if self.size % 14:
            raise ConfigError(f"size = {self.size}: must be a multiple of 14, DINOv2's patch")
        name = self.source.partition(":")[0]
        if name in BUILT_IN:
            if self.clips is None:
                raise ConfigError(f"{name} never ends: say how many clips (--clips 5000)")
            if self.size < LEAST_DRAWN:
                raise ConfigError(f"size = {self.size}: {name} is drawn from {LEAST_DRAWN} pixels on")


NUMBERS = dict.fromkeys(("frames", "size", "clips", "shard", "quality"), int)  # of the settings


def _check_type(name: str, value, kind: type, none: bool = False):
    """ConfigError unless a value is of its kind: a notebook's parameters may be anything."""
    fits = isinstance(value, kind) and not isinstance(value, bool) and (kind is str or abs(value) <= LARGEST)
    if not (fits or (none and value is None)):
        raise ConfigError(
            f"{name} = {shown(value)}: expected a {'whole number' if kind is int else 'string'}"
        )


def prepared_already(settings: Settings, folder: str | Path, retry_skipped: bool = False) -> bool:
    """Whether `prepare` would find a finished dataset and leave its source alone."""
    try:
        return _finished(settings, Path(folder), retry_skipped) is not None
    except ConfigError:
        return False


def _finished(settings: Settings, folder: Path, retry_skipped: bool) -> dict | None:
    """The manifest of a dataset that has nothing left to do; None where it is not there, is another's, or has
    records that are to be tried again. ConfigError if it can't be read."""
    if not (folder / "manifest.json").exists() or any(
        (folder / n).exists() for n in (".progress", OVERWRITING)
    ):
        return None
    manifest = read_manifest(folder)
    if not same_settings(manifest["settings"], settings):
        return None
    full = settings.clips is not None and manifest["clips"] >= settings.clips
    again = any(retry_skipped or skip.get("temporary") for skip in manifest["skipped_clips"])
    return None if again and not full else manifest


def same_settings(saved: dict, settings: Settings) -> bool:
    """Whether a dataset was prepared with these settings; what was no setting then has its default."""
    return _all_settings(saved) == asdict(settings)


def _all_settings(saved: dict) -> dict:
    return {f.name: f.default for f in fields(Settings)} | saved


@dataclass
class Outcome:
    """What became of a record: a row for a shard, or the reason why there is none."""

    where: str
    clip_id: str
    row: dict | None = None
    digest: str = ""  # of the frames
    notes: tuple[str, ...] = ()  # what should be known of it
    about: dict = field(default_factory=dict)  # how it was read: `Seen.about`
    different: int = 0  # frames
    split: str = ""  # the source's own
    reason: str = ""
    detail: str = ""
    number: int = 0  # of the record in its source
    temporary: bool = False  # the reason may be gone another time


def prepare(
    settings: Settings,
    folder: str | Path,
    workers: int = 2,
    max_skipped: float = 0.5,
    overwrite: bool = False,
    progress: Callable[[int, int | None, Counter], None] | None = None,
    records: Iterable[Record] | None = None,
    retry_skipped: bool = False,
    allow_private: bool = False,
) -> dict:
    """Prepare a dataset in `folder` and return its manifest; a finished one is returned as it is, its
    source is not read (`prepared_already`).

    Killed or stopped: called again it goes on. What was skipped for a reason that may have gone (a server
    that was down, a decoder that crashed) is tried again each time, with `retry_skipped` all that was
    skipped. allow_private: fetch URLs of this machine and its network too. `progress(clips, of, skipped)` is
    called after every record. ConfigError if the folder can't be written, holds a dataset of other settings,
    or one that can't be read (unless `overwrite`, which starts anew); PrepareError if more than `max_skipped`
    of the records had to be skipped, there is no clip at all, or the disk is full."""
    from filelock import FileLock, Timeout

    folder = Path(folder)
    if not overwrite and (manifest := _finished(settings, folder, retry_skipped)):
        return manifest  # also where nothing can be written
    require_writable(folder / "manifest.json", f"{folder}")
    try:
        with FileLock(folder / ".lock", timeout=0), _disk_errors(folder):
            return _prepare(
                settings,
                folder,
                workers,
                max_skipped,
                overwrite,
                progress,
                records,
                retry_skipped,
                allow_private,
            )
    except Timeout:
        raise ConfigError(f"{folder}: another process is preparing it") from None


@contextlib.contextmanager
def _disk_errors(folder: Path):
    """A disk that is full ends a preparation with what is kept and how it goes on."""
    try:
        yield
    except OSError as error:
        if not disk_refuses(error):
            raise
        raise PrepareError(
            f"{folder}: the disk can't be written ({error}). What was prepared so far is kept; the same "
            "command goes on when there is room"
        ) from error


def _prepare(
    settings, folder, workers, max_skipped, overwrite, progress, records, retry_skipped, allow_private
) -> dict:
    for part in (folder, folder / "data"):
        sweep(part)
    if not overwrite and (manifest := _finished(settings, folder, retry_skipped)):
        return manifest
    shards = Shards.open(folder, settings, overwrite, retry_skipped)
    records = (
        open_source(settings.source, settings.caption, settings.video, settings.split, settings.captions)
        if records is None
        else records
    )
    records = _not_dealt_with(records, shards)
    wanted = float("inf") if settings.clips is None else settings.clips
    if shards.clips < wanted:
        with _ordered(records, settings, workers, allow_private) as outcomes:
            for outcome in outcomes:
                shards.add(outcome)
                if progress:
                    progress(shards.clips, settings.clips, shards.skipped)
                if shards.clips >= wanted:
                    break
    shards.flush()
    skipped = sum(shards.skipped.values())
    summary = ", ".join(f"{count} {reason}" for reason, count in shards.skipped.most_common())
    if not shards.clips:
        raise PrepareError(f"{settings.source}: no clip could be used ({summary or 'the source is empty'})")
    if skipped > max_skipped * (skipped + shards.clips):
        first = next(iter(shards.skips.values()))
        raise PrepareError(
            f"{skipped} of {skipped + shards.clips} clips were skipped ({summary}); the first: "
            f"{first['where']}: "
            f"{first['reason']}, {first['detail']}. More than {max_skipped:.0%} are refused; "
            "--max-skipped allows it, without doing anything again"
        )
    manifest = shards.manifest()
    write_json(folder / "manifest.json", manifest)
    shutil.rmtree(folder / ".progress")
    return manifest


def _not_dealt_with(records: Iterable[Record], shards: "Shards") -> Iterator[Record]:
    """Those records that neither gave a clip nor were skipped for good, numbered. ConfigError if one that is
    tried again is no longer the one it was."""
    for number, record in enumerate(records):
        if shards.dealt_with(number):
            continue
        before = shards.skips.get(number)
        if before and (before["where"], before["clip_id"]) != (record.where, record.clip_id):
            raise ConfigError(
                f"{shards.settings.source} is another than when its preparation in {shards.folder} began "
                f"({before['where']}, clip {before['clip_id']!r}, is now {record.where}, clip "
                f"{record.clip_id!r}): prepare it in another folder, or with --overwrite"
            )
        yield replace(record, number=number)


# ── One record ───────────────────────────────────────────────────────────────────────────────────


def process(record: Record, settings: Settings) -> Outcome:
    """Decode a record and encode its frames. Runs in a worker process; depends on nothing but its
    arguments."""
    outcome = Outcome(record.where, record.clip_id, split=record.split or "", number=record.number)
    try:
        if record.bad:
            raise record.bad
        row = _drawn(record.media, settings) if isinstance(record.media, Drawn) else _read(record, settings)
        seen = row.pop("seen")
        outcome.notes, outcome.about = (*record.notes, *seen.notes), seen.about
        outcome.different = seen.different
        row["frames"] = [encode_jpeg(picture, settings.quality) for picture in seen.frames]
        outcome.digest = hashlib.sha256(b"".join(row["frames"])).hexdigest()[:16]
        outcome.row = row
    except BadClip as bad:
        outcome.reason, outcome.detail, outcome.temporary = bad.reason, bad.detail, bad.temporary
    return outcome


def _read(record: Record, settings: Settings) -> dict:
    for name, text in (("question", record.question), ("answer", record.answer), ("clip id", record.clip_id)):
        _require_text(name, text)
    for text in (record.caption, *record.captions):
        _require_text("caption", text)
    if not record.caption and not record.answer:
        raise BadClip("no caption", "the caption is empty")
    try:
        seen = record.media.read(settings.frames, settings.size)
    except BadClip:
        raise
    except TimeoutError:  # `process_in_time` gives it up
        raise
    except Exception as error:  # whatever a decoder makes of bytes from anywhere: it costs this clip alone
        raise BadClip("unreadable", f"{type(error).__name__}: {error}") from error
    return dict(
        caption=record.caption,
        captions=list(record.captions) or None,
        clip_id=record.clip_id,
        source=settings.source,
        question=record.question,
        answer=record.answer,
        boxes=None,
        target=-1,
        question_kind="",
        seen=seen,
    )


def _require_text(name: str, text: str | None):
    """BadClip for a text that no file can hold: half of a character that UTF-16 writes as two."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        detail = f"the {name} has {text[error.start]!r} at {error.start}, which is no character"
        raise BadClip("no caption" if name == "caption" else "unreadable", detail) from None


def _drawn(drawn: Drawn, settings: Settings) -> dict:
    clip = replace(drawn.world, frames=settings.frames, size=settings.size).clip(drawn.index)
    return dict(
        caption=clip.caption,
        captions=None,
        clip_id=clip.clip_id,
        source=settings.source,
        question=clip.question,
        answer=clip.answer,
        boxes=None if clip.boxes is None else clip.boxes.tolist(),
        target=clip.target,
        question_kind=clip.question_kind,
        seen=Seen(clip.frames.transpose(0, 2, 3, 1), len(clip.frames), about=dict(read="drawn")),
    )


def split_of(clip_id: str) -> str:
    """The split of a clip, by its id alone, without what says which cut or caption of a file it is: adding
    data never moves a clip, and what shares a file shares a split. `shapes` has a rule of its own, by
    index."""
    if drawn := re.fullmatch(r"shapes(?:-[a-z]+)?-\d+-(\d+)", clip_id):
        return "validation" if int(drawn[1]) % VALIDATION_SHARE == 0 else "train"
    clip_id = PART.sub("", clip_id)
    return (
        "validation"
        if int(hashlib.sha256(clip_id.encode()).hexdigest(), 16) % 1000 < VALIDATION_PERMILLE
        else "train"
    )


# ── Many records, in order ───────────────────────────────────────────────────────────────────────


class _ordered:
    """A context in which records become outcomes, in their order, downloaded and decoded ahead by others."""

    def __init__(
        self, records: Iterable[Record], settings: Settings, workers: int, allow_private: bool = False
    ):
        self.records, self.settings, self.workers = iter(records), settings, max(workers, 1)
        self.downloader, self.pool = Downloader(allow_private=allow_private), None

    def __enter__(self) -> Iterator[Outcome]:
        return self._outcomes()

    def __exit__(self, *exception):
        self.downloader.close()
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def _outcomes(self) -> Iterator[Outcome]:
        downloads, window = deque(), deque()
        while True:
            while len(downloads) < 64 and (record := next(self.records, None)) is not None:
                downloads.append(self.downloader.submit(record))
            while downloads and len(window) < 4 * self.workers and (downloads[0].done() or not window):
                record = downloads.popleft().result()
                window.append((record, self._submit(record)))
            if not window:
                return
            record, future = window.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:  # one of those in the window took its process down: find out which
                self.pool = None
                yield self._alone(record)
                window = deque((record, self._submit(record)) for record, _ in window)

    def _submit(self, record: Record):
        if self.pool is None:
            self.pool = _pool(self.workers)
        try:
            return self.pool.submit(process_in_time, record, self.settings)
        except BrokenProcessPool:
            self.pool = _pool(self.workers)
            return self.pool.submit(process_in_time, record, self.settings)

    def _alone(self, record: Record) -> Outcome:
        with _pool(1) as pool:
            try:
                return pool.submit(process_in_time, record, self.settings).result()
            except BrokenProcessPool:
                if not _workers_start():
                    raise PrepareError(UNGUARDED) from None
                return Outcome(
                    record.where,
                    record.clip_id,
                    reason="unreadable",
                    detail="its decoder crashed",
                    number=record.number,
                    temporary=True,  # it may have been killed for want of memory
                )


def _workers_start() -> bool:
    """Whether a process that decodes lives long enough to do anything."""
    with _pool(1) as pool:
        try:
            return pool.submit(os.getpid).result() > 0
        except BrokenProcessPool:
            return False


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fvlm.data.prepare"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker():
    _end_with_parent()
    bound_memory(MOST_MEMORY)


def bound_memory(most: int):
    """Let this process have at most so many bytes more than it has, where the system can see to it: a file of
    a few bytes may ask its decoder for terabytes."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
        soft = pages * resource.getpagesize() + most
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or soft < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    except (ImportError, OSError, ValueError):  # not on this system
        pass


def process_in_time(record: Record, settings: Settings) -> Outcome:
    """`process`, given up after MOST_SECONDS. In a process's main thread alone."""
    import signal

    def give_up(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(MOST_SECONDS)
    try:
        return process(record, settings)
    except TimeoutError:
        detail = f"its decoder was not done after {MOST_SECONDS} s"
        return Outcome(record.where, record.clip_id, reason="too slow", detail=detail, number=record.number)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _end_with_parent():
    """A worker whose parent is killed would wait forever for work."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


# ── Shards ───────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Shards:
    """The folder's shards as they grow, and the journal that makes a killed preparation go on.

    `.progress/journal.jsonl`: the settings, then a line per finished shard and per skipped record.
    `.progress/<split>.jsonl`: the rows of the shard that is not full yet. A line without an end was being
    written. Which records a shard holds stands in the shard itself: the journal may lose lines, or be lost,
    and what it does not know of is done again."""

    folder: Path
    settings: Settings
    shards: list[dict] = field(default_factory=list)
    skips: dict[int, dict] = field(default_factory=dict)  # by the record's number
    again: set[int] = field(default_factory=set)  # numbers of those that are tried again
    taken: set[int] = field(default_factory=set)  # numbers of the records that gave clips
    open_rows: dict[str, list[dict]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    contents: dict[str, str] = field(default_factory=dict)  # digests of frames and texts: their clip
    pixels: dict[str, str] = field(default_factory=dict)  # digests of frames: the first clip that has them
    ids: set[str] = field(default_factory=set)  # of the clips
    own_split: bool = False  # the source says which clips are validation
    noted: list[dict] = field(default_factory=list)  # clips that something should be known of, and what

    @classmethod
    def open(cls, folder: Path, settings: Settings, overwrite: bool, retry_skipped: bool = False) -> "Shards":
        """The shards of a preparation that was begun, or a new one. ConfigError if it was another's."""
        self = cls(folder, settings)
        lines = _read_lines(self._path("journal"))
        if not overwrite and not (folder / OVERWRITING).exists():
            begun = self._begun(lines)
            if begun is not None:
                _require_same(begun, settings, folder)
                return self._replayed(lines, retry_skipped)
        self._start_anew()
        return self

    def _begun(self, lines: list[dict]) -> dict | None:
        """The settings of the preparation that was begun here, from whatever tells them; None without any.
        ConfigError for shards that nothing tells them of."""
        if (self.folder / "manifest.json").exists():
            return read_manifest(self.folder)["settings"]
        shards = self._there()
        if not shards and len(lines) < 2 and not any(self._path(split).exists() for split in SPLITS):
            return None
        told = lines[:1] + [about for path in shards if (about := read_about(path))]
        found = next((line["settings"] for line in told if isinstance(line.get("settings"), dict)), None)
        if found is None and shards and not (self.folder / ".progress").exists():
            raise ConfigError(
                f"{self.folder} holds shards, such as {shards[0].name}, but no manifest, and nothing says "
                "what they were made of: choose another folder, or --overwrite, which removes them"
            )
        return found

    def _there(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("data/*") if SHARD_NAME.fullmatch(p.name))

    def _start_anew(self):
        """Remove what a preparation left, and nothing else."""
        (self.folder / OVERWRITING).write_text("")
        (self.folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / ".progress", ignore_errors=True)
        for path in self._there():
            path.unlink()
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / ".progress").mkdir()
        self._write("journal", dict(settings=asdict(self.settings)))
        sync(self.folder)
        (self.folder / OVERWRITING).unlink()

    def _replayed(self, lines: list[dict], retry_skipped: bool) -> "Shards":
        """Take up what is there: shards as they stand, skips of a finished preparation and of the journal,
        rows of shards that are not full."""
        if not self._path("journal").exists() or not lines:
            (self.folder / ".progress").mkdir(exist_ok=True)
            self._path("journal").write_text("")
            self._write("journal", dict(settings=asdict(self.settings)))
        known, skips = {}, []
        if (self.folder / "manifest.json").exists():
            manifest = read_manifest(self.folder)
            known, skips = {s["file"]: s["sha256"] for s in manifest["shards"]}, manifest["skipped_clips"]
        known |= {line["shard"]["file"]: line["shard"]["sha256"] for line in lines if "shard" in line}
        self._adopt(known)
        for skip in [*skips, *(line for line in lines if "reason" in line)]:
            if "number" not in skip:
                raise ConfigError(f"{self.folder} {EARLIER}")
            self.skips[skip["number"]] = skip
        for split in SPLITS:
            for line in _read_lines(self._path(split)):
                if line["number"] not in self.taken:  # else it is in a shard, and only the clean-up was not
                    line["row"]["frames"] = [base64.b64decode(frame) for frame in line["row"]["frames"]]
                    self.open_rows[split].append(line)
                    self._count(line)
            if len(self.open_rows[split]) >= self.settings.shard:  # full, and killed before it was written
                self._finish(split)
        self.skips = {number: skip for number, skip in self.skips.items() if number not in self.taken}
        self.again = {n for n, skip in self.skips.items() if retry_skipped or skip.get("temporary")}
        return self

    def _adopt(self, known: dict[str, str]):
        """Take the shards that are sound; remove what is not, whose records are then prepared again. known:
        checksums of files."""
        there = {f"data/{path.name}": path for path in self._there()}
        for name in sorted(known.keys() | there.keys()):
            path, about = there.get(name), None
            if path is not None and (digest := sha256(path)) == known.get(name, digest):
                about = read_about(path)
            if about is None:
                if path is not None and name in known and digest == known[name]:
                    raise ConfigError(f"{self.folder} {EARLIER}")
                fault = "damaged" if path else "missing"
                warnings.warn(
                    f"{self.folder / name} is {fault}: what it held is prepared again", stacklevel=2
                )
                if path is not None:
                    path.unlink()
                continue
            split = path.name.partition("-")[0]
            self.shards.append(dict(file=name, split=split, clips=len(about["clips"]), sha256=digest))
            for clip in about["clips"]:
                self._count(clip)

    def _count(self, clip: dict):
        """Know of a clip that it is there."""
        clip_id = clip["clip_id"]
        self.taken.add(clip["number"])
        self.ids.add(clip_id)
        self.contents[clip["contents"]] = clip_id
        self.pixels.setdefault(clip["digest"], clip_id)
        self.own_split |= clip["own_split"]
        if clip["notes"]:
            self.noted.append(dict(clip_id=clip_id, notes=clip["notes"]))

    @property
    def clips(self) -> int:
        return len(self.ids)

    @property
    def skipped(self) -> Counter:
        return Counter(skip["reason"] for skip in self.skips.values())

    def dealt_with(self, number: int) -> bool:
        """Whether a record has nothing left to be done."""
        return number in self.taken or (number in self.skips and number not in self.again)

    def add(self, outcome: Outcome):
        """Take the next record's outcome. When this returns it is on disk."""
        if outcome.row is not None:
            self._identify(outcome)
        self.again.discard(outcome.number)
        if outcome.row is None:
            names = ("where", "clip_id", "reason", "detail", "number", "temporary")
            skip = {name: getattr(outcome, name) for name in names}
            self._write("journal", skip)
            self.skips[outcome.number] = skip
            return
        self.skips.pop(outcome.number, None)
        split = outcome.split or split_of(outcome.clip_id)
        clip = dict(
            number=outcome.number,
            clip_id=outcome.clip_id,
            contents=_contents(outcome),
            digest=outcome.digest,
            where=outcome.where,
            notes=list(outcome.notes),
            own_split=bool(outcome.split),
        )
        frames = [base64.b64encode(frame).decode() for frame in outcome.row["frames"]]
        self._write(split, clip | dict(row=outcome.row | dict(frames=frames)))
        self.open_rows[split].append(clip | dict(row=outcome.row))
        self._count(clip)
        if len(self.open_rows[split]) == self.settings.shard:
            self._finish(split)

    def _identify(self, outcome: Outcome):
        """A clip of the same frames and texts as another is a duplicate. One of the same frames and another
        text is that clip's further caption where its own name is taken or would put it into another split;
        one of other frames whose name is taken has a part of its own in its id."""
        contents = _contents(outcome)
        twin = self.pixels.get(outcome.digest) if outcome.row["frames"] else None  # texts alone look alike
        if contents in self.contents:
            outcome.row, outcome.reason = None, "duplicate"
            outcome.detail = f"its frames and its text are those of {self.contents[contents]}"
            return
        clip_id = outcome.clip_id
        apart = not outcome.split and twin and split_of(twin) != split_of(clip_id)
        if twin and (apart or clip_id in self.ids):
            clip_id = f"{CAPTION_PART.sub('', twin)}#{contents[:8]}"
        elif clip_id in self.ids:
            clip_id = f"{clip_id}~{outcome.digest[:8]}"
            outcome.notes = (*outcome.notes, RENAMED)
        outcome.clip_id = outcome.row["clip_id"] = clip_id

    def flush(self):
        """Write the last shards, full or not."""
        for split in SPLITS:
            if self.open_rows[split]:
                self._finish(split)

    def _finish(self, split: str):
        lines, self.open_rows[split] = self.open_rows[split], []
        names = {shard["file"] for shard in self.shards}
        numbered = (f"data/{split}-{number:05d}.parquet" for number in itertools.count())
        name = next(name for name in numbered if name not in names)
        clips = [{key: value for key, value in line.items() if key != "row"} for line in lines]
        about = dict(settings=asdict(self.settings), clips=clips)
        with whole(self.folder / name) as scratch:
            write_shard([line["row"] for line in lines], scratch, about)
            digest = sha256(scratch)
        shard = dict(file=name, split=split, clips=len(lines), sha256=digest)
        self._write("journal", dict(shard=shard))
        self.shards.append(shard)
        self._path(split).unlink(missing_ok=True)

    def manifest(self) -> dict:
        by_split = {split: sum(s["clips"] for s in self.shards if s["split"] == split) for split in SPLITS}
        shards = sorted(self.shards, key=lambda shard: shard["file"])
        digest = hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()[:16]
        notes = Counter(note for clip in self.noted for note in clip["notes"])
        return dict(
            format=FORMAT,
            source=self.settings.source,
            frames=self.settings.frames,
            size=self.settings.size,
            clips=self.clips,
            splits=by_split,
            own_split=self.own_split,
            clips_with_repeated_last_frame=notes[SHORT],
            notes=dict(sorted(notes.items())),
            fingerprint=digest,
            settings=asdict(self.settings),
            skipped=dict(sorted(self.skipped.items())),
            shards=shards,
            skipped_clips=[self.skips[number] for number in sorted(self.skips)],
            noted_clips=sorted(self.noted, key=lambda clip: clip["clip_id"]),
            **(dict(text_only=True) if set(self.pixels) == {NO_PIXELS} else {}),
        )

    def _path(self, name: str) -> Path:
        return self.folder / ".progress" / f"{name}.jsonl"

    def _write(self, name: str, line: dict):
        with open(self._path(name), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _contents(outcome: Outcome) -> str:
    """A digest of a clip's frames and texts."""
    texts = [outcome.row[name] for name in ("caption", "captions", "question", "answer")]
    return hashlib.sha256(json.dumps([outcome.digest, *texts]).encode()).hexdigest()[:16]


EARLIER = (
    "holds a dataset that an earlier version prepared, which does not say what became of which record: "
    "choose another folder, or --overwrite"
)


def _require_same(begun: dict, settings: Settings, folder: Path):
    """ConfigError unless these are the settings of what was begun in the folder."""
    changed = {k: (v, asdict(settings).get(k)) for k, v in _all_settings(begun).items()}
    told = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in changed.items() if old != new)
    if told:
        raise ConfigError(
            f"{folder} holds a dataset prepared otherwise ({told}): choose another folder, or --overwrite"
        )


def _read_lines(path: Path) -> list[dict]:
    """The sound lines of a file, up to the first that is none: what a kill or a power failure left of one
    more is cut off, so that the next line starts afresh. None without a file."""
    if not path.exists():
        return []
    data, lines, sound = path.read_bytes(), [], 0
    for line in data.splitlines(keepends=True):
        try:
            content = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            break
        lines.append(content)
        sound += len(line)
    if sound < len(data):
        os.truncate(path, sound)
    return lines


def write_shard(rows: list[dict], path: Path, about: dict | None = None):
    """Rows to one Parquet file of small row groups, so that a clip is read without its neighbours. about:
    what `read_about` gives again."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, List, Value

    text = Value("string")
    features = Features(
        frames=List(Value("binary")),
        caption=text,
        captions=List(text),
        clip_id=text,
        source=text,
        question=text,
        answer=text,
        boxes=List(List(List(Value("int32")))),
        target=Value("int32"),
        question_kind=text,
    )
    schema = features.arrow_schema
    if about:
        schema = schema.with_metadata({**schema.metadata, ABOUT: json.dumps(about)})
    table = pa.Table.from_pylist([{name: row[name] for name in features} for row in rows], schema=schema)
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="none")  # JPEGs do not get smaller


def read_about(path: Path) -> dict | None:
    """What a shard says of itself: `settings` and, a dict each, `clips`; None if it is damaged or says
    nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        about = json.loads((file.schema_arrow.metadata or {})[ABOUT])
        return about if len(about["clips"]) == file.metadata.num_rows else None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def read_manifest(folder: str | Path) -> dict:
    """A prepared dataset's manifest. ConfigError if there is none that can be read."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        begun = (Path(folder) / ".progress").exists()
        raise ConfigError(
            f"{folder}: "
            + (
                "its preparation is not finished"
                if begun
                else "no prepared dataset (manifest.json is missing)"
            )
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        format = manifest.get("format")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ConfigError(
            f"{path}: damaged ({str(error)[:200]}). `fvlm prepare` with --overwrite makes the dataset anew"
        ) from None
    if format != FORMAT:
        raise ConfigError(f"{path}: format {shown(format)}; this version reads {FORMAT}")
    if fault := _manifest_fault(manifest):
        raise ConfigError(f"{path}: {fault}. `fvlm prepare` with --overwrite makes the dataset anew")
    return manifest


def _manifest_fault(manifest: dict) -> str:
    """What a manifest lacks, or has of another kind, or names outside its folder; "" if nothing."""
    kinds = dict(
        settings=dict, frames=int, size=int, clips=int, splits=dict, fingerprint=str, shards=list,
        skipped=dict, skipped_clips=list, source=str, clips_with_repeated_last_frame=int,
    )  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            return f"{name!r} is missing or no {kind.__name__}"
    if min(manifest["frames"], manifest["size"], manifest["clips"]) < 1:
        return "frames, size and clips must be at least 1"
    if not all(isinstance(manifest["splits"].get(split), int) for split in SPLITS):
        return "'splits' does not count train and validation"
    for shard in manifest["shards"]:
        sound = isinstance(shard, dict) and isinstance(shard.get("clips"), int) and shard["clips"] > 0
        named = sound and isinstance(shard.get("file"), str) and isinstance(shard.get("sha256"), str)
        if not named or shard.get("split") not in SPLITS:
            return f"an entry of 'shards' is none: {str(shard)[:80]}"
        if not re.fullmatch(rf"data/{SHARD_NAME.pattern}", shard["file"]):
            return f"a shard named {shard['file'][:80]!r}: expected data/train-00000.parquet or the like"
    for skip in manifest["skipped_clips"]:
        if not isinstance(skip, dict) or not {"where", "clip_id", "reason", "detail"} <= skip.keys():
            return f"an entry of 'skipped_clips' is none: {str(skip)[:80]}"
    return ""


def warning(manifest: dict) -> str:
    """What a person must know before training on a dataset: too few clips to validate on; "" if enough."""
    count = manifest["splits"]["validation"]
    if count >= FEW_VALIDATION:
        return ""
    if not count:
        return (
            "No clip fell into validation (about 9 % do, by their id): training needs one at least. Prepare "
            "more clips, or keep some in a folder named test beside train"
        )
    return f"Only {count} validation clips: losses on so few say little"


def next_command(manifest: dict, folder: str | Path, notebook: bool = False) -> str:
    """The command that trains on a dataset, with a budget that its clips suffice for, or that executes
    `train.ipynb` so; "" if it has no clips to train or none to validate on."""
    train, frames = manifest["splits"]["train"], manifest["frames"]
    if not train or not manifest["splits"]["validation"]:
        return ""
    cell = f"S-S_{frames}f_fov" if manifest["size"] >= 224 else f"T-T_{frames}f_fov"
    config, settings = RunConfig.from_cell(cell), dict(dataset=str(folder))
    if config.steps * config.effective_batch > train:
        batch = min(config.effective_batch, train)
        settings |= dict(steps=min(config.steps, train // batch))
        settings |= {} if batch == config.effective_batch else dict(effective_batch=batch)
    if notebook:
        settings = dict(llm=config.llm, vision=config.vision, frames=frames) | settings
        given = (f"-p {name} {shlex.quote(str(value))}" for name, value in settings.items())
        return f"papermill train.ipynb out/mine.ipynb {' '.join(given)}"
    given = (f"--set {name}={shlex.quote(str(value))}" for name, value in settings.items())
    return f"fvlm train --cell {cell} {' '.join(given)}"


def verify(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Hash every shard and decode every frame again. Returns what is wrong, a line each; nothing wrong, no
    lines."""
    import pyarrow.parquet as pq

    folder, manifest, wrong = Path(folder), read_manifest(folder), []
    shape = (manifest["frames"], 3, manifest["size"], manifest["size"])
    for number, shard in enumerate(manifest["shards"]):
        path = folder / shard["file"]
        if progress:
            progress(number, len(manifest["shards"]))
        if not path.exists():
            wrong.append(f"{shard['file']}: missing, with {shard['clips']} clips")
            continue
        if sha256(path) != shard["sha256"]:
            wrong.append(f"{shard['file']}: its SHA-256 is not the manifest's")
        rows = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROW_GROUP):  # a shard may be as large as one likes
                    for row in batch.to_pylist():
                        rows += 1
                        if fault := _fault(row, shape, shard["split"], manifest.get("own_split", False)):
                            wrong.append(f"{shard['file']}, clip {row['clip_id']}: {fault}")
        except (OSError, ValueError) as error:
            wrong.append(f"{shard['file']}: not readable ({str(error).splitlines()[0]})")
            continue
        if rows != shard["clips"]:
            wrong.append(f"{shard['file']}: {rows} clips, the manifest says {shard['clips']}")
    strays = {f"data/{p.name}" for p in (folder / "data").glob("*")} - {s["file"] for s in manifest["shards"]}
    return wrong + [f"{name}: not in the manifest" for name in sorted(strays)]


def _fault(row: dict, shape: tuple, split: str, own_split: bool) -> str:
    shape = shape if row["frames"] else ()  # a text alone has none
    try:
        found = decode_jpegs(row["frames"]).shape if row["frames"] else ()
    except (OSError, ValueError, SyntaxError) as error:
        return f"a frame does not decode ({error})"
    if found != shape:
        return f"frames of shape {found}, expected {shape}"
    if not own_split and split_of(row["clip_id"]) != split:
        return f"belongs to {split_of(row['clip_id'])}"
    return "" if row["caption"] or row["answer"] else "neither caption nor answer"


# ── For the notebook ─────────────────────────────────────────────────────────────────────────────


def settings_from_notebook(namespace: dict) -> tuple[Settings, Path]:
    """The settings that `data_prep.ipynb`'s parameters cell spells out, and the folder; `namespace` is its
    `globals()`."""
    values = notebook_parameters(namespace)
    names = [f.name for f in fields(Settings)]
    unknown = [name for name in values if name not in (*names, "folder", "workers")]
    if unknown:
        raise ConfigError(f"unknown parameter {unknown[0]!r}: valid are folder, workers, {', '.join(names)}")
    settings = Settings(**{name: value for name, value in values.items() if name in names})
    settings = replace(settings, source=_from_here_or_repository(settings.source))
    for name, kind in dict(folder=str, workers=int).items():
        if name in values:
            _check_type(name, values[name], kind)
    if values.get("folder", "auto") != "auto":
        return settings, Path(_from_here_or_repository(values["folder"])).absolute()
    slug = re.sub(r"[^\w.-]+", "-", Path(settings.source).name).strip("-.")
    return settings, REPOSITORY / "outputs" / "data" / f"{slug}_{settings.frames}f"


def _from_here_or_repository(path: str) -> str:
    """A path as seen from here or, where nothing is there, from the repository: a notebook's here is its own
    folder. What is neither stays as it is."""
    there = REPOSITORY / Path(path).expanduser()
    found = not Path(path).expanduser().exists() and (there.exists() or there.parent.is_dir())
    return str(there) if found and "/" in path and not Path(path).parent.is_dir() else path


def preview(settings: Settings, count: int) -> list[Clip]:
    """The first `count` good clips of a source, as preparing will store them, without storing anything."""
    found = []
    for outcome in _first(settings):
        if outcome.row is not None:
            row = {name: value for name, value in outcome.row.items() if name != "captions"}
            boxes = None if row["boxes"] is None else np.array(row["boxes"], np.int32)
            found.append(Clip(**row | dict(frames=decode_jpegs(row["frames"]), boxes=boxes)))
        if len(found) == count:
            break
    return found


def how_read(settings: Settings, count: int) -> "pd.DataFrame":
    """How the first `count` clips of a source are read, a row each, without storing anything: orientation,
    frames that are there, their rate and longest gap, captions, and what else should be known, or why it is
    skipped."""
    import pandas as pd

    rows = []
    for outcome in itertools.islice(_first(settings), count):
        about = outcome.about
        rate = f"{about['rate']:.4g}{', variable' * about['variable']}" if "rate" in about else ""
        captions = 0 if outcome.row is None else len(outcome.row["captions"] or [outcome.row["caption"]])
        rows.append(
            dict(
                clip=outcome.clip_id,
                read=about.get("read", ""),
                orientation=about.get("orientation", ""),
                frames=about.get("frames", ""),
                rate=rate,
                seconds=f"{about['seconds']:.3g}" if "seconds" in about else "",
                gap=f"{about['gap']:.3g}" if "gap" in about else "",
                different=outcome.different if outcome.row else 0,
                captions=captions,
                notes="; ".join(outcome.notes) or f"{outcome.reason} {outcome.detail}".strip(),
            )
        )
    return pd.DataFrame(rows).set_index("clip")


def _first(settings: Settings) -> Iterator[Outcome]:
    """What becomes of a source's records, in order."""
    records = open_source(
        settings.source, settings.caption, settings.video, settings.split, settings.captions
    )
    with _ordered(records, settings, workers=1) as outcomes:
        yield from outcomes
