"""Disks that fill up: a small one of the system's own, where it can be had, and a writer that fails."""

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

REFUSED = "[Errno 28] No space left on device"


class SmallDisk:
    """A file system in memory, of so many bytes."""

    def __init__(self, folder: Path):
        self.folder = folder

    def resize(self, size: int):
        options = f"remount,size={size}"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: int):
    """A `SmallDisk` at a folder; skips the test with the reason where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        why = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        why = "there is no mount here"
    if why:
        pytest.skip(f"no small file system can be mounted: {why}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


class FailingWriter:
    """Counts what a module's functions write, and from the `at`-th on fails as a full disk does; `half` is
    what each leaves there before it does."""

    def __init__(self, at: int | None = None):
        self.at, self.seen = at, 0

    def around(self, write, half=lambda *_, **__: None):
        def instead(*arguments, **named):
            self.seen += 1
            if self.at is not None and self.seen >= self.at:
                half(*arguments, **named)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **named)

        return instead
