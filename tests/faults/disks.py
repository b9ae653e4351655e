"""Disks that fill up: a small one of the system's own, where it can be had, and a writer that fails. What a
power failure would take."""

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


class PowerLog:
    """Follows what is renamed in a folder: names whose content was not on disk by then (`hollow`), and those
    that are not on disk since (`unnamed`)."""

    def __init__(self, patch, folder: Path):
        self.folder, self.hollow, self.unnamed, self.renamed = folder, [], set(), []
        self._synced = {}
        patch.setattr(os, "fsync", self._fsync(os.fsync))
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._rename(getattr(os, name)))

    def _fsync(self, fsync):
        def instead(descriptor):
            fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            self._synced[path] = _state(path)
            self.unnamed = {name for name in self.unnamed if name.parent != path}

        return instead

    def _rename(self, rename):
        def instead(source, target):
            source, target = Path(source), Path(target)
            written = [source, *source.rglob("*")]  # a folder and all in it
            lost = [path for path in written if self._synced.get(path) != _state(path)]
            rename(source, target)
            for path in written:
                self._synced[target / path.relative_to(source)] = self._synced.get(path)
            if target.is_relative_to(self.folder):
                self.renamed.append(target)
                self.hollow += [target] if lost else []
                self.unnamed.add(target)

        return instead


def _state(path: Path) -> tuple:
    return path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino
