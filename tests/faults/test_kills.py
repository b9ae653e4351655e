"""Killed at any change of the disk, training and preparing go on and leave what they leave undisturbed."""

import os

import pytest
from conftest import REPOSITORY, python
from killing import KINDS

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
SHORT = ["train", "prepare, overwriting"]
POINTS = 2 if TIMES == 1 else 55  # of each kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHORT if TIMES == 1 else KINDS)
def test_killed_at_any_change_of_the_disk_it_goes_on_to_the_same_result(tmp_path, kind, count):
    script = REPOSITORY / "tests/faults/killing.py"
    done = python(script, kind, tmp_path / "work", POINTS, TIMES, check=False, timeout=2900)
    tried = [line for line in done.stdout.splitlines() if line.startswith(f"{kind}, point")]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert len(tried) == POINTS
    count("kill points", len(tried))
