"""How tests run beside each other: `pytest -n 3 --dist loadfile --no-loadscope-reorder`, as `make test`
does."""

import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

# The longest. Of others those whose tests want to be alone come late, when they wait for short ones only.
FIRST = (
    "tests/studies/test_grid.py",
    "tests/widgets/test_widgets.py",  # not long, but all would wait for it at the end
    "notebooks/train.ipynb",
    "tests/notebooks/test_notebooks.py",
    "tests/training/test_training.py",
)


class SideBySide:
    """The plugin that `conftest.py` registers."""

    def __init__(self, config):
        if getattr(config.option, "numprocesses", None):
            os.environ.setdefault(
                "OMP_NUM_THREADS", "1"
            )  # before the workers start: several that each take all cores crawl
            os.environ.setdefault("FVLM_TEST_LOCKS", tempfile.mkdtemp(prefix="fvlm-locks-"))

    def pytest_collection_modifyitems(self, items):
        """Long files first, so that none is left over at the end; in a file, those that want to be alone."""
        order = {item: item.nodeid.partition("::")[0] for item in items}
        items.sort(
            key=lambda item: (
                FIRST.index(order[item]) if order[item] in FIRST else len(FIRST),
                order[item],
                order[item].endswith(".py") and not item.get_closest_marker("alone"),
            )
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self):
        """A process that has become a real-time one, and all that it starts, would keep others from the
        cores."""
        with same_scheduling() as changed:
            yield
        assert not changed(), "the test changed how its process is scheduled"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        folder = os.environ.get("FVLM_TEST_LOCKS")
        if folder is None:
            return (yield)
        with held(Path(folder), alone=item.get_closest_marker("alone") is not None):
            return (yield)


@contextmanager
def held(folder: Path, alone: bool):
    """All tests share a room, but who wants it alone waits at the door until it is empty, and nobody passes
    meanwhile."""
    with open(folder / "door", "w") as door, open(folder / "room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


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
