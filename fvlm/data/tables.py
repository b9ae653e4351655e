"""Tables of clips as files hold them: rows of CSV, JSON Lines, JSON and Parquet, in whatever encoding and
with whatever separator they were saved; files found by the names that rows give them."""

import csv
import functools
import io
import itertools
import json
import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fvlm.config import ConfigError
from fvlm.data.video import BadClip

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SEPARATORS = (",", ";", "\t", "|")
WESTERN = "cp1252"  # what text that is no UTF-8 is taken for
NO_UTF8 = "text that is no UTF-8 was read as Windows-1252"
VIDEO_SUFFIXES = {
    *(
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
        ".mts",
        ".m2ts",
    ),
    *(".3gp", ".ogv", ".gif", ".vob", ".h264", ".264", ".h265", ".hevc"),
}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────


def decoded_text(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Text of a small file, and notes: UTF-8, or what its first bytes say, or else Windows-1252."""
    encoding = _encoding(io.BytesIO(data))
    return data.decode(encoding, "replace"), (NO_UTF8,) * (encoding == WESTERN)


def parsed_json(data: bytes) -> tuple[object, tuple[str, ...]]:
    """The content of a JSON file, and notes. BadClip if it is none."""
    text, notes = decoded_text(data)
    try:
        return json.loads(text), notes
    except NO_JSON as error:
        raise BadClip("unreadable", f"json: {_said(error)}") from None


NO_JSON = (ValueError, RecursionError)  # ValueError: also a number of thousands of digits


def _said(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _encoding(file) -> str:
    """Of a binary file: by its first bytes, or UTF-8 if all of it is."""
    start = file.read(3)
    file.seek(0)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        for _ in io.TextIOWrapper(io.BufferedReader(_Kept(file)), encoding="utf-8"):
            pass
    except UnicodeDecodeError:
        return WESTERN
    return "utf-8-sig"


class _Kept(io.RawIOBase):
    """A file that stays open when what reads it is closed."""

    def __init__(self, file):
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────


class Table:
    """A table's rows, in order: dicts, or a BadClip in place of what is no row. `notes`: how it was read."""

    def __init__(self, path: Path):
        self.path, self.kind, self.notes = path, path.suffix.lower(), ()
        if self.kind == ".parquet":
            return
        with open(path, "rb") as file:
            self.encoding = _encoding(file)
        if self.encoding == WESTERN:
            self.notes = (NO_UTF8,)

    def columns(self) -> list[str]:
        """Of a Parquet file, names of columns without reading any, those within a column after a dot."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = []
        try:
            schema = pq.read_schema(self.path)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{self.path}: no Parquet file that can be read ({error})") from None
        for field in schema:
            found.append(field.name)
            if pa.types.is_struct(field.type):
                found += [f"{field.name}.{inner.name}" for inner in field.type]
        return found

    def _parquet_rows(self, wanted: list[str] | None) -> Iterator[dict | BadClip]:
        """Row by row; a part that can't be read costs itself alone."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self.path)
        for group in range(file.num_row_groups):
            try:  # few at once: a row may hold a whole video
                for batch in file.iter_batches(32, row_groups=[group], columns=wanted):
                    yield from batch.to_pylist()
            except (pa.ArrowException, OSError, ValueError) as error:
                yield BadClip("unreadable", f"row group {group}: {str(error)[:200]}")

    def rows(self, wanted: list[str] | None = None) -> Iterator[dict | BadClip]:
        """wanted: of a Parquet file, the columns that are needed."""
        if self.kind == ".parquet":
            yield from self._parquet_rows(wanted)
            return
        with open(self.path, encoding=self.encoding, errors="replace", newline="") as file:
            if self.kind == ".jsonl":
                yield from _json_lines(file)
            elif self.kind == ".json":
                yield from _json_rows(file, self.path)
            else:
                yield from _csv_rows(file, "\t" if self.kind == ".tsv" else None)


def _json_lines(lines) -> Iterator[dict | BadClip]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except NO_JSON as error:
            yield BadClip("unreadable", f"line {number}: {_said(error)}")
        else:
            yield row if isinstance(row, dict) else BadClip("unreadable", f"line {number} is no object")


def _json_rows(file, path: Path) -> Iterator[dict | BadClip]:
    try:
        rows = json.load(file)
    except NO_JSON as error:
        raise ConfigError(f"{path}: {_said(error)}") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a list of objects, one a clip")
    for number, row in enumerate(rows, 1):
        yield row if isinstance(row, dict) else BadClip("unreadable", f"entry {number} is no object")


class _Lines:
    """Lines that can be given back: `taken` since the last `begin`."""

    def __init__(self, lines):
        self.lines, self.back, self.taken = iter(lines), deque(), []

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = self.back.popleft() if self.back else next(self.lines)
        self.taken.append(line)
        return line

    def begin(self):
        self.taken = []

    def give_back(self, but: int):
        """All lines taken but the first few."""
        self.back.extendleft(reversed(self.taken[but:]))


def _csv_rows(file, separator: str | None) -> Iterator[dict | BadClip]:
    """Rows by the header's names. A row of more fields than names has a separator that no quotes protect; a
    quote that is never closed would swallow the rows after it: both cost their own row alone."""
    lines = _Lines(file)
    header = next(lines, "")
    separator = separator or max(SEPARATORS, key=lambda s: len(next(csv.reader([header], delimiter=s), ())))
    lines.give_back(0)
    names, number = None, 0
    while True:
        reader, clean = csv.reader(lines, delimiter=separator, strict=True), True
        while clean:
            lines.begin()
            try:
                row = next(reader, None)
                if row and names and len(lines.taken) > 1:
                    _check_swallowed(lines.taken, separator, len(names))
            except (csv.Error, BadClip) as error:
                lines.give_back(1)
                detail = error.detail if isinstance(error, BadClip) else f"{error}: is a quote not closed?"
                yield BadClip("unreadable", f"{lines.taken[0].strip()[:80]!r}: {detail}")
                clean = False
                continue
            if row is None:
                return
            if not row:
                continue
            if names is None:
                names = [name.strip() for name in row]
                continue
            number += 1
            if len(row) > len(names):
                yield BadClip(
                    "unreadable",
                    f"{lines.taken[0].strip()[:80]!r}: {len(row)} fields under {len(names)} names: "
                    f"a text with {separator!r} in it needs quotes",
                )
            else:
                yield dict(itertools.zip_longest(names, row))


def _check_swallowed(taken: list[str], separator: str, names: int):
    """BadClip if a row of several lines holds a line that is a row by itself."""
    for line in taken[1:]:
        fields = line.strip().split(separator)
        known = (PurePosixPath(field).suffix.lower() in VIDEO_SUFFIXES for field in fields)
        if len(fields) >= names and any(known):
            raise BadClip("unreadable", "is a quote not closed? It takes in the rows after it")


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


def find_file(root: Path, name: str) -> Path:
    """The file that a row names: as it stands, or with other slashes, in another Unicode form or case, or
    without its extension. BadClip if there is none, or several."""
    try:
        found = _found(root, name)
        if found.is_file():
            return found
        raise ValueError("no file")
    except (OSError, ValueError, RuntimeError, IndexError) as error:  # NUL, 256 bytes, a loop of links
        raise BadClip("unreadable", f"{name[:80]!r}: no name of a file ({str(error)[:80]})") from None


def _found(root: Path, name: str) -> Path:
    path = root / name
    if path.is_file():
        return path
    folder = root
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for part in parts[:-1]:
        folder = folder / part if part in ("..", "/") else _entry(folder, part, name, folders=True)
    return _entry(folder, parts[-1], name)


def _entry(folder: Path, part: str, name: str, folders: bool = False) -> Path:
    by_name, by_stem = _listing(str(folder))
    key = _key(part)
    found = by_name.get(key) or (() if folders else by_stem.get(key, ()))
    exact = [entry for entry in found if _form(entry) == _form(part)]
    found = exact or found
    if not found:
        raise BadClip("unreadable", f"{name}: no such file")
    if len(found) > 1:
        raise BadClip("unreadable", f"{name}: could be {' or '.join(sorted(found))}")
    return folder / found[0]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, frame 2 before frame 10. ConfigError if there is none."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
    if not files:
        endings = ", ".join(sorted(PICTURE_SUFFIXES))
        raise ConfigError(f"{folder}: no picture in this folder ({endings})")
    return sorted(files, key=lambda file: natural(file.name))


def natural(name: str) -> list:
    """What names are sorted by, so that 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@functools.lru_cache(maxsize=64)
def _listing(folder: str) -> tuple[dict, dict]:
    """Names in a folder by their plain form, and those of videos and pictures without their extension."""
    by_name, by_stem = {}, {}
    for entry in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        by_name.setdefault(_key(entry.name), []).append(entry.name)
        if entry.suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
            by_stem.setdefault(_key(entry.stem), []).append(entry.name)
    return by_name, by_stem


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    return _form(name).casefold()
