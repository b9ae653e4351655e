"""What the tests of faults tried is counted; `make test-long` writes it to outputs/trust.json."""

import os
from collections import Counter
from pathlib import Path

import pytest

KINDS = ("kill points", "damaged files", "full disks", "bad inputs", "hostile addresses and archives")
OF_FILES = {  # what a test of a file tries, unless it counts itself, and what such a test is given
    "test_prepare_faults": ("damaged files", {"damage"}),
    "test_faults": ("damaged files", {"damage"}),
    "test_bad_files": ("damaged files", {"damage"}),
    "test_bad_input": ("bad inputs", set()),
    "test_hostile": ("hostile addresses and archives", set()),
}


class Counting:
    """Lets tests say what they tried: the fixture `count`, called with one of KINDS and how many. A test that
    never calls it counts as one try of its file's kind, if it is one of those that try it."""

    @pytest.fixture
    def count(self, request):
        def add(kind: str, number: int = 1):
            assert kind in KINDS
            request.node.user_properties.append((f"tried {kind}", number))

        return add

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item):
        yield  # fixtures may count when they end
        kind, given = OF_FILES.get(item.path.stem, (None, set()))
        if (
            kind
            and given <= set(item.fixturenames)
            and not any(name.startswith("tried ") for name, _ in item.user_properties)
        ):
            item.user_properties.append((f"tried {kind}", 1))


def register(config):
    """Have a session count and, where FVLM_TRUST names a file, write there what was tried."""
    config.pluginmanager.register(Counting())
    if os.environ.get("FVLM_TRUST") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Trust(Path(os.environ["FVLM_TRUST"])))


class Trust:
    """Adds up what all tests of a session tried, and writes it at its end."""

    def __init__(self, path: Path):
        self.path, self.tried, self.failed, self.passed = path, Counter(), [], 0

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call" and report.passed:
            self.passed += 1
        if report.when == "teardown":
            for name, number in report.user_properties:
                if name.startswith("tried "):
                    self.tried[name.removeprefix("tried ")] += number

    def pytest_sessionfinish(self, session, exitstatus):
        from datetime import date

        from fvlm.files import commit, write_json

        whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not whole:  # stopped half-way: nothing is known of the rest
            return
        tried = {kind: self.tried[kind] for kind in KINDS}
        about = dict(date=date.today().isoformat(), commit=commit(), tried=tried, tests=self.passed)
        write_json(self.path, about | dict(failures=len(self.failed), failed=self.failed[:20]))
