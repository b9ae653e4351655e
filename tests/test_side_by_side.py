"""Tests that measure time have the machine for themselves, wherever they stand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = """
import json, os, time
from pathlib import Path
import pytest

def record(name):
    begin = time.time()
    time.sleep(0.3)
    with open(Path(__file__).parent / "record", "a") as file:
        file.write(json.dumps([name, begin, time.time(), os.getpid()]) + "\\n")

@pytest.mark.parametrize("number", range(3))
def test_any(number):
    record(f"{__name__} any")

@pytest.mark.alone
def test_measured():
    record(f"{__name__} alone")
"""


@pytest.mark.slow
def test_who_wants_to_be_alone_is_and_all_others_go_by_files(tmp_path):
    for name in "abc":
        (tmp_path / f"test_{name}.py").write_text(FILE)
    (tmp_path / "conftest.py").write_text(
        "from side_by_side import SideBySide\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(SideBySide(config))\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST") and name != "FVLM_TEST_LOCKS"
    }
    environment |= dict(PYTHONPATH=str(Path(__file__).parent), TMPDIR=str(tmp_path))
    how = ["-p", "no:nbval", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *how, tmp_path], env=environment, capture_output=True, text=True
    )
    assert "12 passed" in done.stdout, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()]
    alone, others = ([row for row in rows if row[0].endswith(kind)] for kind in ("alone", "any"))
    for one in alone:
        assert not [
            other[0] for other in rows if other is not one and one[1] < other[2] and other[1] < one[2]
        ]
    assert len({process for *_, process in alone}) == 1
    between = [row for row in others if alone[0][1] < row[1] < alone[-1][1]]
    assert not between, "nobody slips in and is waited for"
    for name in "abc":
        assert len({process for file, *_, process in others if file == f"test_{name} any"}) == 1
    assert any(a[1] < b[1] < a[2] for a in others for b in others), "the others run at once"
