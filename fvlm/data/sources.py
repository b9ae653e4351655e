"""Where clips come from: one function per kind of source, all yielding `Record`s in an order that never
changes.

Nothing is decoded or downloaded here. A row that can't be used is still a record, with `bad` saying why, so
that preparing can count and list it."""

import csv
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fvlm.config import ConfigError
from fvlm.data.video import BadClip, Pictures, Still, Video, is_url

VIDEO_SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ts",
    ".3gp",
    ".ogv",
    ".gif",
}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
VIDEO_COLUMNS = (
    "file_name",
    "video",
    "path",
    "url",
    "contentUrl",
    "frames",
    "images",
    "image",
)  # looked for in this order
CAPTION_COLUMNS = ("caption", "name", "text")  # "name" is WebVid's
ID_COLUMNS = ("clip_id", "id", "videoid")
KINDS = ("folder", "table", "hub", "tar", "images", "shapes")


@dataclass(frozen=True)
class Url:
    """A video somewhere else; becomes a `Video` once it is downloaded."""

    address: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Drawn:
    """A clip of `shapes`, drawn when it is needed."""

    world: object
    index: int


@dataclass
class Record:
    """One clip before it is decoded. `where` tells a person where it stands, such as "metadata.csv, row
    7"."""

    clip_id: str
    caption: str
    media: Video | Pictures | Still | Url | Drawn | None
    where: str
    question: str | None = None
    answer: str | None = None
    bad: BadClip | None = None


def open_source(
    spec: str, caption: str | None = None, video: str | None = None, split: str = "train"
) -> Iterator[Record]:
    """The records of `spec`: a path, a Hugging Face dataset id or `shapes[:setting=value,...]`.

    What a path is, is seen from what it holds; `kind:spec` with a kind of folder, table, hub, tar, images
    says it. `caption`, `video`: the columns to use, where the usual names are not there. ConfigError if
    nothing is there."""
    kind, rest = _kind(spec)
    if kind == "shapes":
        return shapes(rest)
    if kind == "hub":
        return hub(rest, caption, video, split)
    if kind == "tar":
        return tars(rest, caption)
    if kind == "table":
        return table(rest, caption, video)
    return images(rest, caption, video) if kind == "images" else folder(rest, caption, video)


def _kind(spec: str) -> tuple[str, str]:
    kind, _, rest = spec.partition(":")
    if kind in KINDS and (rest or kind == "shapes"):
        return kind, rest
    path = Path(spec)
    if path.is_dir():
        if _metadata(path):
            return "folder", spec
        if list(path.glob("*.tar")):
            return "tar", spec
        if (
            list(path.glob("**/*.parquet"))
            or (path / "dataset_infos.json").exists()
            or (path / "README.md").exists()
        ):
            return "hub", spec
        raise ConfigError(
            f"{spec}: no metadata.csv or metadata.jsonl, no .tar and no Parquet files in this folder"
        )
    if path.suffix in (".csv", ".tsv", ".parquet", ".jsonl"):
        return "table", spec
    if path.suffix == ".tar" or "*" in spec:
        return "tar", spec
    if path.exists() or spec.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec):
        raise ConfigError(
            f"source {spec!r}: not there, or of no known kind. Valid: a folder with metadata.csv or "
            "metadata.jsonl, a .csv or "
            ".parquet table, .tar files, a Hugging Face dataset id or folder, or shapes"
        )
    return "hub", spec


# ── A folder of files with captions ──────────────────────────────────────────────────────────────


def folder(path: str, caption: str | None = None, video: str | None = None) -> Iterator[Record]:
    """A folder of videos or pictures with `metadata.csv` or `metadata.jsonl`: `file_name` and a caption per
    row.

    Columns `start` and `end`, in seconds, cut a clip out of a longer video. A file outside the folder is
    refused."""
    root = Path(path)
    metadata = _metadata(root)
    if metadata is None:
        raise ConfigError(f"{path}: neither metadata.csv nor metadata.jsonl is there")
    return _rows_to_records(_read_rows(metadata), metadata.name, root, caption, video, confined=True)


def images(path: str, caption: str | None = None, video: str | None = None) -> Iterator[Record]:
    """The same folder, of still pictures: each is a clip in which nothing moves."""
    return folder(path, caption, video)


def table(path: str, caption: str | None = None, video: str | None = None) -> Iterator[Record]:
    """A CSV, JSON Lines or Parquet table of paths or URLs and captions; WebVid's columns work unchanged.

    Relative paths start at the table's folder."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file")
    return _rows_to_records(
        _read_rows(Path(path)), Path(path).name, Path(path).parent, caption, video, confined=False
    )


def _metadata(root: Path) -> Path | None:
    return next(
        (
            root / name
            for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet")
            if (root / name).is_file()
        ),
        None,
    )


def _read_rows(path: Path) -> Iterator[dict | BadClip]:
    """Rows as dicts, one by one; a BadClip in place of a line that is no row."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches(1000):
            yield from batch.to_pylist()
    elif path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    yield (
                        row if isinstance(row, dict) else BadClip("unreadable", f"line {number} is no object")
                    )
                except json.JSONDecodeError as error:
                    yield BadClip("unreadable", f"line {number}: {error}")
    else:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            yield from csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")


def _rows_to_records(rows, name: str, root: Path, caption, video, confined: bool) -> Iterator[Record]:
    chosen = None
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        if isinstance(row, BadClip):
            yield Record(where, "", None, where, bad=row)
            continue
        if chosen is None:
            chosen = (
                _column(row, caption, CAPTION_COLUMNS, "caption", name),
                _column(row, video, VIDEO_COLUMNS, "video", name),
            )
        file = str(row.get(chosen[1]) or "").strip()
        name_alone = file if is_url(file) or not file else str(PurePosixPath(file).with_suffix(""))
        record = _record(row, chosen[0], where, default_id=name_alone or where)
        try:
            record.media = _media(file, row, root, confined)
        except BadClip as bad:
            record.bad = bad
        yield record


def _media(file: str, row: dict, root: Path, confined: bool):
    start, end = _seconds(row, "start"), _seconds(row, "end")
    if not file:
        raise BadClip("unreadable", "no file named")
    if is_url(file):
        return Url(file, start, end)
    path = root / file
    if confined and not path.resolve().is_relative_to(root.resolve()):
        raise BadClip("outside the folder", f"{file} leaves {root}")
    if not path.is_file():
        raise BadClip("unreadable", f"{file}: no such file")
    if path.stat().st_size == 0:
        raise BadClip("unreadable", f"{file}: empty")
    return Still(str(path)) if path.suffix.lower() in PICTURE_SUFFIXES else Video(str(path), start, end)


def _seconds(row: dict, name: str) -> float | None:
    value = row.get(name)
    if value in (None, ""):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadClip("unreadable", f"{name} = {value!r}: expected seconds") from None


def _record(row: dict, caption: str, where: str, default_id: str, media=None) -> Record:
    clip_id = next((str(row[c]) for c in ID_COLUMNS if row.get(c) not in (None, "")), default_id)
    text = {
        name: str(row[name]).strip() for name in (caption, "question", "answer") if row.get(name) is not None
    }
    return Record(clip_id, text.get(caption, ""), media, where, text.get("question"), text.get("answer"))


def _column(columns, wanted: str | None, usual: tuple[str, ...], what: str, name: str) -> str:
    """The column to use for `what`. ConfigError lists the columns that are there."""
    columns = [c for c in columns if c is not None]
    found = wanted or next((c for c in usual if c in columns), None)
    if found not in columns:
        missing = (
            f"no {what} column {wanted!r}" if wanted else f"no {what} column, looked for {', '.join(usual)}"
        )
        raise ConfigError(
            f"{name}: {missing}; there are {', '.join(map(repr, columns))} (choose with --{what})"
        )
    return found


# ── Hugging Face datasets ────────────────────────────────────────────────────────────────────────


def hub(
    name: str, caption: str | None = None, video: str | None = None, split: str = "train"
) -> Iterator[Record]:
    """A dataset of the Hugging Face hub, or a folder laid out like one, streamed by `datasets`.

    The video column holds `Video`, a list of `Image` (frames), an `Image` (a still), a path or a URL."""
    import datasets

    from fvlm.weights import hub_out_of_reach

    if not Path(name).exists() and (reason := hub_out_of_reach()):
        raise ConfigError(
            f"{name}: no such file or folder, and the Hugging Face hub can't be reached ({reason})"
        )
    try:
        stream = datasets.load_dataset(name, split=split, streaming=True)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise ConfigError(f"{name}, split {split}: {error}") from error
    columns = list(stream.features or next(iter(stream)))
    caption = _column(columns, caption, CAPTION_COLUMNS, "caption", name)
    video = _column(columns, video, VIDEO_COLUMNS, "video", name)
    stream = _without_decoding(stream, video)
    for number, row in enumerate(stream, 1):
        where = f"{name}, row {number}"
        record = _record(row, caption, where, default_id=where)
        try:
            record.media, path = _media_of_value(row[video], row, Path(name))
            if record.clip_id == where and path:
                record.clip_id = PurePosixPath(path).stem
        except BadClip as bad:
            record.bad = bad
        yield record


def _without_decoding(stream, video: str):
    import datasets

    kind = (stream.features or {}).get(video)
    if isinstance(kind, datasets.Video | datasets.Image):
        return stream.cast_column(video, type(kind)(decode=False))
    if isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.Image):
        return stream.cast_column(video, datasets.List(datasets.Image(decode=False)))
    return stream


def _media_of_value(value, row: dict, root: Path):
    """What a dataset's cell holds as media, and its path where it has one."""
    if isinstance(value, list):
        if not value:
            raise BadClip("too short", "0 frames")
        return Pictures(tuple(_content(v, root) for v in value)), None
    if isinstance(value, str) and not is_url(value):
        return _media(value, row, root, confined=False), value
    if isinstance(value, str):
        return Url(value, _seconds(row, "start"), _seconds(row, "end")), value
    content, path = _content(value, root), value.get("path") if isinstance(value, dict) else None
    if isinstance(content, bytes) and not content:
        raise BadClip("unreadable", "empty")
    picture = PurePosixPath(path or "").suffix.lower() in PICTURE_SUFFIXES or (
        isinstance(content, bytes) and _is_picture(content)
    )
    return Still(content) if picture else Video(content, _seconds(row, "start"), _seconds(row, "end")), path


def _content(value, root: Path) -> str | bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict) and value.get("bytes") is not None:
        return value["bytes"]
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(path, str) and Path(path).is_file():
        return path
    raise BadClip("unreadable", f"neither bytes nor a file: {str(value)[:80]}")


def _is_picture(content: bytes) -> bool:
    return content.startswith((b"\xff\xd8\xff", b"\x89PNG")) or (
        content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    )


# ── WebDataset ───────────────────────────────────────────────────────────────────────────────────


def tars(pattern: str, caption: str | None = None) -> Iterator[Record]:
    """WebDataset tars (a file, a folder or a pattern): members of one name are one clip.

    `x.mp4` or `x.0.jpg`, `x.1.jpg` … are the video; `x.txt` is the caption, or a field of `x.json`, whose
    other fields are read like a table's columns. Links and names that leave the folder are refused; of a tar
    that is cut off, what comes before the cut is kept."""
    path = Path(pattern)
    files = sorted(path.glob("*.tar")) if path.is_dir() else sorted(path.parent.glob(path.name))
    if not files:
        raise ConfigError(f"{pattern}: no tar files there")
    for file in files:
        key, members = None, {}
        for name, content in _members(file):
            if isinstance(content, BadClip):
                if members:
                    yield _tar_record(file, key, members, caption)
                key, members = None, {}
                yield Record(f"{file.name}:{name}", "", None, f"{file.name}, {name}", bad=content)
                continue
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            stem = f"{folder}/{stem}" if folder else stem
            if stem != key and members:
                yield _tar_record(file, key, members, caption)
                members = {}
            key = stem
            members[extension.lower()] = content
        if members:
            yield _tar_record(file, key, members, caption)


def _members(file: Path) -> Iterator[tuple[str, bytes | BadClip]]:
    """Names and contents of a tar's files, in its order; a BadClip in place of what is refused or cut off."""
    last = "the start"
    try:
        with tarfile.open(file, "r|*") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                if not member.isfile() or name.startswith("/") or ".." in PurePosixPath(name).parts:
                    yield (
                        name,
                        BadClip(
                            "outside the folder",
                            f"{'a link' if not member.isfile() else name} in {file.name}",
                        ),
                    )
                    continue
                content = tar.extractfile(member).read()
                if len(content) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield name, content
                last = name
    except (tarfile.TarError, EOFError, OSError) as error:
        yield (
            f"after {last}",
            BadClip("unreadable", f"{file.name} is cut off or damaged after {last}: {error}"),
        )


def _tar_record(file: Path, key: str, members: dict[str, bytes], caption: str | None) -> Record:
    where = f"{file.name}, {key}"
    try:
        row = json.loads(members["json"]) if "json" in members else {}
        text = members["txt"].decode("utf-8").strip() if "txt" in members else None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        return Record(key, "", None, where, bad=BadClip("unreadable", f"caption: {error}"))
    if text is not None:
        row = {**row, "caption": text}
        caption = caption or "caption"
    if not isinstance(row, dict):
        return Record(key, "", None, where, bad=BadClip("unreadable", "its json is no object"))
    if row:
        caption = _column(row, caption, CAPTION_COLUMNS, "caption", where)
    record = _record(row, caption or "caption", where, default_id=key)
    pictures = sorted((e for e in members if "." + e.rpartition(".")[2] in PICTURE_SUFFIXES), key=_natural)
    videos = [e for e in members if "." + e.rpartition(".")[2] in VIDEO_SUFFIXES]
    if videos:
        record.media = Video(members[videos[0]])
    elif len(pictures) > 1:
        record.media = Pictures(tuple(members[e] for e in pictures))
    elif pictures:
        record.media = Still(members[pictures[0]])
    else:
        record.bad = BadClip("unreadable", f"no video and no pictures among {', '.join(sorted(members))}")
    if record.media is not None and isinstance(record.media, Video | Still) and not record.media.file:
        record.bad = BadClip("unreadable", "empty")
    return record


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────


def shapes(settings: str = "") -> Iterator[Record]:
    """The built-in world, which never ends; `settings` such as "objects=3-5,camera=100" are
    `ShapesWorld`'s."""
    from fvlm.data.shapes import ShapesWorld

    world, index = ShapesWorld.parse(settings), 0
    while True:
        yield Record(f"shapes-{world.seed}-{index}", "", Drawn(world, index), f"shapes, clip {index}")
        index += 1
