"""Where clips come from: one function per kind of source, all yielding `Record`s in an order that never
changes.

Nothing is decoded or downloaded here. A row that can't be used is still a record, with `bad` saying why, so
that preparing can count and list it.

A clip's id names its source file and its cut (`talk@2-5.5`); of captions that are samples of their own, which
one it is (`talk#2`). Clips of one file share a split."""

import ast
import itertools
import lzma
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fvlm.config import BUILT_IN, ConfigError
from fvlm.data.tables import (
    PICTURE_SUFFIXES,
    TABLES,
    VIDEO_SUFFIXES,
    Table,
    decoded_text,
    find_file,
    natural,
    parsed_json,
)
from fvlm.data.video import MOST_BYTES, BadClip, NoPicture, Pictures, Still, Video, is_url
from fvlm.files import parse_yaml

VIDEO_COLUMNS = ("file_name", "video", "path", "url", "contentUrl", "frames", "images", "image", "mp4")
CAPTION_COLUMNS = (
    "caption",
    "captions",
    "name",
    "text",
    "txt",
    "messages",
    "conversations",
)  # looked for in this order; "name" is WebVid's
ID_COLUMNS = ("clip_id", "id", "videoid", "__key__")
OTHER_COLUMNS = ("question", "answer", "start", "end")
FOLDER_NAME = "folder"  # --caption folder: the name of the folder that a file is in
LOOKED_THROUGH = 100  # rows, for one that has the columns
KINDS = ("folder", "table", "hub", "tar", "images", "several", "text", *BUILT_IN)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
METADATA = tuple(f"metadata{suffix}" for suffix in TABLES)
OWN_SPLITS = dict(
    train="train",
    training="train",
    test="validation",
    val="validation",
    valid="validation",
    validation="validation",
    eval="validation",
    dev="validation",
)  # a folder's name: what its clips are

CAPTIONS = ("draw", "all", "first")  # what becomes of several captions of one clip
SEVERAL_CAPTIONS = {
    "draw": "several captions: one is drawn for each position of an epoch",
    "all": "several captions: each is a clip of its own",
    "first": "several captions: the first is taken",
}
NO_TEXT = {"", "nan", "null", "none", "<na>", "true", "false"}  # what tables have where there is no caption


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
    """One clip before it is decoded. `where` tells a person where it stands, such as "metadata.csv, row 7".

    captions: all that the clip has, if they are several; `caption` is the first. split: the source's own.
    notes: what should be known of how it was read. number: in its source, from 0 on; who prepares counts."""

    clip_id: str
    caption: str
    media: Video | Pictures | Still | NoPicture | Url | Drawn | None
    where: str
    question: str | None = None
    answer: str | None = None
    bad: BadClip | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None
    notes: tuple[str, ...] = ()
    number: int = 0


def open_source(
    spec: str,
    caption: str | None = None,
    video: str | None = None,
    split: str = "train",
    captions: str = "draw",
) -> Iterator[Record]:
    """The records of `spec`: a path, a Hugging Face dataset id or `shapes[:setting=value,...]`.

    What a path is, is seen from what it holds; `kind:spec` with a kind of folder, table, hub, tar, images
    says it. `several:spec` is a source whose rows have several pictures to compare each; `text:spec` texts
    alone, the caption column of a table or of a Hugging Face dataset. `caption`, `video`: the columns to use,
    where the usual names are not there; of a column within a column, both names with a dot between.
    `captions`: of several of one clip, "draw" keeps all, of which training draws one each time, "all" makes
    each a clip of its own, "first" takes the first. ConfigError if nothing is there."""
    kind, rest = _kind(spec, caption)
    if kind in BUILT_IN:
        return shapes(spec)
    if kind == "several":
        return _to_compare(open_source(rest, caption, video, split, captions))
    if kind == "text":
        return _one_caption_each(texts(rest, caption, split), captions)
    if kind == "hub":
        records = hub(rest, caption, video, split)
    elif kind == "tar":
        records = tars(rest, caption)
    elif kind == "table":
        records = table(rest, caption, video)
    else:
        records = images(rest, caption, video) if kind == "images" else folder(rest, caption, video)
    return _one_caption_each(records, captions)


def _kind(spec: str, caption: str | None = None) -> tuple[str, str]:
    kind, _, rest = spec.partition(":")
    if kind in KINDS and (rest or kind in BUILT_IN):
        return kind, rest
    path = Path(spec).expanduser()
    if path.is_dir():
        if _metadata(path):
            return "folder", str(path)
        if any(_is_tar(entry.name) for entry in path.iterdir()):
            return "tar", str(path)
        saved = ("state.json", "dataset_dict.json", "dataset_infos.json")
        if any((path / name).exists() for name in saved) or next(path.glob("**/*.parquet"), None):
            return "hub", str(path)
        if next(_media_files(path), None):
            return "folder", str(path)
        if (path / "README.md").exists():
            return "hub", str(path)
        raise ConfigError(
            f"{spec}: no metadata.csv or metadata.jsonl, no .tar, no Parquet files, no videos in this folder"
        )
    if path.suffix.lower() in TABLES:
        return "table", str(path)
    if _is_tar(path.name) or "*" in spec:
        return "tar", str(path)
    if path.exists() or spec.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec):
        raise ConfigError(
            f"source {spec!r}: not there (looked for in {Path.cwd()}), or of no known kind. Valid: a folder "
            "with metadata.csv or metadata.jsonl, or of videos with a .txt or .json beside each, a .csv, "
            ".jsonl or .parquet table, .tar files, a Hugging Face dataset id or folder, or shapes"
        )
    return "hub", spec


def _is_tar(name: str) -> bool:
    return name.lower().endswith(TARS) and not name.startswith("._")


# ── Captions, ids and cuts ───────────────────────────────────────────────────────────────────────


def _one_caption_each(records: Iterator[Record], how: str) -> Iterator[Record]:
    """Records whose several captions became what was asked for."""
    for record in records:
        if len(record.captions) < 2:
            yield replace(record, captions=())
            continue
        record = replace(record, notes=(*record.notes, SEVERAL_CAPTIONS[how]))
        if how == "draw":
            yield record
            continue
        for number, caption in enumerate(record.captions if how == "all" else record.captions[:1], 1):
            clip_id = record.clip_id if number == 1 else f"{record.clip_id}#{number}"
            yield replace(record, clip_id=clip_id, caption=caption, captions=())


def _texts(value, name: str) -> tuple[str, ...]:
    """The captions in a cell: a text, a list of texts, or the same written out. BadClip for what is none."""
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass  # a text in brackets
    several = list(value) if isinstance(value, list | tuple) else [value]
    if conversation := _conversation(several):
        return (conversation,)
    texts = []
    for text in several:
        if text is None:
            continue
        if isinstance(text, dict) and isinstance(text.get("caption"), str):
            text = text["caption"]
        if not isinstance(text, str):
            raise BadClip("no caption", f"{name} = {str(value)[:80]!r} is no text")
        if text.strip().lower() not in NO_TEXT:
            texts.append(text.strip())
    if several and not texts and value not in (None, "", []):
        raise BadClip("no caption", f"{name} = {str(value)[:80]!r} is no text")
    return tuple(dict.fromkeys(texts))


PLACEHOLDERS = re.compile(r"\s*<(?:image|video)>\s*")  # where a conversation has its picture


def _conversation(turns: list) -> str:
    """The turns of a conversation as one text, a line each; "" for what is none. Known are {role, content},
    {from, value} and {user, assistant}."""
    lines = []
    for turn in turns:
        if not isinstance(turn, dict):
            return ""
        for name in ("content", "value", "user", "assistant"):
            if isinstance(turn.get(name), str):
                lines.append(PLACEHOLDERS.sub(" ", turn[name]).strip())
    return "\n".join(filter(None, lines))


def _seconds(row: dict, name: str) -> float | None:
    """A time of a row; None where there is none, as NaN stands for in tables, and for an end at infinity."""
    value = row.get(name)
    if value in (None, ""):
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadClip("unreadable", f"{name} = {value!r}: expected seconds") from None
    if math.isnan(seconds) or (name == "end" and seconds == math.inf):
        return None
    if not 0 <= seconds < math.inf:
        raise BadClip("unreadable", f"{name} = {value!r}: expected seconds from 0 on")
    return seconds


def _cut(row: dict) -> tuple[float | None, float | None]:
    start, end = _seconds(row, "start"), _seconds(row, "end")
    if end is not None and end <= (start or 0):
        raise BadClip("too short", f"it ends at {end:g} s and starts at {start or 0:g} s")
    return start, end


def _cut_name(media) -> str:
    """What a clip's id has of its cut, "@2-5.5"."""
    start, end = getattr(media, "start", None), getattr(media, "end", None)
    if start is None and end is None:
        return ""
    return f"@{start or 0:.12g}-" + ("" if end is None else f"{end:.12g}")


def _get(row: dict, column: str):
    """A row's value; of a column within columns their names have dots between."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    return _get(row[outer], inner) if isinstance(row.get(outer), dict) else None


def _record(row: dict, caption: str, where: str, default_id: str, media=None, notes=()) -> Record:
    """A row's texts as a record; `bad` if its caption is none."""
    column = next((c for c in ID_COLUMNS if row.get(c) not in (None, "")), None)
    clip_id = str(row[column]) if column else default_id
    record = Record(clip_id, "", media, where, notes=tuple(notes))
    try:
        texts = _texts(_get(row, caption), caption)
        record.caption, record.captions = (texts or ("",))[0], texts
    except BadClip as bad:
        record.bad = bad
    for name in ("question", "answer"):
        value = row.get(name)
        if isinstance(value, list):
            value = value[0] if value else None
        if value is not None and value == value:  # NaN is not
            setattr(record, name, str(value).strip())
    if record.answer and record.bad and record.bad.reason == "no caption":
        record.bad = None
    return record


def _named(record: Record, own: bool) -> Record:
    """The record with its cut in its id, unless that is the clip's own."""
    return record if own else replace(record, clip_id=record.clip_id + _cut_name(record.media))


def _column(columns, wanted: str | None, usual: tuple[str, ...], what: str, name: str) -> str:
    """The column to use for `what`. ConfigError lists the columns that are there."""
    columns = [c for c in columns if c is not None]
    plain = {c.rpartition(".")[2].casefold(): c for c in reversed(columns)}
    found = wanted or next((c for c in usual if c in columns), None)
    if found is None:  # in another case, or within another column
        found = next((plain[c.casefold()] for c in usual if c.casefold() in plain), None)
    if found not in columns:
        missing = (
            f"no {what} column {wanted!r}" if wanted else f"no {what} column, looked for {', '.join(usual)}"
        )
        raise ConfigError(
            f"{name}: {missing}; there are {', '.join(map(repr, columns))} (choose with --{what})"
        )
    return found


def _columns_of(row: dict) -> list[str]:
    """Names of columns, then of those within them."""
    columns = [name for name in row if isinstance(name, str)]
    return columns + [f"{c}.{i}" for c in columns if isinstance(row[c], dict) for i in _columns_of(row[c])]


# ── A folder of files with captions ──────────────────────────────────────────────────────────────


def folder(path: str, caption: str | None = None, video: str | None = None) -> Iterator[Record]:
    """A folder of videos or pictures with `metadata.csv` or `metadata.jsonl`: `file_name` and a caption per
    row; or folders of such, where those named train, test or validation say the split.

    Without any metadata: a `.txt` or `.json` beside each file, or with `caption` = "folder" the name of the
    folder that it is in. Columns `start` and `end`, in seconds, cut a clip out of a longer video. A file
    outside the folder is refused."""
    root = Path(path)
    tables = _metadata(root)
    if not tables:
        return _loose(root, caption)
    return _folders(root, tables, caption, video)


def _folders(root: Path, tables: list[Path], caption, video) -> Iterator[Record]:
    for metadata in tables:
        inside = metadata.parent.relative_to(root)
        prefix = "" if inside == Path() else f"{inside.as_posix()}/"
        split = OWN_SPLITS.get(inside.parts[0].lower()) if inside.parts else None
        name = f"{prefix}{metadata.name}"
        for record in _rows_to_records(Table(metadata), name, metadata.parent, caption, video, root):
            yield replace(record, clip_id=prefix + record.clip_id, split=split)


def images(path: str, caption: str | None = None, video: str | None = None) -> Iterator[Record]:
    """The same folder, of still pictures: each is a clip in which nothing moves."""
    return folder(path, caption, video)


def table(path: str, caption: str | None = None, video: str | None = None) -> Iterator[Record]:
    """A CSV, JSON Lines, JSON or Parquet table of paths or URLs, or of the videos' content, and captions;
    WebVid's columns work unchanged.

    Relative paths start at the table's folder."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file (looked for in {Path.cwd()})")
    return _rows_to_records(Table(Path(path)), Path(path).name, Path(path).parent, caption, video, None)


def _metadata(root: Path) -> list[Path]:
    """The metadata of a folder, or of the folders in it."""
    own = [root / name for name in METADATA if (root / name).is_file()][:1]
    if own or not root.is_dir():
        return own
    found = [
        [inner / name for name in METADATA if (inner / name).is_file()][:1]
        for inner in sorted(root.iterdir())
        if inner.is_dir()
    ]
    return [path for paths in found for path in paths]


def _rows_to_records(source: Table, name: str, root: Path, caption, video, within) -> Iterator[Record]:
    """within: the folder that no file may be outside of."""
    chosen = wanted = None
    if source.kind == ".parquet":  # no column is read that is not needed
        there = source.columns()
        chosen = _chosen(there, caption, video, name)
        needed = {c.partition(".")[0] for c in chosen} | {*ID_COLUMNS, *OTHER_COLUMNS}
        wanted = [column for column in there if column in needed]

    def columns(row: dict) -> tuple[str, str]:
        return _chosen(_columns_of(row), caption, video, name)

    rows = source.rows(wanted)
    rows = rows if chosen else _with_columns(rows, columns)
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        if isinstance(row, BadClip):
            yield Record(where, "", None, where, bad=row)
            continue
        try:
            chosen = chosen or columns(row)
            record = _of_row(row, where, chosen, root, within, source.notes)
        except Exception as error:  # whatever a row holds costs itself alone
            record = _unreadable(where, error)
        yield record


def _unreadable(where: str, error: Exception) -> Record:
    bad = BadClip("unreadable", f"{type(error).__name__}: {str(error)[:200]}")
    return Record(where, "", None, where, bad=bad)


def _with_columns(rows: Iterator, choose: Callable[[dict], object]) -> Iterator:
    """All rows. ConfigError, that of the first, if none of the first LOOKED_THROUGH has the columns: a row
    that lacks them where others do not costs itself alone."""
    before, fault = [], None
    for row in itertools.islice(rows, LOOKED_THROUGH):
        before.append(row)
        if not isinstance(row, BadClip):
            try:
                choose(row)
                fault = None
                break
            except ConfigError as error:
                fault = fault or error
    if fault:
        raise fault
    return itertools.chain(before, rows)


def _of_row(row: dict, where: str, chosen: tuple[str, str], root: Path, within, notes) -> Record:
    """A table's row as a record. chosen: the columns of the caption and the video."""
    value = _get(row, chosen[1])
    given = value.strip() if isinstance(value, str) else value
    record = _record(row, chosen[0], where, where, notes=notes)
    own = bool(row.get("clip_id"))
    try:
        media, path = _media_of_value(given, row, root, within)
        if record.clip_id == where and path:
            record.clip_id = path if is_url(path) else _without_suffix(path)
        record.media = media
    except BadClip as bad:
        record.bad = record.bad or bad
        if record.clip_id == where and isinstance(given, str) and given:
            record.clip_id = _without_suffix(given)
    if chosen[0] == FOLDER_NAME and FOLDER_NAME not in row and isinstance(given, str):
        record.caption = _folder_name(PurePosixPath(given.replace("\\", "/")))
        record.bad = None if record.media else record.bad
    return _named(record, own)


def _chosen(columns: list[str], caption, video, name: str) -> tuple[str, str]:
    text = (
        FOLDER_NAME if caption == FOLDER_NAME else _column(columns, caption, CAPTION_COLUMNS, "caption", name)
    )
    return text, _column(columns, video, VIDEO_COLUMNS, "video", name)


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    known = path.suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES
    return str(path.with_suffix("")) if known else str(path)


def _folder_name(path: PurePosixPath) -> str:
    return path.parent.name.replace("_", " ").strip()


def _media_files(root: Path) -> Iterator[Path]:
    """Videos and pictures in a folder and in those below it, in order."""
    seen = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        plain = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        folders[:] = []
        for name in plain:  # a link may lead back to where it stands
            if (real := os.path.realpath(os.path.join(folder, name))) not in seen:
                seen.add(real)
                folders.append(name)
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix in VIDEO_SUFFIXES | PICTURE_SUFFIXES and not name.startswith("."):
                yield Path(folder) / name


def _loose(root: Path, caption: str | None) -> Iterator[Record]:
    """Files with their captions beside them, or in their folder's name."""
    for path in _media_files(root):
        inside = path.relative_to(root)
        where, key = inside.as_posix(), inside.with_suffix("").as_posix()
        row, notes = {}, ()
        try:
            if caption == FOLDER_NAME:
                row = dict(caption=_folder_name(PurePosixPath(where)))
            else:
                row, notes = _beside(path)
            text = "caption" if caption in (None, FOLDER_NAME) or caption not in row else caption
            if text not in row:
                text = next((c for c in CAPTION_COLUMNS if c in row), "caption")
            record = _record(row, text, where, key, notes=notes)
            record.media, _ = _media_of_value(where, row, root, None)
            if not row:
                record.bad = BadClip(
                    "no caption",
                    f"neither {path.stem}.txt nor {path.stem}.json is beside it (or --caption folder: the "
                    "name of its folder)",
                )
        except BadClip as bad:
            record = Record(key, "", None, where, bad=bad)
        split = OWN_SPLITS.get(inside.parts[0].lower()) if len(inside.parts) > 1 else None
        yield replace(_named(record, bool(row.get("clip_id"))), split=split)


def _beside(path: Path) -> tuple[dict, tuple[str, ...]]:
    """What the .json and .txt beside a file say, as a row."""
    row, notes = {}, ()
    if path.with_suffix(".json").is_file():
        row, notes = parsed_json(path.with_suffix(".json").read_bytes())
        row = {} if row is None else row
        if not isinstance(row, dict):
            raise BadClip("unreadable", f"{path.stem}.json is no object")
    if path.with_suffix(".txt").is_file():
        text, more = decoded_text(path.with_suffix(".txt").read_bytes())
        row, notes = {**row, "caption": text.strip()}, (*notes, *more)
    return row, notes


# ── What a cell holds ────────────────────────────────────────────────────────────────────────────


def _media_of_value(value, row: dict, root: Path, within: Path | None = None):
    """What a table's cell holds as media, and its path where it has one."""
    if isinstance(value, list):
        if not value:
            raise BadClip("too short", "0 frames")
        return Pictures(tuple(_content(v, root, within) for v in value)), None
    if value in (None, ""):
        raise BadClip("unreadable", "no file named")
    if isinstance(value, str) and is_url(value):
        return Url(value, *_cut(row)), value
    if not isinstance(value, str | bytes | dict):
        raise BadClip("unreadable", f"neither a file nor a video: {str(value)[:80]}")
    content = _content(value, root, within)
    path = value if isinstance(value, str) else value.get("path") if isinstance(value, dict) else None
    name = content if isinstance(content, str) else path or ""
    picture = PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES or (
        isinstance(content, bytes) and _is_picture(content)
    )
    if isinstance(path, str) and os.path.isabs(path) and Path(path).is_relative_to(root.resolve()):
        path = str(Path(path).relative_to(root.resolve()))
    return Still(content) if picture else Video(content, *_cut(row)), path


def _content(value, root: Path, within: Path | None = None) -> str | bytes:
    """The bytes that a cell holds, or the path of the file that it names."""
    if isinstance(value, bytes) or (isinstance(value, dict) and value.get("bytes") is not None):
        content = value if isinstance(value, bytes) else value["bytes"]
        if not content:
            raise BadClip("unreadable", "empty")
        return content
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise BadClip("unreadable", f"neither bytes nor a file: {str(value)[:80]}")
    outside = within and not Path(os.path.normpath(root / name)).is_relative_to(os.path.normpath(within))
    if outside:  # by its name: what the folder's owner links to is the folder's
        raise BadClip("outside the folder", f"{name} leaves {within}")
    path = find_file(root, name)
    if path.stat().st_size == 0:
        raise BadClip("unreadable", f"{name}: empty")
    return str(path)


def _is_picture(content: bytes) -> bool:
    return content.startswith((b"\xff\xd8\xff", b"\x89PNG")) or (
        content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    )


# ── Hugging Face datasets ────────────────────────────────────────────────────────────────────────


def hub(
    name: str, caption: str | None = None, video: str | None = None, split: str = "train"
) -> Iterator[Record]:
    """A dataset of the Hugging Face hub (of one with parts, `owner/name@part`), a folder laid out like one
    (streamed by `datasets`), or what `save_to_disk` left.

    The video column holds `Video`, a list of `Image` (frames), an `Image` (a still), a path or a URL. No
    other column is read but captions, questions, ids and times."""
    stream = _stream(name, split)
    features = stream.features or {}
    first = {} if features else next(iter(stream))
    columns = _columns_of(features or first)
    caption = _column(columns, caption, CAPTION_COLUMNS, "caption", name)
    video = _column(columns, video, VIDEO_COLUMNS, "video", name)
    needed = {c.partition(".")[0] for c in (caption, video)} | {*ID_COLUMNS, *OTHER_COLUMNS}
    stream = stream.select_columns([column for column in columns if column in needed])
    stream = _without_decoding(stream, video.partition(".")[0])
    label = features.get(caption)
    for number, row in enumerate(stream, 1):
        where = f"{name}, row {number}"
        try:
            if hasattr(label, "int2str") and isinstance(row[caption], int):
                row[caption] = label.int2str(row[caption]).replace("_", " ")
            record = _record(row, caption, where, default_id=where)
            try:
                record.media, path = _media_of_value(_get(row, video), row, Path(name))
                if record.clip_id == where and path:
                    record.clip_id = path if is_url(path) else _without_suffix(path).lstrip("/")
            except BadClip as bad:
                record.bad = record.bad or bad
        except Exception as error:  # whatever a row holds costs itself alone
            yield _unreadable(where, error)
            continue
        yield _named(record, bool(row.get("clip_id")))


def _stream(name: str, split: str):
    import datasets
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    from fvlm.weights import hub_out_of_reach

    WebDataset.DECODERS.pop("pth", None)  # it would unpickle them
    folder = Path(name)
    if not folder.exists() and (reason := hub_out_of_reach()):
        raise ConfigError(
            f"{name}: no such file or folder in {Path.cwd()}, and the Hugging Face hub can't be reached "
            f"({reason})"
        )
    _require_sound_cards(folder)
    try:
        if (folder / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(name)
            if split not in saved:
                raise ConfigError(f"{name}: no split {split!r}; there are {', '.join(saved)} (--split)")
            return saved[split].to_iterable_dataset()
        if (folder / "state.json").exists():
            return datasets.load_from_disk(name).to_iterable_dataset()
        name, _, part = name.partition("@")
        return datasets.load_dataset(name, part or None, split=split, streaming=True)
    except ConfigError:
        raise
    except (FileNotFoundError, ValueError, OSError) as error:
        raise ConfigError(f"{name}, split {split}: {error}") from error


def _require_sound_cards(folder: Path):
    """ConfigError for YAML in a folder that `datasets` would read there and `parse_yaml` would not."""
    for path in (folder / "README.md", folder / ".huggingface.yaml"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".md":
            block = re.match(rb"\s*---(?:\r\n|\r|\n)(.*?)(?:\r\n|\r|\n)---", content, re.S)
            content = block[1] if block else b""
        try:
            parse_yaml(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def _without_decoding(stream, video: str):
    import datasets

    kind = (stream.features or {}).get(video)
    if isinstance(kind, datasets.Video | datasets.Image):
        return stream.cast_column(video, type(kind)(decode=False))
    if isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.Image):
        return stream.cast_column(video, datasets.List(datasets.Image(decode=False)))
    return stream


# ── Several pictures, and none ───────────────────────────────────────────────────────────────────


def _to_compare(records: Iterator[Record]) -> Iterator[Record]:
    """Records whose pictures are no film: each is shown as long as the others."""
    for record in records:
        if isinstance(record.media, Pictures):
            yield replace(record, media=replace(record.media, alike=True))
        elif record.media is None or record.bad:
            yield record
        else:
            detail = "a list of pictures is expected, as in a column of lists or x.0.jpg, x.1.jpg of a tar"
            yield replace(record, bad=BadClip("one picture", detail))


def texts(spec: str, caption: str | None = None, split: str = "train") -> Iterator[Record]:
    """Texts alone: of a CSV, JSON Lines, JSON or Parquet table, or else of a Hugging Face dataset, its
    caption column, or its question and answer."""
    path = Path(spec).expanduser()
    table_ = path.suffix.lower() in TABLES
    if table_ and not path.is_file():
        raise ConfigError(f"text:{spec}: no such file (looked for in {Path.cwd()})")
    notes = ()
    if table_:
        source = Table(path)
        rows, notes, name = source.rows(None), source.notes, path.name
    else:
        rows, name = _stream(spec, split), spec

    def column(row: dict) -> str:
        if caption is None and row.get("answer"):
            return next((c for c in CAPTION_COLUMNS if c in row), "caption")
        return _column(_columns_of(row), caption, CAPTION_COLUMNS, "caption", name)

    for number, row in enumerate(_with_columns(iter(rows), column), 1):
        where = f"{name}, row {number}"
        if isinstance(row, BadClip):
            yield Record(where, "", None, where, bad=row)
            continue
        try:
            record = _record(row, column(row), where, where, NoPicture(), notes)
        except Exception as error:  # whatever a row holds costs itself alone
            record = _unreadable(where, error)
        yield record


# ── WebDataset ───────────────────────────────────────────────────────────────────────────────────

TOGETHER = "in a tar all files of a clip follow each other: x.mp4, x.txt or x.json (tar --sort=name)"


def tars(pattern: str, caption: str | None = None) -> Iterator[Record]:
    """WebDataset tars, compressed or not (a file, a folder or a pattern): members of one name that follow
    each other are one clip.

    `x.mp4` or `x.0.jpg`, `x.1.jpg` … are the video; `x.txt` (or `x.caption.txt`) is the caption, or a field
    of `x.json`, whose other fields are read like a table's columns. Links and names that leave the folder
    are refused; of a tar that is cut off, what comes before the cut is kept."""
    path = Path(pattern)
    files = sorted(path.iterdir()) if path.is_dir() else sorted(path.parent.glob(path.name))
    files = [file for file in files if _is_tar(file.name) or not path.is_dir()]
    if not files:
        raise ConfigError(f"{pattern}: no tar files there (looked for in {path.parent.resolve()})")
    for file in files:
        key, members, before, together = None, {}, set(), 0
        for name, content in _members(file):
            if isinstance(content, BadClip):
                if members:
                    yield _tar_record(file, key, members, caption, before)
                key, members, together = None, {}, 0
                yield Record(f"{file.name}:{name}", "", None, f"{file.name}, {name}", bad=content)
                continue
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            stem = f"{folder}/{stem}" if folder else stem
            if stem != key and members:
                yield _tar_record(file, key, members, caption, before)
                before.add(key)
                members, together = {}, 0
            key, together = stem, together + len(content)
            members[extension.lower()] = content if together <= MOST_BYTES else None
        if members:
            yield _tar_record(file, key, members, caption, before)


EXPANDS = 100  # times its size, and 64 MiB, is what a tar may hold: text does not get smaller than that


class _TooLarge(Exception):
    """A tar whose content is out of all proportion."""


class _Member(tarfile.TarInfo):
    """A member whose own description is no longer than one can be: tarfile reads it into memory whole."""

    def _proc_member(self, tar):
        described = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        named = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in described + named and self.size > 1 << 20:
            raise tarfile.ReadError(f"a member described in {self.size} bytes")
        return super()._proc_member(tar)


def _members(file: Path) -> Iterator[tuple[str, bytes | BadClip]]:
    """Names and contents of a tar's files, in its order; a BadClip in place of what is refused or cut off.
    What macOS puts beside each file is passed over."""
    last = "the start"
    try:
        most = EXPANDS * file.stat().st_size + (64 << 20)
        with tarfile.open(file, "r|*", tarinfo=_Member) as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                tar.members = []  # it would keep each
                if tar.offset > most:  # where the next member begins
                    raise _TooLarge(f"{name} would bring it to {tar.offset} bytes")
                parts = PurePosixPath(name).parts
                if member.isdir() or (parts and parts[-1].startswith("._")) or "__MACOSX" in parts:
                    continue
                if member.issparse() or member.size > MOST_BYTES:
                    what = "a sparse file" if member.issparse() else f"{member.size} bytes"
                    yield name, BadClip("too large", f"{what}; at most {MOST_BYTES}, none a hole")
                    continue
                if not member.isfile() or name.startswith("/") or ".." in parts:
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
    except _TooLarge as error:
        yield (
            f"after {last}",
            BadClip("too large", f"{file.name} is {file.stat().st_size} bytes, but {error}: left at that"),
        )
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        yield (
            f"after {last}",
            BadClip("unreadable", f"{file.name} is cut off or damaged after {last}: {error}"),
        )


def _tar_record(file: Path, key: str, members: dict[str, bytes], caption: str | None, before: set) -> Record:
    where, found = f"{file.name}, {key}", ", ".join(f".{extension}" for extension in sorted(members))
    if None in members.values():
        detail = f"its {len(members)} files are more than {MOST_BYTES} bytes"
        return Record(key, "", None, where, bad=BadClip("too large", detail))
    if key in before:
        apart = f"its {found} stands apart from its other files: {TOGETHER}"
        return Record(key, "", None, where, bad=BadClip("unreadable", apart))
    try:
        row, notes = _tar_row(members)
    except BadClip as bad:
        return Record(key, "", None, where, bad=bad)
    column = caption or next((c for c in CAPTION_COLUMNS if c in row), None)
    if column not in row and row and "answer" not in row:
        detail = (
            f"no {caption or ' or '.join(CAPTION_COLUMNS)} among {', '.join(row)} (choose with --caption)"
        )
        return Record(key, "", None, where, bad=BadClip("no caption", detail))
    record = _record(row, column or "caption", where, key, notes=notes)
    if not row:
        record.bad = BadClip("no caption", f"there is {found} alone; {TOGETHER}")
    pictures = sorted((e for e in members if _suffix(e) in PICTURE_SUFFIXES), key=natural)
    videos = [e for e in members if _suffix(e) in VIDEO_SUFFIXES]
    try:
        if videos:
            record.media = Video(members[videos[0]], *_cut(row))
        elif len(pictures) > 1:
            record.media = Pictures(tuple(members[e] for e in pictures))
        elif pictures:
            record.media = Still(members[pictures[0]])
        else:
            raise BadClip("unreadable", f"no video and no pictures among {found}; {TOGETHER}")
        if isinstance(record.media, Video | Still) and not record.media.file:
            raise BadClip("unreadable", "empty")
    except BadClip as bad:
        record.bad = bad
    return _named(record, bool(row.get("clip_id")))


def _suffix(extension: str) -> str:
    return "." + extension.rpartition(".")[2]


def _tar_row(members: dict[str, bytes]) -> tuple[dict, tuple[str, ...]]:
    """What a clip's .json and .txt say, as a row. BadClip if they say nothing that is one."""
    row, notes = {}, ()
    if "json" in members:
        row, notes = parsed_json(members["json"])
        row = {} if row is None else row
        if not isinstance(row, dict):
            raise BadClip("unreadable", "its json is no object")
    texts = sorted(e for e in members if e == "txt" or e.endswith(".txt") or e in ("caption", "text"))
    if texts:
        text, more = decoded_text(members["txt" if "txt" in texts else texts[0]])
        row, notes = {**row, "caption": text.strip()}, (*notes, *more)
    return row, notes


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────


def shapes(spec: str) -> Iterator[Record]:
    """The built-in world or one of its siblings, which never end; settings after a colon, such as
    "shapes:objects=3-5,camera=100", are `ShapesWorld`'s."""
    from fvlm.data.shapes import OF_RUNS, ShapesWorld
    from fvlm.data.siblings import parse_world

    world, index = parse_world(spec), 0
    if said := [name for name in OF_RUNS if getattr(world, name) != getattr(ShapesWorld, name)]:
        raise ConfigError(
            f"{world.name}: {', '.join(said)}: for runs that draw their clips, not for what is prepared"
        )
    while True:
        where = f"{world.name}, clip {index}"
        yield Record(f"{world.name}-{world.seed}-{index}", "", Drawn(world, index), where)
        index += 1
