"""Killed at any change of the disk, training and preparing go on and leave what they leave undisturbed; what
they have put in its place is on disk, should power fail."""

import os

import pytest
from conftest import REPOSITORY, python, tiny
from disks import PowerLog
from killing import KINDS
from test_prepare_faults import ALL, SETTINGS, captions, in_this_process, records

from fvlm import train
from fvlm.data.prepare import prepare

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
SHORT = ["train", "prepare, overwriting"]
POINTS = 2 if TIMES == 1 else 55  # of each kind
assert in_this_process  # a fixture that all tests here use


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHORT if TIMES == 1 else KINDS)
def test_killed_at_any_change_of_the_disk_it_goes_on_to_the_same_result(tmp_path, kind, count):
    script = REPOSITORY / "tests/faults/killing.py"
    done = python(script, kind, tmp_path / "work", POINTS, TIMES, check=False, timeout=2900)
    tried = [line for line in done.stdout.splitlines() if line.startswith(f"{kind}, point")]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert len(tried) == POINTS
    count("kill points", len(tried))


def test_what_a_preparation_has_put_in_its_place_survives_a_power_failure(tmp_path, monkeypatch):
    log = PowerLog(monkeypatch, tmp_path)
    prepare(SETTINGS, tmp_path / "set", records=records())
    assert captions(tmp_path / "set") == ALL and len(log.renamed) > 6
    assert not log.hollow and not log.unnamed


def test_what_a_run_has_put_in_its_place_survives_a_power_failure(tmp_path, monkeypatch):
    log = PowerLog(monkeypatch, tmp_path)
    config = tiny(out=str(tmp_path), steps=2, eval_every=1, eval_samples=2, effective_batch=1, features=False)
    assert train(config).finished
    assert {"config.json", "evaluations.parquet", "samples.parquet", "step-000002", "model"} <= {
        path.name for path in log.renamed
    }
    passing = config.folder / "progress.json"  # soon means nothing
    assert set(log.hollow) <= {passing} and log.unnamed <= {passing}
