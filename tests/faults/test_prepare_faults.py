"""What a preparation makes of a power failure, of errors that pass, and of what killed processes left."""

import inspect
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from fvlm import ConfigError
from fvlm.cli import main
from fvlm.data import PreparedDataset
from fvlm.data import prepare as module
from fvlm.data.download import Downloader
from fvlm.data.prepare import PrepareError, Settings, prepare, prepared_already, read_manifest, verify
from fvlm.data.sources import Record
from fvlm.data.video import BadClip, Pictures, Seen
from fvlm.files import scratch_folder, scratch_path, sweep, write_text

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
SETTINGS = Settings("test", frames=2, size=28, shard=4)
CLIPS = 23
BAD = (3, 11, 17)  # numbers of records that give no clip


class Painted(Pictures):
    """Two frames of a brightness of their own."""

    def read(self, frames, size):
        rng = np.random.default_rng(self.files[0])
        return Seen(rng.integers(0, 255, (frames, size, size, 3)).astype(np.uint8), frames)


def records() -> list[Record]:
    found = [Record(f"c{i}", f"number {i}", Painted((i,)), f"row {i}") for i in range(CLIPS)]
    for number in BAD:
        found[number].caption = ""
    return found


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, request):
    """Decode here: processes of their own are tried where a test asks for them."""
    if "real_processes" in request.keywords:
        return

    class Here:
        def __init__(self, records, settings, workers, allow_private):
            self.records, self.settings = records, settings

        def __enter__(self):
            return (module.process(record, self.settings) for record in self.records)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(module, "_ordered", Here)


def captions(folder) -> list[str]:
    """The texts of all clips of a dataset, sorted: none may be missing, none there twice."""
    datasets = [PreparedDataset(folder, split) for split in ("train", "validation")]
    return sorted(d.row(i)["caption"] for d in datasets for i in range(len(d)))


ALL = sorted(f"number {i}" for i in range(CLIPS) if i not in BAD)


def stop_after(number: int):
    """A `progress` that ends a preparation as Control-C does."""
    seen = []

    def stop(*_):
        seen.append(1)
        if len(seen) == number:
            raise KeyboardInterrupt

    return stop


def half_done(folder: Path, at: int = 19) -> Path:
    with pytest.raises(KeyboardInterrupt):
        prepare(SETTINGS, folder, records=records(), progress=stop_after(at))
    return folder


# ── The journal and the shards ───────────────────────────────────────────────────────────────────


def lose_lines(path: Path, dice):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: dice.randrange(len(lines))]))


def lose_the_end(path: Path, dice):
    os.truncate(path, dice.randrange(path.stat().st_size))


def zero_the_end(path: Path, dice):
    size = path.stat().st_size
    start = dice.randrange(size)
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(size - start))


def empty(path: Path, dice):
    path.write_bytes(b"")


def zero_all(path: Path, dice):
    path.write_bytes(bytes(path.stat().st_size))


def scramble(path: Path, dice):
    path.write_bytes(dice.randbytes(300))


def remove(path: Path, dice):
    path.unlink()


DAMAGES = [lose_lines, lose_the_end, zero_the_end, empty, zero_all, scramble, remove]


@pytest.mark.filterwarnings("ignore:.*prepared again")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["journal", "rows", "shard", "any"])
def test_whatever_is_lost_of_journal_or_shards_no_clip_is_lost_or_doubled(tmp_path, damage, which, count):
    count("damaged files", TIMES)
    for number in range(TIMES):
        dice = random.Random(f"{damage.__name__} {which} {number}")
        out = half_done(tmp_path / f"out{number}", dice.randrange(6, 23))
        progress = sorted((out / ".progress").iterdir())
        shards = sorted((out / "data").iterdir())
        rows = [path for path in progress if path.name != "journal.jsonl"]
        chosen = dict(journal=[out / ".progress/journal.jsonl"], rows=rows, shard=shards)
        chosen["any"] = dice.sample(progress + shards, dice.randint(1, len(progress + shards)))
        for path in chosen[which]:
            damage(path, dice)
        manifest = prepare(SETTINGS, out, records=records())
        assert captions(out) == ALL and manifest["clips"] == len(ALL)
        assert manifest["skipped"] == {"no caption": len(BAD)} and verify(out) == []


@pytest.mark.parametrize("lost", [".progress/journal.jsonl", ".progress"])
def test_a_preparation_that_lost_its_journal_gives_the_same_bytes(tmp_path, lost):
    whole = prepare(SETTINGS, tmp_path / "whole", records=records())
    out, asked = half_done(tmp_path / "out"), []
    kept = sum(len(module.read_about(path)["clips"]) for path in (out / "data").iterdir())
    shutil.rmtree(out / lost) if (out / lost).is_dir() else (out / lost).unlink()
    assert prepare(SETTINGS, out, records=records(), progress=lambda *_: asked.append(1)) == whole
    assert len(asked) <= CLIPS - kept, "what is in shards is not done again"


def test_a_shard_whose_middle_is_damaged_is_made_again(tmp_path):
    """It opens, and says which records it holds: only its checksum tells."""
    out = half_done(tmp_path)
    shard = min((out / "data").iterdir())
    with open(shard, "r+b") as file:
        file.seek(200)
        file.write(bytes(20))
    assert module.read_about(shard)
    with pytest.warns(UserWarning, match=f"{shard.name} is damaged: what it held is prepared again"):
        prepare(SETTINGS, out, records=records())
    assert captions(out) == ALL and verify(out) == []


def test_what_is_done_after_a_torn_line_is_not_done_again(tmp_path):
    half_done(tmp_path, 6)
    for path in (tmp_path / ".progress").iterdir():
        with open(path, "a") as file:
            file.write('{"half')
    half_done(tmp_path, 10)
    asked = []
    prepare(SETTINGS, tmp_path, records=records(), progress=lambda *_: asked.append(1))
    assert len(asked) == CLIPS - 6 - 10 and captions(tmp_path) == ALL


def test_shards_that_nothing_explains_are_not_removed_unasked(tmp_path):
    (tmp_path / "data").mkdir()
    kept = tmp_path / "data/train-00000.parquet"
    kept.write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match="nothing says what they were made of"):
        prepare(SETTINGS, tmp_path, records=records())
    assert kept.read_bytes() == b"somebody's"
    mine = tmp_path / "data/notes.txt"
    mine.write_text("mine")
    assert prepare(SETTINGS, tmp_path, records=records(), overwrite=True)["clips"] == len(ALL)
    assert mine.read_text() == "mine", "what no preparation wrote is not its to remove"


@pytest.mark.parametrize("damage", [empty, zero_all, scramble, lose_the_end, zero_the_end])
@pytest.mark.parametrize("name", ["manifest.json", ".progress/journal.jsonl"])
def test_overwrite_starts_anew_whatever_is_broken(tmp_path, name, damage):
    if name == "manifest.json":
        prepare(SETTINGS, tmp_path, records=records())
    else:
        half_done(tmp_path)
    damage(tmp_path / name, random.Random(1))
    asked = []
    manifest = prepare(
        SETTINGS, tmp_path, records=records(), overwrite=True, progress=lambda *_: asked.append(1)
    )
    assert len(asked) == CLIPS and captions(tmp_path) == ALL and manifest["clips"] == len(ALL)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 10_000, '{"format": 1}', "null", "\0" * 50, "é"])
@pytest.mark.parametrize("reader", ["prepare", "verify", "train"])
def test_a_broken_manifest_is_one_message_that_names_it(tmp_path, content, reader):
    prepare(SETTINGS, tmp_path, records=records())
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    read = dict(
        prepare=lambda: prepare(SETTINGS, tmp_path, records=records()),
        verify=lambda: verify(tmp_path),
        train=lambda: PreparedDataset(tmp_path, "train"),
    )
    with pytest.raises(ConfigError, match=r"manifest\.json: .*"):
        read[reader]()


@pytest.mark.parametrize(
    "change",
    [
        dict(shards=[dict(file="../x.parquet", split="train", clips=1, sha256="")]),
        dict(shards=[dict(file="/etc/passwd", split="train", clips=1, sha256="")]),
        dict(shards=[dict(file="data/../../train-00000.parquet", split="train", clips=1, sha256="")]),
        dict(shards=[7]),
        dict(shards=None),
        dict(frames="8"),
        dict(size=0),
        dict(splits={}),
        dict(settings=[]),
        dict(skipped_clips=[3]),
    ],
)
def test_a_manifest_that_says_what_it_can_t_or_leaves_its_folder_is_refused(tmp_path, change):
    manifest = prepare(SETTINGS, tmp_path, records=records())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        PreparedDataset(tmp_path, "train")


def test_an_overwrite_that_is_interrupted_leaves_nothing_of_before(tmp_path, monkeypatch):
    half_done(tmp_path)
    begun = []
    for number in range(1, 8):
        with monkeypatch.context() as interrupted:
            calls = []

            def step(real, *arguments, calls=calls, number=number, **named):
                calls.append(1)
                if len(calls) == number:
                    raise KeyboardInterrupt
                return real(*arguments, **named)

            for name in ("unlink", "mkdir"):
                real = getattr(Path, name)
                interrupted.setattr(Path, name, lambda *a, real=real, **k: step(real, *a, **k))
            with pytest.raises(KeyboardInterrupt):
                prepare(SETTINGS, tmp_path, records=(), overwrite=True)
        if (tmp_path / module.OVERWRITING).exists():
            begun.append(number)
            again = []
            prepare(SETTINGS, tmp_path, records=records(), progress=lambda *_, again=again: again.append(1))
            assert len(again) == CLIPS and captions(tmp_path) == ALL
            half_done_again(tmp_path)
    assert len(begun) >= 3


def half_done_again(folder: Path):
    with pytest.raises(KeyboardInterrupt):
        prepare(SETTINGS, folder, records=records(), overwrite=True, progress=stop_after(19))


@pytest.mark.parametrize("name", ["a_file", "a_file/x", "a\x00b", "/proc/x"])
def test_where_a_dataset_can_t_be_written_is_known_before_the_source_is_read(tmp_path, name):
    (tmp_path / "a_file").write_text("")
    read = []
    with pytest.raises(ConfigError, match="can't be written"):
        prepare(SETTINGS, tmp_path / name, records=(read.append(record) for record in records()))
    assert not read


# ── Errors that pass ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def moody():
    """A server that answers what it is told to, a status for each path."""
    moods = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status = moods.get(self.path, moods.get("*", 200))
            self.send_response(status)
            self.end_headers()
            if status == 200:
                self.wfile.write(self.path.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", moods
        http.shutdown()


@pytest.mark.parametrize("status", [404, 403, 410, 400])
def test_an_answer_that_there_is_nothing_is_for_good(moody, tmp_path, status):
    address, moods = moody
    moods["/x"] = status
    with pytest.raises(BadClip) as told:
        Downloader(tmp_path, retries=0, allow_private=True).fetch(f"{address}/x")
    assert not told.value.temporary and str(status) in told.value.detail


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507, 408])
def test_an_answer_of_a_server_in_trouble_is_not(moody, tmp_path, status):
    address, moods = moody
    moods["/x"] = status
    downloader = Downloader(tmp_path, retries=0, allow_private=True)
    with pytest.raises(BadClip) as told:
        downloader.fetch(f"{address}/x")
    assert told.value.temporary
    moods["/x"] = 200
    assert downloader.fetch(f"{address}/x").read_text() == "/x"


def test_no_server_at_all_is_temporary(tmp_path):
    with pytest.raises(BadClip) as told:
        Downloader(tmp_path, retries=0, allow_private=True).fetch("http://127.0.0.1:9/x.mp4")
    assert told.value.temporary


def failing(numbers, temporary):
    found = records()
    for number in numbers:
        found[number].bad = BadClip("not reachable", "down", temporary)
    return found


def test_what_was_skipped_for_a_reason_that_passed_is_there_after_the_next_run(tmp_path):
    manifest = prepare(SETTINGS, tmp_path, records=failing((2, 9, 20), True))
    assert manifest["clips"] == len(ALL) - 3 and manifest["skipped"]["not reachable"] == 3
    assert not prepared_already(SETTINGS, tmp_path)
    asked = []
    manifest = prepare(SETTINGS, tmp_path, records=records(), progress=lambda *_: asked.append(1))
    assert len(asked) == 3, "those alone are tried again"
    assert captions(tmp_path) == ALL and manifest["skipped"] == {"no caption": len(BAD)}
    assert verify(tmp_path) == [] and prepared_already(SETTINGS, tmp_path)
    assert prepare(SETTINGS, tmp_path, records=None) == manifest, "finished: the source is left alone"


def test_a_preparation_that_was_refused_for_a_server_that_was_down_goes_on_when_it_is_up(tmp_path):
    with pytest.raises(PrepareError, match="not reachable"):
        prepare(SETTINGS, tmp_path, records=failing(range(CLIPS), True))
    assert prepare(SETTINGS, tmp_path, records=records())["clips"] == len(ALL)
    assert captions(tmp_path) == ALL


def test_retry_skipped_tries_all_and_is_the_only_way_for_what_is_permanent(tmp_path):
    prepare(SETTINGS, tmp_path, records=failing((2, 9), False))
    assert prepared_already(SETTINGS, tmp_path) and not prepared_already(SETTINGS, tmp_path, True)
    assert prepare(SETTINGS, tmp_path, records=None)["skipped"]["not reachable"] == 2
    assert prepare(SETTINGS, tmp_path, records=records(), retry_skipped=True)["clips"] == len(ALL)
    assert captions(tmp_path) == ALL


def test_a_retry_that_is_interrupted_goes_on(tmp_path):
    prepare(SETTINGS, tmp_path, records=failing((2, 9, 20), True))
    with pytest.raises(KeyboardInterrupt):
        prepare(SETTINGS, tmp_path, records=records(), progress=stop_after(2))
    assert len(captions(tmp_path)) == len(ALL) - 3, "until it is done, the dataset is what it was"
    prepare(SETTINGS, tmp_path, records=records())
    assert captions(tmp_path) == ALL and verify(tmp_path) == []


def test_a_source_that_changed_meanwhile_is_not_mixed_with_the_one_before(tmp_path):
    prepare(SETTINGS, tmp_path, records=failing((9,), True))
    with pytest.raises(ConfigError, match="row 9, clip 'c9', is now row 10, clip 'c10'"):
        prepare(SETTINGS, tmp_path, records=records()[1:])


def test_overwrite_reads_the_source_again(tmp_path):
    prepare(SETTINGS, tmp_path, records=failing((2,), False))
    assert prepare(SETTINGS, tmp_path, records=records(), overwrite=True)["clips"] == len(ALL)


@pytest.mark.parametrize("flag", ["--overwrite", "--retry-skipped", "--allow-private"])
def test_what_the_command_is_told_reaches_what_prepares(tmp_path, monkeypatch, flag):
    told = {}

    def instead(*arguments, **named):
        told.update(inspect.signature(prepare).bind(*arguments, **named).arguments)
        raise PrepareError("enough")

    monkeypatch.setattr(module, "prepare", instead)
    for flags in ([], [flag]):
        assert main(["prepare", "shapes", "--clips", "3", "--out", str(tmp_path), *flags]) == 1
        assert told[flag.strip("-").replace("-", "_")] == bool(flags)


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so_and_no_clip_is_given_up(tmp_path):
    (tmp_path / "set").mkdir()
    for name in "abc":
        encoded = module.encode_jpeg(np.full((20, 20, 3), ord(name), np.uint8), 90)
        (tmp_path / f"set/{name}.jpg").write_bytes(encoded)
        (tmp_path / f"set/{name}.txt").write_text(f"a text {name}")
    call = f"""
from fvlm.data.prepare import Settings, prepare
prepare(Settings({str(tmp_path / "set")!r}, frames=2, size=28), {str(tmp_path / "out")!r}, workers=1)
"""
    (tmp_path / "script.py").write_text(call)
    environment = os.environ | dict(PYTHONPATH=str(REPOSITORY))
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode and 'if __name__ == "__main__"' in done.stderr.splitlines()[-1]
    guarded = call.replace("\nprepare(", "\nif __name__ == '__main__':\n    prepare(")
    (tmp_path / "script.py").write_text(guarded)
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
    assert read_manifest(tmp_path / "out")["clips"] == 3


# ── What killed processes leave ──────────────────────────────────────────────────────────────────


def killed_while_writing(*paths: Path):
    """A process that is killed when it has begun to write these files, and this folder."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom fvlm.files import scratch_path\n"
        "for name in sys.argv[1:]:\n"
        "    scratch_path(Path(name)).write_text('half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, paths)], env=os.environ | dict(PYTHONPATH=str(REPOSITORY))
    )
    assert process.wait(60) == -signal.SIGKILL


@pytest.mark.slow
def test_what_killed_processes_were_writing_goes_at_the_next_start(tmp_path, monkeypatch):
    from conftest import tiny

    from fvlm import train
    from fvlm.data.store import FeatureStore
    from fvlm.weights import adopt

    monkeypatch.setenv("FVLM_CACHE", str(tmp_path / "cache"))
    config = tiny(out=str(tmp_path / "runs"), steps=1, eval_every=1, eval_samples=1, effective_batch=1)
    store = FeatureStore(dict(of="this test"), (2,), "float32")
    places = dict(
        prepare=tmp_path / "out/manifest.json",
        shard=tmp_path / "out/data/train-00000.parquet",
        downloads=tmp_path / "cache/downloads/some",
        run=config.folder / "evaluations.parquet",
        features=store.path("a clip"),
        weights=tmp_path / "cache/mine",
    )
    for path in places.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    killed_while_writing(*places.values())
    mine = scratch_path(config.folder / "samples.parquet")
    mine.write_text("this process's own")

    prepare(SETTINGS, tmp_path / "out", records=records())
    Downloader()
    store.write("a clip", np.zeros(2, np.float32))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"x")
    adopt(str(tmp_path / "model"), "mine")
    monkeypatch.setattr("fvlm.training.launch.train_loop", stop_after(1))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    left = [path for path in tmp_path.rglob(".*.*-*") if path.is_file()]
    assert left == [mine], "a process that lives is still writing its own"


def test_old_scratch_files_of_another_machine_go_too_and_nothing_else_does(tmp_path):
    names = [".kept", "kept.12345678-1", ".kept.json", ".kept.12345678-x", ".fresh.12345678-99"]
    for name in [*names, ".old.12345678-99"]:
        (tmp_path / name).write_text("")
    os.utime(tmp_path / ".old.12345678-99", (0, 0))
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_files_have_the_rights_that_the_user_s_umask_gives(tmp_path, mask, monkeypatch):
    monkeypatch.setenv("FVLM_CACHE", str(tmp_path / "cache"))
    from fvlm.weights import adopt

    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"x")
    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "x")
        adopt(str(tmp_path / "model"), "mine")
        with scratch_folder(tmp_path / "folder") as folder:
            assert folder.stat().st_mode & 0o777 == 0o777 & ~mask
        prepare(SETTINGS, tmp_path / "out", records=records())
    finally:
        os.umask(before)
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "cache/mine").stat().st_mode & 0o777 == 0o777 & ~mask
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path
