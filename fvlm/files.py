"""Writing whole files, or none of them, also when power fails; checksums; folders by name; YAML; the commit
that results belong to."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import zlib
from pathlib import Path

import yaml

from fvlm.config import REPOSITORY, ConfigError, shown


def find_folder(name: str | Path) -> Path:
    """A folder by its name as seen from here or, where there is none, from the repository."""
    return Path(name) if Path(name).is_absolute() or Path(name).exists() else REPOSITORY / name


PUBLISHED = "PUBLISHED"  # a file in the folder of a study whose results are kept: no command writes over them
OWN = "runs"  # folder beside published studies that has what a user's own commands write


def is_published(study: Path) -> bool:
    """Whether a study's folder holds results that are kept, which no command writes over."""
    return (study / PUBLISHED).exists()


def own_folder(study: Path) -> Path:
    """Where a user's own commands write what belongs to a study: its folder or, if that is published, one of
    the same name in `runs/` beside it."""
    return study.parent / OWN / study.name if is_published(study) else study


def write_json(path: Path, content, durable: bool = True):
    """Write a file so that nobody ever reads half of it. durable=False: not even after a kill, but a power
    failure may take it, for what is written often and soon means nothing."""
    write_text(path, json.dumps(content, indent=1), durable)


def write_text(path: Path, text: str, durable: bool = True) -> Path:
    """As `write_json`."""
    with whole(path, durable) as scratch:
        scratch.write_text(text)
    return path


def require_writable(path: Path, what: str):
    """ConfigError unless a file can be written to `path`; for what must know before it begins to compute.
    Makes the folder. what: how the user named it, as `--out x`."""
    probe = scratch_path(path)  # as `whole` names what it writes first
    try:
        if path.is_dir():
            raise OSError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ConfigError(f"{what}: can't be written there ({error})") from None


def write_table(path: Path, rows: list[dict]):
    """Rows as Parquet; nobody ever reads half of it."""
    import pandas as pd

    with whole(path) as scratch:
        pd.DataFrame(rows).to_parquet(scratch, index=False)


@contextlib.contextmanager
def whole(path: Path, durable: bool = True):
    """Inside, a scratch path to write; afterwards `path` is what was written there, if durable on disk. If
    that fails `path` is as it was."""
    scratch = scratch_path(path)
    try:
        yield scratch
        if durable:
            sync(scratch)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


@contextlib.contextmanager
def readable(what: str):
    """ConfigError, of one line, for whatever libraries make of files that a user gave and that are not what
    they should be. what: names them, and what they should be."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        told = said if len(said) <= 500 else f"{said[:500]} …"
        raise ConfigError(f"{what}: {type(error).__name__}{': ' * bool(told)}{told}") from error


def read_json_object(path: Path) -> dict:
    """The object that a JSON file holds. ConfigError, which names the file, if it holds none."""
    with readable(f"{path}: not a JSON file that can be read"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_table(path: Path):
    """The table that a Parquet file holds. ConfigError, which names the file, if it holds none."""
    import pandas as pd

    with readable(f"{path}: not a table that can be read"):
        return pd.read_parquet(path)


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def disk_refuses(error: Exception) -> bool:
    """Whether an error says that a disk is full, or can't be written, in whatever library's words."""
    code = getattr(error, "errno", None)
    return code in DISK or any(os.strerror(code) in str(error) for code in DISK)


SCRATCH = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)")
OLD_SECONDS = 86_400  # since the last byte: nobody writes that any more, on whatever machine


def scratch_path(path: Path) -> Path:
    """Where this process writes what then becomes `path`: beside it, named so that `sweep` knows of a process
    that was killed."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}")


@contextlib.contextmanager
def scratch_folder(path: Path):
    """Inside, an empty folder at `scratch_path(path)`, which goes at the end if it is still there. Whoever
    may read its parent may read it, as with all that is written here: a cache can be shared."""
    scratch = scratch_path(path)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def sweep(folder: Path):
    """Remove what killed processes were writing in a folder: scratch files and folders of processes of this
    machine that are no more, and those that are a day old."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        written = SCRATCH.fullmatch(path.name)
        if written is None:
            continue
        with contextlib.suppress(OSError):  # another sweeps too, or may not write here
            ended = written[1] == _machine() and not _alive(int(written[2]))
            if ended or time.time() - path.lstat().st_mtime > OLD_SECONDS:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def sync(path: Path):
    """Have a file's content, or a folder's names, on disk and, where the system can be asked, not in memory:
    what is read next comes from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise") and path.is_file():
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def put(scratch: Path, path: Path):
    """Put a file, or a folder and all in it, in its place, which another may hold: what is there is whole,
    also when power fails."""
    for written in (scratch, *scratch.rglob("*")):
        sync(written)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    scratch.replace(path)
    sync(path.parent)


CHECKSUMS = "checksums.json"


def seal(folder: Path):
    """Have a folder's files on disk, and beside them what `damaged` compares them with: checksums of what was
    written, taken before it can come from the disk."""
    files = sorted(folder.iterdir())
    write_json(folder / CHECKSUMS, {path.name: sha256(path) for path in files})
    for path in files:
        sync(path)


def damaged(folder: Path) -> str | None:
    """The first file of a sealed folder that is not as it was sealed, or is not there; None if all are. A
    folder that was never sealed is believed."""
    if not (folder / CHECKSUMS).exists():
        return None
    try:
        sealed = json.loads((folder / CHECKSUMS).read_text())
        if not all(re.fullmatch("[0-9a-f]{64}", str(digest)) for digest in sealed.values()):
            return CHECKSUMS  # another file in its place
        for name, digest in sealed.items():
            if not (folder / name).is_file() or sha256(folder / name) != digest:
                return name
    except (ValueError, AttributeError, OSError, RecursionError):
        return CHECKSUMS
    return None


def sha256(file: Path) -> str:
    """SHA-256 of a file's content."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def update_table(path: Path, rows: list[dict], key: tuple[str, ...]) -> list[dict]:
    """`write_table` over what stands there with the same values of `key`; other rows stay. Sorted by `key`.
    Returns all rows; without any, no file is written. ConfigError if what stands there can't be read."""

    def of(row):
        return tuple(row[name] for name in key)

    new = {of(row) for row in rows}
    kept = read_table(path).to_dict("records") if path.exists() else []
    rows = sorted([row for row in kept if of(row) not in new] + rows, key=of)
    if rows:
        write_table(path, rows)
    return rows


def commit() -> str:
    """The commit of this repository, "+" appended if files differ from it; "unknown" outside a checkout."""
    import subprocess

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", REPOSITORY, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD")[:12] + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def where(folder: Path) -> str:
    """A folder as seen from the repository, if it is inside."""
    return str(folder.relative_to(REPOSITORY)) if folder.is_relative_to(REPOSITORY) else str(folder)


LONGEST_FILE = 1_000_000  # bytes; the largest grid here has three thousand
MOST_DIGITS = 100
MOST_VALUES = 20_000  # of a file, aliases spelled out; the largest grid here has two hundred


class _Loader(yaml.SafeLoader):
    """YAML in which no key is given twice, as the first one would be lost without a word, and whose aliases
    spell out no more than a person could have written."""

    def get_single_node(self):
        node = super().get_single_node()
        _count(node, {})
        return node

    def construct_yaml_int(self, node):
        if len(node.value) > MOST_DIGITS:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"line {line}: a whole number of {len(node.value)} digits, at most {MOST_DIGITS}"
            )
        return super().construct_yaml_int(node)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise ConfigError(f"line {key.start_mark.line + 1}: {shown(key.value)} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _count(node, known: dict[int, int | None]) -> int:
    """How many values a YAML node holds, each alias counted as what it stands for. known: of the nodes that
    were met; None of those that are around this one. ConfigError for too many, or one that holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    line = node.start_mark.line + 1
    if id(node) not in known:
        known[id(node)] = None
        parts = (part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,)))
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    found = known[id(node)]
    if found is None:
        raise ConfigError(f"line {line}: what begins here holds itself")
    if found > MOST_VALUES:
        raise ConfigError(
            f"line {line}: over {MOST_VALUES:,} values, what aliases stand for counted each time"
        )
    return found


def load_yaml(path: Path):
    """What a YAML file holds. ConfigError for one that can't be read or is over a megabyte, and as
    `parse_yaml`."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ConfigError(str(error)) from None
    if len(content) > LONGEST_FILE:
        raise ConfigError(f"over {LONGEST_FILE:,} bytes: too long for a grid or a mix")
    return parse_yaml(content)


def parse_yaml(content: bytes):
    """What YAML says. ConfigError for what is no UTF-8 or no YAML, has a key twice, or a few bytes of which
    stand for more than MOST_VALUES values."""
    try:
        return yaml.load(content.decode(), _Loader)
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ConfigError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(str(error)) from None


def expect(content, needed: dict, optional: dict):
    """ConfigError unless a mapping has these names, and these alone, with values of these types."""
    if not isinstance(content, dict):
        raise ConfigError(f"expected {', '.join(needed)}, found {shown(content)}")
    for name in needed:
        if name not in content:
            raise ConfigError(f"{name!r} is missing")
    for name, value in content.items():
        kind = (needed | optional).get(name)
        if kind is None:
            raise ConfigError(f"unknown name {shown(name)}: valid are {', '.join(needed | optional)}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{name} = {shown(value)}: expected a {getattr(kind, '__name__', 'number')}")
