"""How tests run beside each other: `pytest -n 3 --dist loadfile --no-loadscope-reorder`, as `make test`
does. Those that measure time, marked `alone`, come first and one after another in one process, as each that
waited until the others were done would keep all from the cores meanwhile. The others go by files."""

import fcntl
import json
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

# The longest, after two whose first tests are short: who wants to be alone waits for those that have begun.
FIRST = (
    "notebooks/train.ipynb",
    "tests/notebooks/test_notebooks.py",
    "tests/studies/test_grid.py",
    "tests/training/test_training.py",
)
# The variable that says in which folder processes tell each other what they need to know, and lock.
LOCKS = "FVLM_TEST_LOCKS"


class SideBySide:
    """The plugin that `conftest.py` registers."""

    def __init__(self, config):
        self.room, self.alone = ExitStack(), False  # where this process is, and stays for its next test
        # who waits at the door may wait for one that waits itself, each for a test that its limit ends
        self.patience = 2 * float(config.getoption("timeout", None) or config.getini("timeout") or 600)
        if getattr(config.option, "numprocesses", None):
            os.environ.setdefault(
                "OMP_NUM_THREADS", "1"
            )  # before the workers start: several that each take all cores crawl
            os.environ.setdefault(LOCKS, tempfile.mkdtemp(prefix="fvlm-locks-"))

    def pytest_collection_modifyitems(self, config, items):
        """Those that want to be alone, then long files, so that none is left over at the end."""
        order = {item: item.nodeid.partition("::")[0] for item in items}
        items.sort(
            key=lambda item: (
                not wants_to_be_alone(item),
                FIRST.index(order[item]) if order[item] in FIRST else len(FIRST),
                order[item],
            )
        )
        if hasattr(config, "workerinput"):  # one of several processes, and each writes the same
            names = [item.nodeid for item in items if wants_to_be_alone(item)]
            folder, own = Path(os.environ[LOCKS]), f"alone.{config.workerinput['workerid']}"
            (folder / own).write_text(json.dumps(names))
            (folder / own).replace(folder / "alone")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config, log):
        return AloneThenFiles(config, log) if config.getvalue("dist") == "loadfile" else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self):
        """A process that has become a real-time one, and all that it starts, would keep others from the
        cores."""
        with same_scheduling() as changed:
            yield
        assert not changed(), "the test changed how its process is scheduled"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        if LOCKS not in os.environ:
            return (yield)
        alone = wants_to_be_alone(item)
        if not self.alone:
            self.room.enter_context(held(Path(os.environ[LOCKS]), alone, self.patience))
        try:
            return (yield)
        finally:
            self.alone = alone and nextitem is not None and wants_to_be_alone(nextitem)
            if not self.alone:
                self.room.close()


class AloneThenFiles(LoadFileScheduling):
    """All tests of one file go to one process, and so do all that want to be alone."""

    def schedule(self):
        if not hasattr(self, "alone"):  # again when a process was replaced
            self.alone = set(json.loads((Path(os.environ[LOCKS]) / "alone").read_text()))
        super().schedule()

    def _split_scope(self, nodeid):
        return "alone" if nodeid in self.alone else super()._split_scope(nodeid)


def wants_to_be_alone(item) -> bool:
    return item.get_closest_marker("alone") is not None


@contextmanager
def held(folder: Path, alone: bool, patience: float):
    """All tests share a room, but who wants it alone waits at the door until it is empty, and nobody passes
    meanwhile. patience: seconds to wait at the most, at each of the two."""
    with open(folder / "door", "w") as door, open(folder / "room", "w") as room:
        lock(door, fcntl.LOCK_EX, patience)
        lock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, patience)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # whatever forked processes still have it open


def lock(file, kind: int, patience: float):
    """Wait for a lock, but not for ever: who was killed may have left a process that has it still."""
    until = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(f"{file.name} has been locked for {patience:.0f} s") from None
            time.sleep(0.02)


@contextmanager
def same_scheduling():
    """Whatever happens inside, the main thread is scheduled as before; yields a function that says whether
    it had changed."""
    if not hasattr(os, "sched_getscheduler"):  # not on this system
        yield lambda: False
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield lambda: changed
    finally:
        if changed := before[0] != os.sched_getscheduler(0):
            os.sched_setscheduler(0, *before)
