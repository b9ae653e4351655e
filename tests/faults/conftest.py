"""What the tests of faults tried is counted; `make test-long` writes it to outputs/trust.json."""

import os
from collections import Counter
from pathlib import Path

import pytest

KINDS = ("kill points", "damaged files", "bad inputs", "hostile addresses and archives")
OF_FILES = {  # what a test of a file tries, unless it counts itself
    "test_prepare_faults": "damaged files",
    "test_faults": "damaged files",
    "test_bad_files": "damaged files",
    "test_bad_input": "bad inputs",
    "test_hostile": "hostile addresses and archives",
}


@pytest.fixture(autouse=True)
def count(request):
    """Called with one of KINDS, and how many were tried; a test that never calls it counts as one try of its
    file's kind."""
    tried = Counter()

    def add(kind: str, number: int = 1):
        assert kind in KINDS
        tried[kind] += number

    yield add
    if not tried and (kind := OF_FILES.get(request.node.path.stem)):
        tried[kind] = 1
    request.node.user_properties += [(f"tried {kind}", number) for kind, number in tried.items()]


def pytest_configure(config):
    if os.environ.get("FVLM_TRUST") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Trust(Path(os.environ["FVLM_TRUST"])), "trust")


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
