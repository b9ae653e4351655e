"""Preparing a dataset: any source in, a folder of Parquet shards and `manifest.json` out.

Records are decoded by several processes, but written by one, in the source's order; so the bytes are the same
however many there are. Everything that is finished goes to disk at once (`.progress/`), so a killed
preparation goes on where it was.

<folder>/data/train-00000.parquet, …, validation-00000.parquet, …
<folder>/manifest.json
"""

import base64
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fvlm.config import BUILT_IN, REPOSITORY, ConfigError, RunConfig
from fvlm.data.clips import Clip
from fvlm.data.download import Downloader
from fvlm.data.shapes import VALIDATION_SHARE
from fvlm.data.sources import CAPTIONS, Drawn, Record, open_source
from fvlm.data.video import SHORT, BadClip, Seen, decode_jpegs, encode_jpeg
from fvlm.files import sha256
from fvlm.parameters import notebook_parameters

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
SPLITS = ("train", "validation")
VALIDATION_PERMILLE = 90  # 5,000 clips leave about 4,550 for training, safely more than a cell's 4,480
ROW_GROUP = 8  # clips
CAPTION_PART = re.compile(r"#(\d+|[0-9a-f]{8})$")  # of an id: which caption of the clip it is
PART = re.compile(rf"(@[\d.e+]+-[\d.e+]*)?({CAPTION_PART.pattern})?$")  # that, and which cut of the file
FEW_VALIDATION = 20  # clips; with fewer, losses say little
NO_PIXELS = hashlib.sha256(b"").hexdigest()[:16]  # digest of the frames of a text alone
RENAMED = "another clip has the same name: its id has a part of its own"


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
        if self.captions not in CAPTIONS:
            raise ConfigError(f"captions = {self.captions!r}: valid are {', '.join(CAPTIONS)}")
        for name in ("frames", "size", "shard", "quality"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.clips is not None and self.clips < 1:
            raise ConfigError(f"clips = {self.clips}: must be at least 1")
        name = self.source.partition(":")[0]
        if self.clips is None and name in BUILT_IN:
            raise ConfigError(f"{name} never ends: say how many clips (--clips 5000)")
        if self.size % 14:
            raise ConfigError(f"size = {self.size}: must be a multiple of 14, DINOv2's patch")


def prepared_already(settings: Settings, folder: str | Path) -> bool:
    """Whether `prepare` would find a finished dataset and leave its source alone."""
    try:
        return same_settings(read_manifest(folder)["settings"], settings)
    except ConfigError:
        return False


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


def prepare(
    settings: Settings,
    folder: str | Path,
    workers: int = 2,
    max_skipped: float = 0.5,
    overwrite: bool = False,
    progress: Callable[[int, int | None, Counter], None] | None = None,
    records: Iterable[Record] | None = None,
) -> dict:
    """Prepare a dataset in `folder` and return its manifest; a finished one is returned as it is, its
    source is not read (`prepared_already`).

    Killed or stopped: called again it goes on. `progress(clips, of, skipped)` is called after every record.
    ConfigError if the folder holds a dataset of other settings (unless `overwrite`); PrepareError if more
    than `max_skipped` of the records had to be skipped, or there is no clip at all."""
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _prepare(settings, folder, workers, max_skipped, overwrite, progress, records)
    except Timeout:
        raise ConfigError(f"{folder}: another process is preparing it") from None


def _prepare(settings, folder, workers, max_skipped, overwrite, progress, records) -> dict:
    from fvlm.files import write_json

    if (folder / "manifest.json").exists():
        manifest = read_manifest(folder)
        if same_settings(manifest["settings"], settings) and not overwrite:
            return manifest
    shards = Shards.open(folder, settings, overwrite)
    records = (
        open_source(settings.source, settings.caption, settings.video, settings.split, settings.captions)
        if records is None
        else records
    )
    records = itertools.islice(records, shards.done, None)
    wanted = float("inf") if settings.clips is None else settings.clips
    if shards.clips < wanted:
        with _ordered(records, settings, workers) as outcomes:
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
        first = shards.skips[0]
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


# ── One record ───────────────────────────────────────────────────────────────────────────────────


def process(record: Record, settings: Settings) -> Outcome:
    """Decode a record and encode its frames. Runs in a worker process; depends on nothing but its
    arguments."""
    outcome = Outcome(record.where, record.clip_id, split=record.split or "")
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
        outcome.reason, outcome.detail = bad.reason, bad.detail
    return outcome


def _read(record: Record, settings: Settings) -> dict:
    if not record.caption and not record.answer:
        raise BadClip("no caption", "the caption is empty")
    try:
        seen = record.media.read(settings.frames, settings.size)
    except BadClip:
        raise
    except (
        Exception
    ) as error:  # whatever a decoder makes of bytes from anywhere: it costs this clip, not the others
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


def _drawn(drawn: Drawn, settings: Settings) -> dict:
    from dataclasses import replace

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

    def __init__(self, records: Iterable[Record], settings: Settings, workers: int):
        self.records, self.settings, self.workers = iter(records), settings, max(workers, 1)
        self.downloader, self.pool = Downloader(), None

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
            return self.pool.submit(process, record, self.settings)
        except BrokenProcessPool:
            self.pool = _pool(self.workers)
            return self.pool.submit(process, record, self.settings)

    def _alone(self, record: Record) -> Outcome:
        with _pool(1) as pool:
            try:
                return pool.submit(process, record, self.settings).result()
            except BrokenProcessPool:
                return Outcome(
                    record.where, record.clip_id, reason="unreadable", detail="its decoder crashed"
                )


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fvlm.data.prepare"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


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
    written."""

    folder: Path
    settings: Settings
    shards: list[dict] = field(default_factory=list)
    skips: list[dict] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)
    open_rows: dict[str, list[dict]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    contents: dict[str, str] = field(default_factory=dict)  # digests of frames and texts: their clip
    pixels: dict[str, str] = field(default_factory=dict)  # digests of frames: the first clip that has them
    ids: dict[str, str] = field(default_factory=dict)  # of the clips: where they stand
    own_split: bool = False  # the source says which clips are validation
    noted: list[dict] = field(default_factory=list)  # clips that something should be known of, and what

    @classmethod
    def open(cls, folder: Path, settings: Settings, overwrite: bool) -> "Shards":
        """The shards of a preparation that was begun, or a new one. ConfigError if it was another's."""
        self = cls(folder, settings)
        journal = self._path("journal")
        lines = _read_lines(journal) if journal.exists() else []
        begun = (
            lines[0]["settings"]
            if len(lines) > 1 or any(self._path(split).exists() for split in SPLITS)
            else None
        )
        if (folder / "manifest.json").exists():
            begun = read_manifest(folder)["settings"]
        if lines and begun is not None and same_settings(begun, settings):
            return self._replayed(lines[1:])
        if begun is not None and not overwrite:
            changed = {k: (v, asdict(settings).get(k)) for k, v in _all_settings(begun).items()}
            changed = {k: (old, new) for k, (old, new) in changed.items() if old != new}
            told = "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in changed.items())
            raise ConfigError(
                f"{folder} holds a dataset prepared otherwise ({told}): choose another folder, or --overwrite"
            )
        (folder / "manifest.json").unlink(missing_ok=True)
        for part in (".progress", "data"):
            shutil.rmtree(folder / part, ignore_errors=True)
            (folder / part).mkdir()
        self._write("journal", dict(settings=asdict(settings)))
        return self

    def _replayed(self, lines: list[dict]) -> "Shards":
        for line in lines:
            if "shard" in line:
                self._count(line["clips"])
                self.shards.append(line["shard"])
            else:
                self.skips.append(line)
                self.skipped[line["reason"]] += 1
        for split in SPLITS:
            written = sum(shard["split"] == split for shard in self.shards)
            for line in _read_lines(self._path(split)) if self._path(split).exists() else ():
                if line["shard"] >= written:  # else the shard was finished, and only the clean-up was not
                    line["row"]["frames"] = [base64.b64decode(frame) for frame in line["row"]["frames"]]
                    self.open_rows[split].append(line)
                    self._count([line["clip"]])
            if len(self.open_rows[split]) == self.settings.shard:  # full, and killed before it was written
                self._finish(split)
        return self

    def _count(self, clips: list[list]):
        for clip_id, contents, where, notes, digest, own_split in clips:
            self.ids[clip_id], self.contents[contents] = where, clip_id
            self.pixels.setdefault(digest, clip_id)
            self.own_split |= own_split
            if notes:
                self.noted.append(dict(clip_id=clip_id, notes=notes))

    @property
    def clips(self) -> int:
        return len(self.ids)

    @property
    def done(self) -> int:
        """Records dealt with."""
        return self.clips + len(self.skips)

    def add(self, outcome: Outcome):
        """Take the next record's outcome. When this returns it is on disk."""
        if outcome.row is not None:
            self._identify(outcome)
        if outcome.row is None:
            skip = dict(
                where=outcome.where, clip_id=outcome.clip_id, reason=outcome.reason, detail=outcome.detail
            )
            self._write("journal", skip)
            self.skips.append(skip)
            self.skipped[outcome.reason] += 1
            return
        split = outcome.split or split_of(outcome.clip_id)
        clip = [
            outcome.clip_id,
            _contents(outcome),
            outcome.where,
            list(outcome.notes),
            outcome.digest,
            bool(outcome.split),
        ]
        number = sum(shard["split"] == split for shard in self.shards)
        self._write(
            split,
            dict(
                shard=number,
                clip=clip,
                row=outcome.row
                | dict(frames=[base64.b64encode(frame).decode() for frame in outcome.row["frames"]]),
            ),
        )
        self.open_rows[split].append(dict(clip=clip, row=outcome.row))
        self._count([clip])
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
        name = f"data/{split}-{sum(shard['split'] == split for shard in self.shards):05d}.parquet"
        scratch = self.folder / f"{name}.part"
        write_shard([line["row"] for line in lines], scratch)
        scratch.replace(self.folder / name)
        shard = dict(file=name, split=split, clips=len(lines), sha256=sha256(self.folder / name))
        self._write("journal", dict(shard=shard, clips=[line["clip"] for line in lines]))
        self.shards.append(shard)
        self._path(split).unlink(missing_ok=True)

    def manifest(self) -> dict:
        by_split = {split: sum(s["clips"] for s in self.shards if s["split"] == split) for split in SPLITS}
        digest = hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()[:16]
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
            shards=self.shards,
            skipped_clips=self.skips,
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


def _read_lines(path: Path) -> list[dict]:
    """The complete lines of a file; what a kill left of one more is cut off, so that the next line starts
    afresh."""
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) < len(data):
        os.truncate(path, len(complete))
    return [json.loads(line) for line in complete.splitlines()]


def write_shard(rows: list[dict], path: Path):
    """Rows to one Parquet file of small row groups, so that a clip is read without its neighbours."""
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
    table = pa.Table.from_pylist(
        [{name: row[name] for name in features} for row in rows], schema=features.arrow_schema
    )
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="none")  # JPEGs do not get smaller


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
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    if manifest.get("format") != FORMAT:
        raise ConfigError(f"{path}: format {manifest.get('format')}; this version reads {FORMAT}")
    return manifest


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
        try:
            rows = pq.read_table(path).to_pylist()
        except (OSError, ValueError) as error:
            wrong.append(f"{shard['file']}: not readable ({str(error).splitlines()[0]})")
            continue
        if len(rows) != shard["clips"]:
            wrong.append(f"{shard['file']}: {len(rows)} clips, the manifest says {shard['clips']}")
        wrong += [
            f"{shard['file']}, clip {row['clip_id']}: {fault}"
            for row in rows
            if (fault := _fault(row, shape, shard["split"], manifest.get("own_split", False)))
        ]
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
    values["source"] = _from_here_or_repository(values["source"])
    settings = Settings(**{name: value for name, value in values.items() if name in names})
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
