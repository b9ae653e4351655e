"""Writing whole files, or none of them; folders by name; the commit that results belong to."""

import json
import os
from pathlib import Path

from fvlm.config import REPOSITORY


def find_folder(name: str | Path) -> Path:
    """A folder by its name as seen from here or, where there is none, from the repository."""
    return Path(name) if Path(name).is_absolute() or Path(name).exists() else REPOSITORY / name


def write_json(path: Path, content):
    """Write a file so that nobody ever reads half of it."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: Path, text: str) -> Path:
    """Write a file so that nobody ever reads half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    return scratch.replace(path)


def write_table(path: Path, rows: list[dict]):
    """Rows as Parquet; nobody ever reads half of it."""
    import pandas as pd

    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    pd.DataFrame(rows).to_parquet(scratch, index=False)
    scratch.replace(path)


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
