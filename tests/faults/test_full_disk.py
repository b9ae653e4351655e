"""A full disk ends a preparation and a run with one message; when there is room they go on, to what they
would have left without it."""

import errno
import json
import os
import random

import pytest
from conftest import tiny
from disks import FailingWriter, small_disk
from test_prepare_faults import ALL, SETTINGS, captions, in_this_process, records

from fvlm import files, train
from fvlm.cli import main
from fvlm.config import ConfigError
from fvlm.data import prepare as module
from fvlm.data.download import Downloader
from fvlm.data.prepare import PrepareError, Shards, prepare, verify
from fvlm.files import disk_refuses, sha256
from fvlm.training.progress import TrainingError

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
assert in_this_process  # a fixture that all tests here use


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The manifest of a preparation that had room."""
    with pytest.MonkeyPatch.context() as patch:
        here(patch)
        return prepare(SETTINGS, tmp_path_factory.mktemp("whole"), records=records())


def here(patch):
    in_this_process.__wrapped__(patch, type("", (), dict(keywords={})))


def half_a_line(self, name, line):
    text = json.dumps(line)
    with open(self._path(name), "a") as file:
        file.write(text[: len(text) // 2])


def half_a_shard(rows, path, about=None):
    path.write_bytes(b"PAR1" + bytes(2000))


def filling(patch, at: int | None = None) -> FailingWriter:
    """Whatever a preparation writes, from the `at`-th time on, half of it."""
    writer = FailingWriter(at)
    patch.setattr(Shards, "_write", writer.around(Shards._write, half_a_line))
    patch.setattr(module, "write_shard", writer.around(module.write_shard, half_a_shard))
    for where, name in ((module, "sync"), (module, "write_json"), (files, "sync")):
        patch.setattr(where, name, writer.around(getattr(where, name)))
    return writer


def require_whole(folder, manifest, whole):
    assert manifest == whole and captions(folder) == ALL and verify(folder) == []
    assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == ["data", "manifest.json"]
    assert all(p.suffix == ".parquet" and p.name[0] != "." for p in (folder / "data").iterdir())


def test_a_preparation_whose_disk_fills_up_at_any_write_goes_on_when_there_is_room(
    tmp_path, monkeypatch, whole, count
):
    with monkeypatch.context() as counted:
        writer = filling(counted)
        assert prepare(SETTINGS, tmp_path / "counted", records=records()) == whole
    assert writer.seen > 40
    points = range(1, writer.seen + 1, 7 if TIMES == 1 else 1)
    for at in points:
        folder = tmp_path / str(at)
        with monkeypatch.context() as full:
            filling(full, at)
            with pytest.raises(PrepareError, match=r"can't be written.*No space left.*goes on when there is"):
                prepare(SETTINGS, folder, records=records())
        assert not list(folder.glob("data/.*")), "what is half written takes no room"
        require_whole(folder, prepare(SETTINGS, folder, records=records()), whole)
    count("full disks", len(points))


def test_a_preparation_on_a_small_disk_goes_on_when_it_is_larger(tmp_path, whole, count):
    sizes = (12, 40, 80) if TIMES == 1 else range(8, 160, 4)
    tried = 0
    for size in sizes:
        with small_disk(tmp_path / str(size), size << 10) as disk:
            folder = disk.folder / "set"
            try:
                prepare(SETTINGS, folder, records=records())
            except (PrepareError, ConfigError) as error:  # ConfigError: there is no room for a first file
                assert "No space left" in str(error) and "can't be written" in str(error)
                tried += 1
            disk.resize(50 << 20)
            require_whole(folder, prepare(SETTINGS, folder, records=records()), whole)
    assert tried > len(sizes) / 3
    count("full disks", tried)


def test_the_command_ends_with_one_message(tmp_path, capsys, monkeypatch):
    filling(monkeypatch, 20)
    arguments = ["prepare", "shapes", "--clips", "30", "--shard", "4", "--frames", "2", "--size", "56"]
    assert main([*arguments, "--out", str(tmp_path / "set")]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("error:") == 1 and "No space left" in said and "Traceback" not in said


def test_a_cache_of_downloads_that_is_full_is_no_record_to_be_skipped(tmp_path, monkeypatch):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(1 << 20))

        def log_message(self, *_):
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http,
        small_disk(tmp_path / "disk", 1 << 16) as disk,
    ):
        Thread(target=http.serve_forever, daemon=True).start()
        downloader = Downloader(disk.folder, retries=0, allow_private=True)
        with pytest.raises(OSError, match="No space left.*disk") as told:
            downloader.fetch(f"http://127.0.0.1:{http.server_port}/x.mp4")
        assert disk_refuses(told.value) and not list(disk.folder.iterdir())
        http.shutdown()


def test_a_disk_that_refuses_what_was_downloaded_last_is_no_record_to_be_skipped(tmp_path, monkeypatch):
    def refuses(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    downloader = Downloader(tmp_path)
    monkeypatch.setattr(downloader, "_download", lambda session, address, path, limit: path.write_bytes(b"x"))
    monkeypatch.setattr("fvlm.files.sync", refuses)
    with pytest.raises(OSError, match="No space left"):
        downloader.fetch("http://127.0.0.1/x.mp4")
    assert not list(tmp_path.iterdir())


# ── Training ─────────────────────────────────────────────────────────────────────────────────────

SHORT = dict(steps=3, eval_every=1, eval_samples=2, effective_batch=1, features=False)


def results(config):
    from fvlm import load_run

    table = load_run(config.folder).evaluations
    losses = table[[name for name in table if name.startswith("loss_") or name == "step"]]
    return losses.to_dict("list"), sha256(config.folder / "model/model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run with room leaves, and how many bytes it wrote at most."""
    config = tiny(out=str(tmp_path_factory.mktemp("undisturbed")), **SHORT)
    most = []
    train(config, on_progress=lambda _: most.append(size(config.folder)))
    return results(config), max(*most, size(config.folder))


def size(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_run_on_a_small_disk_goes_on_when_it_is_larger(tmp_path, undisturbed, count):
    expected, most = undisturbed
    dice, tried = random.Random(TIMES), 0
    for number in range(2 * TIMES):
        room = int(dice.uniform(0.05, 0.95) * most)
        with small_disk(tmp_path / str(number), room) as disk:
            config = tiny(out=str(disk.folder), **SHORT)
            try:
                train(config)
            except (TrainingError, ConfigError) as error:
                assert "can't be written" in str(error) and "No space left" in str(error)
                tried += 1
            disk.resize(most * 3)
            assert train(config).finished and results(config) == expected
    assert tried > TIMES
    count("full disks", tried)
