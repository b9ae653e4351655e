"""Writing whole files, or none of them, also when power fails; checksums; folders by name; the commit that
results belong to."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from fvlm.config import REPOSITORY, ConfigError


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
    with _whole(path, durable) as scratch:
        scratch.write_text(text)
    return path


def require_writable(path: Path, what: str):
    """ConfigError unless a file can be written to `path`; for what must know before it begins to compute.
    Makes the folder. what: how the user named it, as `--out x`."""
    probe = path.with_name(f".{path.name}.{os.getpid()}")  # as `_whole` names what it writes first
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

    with _whole(path) as scratch:
        pd.DataFrame(rows).to_parquet(scratch, index=False)


@contextlib.contextmanager
def _whole(path: Path, durable: bool = True):
    """Inside, a scratch path to write; afterwards `path` is what was written there, if durable on disk. If
    that fails `path` is as it was."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
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
        for name, digest in sealed.items():
            if not (folder / name).is_file() or sha256(folder / name) != digest:
                return name
    except (ValueError, AttributeError, OSError):
        return CHECKSUMS
    return None


def sha256(file: Path) -> str:
    """SHA-256 of a file's content."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def update_table(path: Path, rows: list[dict], key: tuple[str, ...]) -> list[dict]:
    """`write_table` over what stands there with the same values of `key`; other rows stay. Sorted by `key`.
    Returns all rows; without any, no file is written."""
    import pandas as pd

    def of(row):
        return tuple(row[name] for name in key)

    new = {of(row) for row in rows}
    kept = pd.read_parquet(path).to_dict("records") if path.exists() else []
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
