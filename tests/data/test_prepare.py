"""From any source to a prepared dataset, and what bad input gets."""

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, python, write_video

from fvlm import ConfigError
from fvlm.data import PreparedDataset
from fvlm.data.download import Downloader
from fvlm.data.prepare import PrepareError, Settings, prepare, preview, read_manifest, split_of, verify
from fvlm.data.sources import Record, open_source
from fvlm.data.video import BadClip, Video, encode_jpeg

CLIPS = 50


def prepared(source, out, **settings) -> dict:
    workers = settings.pop("workers", 2)
    names = ("max_skipped", "overwrite", "allow_private")
    limits = {name: settings.pop(name) for name in names if name in settings}
    return prepare(
        Settings(str(source), **dict(frames=4, size=56, shard=10) | settings), out, workers, **limits
    )


def rows_of(folder) -> dict[str, dict]:
    """Everything in a prepared dataset, by clip."""
    datasets = [PreparedDataset(folder, split) for split in ("train", "validation")]
    return {row["clip_id"]: row for d in datasets for i in range(len(d)) if (row := d.row(i))}


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Fifty videos with captions: a folder with metadata.csv."""
    folder = tmp_path_factory.mktemp("videos")
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for i in range(CLIPS):
            write_video(folder / f"clip{i:02d}.mp4", count=12, seed=i)
            table.writerow([f"clip{i:02d}.mp4", f"This is clip, number {i}."])
    return folder


# ── Sources ──────────────────────────────────────────────────────────────────────────────────────


def test_the_same_clips_from_every_source_are_the_same_frames(videos, tmp_path):
    """Folder, CSV, tar and a local `datasets` repository, fifty clips each."""
    captions = {f"clip{i:02d}.mp4": f"This is clip, number {i}." for i in range(CLIPS)}
    with open(tmp_path / "list.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])  # WebVid's own columns
        for name, caption in captions.items():
            table.writerow([Path(name).stem, videos / name, "PT1S", "x", caption])
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, caption in captions.items():
            tar.add(videos / name, arcname=name)
            text = caption.encode()
            member = tarfile.TarInfo(f"{Path(name).stem}.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    (tmp_path / "repository" / "data").mkdir(parents=True)
    from datasets import Dataset, Features, Value
    from datasets import Video as VideoFeature

    rows = [
        {"video": {"bytes": (videos / n).read_bytes(), "path": n}, "caption": c, "clip_id": Path(n).stem}
        for n, c in captions.items()
    ]
    features = Features(video=VideoFeature(decode=False), caption=Value("string"), clip_id=Value("string"))
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "repository/data/train-00000.parquet")

    sources = dict(
        folder=videos, table=tmp_path / "list.csv", tar=tmp_path / "set.tar", hub=tmp_path / "repository"
    )
    found = {}
    for name, source in sources.items():
        manifest = prepared(source, tmp_path / f"out-{name}")
        assert (
            manifest["clips"] == CLIPS
            and manifest["skipped"] == {}
            and sum(manifest["splits"].values()) == CLIPS
        )
        found[name] = {k: (r["frames"], r["caption"]) for k, r in rows_of(tmp_path / f"out-{name}").items()}
    assert len(found["folder"]) == CLIPS
    assert found["folder"] == found["table"] == found["tar"] == found["hub"]


def test_jsonl_questions_stills_and_a_chosen_caption_column(tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (50, 40), (i * 80, 0, 0)).save(tmp_path / f"{i}.png")
    lines = [
        dict(file_name=f"{i}.png", beschreibung=f"Bild {i}", question="What is it?", answer=str(i))
        for i in range(3)
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nno json\n")
    manifest = prepared(tmp_path, tmp_path / "out", caption="beschreibung")
    assert manifest["clips"] == 3 and manifest["clips_with_repeated_last_frame"] == 0
    (skip,) = manifest["skipped_clips"]
    assert skip["where"] == "metadata.jsonl, row 4" and "line 4" in skip["detail"]
    rows = rows_of(tmp_path / "out")
    assert {(r["caption"], r["question"], r["answer"]) for r in rows.values()} == {
        (f"Bild {i}", "What is it?", str(i)) for i in range(3)
    }
    assert all(len(set(r["frames"])) == 1 and len(r["frames"]) == 4 for r in rows.values()), (
        "a still is repeated"
    )


def test_frames_as_a_column_of_images_and_a_still_image_column(tmp_path):
    from datasets import Dataset, Features, Image, List, Value

    pictures = [
        [
            {"bytes": encode_jpeg(np.full((20, 20, 3), 20 * t + i, np.uint8), 95), "path": None}
            for t in range(6)
        ]
        for i in range(3)
    ]
    for name, feature, values in (
        ("frames", List(Image()), pictures),
        ("image", Image(), [p[0] for p in pictures]),
    ):
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True)
        features = Features({name: feature, "text": Value("string")})
        table = Dataset.from_list([{name: value, "text": "x y"} for value in values], features=features)
        table.to_parquet(folder / "train-0.parquet")
        manifest = prepared(tmp_path / name, tmp_path / f"out-{name}")
        assert manifest["clips"] == 3
        rows = rows_of(tmp_path / f"out-{name}").values()
        assert all((len(set(r["frames"])) == 4) == (name == "frames") for r in rows)


def test_webdataset_picture_sequences_and_json_captions(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(3):
            members = {f"x/{i}.json": json.dumps(dict(caption=f"number {i}", id=f"id{i}")).encode()}
            members |= {
                f"x/{i}.{t}.jpg": encode_jpeg(np.full((20, 20, 3), 20 * t + i, np.uint8), 95)
                for t in range(12)
            }
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    manifest = prepared(tmp_path / "*.tar", tmp_path / "out")
    assert manifest["clips"] == 3
    from fvlm.data.video import decode_jpegs

    row = rows_of(tmp_path / "out")["id1"]
    assert row["caption"] == "number 1"
    assert [round(f.mean()) for f in decode_jpegs(row["frames"])] == pytest.approx(
        [20 * t + 1 for t in (1, 4, 7, 10)], abs=3
    )


def test_shapes_are_prepared_with_questions_and_boxes(tmp_path):
    manifest = prepared("shapes:distractors=2", tmp_path / "out", clips=12)
    assert manifest["clips"] == 12
    from fvlm.data import ShapesWorld

    world = ShapesWorld(frames=4, size=56, distractors=2)
    for split in ("train", "validation"):
        dataset = PreparedDataset(tmp_path / "out", split)
        for clip in (dataset[i] for i in range(len(dataset))):
            index = int(clip.clip_id.rpartition("-")[2])
            drawn = world.clip(index)
            assert (clip.caption, clip.question, clip.answer, clip.target) == (
                drawn.caption,
                drawn.question,
                drawn.answer,
                drawn.target,
            )
            assert np.array_equal(clip.boxes, drawn.boxes) and (index % 10 == 0) == (split == "validation")
            assert abs(clip.frames.astype(int) - drawn.frames).mean() < 6, "but for JPEG"


def test_preview_shows_what_preparing_stores(videos, tmp_path):
    prepared(videos, tmp_path / "out")
    stored = rows_of(tmp_path / "out")
    from fvlm.data.video import decode_jpegs

    for clip in preview(Settings(str(videos), frames=4, size=56), 3):
        assert clip.caption == stored[clip.clip_id]["caption"]
        assert np.array_equal(clip.frames, decode_jpegs(stored[clip.clip_id]["frames"]))


def test_what_is_no_source_is_told_with_the_kinds_there_are(tmp_path):
    for spec in (str(tmp_path), str(tmp_path / "nothing.csv"), "./nowhere", str(tmp_path / "*.tar")):
        with pytest.raises(ConfigError):
            next(open_source(spec))
    with pytest.raises(ConfigError, match="never ends"):
        Settings("shapes")
    with pytest.raises(ConfigError, match="valid are seed, objects"):
        next(open_source("shapes:colour=3"))


def test_a_missing_caption_column_lists_those_there_are(videos, tmp_path):
    for wanted in (None, "text"):
        (tmp_path / "list.csv").write_text(f"file_name,title\n{videos}/clip00.mp4,x\n")
        with pytest.raises(ConfigError, match="'file_name', 'title'"):
            prepared(tmp_path / "list.csv", tmp_path / "out", caption=wanted)
    assert prepared(tmp_path / "list.csv", tmp_path / "out", caption="title")["clips"] == 1, (
        "the failed try left nothing behind"
    )


# ── What can't be used ───────────────────────────────────────────────────────────────────────────


def test_every_kind_of_bad_clip_is_skipped_counted_and_listed_and_no_good_one_is_lost(videos, tmp_path):
    from conftest import damaged

    root = tmp_path / "set"
    root.mkdir()
    outside = write_video(tmp_path / "outside.mp4", seed=90)
    (root / "link.mp4").symlink_to(outside)
    (root / "bad").mkdir()
    bad = {}
    for kind in ("zero bytes", "text", "one frame", "cut off"):
        (tmp_path / kind).mkdir()
        bad[kind] = damaged(tmp_path / kind, kind).rename(root / "bad" / f"{kind}.mp4")
    write_video(root / "wide.mkv", count=3, size=(20_000, 16), codec="ffv1")
    for i in range(6):
        (root / f"good{i}.mp4").write_bytes((videos / f"clip{i:02d}.mp4").read_bytes())
    (root / "again.mp4").write_bytes((videos / "clip03.mp4").read_bytes())
    write_video(root / "short.mp4", count=3, seed=91)
    rows = [(f"good{i}.mp4", "A good one.") for i in range(4)]
    rows += [("../outside.mp4", "x"), (str(outside), "x"), ("link.mp4", "x"), ("gone.mp4", "x"), ("", "x")]
    rows += [(f"bad/{kind}.mp4", "x") for kind in bad] + [
        ("wide.mkv", "x"),
        ("good4.mp4", ""),
        ("again.mp4", "A good one."),
        ("good0.mp4", "A good one."),
    ]
    rows += [("short.mp4", "Short, but usable."), ("good5.mp4", "The last one.")]
    with open(root / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption"), *rows])

    with pytest.raises(PrepareError, match="unreadable"):
        prepared(root, tmp_path / "out", max_skipped=0.5)
    manifest = prepared(root, tmp_path / "out", max_skipped=0.8)
    good = {"good0", "good1", "good2", "good3", "good5", "short"}
    found = rows_of(tmp_path / "out")
    assert set(found) == good | {"link"}, "what the folder's owner links to is the folder's"
    expected = {
        "outside the folder": 2,
        "unreadable": 5,
        "too short": 1,
        "too large": 1,
        "no caption": 1,
        "duplicate": 2,
    }
    assert manifest["skipped"] == dict(sorted(expected.items()))
    assert manifest["clips_with_repeated_last_frame"] == 1
    places = {skip["where"]: skip for skip in manifest["skipped_clips"]}
    for number, (name, _) in enumerate(rows, 1):
        where = f"metadata.csv, row {number}"
        assert (where in places) == (
            name not in ("short.mp4", "link.mp4", *(f"good{i}.mp4" for i in (1, 2, 3, 5))) and number != 1
        ), name
    assert (
        "clip" not in places["metadata.csv, row 8"]["detail"]
        and "gone.mp4" in places["metadata.csv, row 8"]["detail"]
    )
    assert "good3" in next(s["detail"] for s in places.values() if s["clip_id"] == "again")


def test_of_a_tar_that_is_cut_in_half_the_first_half_is_kept_and_unsafe_members_are_refused(videos, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(videos / "clip00.mp4", arcname="../evil.mp4")
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for i in range(1, 9):
            text = tarfile.TarInfo(f"clip{i}.txt")
            text.size = 3
            tar.addfile(text, io.BytesIO(b"abc"))
            tar.add(videos / f"clip{i:02d}.mp4", arcname=f"clip{i}.mp4")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: len(data) // 2])
    manifest = prepared(tmp_path / "a.tar", tmp_path / "out", max_skipped=0.9)
    assert 2 <= manifest["clips"] <= 5 and set(rows_of(tmp_path / "out")) == {
        f"clip{i + 1}" for i in range(manifest["clips"])
    }
    assert manifest["skipped"]["outside the folder"] == 2
    assert any(
        "a.tar is cut off or damaged after clip" in skip["detail"] for skip in manifest["skipped_clips"]
    )


class Crash(Video):
    """A video whose decoder takes its process down."""

    def read(self, frames, size):
        os.kill(os.getpid(), signal.SIGSEGV)


class Stumble(Video):
    """A video whose decoder raises what nobody foresaw."""

    def read(self, frames, size):
        raise IndexError("at 17")


def test_a_decoder_that_crashes_or_stumbles_costs_one_clip(videos, tmp_path):
    records = [Record(f"c{i}", "x", Video(str(videos / f"clip{i:02d}.mp4")), f"row {i}") for i in range(12)]
    records[3].media, records[7].media = Crash(""), Stumble("")
    manifest = prepare(Settings("test", frames=4, size=56), tmp_path, records=records)
    assert manifest["clips"] == 10 and manifest["skipped_clips"] == [
        dict(where="row 3", clip_id="c3", reason="unreadable", detail="its decoder crashed", number=3)
        | dict(temporary=True),
        dict(where="row 7", clip_id="c7", reason="unreadable", detail="IndexError: at 17", number=7)
        | dict(temporary=False),
    ]


def test_the_split_depends_on_the_clip_id_alone():
    ids = [f"clip{i}" for i in range(5000)]
    validation = sum(split_of(i) == "validation" for i in ids)
    assert 380 < validation < 520, "about 450 of 5,000: the rest is enough for 280 steps x 16"
    assert [split_of(i) for i in ids[:100]] == [split_of(i) for i in reversed(ids[:100])][::-1]
    assert (
        split_of("shapes-0-20") == split_of("shapes-7-30") == "validation"
        and split_of("shapes-0-21") == "train"
    )
    assert split_of("shapes-of-water") in ("train", "validation"), "somebody's own id"


# ── Downloads ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server(videos):
    """A server with moods: /ok/N answers, /flaky/N only the third time, /gone never, /stops breaks off, /huge
    lies."""
    asked = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] = asked.get(self.path, 0) + 1
            _, mood, *rest = self.path.split("/")
            data = (videos / f"clip{int(rest[0]) if rest else 0:02d}.mp4").read_bytes()
            if mood == "gone" or (mood == "flaky" and asked[self.path] < 3):
                self.send_error(404 if mood == "gone" else 503)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40 if mood == "huge" else len(data)))
            self.end_headers()
            breaks = mood == "stops" or (mood == "broken" and asked[self.path] < 2)
            self.wfile.write(data[: len(data) // 2] if breaks else data)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


@pytest.mark.slow
def test_urls_are_downloaded_retried_limited_and_cached(server, videos, tmp_path, monkeypatch):
    address, asked = server
    monkeypatch.setenv("FVLM_CACHE", str(tmp_path / "cache"))
    paths = [*(f"ok/{i}" for i in range(12)), "flaky/12", "broken/13", "gone", "stops/14", "huge"]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerows([("videoid", "contentUrl", "name"), *((p, f"{address}/{p}", "x") for p in paths)])
        table.writerow(("dead", "http://127.0.0.1:9/x.mp4", "x"))
    manifest = prepared(tmp_path / "list.csv", tmp_path / "out", allow_private=True)
    assert manifest["clips"] == 14 and {"flaky/12", "broken/13"} <= set(rows_of(tmp_path / "out"))
    assert manifest["skipped"] == {"not reachable": 3, "too large": 1}
    told = {skip["clip_id"]: skip["detail"] for skip in manifest["skipped_clips"]}
    assert "HTTP 404" in told["gone"] and "broke off after" in told["stops/14"]
    assert asked["/flaky/12"] == 3 and asked["/broken/13"] == 2 and asked["/gone"] == 1
    assert not list((tmp_path / "cache/downloads").glob(".*"))
    prepared(tmp_path / "list.csv", tmp_path / "again", allow_private=True)
    assert asked["/ok/0"] == 1, "the second time from the cache"
    with pytest.raises(BadClip, match="too large"):
        Downloader(tmp_path / "other", most_bytes=1000, allow_private=True).fetch(f"{address}/ok/1")


# ── Kill and go on ───────────────────────────────────────────────────────────────────────────────


def command(source, out, workers) -> list[str]:
    options = f"--out {out} --frames 4 --size 56 --shard 10 --workers {workers}"
    return [sys.executable, "-m", "fvlm", "prepare", str(source), *options.split()]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_killed_five_times_and_gone_on_gives_the_same_bytes(videos, tmp_path, workers):
    whole = prepared(videos, tmp_path / "whole", workers=3)
    dice, out = random.Random(workers), tmp_path / "out"
    done = next(found for _ in range(5) if (found := killed_five_times(videos, out, workers, dice)))
    assert done == sorted(done), "nothing finished was lost"
    subprocess.run(
        command(videos, out, workers),
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert read_manifest(out) == whole and verify(out) == []
    assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == ["data", "manifest.json"]


def killed_five_times(videos, out: Path, workers: int, dice: random.Random) -> list[int]:
    """Clips on disk after each kill; none, with `out` empty again, if a preparation was done before its kill
    came."""
    done = []
    for kill in range(5):
        process = subprocess.Popen(
            command(videos, out, workers), cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True
        )
        target = (kill + 1) * CLIPS // 6 + dice.randint(-3, 3)
        while process.poll() is None and entries(out) < target:
            time.sleep(0.005)
        process.kill()  # the parent alone: its workers must not linger
        if process.wait() != -signal.SIGKILL:
            shutil.rmtree(out)
            return []
        done.append(entries(out))
        assert wait_until(lambda pid=process.pid: not group(pid)), "workers ended with their parent"
    return done


def entries(out: Path) -> int:
    """Clips on disk of a preparation in progress."""
    progress, count = out / ".progress", 0
    try:
        for line in (progress / "journal.jsonl").read_text().splitlines()[1:]:
            count += json.loads(line).get("shard", {}).get("clips", 0)
        count += sum(
            (progress / f"{s}.jsonl").read_bytes().count(b"\n")
            for s in ("train", "validation")
            if (progress / f"{s}.jsonl").exists()
        )
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    return count


def group(leader: int) -> list[str]:
    """Processes of a session that are still alive."""
    alive = subprocess.run(
        ["ps", "-o", "stat=", "-s", str(leader)], capture_output=True, text=True
    ).stdout.split()
    return [state for state in alive if not state.startswith("Z")]


def wait_until(condition, seconds=10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_another_preparation_s_folder_is_refused_unless_overwritten(videos, tmp_path):
    first = prepared(videos, tmp_path, clips=5)
    assert prepared(videos, tmp_path, clips=5) == first, "finished: nothing is done again"
    with pytest.raises(ConfigError, match="clips was 5, is 6"):
        prepared(videos, tmp_path, clips=6)
    assert prepared(videos, tmp_path, clips=6, overwrite=True)["clips"] == 6


@pytest.mark.slow
def test_verify_names_each_bad_shard_and_clip(videos, tmp_path):
    manifest = prepared(videos, tmp_path)
    shards = [tmp_path / shard["file"] for shard in manifest["shards"]]
    assert len(shards) >= 4 and verify(tmp_path) == []

    data = bytearray(shards[0].read_bytes())
    row = PreparedDataset(tmp_path, manifest["shards"][0]["split"]).row(4)
    at = data.find(row["frames"][2])
    data[at : at + len(row["frames"][2])] = b"\0" * len(row["frames"][2])
    shards[0].write_bytes(data)
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    shards[2].unlink()
    (tmp_path / "data/train-00099.parquet").write_bytes(b"x")
    done = python("-m", "fvlm", "prepare", "--verify", tmp_path, check=False)
    assert done.returncode == 1
    for line in (
        f"{manifest['shards'][0]['file']}: its SHA-256",
        f"{manifest['shards'][0]['file']}, clip {row['clip_id']}: a frame does not decode",
        f"{manifest['shards'][1]['file']}: not readable",
        f"{manifest['shards'][2]['file']}: missing",
        "data/train-00099.parquet: not in the manifest",
    ):
        assert line in done.stdout
    assert len(done.stdout.splitlines()) == 6, "the cut shard's hash too; and nothing else"


@pytest.mark.slow
def test_the_command_line_says_what_it_did_and_what_it_could_not(videos, tmp_path):
    one, other = (
        next(f"clip{i}" for i in range(999) if split_of(f"clip{i}") == split)
        for split in ("train", "validation")
    )
    (tmp_path / "list.csv").write_text(
        f"path,clip_id,caption\n{videos}/clip00.mp4,{one},a clip\nnowhere.mp4,x,b\n"
        f"{videos}/clip01.mp4,{other},c\n"
    )
    arguments = [
        "-m",
        "fvlm",
        "prepare",
        tmp_path / "list.csv",
        "--out",
        tmp_path / "out",
        "--frames",
        4,
        "--size",
        56,
    ]
    done = python(*arguments)
    for words in (
        "2 clips of 4 frames at 56 px",
        "skipped, unreadable: 1, such as list.csv, row 2: nowhere.mp4",
        "Only 1 validation clips",
        "dataset=",
    ):
        assert words in done.stdout
    for arguments, words in (
        (["prepare", "x.csv", "--out", tmp_path / "y"], "x.csv: no such file"),
        (["prepare"], "SOURCE"),
        (["prepare", "shapes", "--out", tmp_path / "y", "--clips", 4, "--size", 50], "multiple of 14"),
        (["prepare", "shapes:pool=9,crowded=3", "--out", tmp_path / "y", "--clips", 4], "pool, crowded"),
        (["prepare", "--verify", tmp_path], "manifest.json is missing"),
    ):
        done = python("-m", "fvlm", *arguments, check=False)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
