"""Files, archives and addresses made to harm: each costs its own clip, nothing else is opened."""

import ast
import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import random
import socket
import struct
import tarfile
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, python, tiny, write_video
from PIL import Image

from fvlm import ConfigError, build_model
from fvlm.data import download, sources, video
from fvlm.data.download import Downloader, is_public
from fvlm.data.prepare import Settings, process
from fvlm.data.sources import Record, Url, open_source
from fvlm.data.video import BadClip, Still, Video, read_picture, see_video
from fvlm.models import load_model

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))

# ── Pickles ──────────────────────────────────────────────────────────────────────────────────────


class Evil:
    """What leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A pickle, and a way to tell that somebody opened one."""
    opened = []
    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: opened.append(1))
    yield pickle.dumps(Evil(tmp_path / "was here"))
    assert not opened and not (tmp_path / "was here").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pkl"])
@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_a_saved_model_whose_weights_are_a_pickle_is_refused(tmp_path, trap, name, arch):
    build_model(tiny(arch), pretrained=False).save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    (tmp_path / "model" / name).write_bytes(trap)
    with pytest.raises(ConfigError, match="model"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_backbone_s_folder_without_safetensors_is_refused(tmp_path, trap, name):
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="dinov2")))
    (tmp_path / name).write_bytes(trap)
    with pytest.raises(ConfigError, match="safetensors"):
        build_model(tiny(vision=str(tmp_path)))


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.pickle", "a.pyd", "a.npy"])
def test_pickles_in_a_dataset_s_folder_or_tar_stay_closed(tmp_path, trap, name):
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/x.tar", "w") as tar:
        for member, content in {"a.mp4": b"x", "a.txt": b"y", name: trap}.items():
            add(tar, member, content)
    for spec in (f"hub:{tmp_path / 'set'}", str(tmp_path / "set")):
        try:
            assert list(itertools.islice(open_source(spec), 3))
        except ConfigError as error:
            assert str(error)


def test_every_reader_of_weights_asks_for_safetensors():
    """In the code itself, for whatever is added later: no pickle, and `use_safetensors` wherever transformers
    could take something else."""
    for path in sorted((REPOSITORY / "fvlm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "dill", "cloudpickle", "shelve", "joblib"}, path
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
            assert called not in ("torch.load", "np.load", "numpy.load", "pd.read_pickle"), path
            if called.endswith(".from_pretrained") and "gguf_file" not in given:
                kind = called.removesuffix(".from_pretrained")
                if kind.endswith("Model") or "ModelFor" in kind or kind == "super()":
                    assert "use_safetensors" in given, f"{path}:{node.lineno}"


# ── Archives ─────────────────────────────────────────────────────────────────────────────────────


def add(tar, name: str, content: bytes, **about):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in about.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def read(path) -> list[Record]:
    return list(open_source(f"tar:{path}"))


def header(name: str, size: int, kind=tarfile.REGTYPE) -> bytes:
    """A member's head that promises `size` bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


GOOD = [("good.mp4", b"x"), ("good.txt", b"a text")]


def bomb(path: Path, head: bytes, zeros: int, mode: str = "gz") -> Path:
    """A good clip, then a head and so many zeros, compressed."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, content in GOOD:
            add(tar, name, content)
    before = inner.getvalue()[:2048]
    with dict(gz=gzip.open, bz2=bz2.open, xz=lzma.open)[mode](path, "wb") as file:
        file.write(before + head)
        for _ in range(zeros >> 20):
            file.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("mode", ["gz", "xz", "bz2"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_that_grows_beyond_all_measure_is_left(tmp_path, mode, kind):
    path = bomb(tmp_path / f"a.tar.{mode}", header("x.mp4", 40 << 30, kind), 100 << 20, mode)
    assert path.stat().st_size < 1 << 20
    begun = time.monotonic()
    tracemalloc.start()
    good, bad = read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mode == "bz2" or most < 50 << 20, "it was read into memory"  # bz2: 200 MB come of one read
    assert good.clip_id == "good" and good.bad is None
    assert bad.bad.reason in ("too large", "unreadable") and path.name in bad.bad.detail
    assert time.monotonic() - begun < 20


def test_a_tar_of_many_zeros_that_promises_only_them_is_left(tmp_path):
    heads = b"".join(header(f"{i}.txt", 0) for i in range(1000))
    path = bomb(tmp_path / "a.tar.gz", heads + header("x.mp4", 90 << 20), 4 << 20)
    found = read(path)
    assert found[0].clip_id == "good" and found[-1].bad.reason == "too large"


@pytest.mark.parametrize("size", [10 << 30, 100 << 20])
def test_a_sparse_member_costs_itself_alone(tmp_path, size):
    hole = tmp_path / "x.mp4"
    with open(hole, "wb") as file:
        file.truncate(size)
    good = [tmp_path / name for name, _ in GOOD]
    for path, (_, content) in zip(good, GOOD):
        path.write_bytes(content)
    import subprocess

    command = [
        "tar",
        "--sparse",
        "-C",
        tmp_path,
        "-cf",
        tmp_path / "a.tar",
        hole.name,
        *(p.name for p in good),
    ]
    subprocess.run(command, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 100_000
    bad, fine = read(tmp_path / "a.tar")
    assert bad.bad.reason == "too large" and "a sparse file" in bad.bad.detail
    assert fine.bad is None and fine.clip_id == "good"


def test_a_clip_of_too_many_bytes_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "large.mp4", b"x" * 1001)
        add(tar, "large.txt", b"a text")
        for i in range(20):
            add(tar, f"many.{i}.jpg", b"x" * 100)
        for name, content in GOOD:
            add(tar, name, content)
    found = {record.clip_id: record for record in read(tmp_path / "a.tar")}
    assert found["a.tar:large.mp4"].bad.reason == found["many"].bad.reason == "too large"
    assert found["good"].bad is None


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "good.mp4"])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, target):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "x.mp4", b"", type=kind, linkname=target)
        for name, content in GOOD:
            add(tar, name, content)
    bad, good = read(tmp_path / "a.tar")
    assert bad.bad.reason == "outside the folder" and good.clip_id == "good" and good.media.file == b"x"


def test_tars_of_any_bytes_give_records_and_no_error(tmp_path, count):
    count("hostile addresses and archives", 40 * TIMES)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        for i in range(4):
            add(tar, f"{i}.mp4", bytes(700))
            add(tar, f"{i}.json", b'{"caption": "x"}')
    whole = inner.getvalue()
    for number in range(40 * TIMES):
        dice = random.Random(number)
        data = bytearray(whole)
        for _ in range(dice.randint(1, 30)):
            at = dice.randrange(len(data)) // dice.choice((1, 512)) or 1
            data[at] = dice.randrange(256)
        data = bytes(data[: dice.randrange(len(data))] if dice.random() < 0.3 else data)
        packed = dict(plain=data, gz=gzip.compress(data), cut=gzip.compress(data)[: dice.randint(5, 500)])
        path = tmp_path / "a.tar"
        path.write_bytes(packed[dice.choice(sorted(packed))])
        for record in read(path):
            assert record.bad or record.media is not None


# ── Pictures and videos ──────────────────────────────────────────────────────────────────────────


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, of a few bytes."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "side", [(16_000, 16_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (12_000, 10_001), (0, 5)]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_not_decoded(side):
    begun = time.monotonic()
    with pytest.raises(BadClip):
        read_picture(png(*side), 56)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("side", [(12_000, 10_001), (16_385, 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_just_over_the_limit_is_refused_although_it_would_decode(side):
    buffer = io.BytesIO()
    Image.new("1", side).save(buffer, "PNG")
    with pytest.raises(BadClip, match="too large"):
        read_picture(buffer.getvalue(), 56)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "ICO", "TGA"])
def test_a_picture_of_a_format_that_nobody_keeps_pictures_in_is_not_opened(kind):
    """PostScript, for one, is a program."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, kind)
    with pytest.raises(BadClip, match="unreadable"):
        read_picture(buffer.getvalue(), 28)


def test_a_video_of_too_many_pixels_or_frames_is_not_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", count=24)
    assert see_video(str(path), 4, 28).different == 4
    with monkeypatch.context() as less:
        less.setattr(video, "MAX_VIDEO_PIXELS", 1000)
        with pytest.raises(BadClip, match="too large"):
            see_video(str(path), 4, 28)
    monkeypatch.setattr(video, "MAX_FRAMES", 10)
    with pytest.raises(BadClip, match="more than 10 frames"):
        see_video(str(path), 4, 28)


def test_a_frame_that_is_larger_than_its_file_says_is_not_decoded():
    """The file begins with small frames, by which its size is known."""
    small, large = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 48)).save(small, "JPEG")
    Image.new("RGB", (6001, 6000)).save(large, "JPEG")
    whole = small.getvalue() * 40
    assert see_video(whole, 2, 28).different == 2
    with pytest.raises(BadClip, match="unreadable"):
        see_video(whole + large.getvalue() * 4, 40, 28)


def test_processes_that_decode_have_bounded_memory():
    resource = pytest.importorskip("resource", reason="no such limits on this system")
    from fvlm.data import prepare as module

    with module._pool(1) as pool:
        soft, _ = pool.submit(resource.getrlimit, resource.RLIMIT_DATA).result()
    assert module.MOST_MEMORY <= soft < 2 * module.MOST_MEMORY


def test_what_promises_billions_of_frames_or_asks_for_terabytes_costs_its_clip_alone(tmp_path):
    whole, names = write_video(tmp_path / "whole.mp4", count=24).read_bytes(), []
    for table in (b"stsz", b"stts", b"stsc", b"stco", b"stss", b"mdhd", b"tkhd", b"mvhd", b"elst"):
        if (at := whole.find(table)) >= 0:
            data = bytearray(whole)
            data[at + 8 : at + 16] = struct.pack(">II", 1, 0x3FFFFFFF)
            names.append(tmp_path / f"{table.decode()}.mp4")
            names[-1].write_bytes(data)
    script = (
        "import re, sys\nimport numpy as np\n"
        "from fvlm.data.prepare import Settings, bound_memory, process\n"
        "from fvlm.data.sources import Record\nfrom fvlm.data.video import Video\n"
        # more than is allowed, and no more than the machine would promise
        "class Bomb(Video):\n    def read(self, *_):\n        return np.zeros(3 << 30, np.uint8)\n"
        "bound_memory(2 << 30)\n"
        "for video in [Bomb(''), *map(Video, sys.argv[1:])]:\n"
        "    outcome = process(Record('a', 'x', video, 'row'), Settings('t', frames=2, size=28))\n"
        "    print(outcome.reason or 'read')\n"
        # of this process alone, which rusage is not: it starts from what the parent had
        "most = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]\n"
        "print(int(most) >> 20)\n"
    )
    *outcomes, gigabytes = python("-c", script, *names).stdout.split("\n")[:-1]
    assert len(outcomes) == len(names) + 1 > 6 and outcomes[0] == "unreadable"
    assert set(outcomes) <= {"unreadable", "too short", "too large", "read"} and int(gigabytes) <= 2


def test_a_decoder_that_never_ends_is_given_up(monkeypatch):
    from fvlm.data import prepare as module

    class Endless(Video):
        def read(self, *_):
            while True:
                time.sleep(0.01)

    monkeypatch.setattr(module, "MOST_SECONDS", 1)
    begun = time.monotonic()
    outcome = module.process_in_time(Record("a", "x", Endless(""), "row"), Settings("t", frames=2, size=28))
    assert outcome.reason == "too slow" and outcome.row is None
    assert time.monotonic() - begun < 10, "else a test's own time limit may have ended it"


PLAYLISTS = dict(
    m3u8="#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    m3u8_byterange="#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n#EXT-X-BYTERANGE:9@0\n{target}\n",
    m3u8_key='#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:1,\nx.ts\n',
    concat="ffconcat version 1.0\nfile '{target}'\n",
    concat_inside="ffconcat version 1.0\nfile inside.mp4\n",
    dash='<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    "<AdaptationSet>"
    '<Representation id="1" mimeType="video/mp4"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    sdp="v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    svg='<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    redirect="[Reference]\nRef1={target}\n",
    asx='<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    imf='<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">{target}'
    "</CompositionPlaylist>",
    smil='<smil><body><video src="{target}"/></body></smil>',
    edl="mpv EDL v0\n{target}\n",
)


@pytest.mark.parametrize("ending", [".mp4", ".m3u8", ".ts", ".avi", ".mpd", ".mov"])
@pytest.mark.parametrize("kind", sorted(PLAYLISTS))
def test_a_playlist_opens_no_other_file_and_no_address(tmp_path, kind, ending):
    inside = write_video(tmp_path / "inside.mp4", count=12)
    asked = []

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        port = listening.getsockname()[1]
        for target in (str(inside), f"file:{inside}", f"http://127.0.0.1:{port}/x", "inside.mp4"):
            content = PLAYLISTS[kind].format(target=target).encode()
            (tmp_path / f"list{ending}").write_bytes(content)
            for file in (str(tmp_path / f"list{ending}"), content):
                with pytest.raises(BadClip):
                    see_video(file, 2, 28)
        try:
            asked.append(listening.accept())
        except TimeoutError:
            pass
    assert not asked


@pytest.mark.parametrize(
    "name", ["concat:inside.mp4", "file:inside.mp4", "http:x.mp4", "subfile,,start,0,end,9,,:inside.mp4"]
)
def test_a_file_whose_name_is_a_protocol_s_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "inside.mp4", count=12)
    with pytest.raises(BadClip):
        see_video(name, 2, 28)
    (tmp_path / "inside.mp4").rename(tmp_path / name)
    assert see_video(name, 2, 28).different == 2


def test_videos_of_any_bytes_cost_their_clip_alone(tmp_path, count):
    count("damaged files", 25 * TIMES)
    whole = [
        write_video(tmp_path / f"a.{kind}", count=6).read_bytes()
        for kind in ("mp4", "avi", "mkv", "mpg", "ts")
    ]
    settings = Settings("t", frames=2, size=28)
    for number in range(25 * TIMES):
        dice = random.Random(number)
        data = bytearray(whole[number % len(whole)])
        for _ in range(dice.choice((1, 5, 50))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        outcome = process(Record("a", "x", Video(bytes(data)), "row"), settings)
        assert (outcome.row is None) == bool(outcome.reason)


def test_pictures_of_any_bytes_cost_their_clip_alone(count):
    count("damaged files", 60 * TIMES)
    picture, settings = (
        Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)),
        Settings("t", size=28),
    )
    for number in range(60 * TIMES):
        dice, buffer = random.Random(number), io.BytesIO()
        picture.save(buffer, dice.choice(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]))
        data = bytearray(buffer.getvalue())
        for _ in range(dice.choice((1, 5, 50))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        outcome = process(Record("a", "x", Still(bytes(data[: dice.randint(1, len(data))])), "row"), settings)
        assert (outcome.row is None) == bool(outcome.reason)


# ── Addresses ────────────────────────────────────────────────────────────────────────────────────

ADDRESSES = """127.0.0.1 127.1 127.255.255.254 0.0.0.0 0 2130706433 0x7f000001 0177.0.0.1 10.0.0.1
10.255.255.255
172.16.0.1
172.31.255.255 192.168.0.1 192.168.255.255 169.254.169.254 100.64.0.1 198.18.0.1 192.0.2.1 203.0.113.5
224.0.0.1 240.0.0.1 255.255.255.255 [::1] [::] [fe80::1] [fc00::1] [fd12:3456::1] [ff02::1] [::ffff:127.0.0.1]
[::ffff:10.0.0.1] [::ffff:169.254.169.254] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [2002:7f00:1::]
[2002:a00:1::1] [2001:db8::1] [100::1] localhost localhost. LOCALHOST"""
PRIVATE = ADDRESSES.split()


@pytest.mark.parametrize("host", PRIVATE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_private_address_is_refused_however_it_is_written(tmp_path, host, scheme):
    with pytest.raises(BadClip) as told:
        Downloader(tmp_path, retries=0, seconds=20).fetch(f"{scheme}://{host}:9/x.mp4")
    assert told.value.reason in ("private address", "not reachable")
    if told.value.reason == "not reachable":  # no address for this system's resolver
        with pytest.raises(OSError):
            socket.getaddrinfo(host.strip("[]"), 9)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.fixture(scope="module")
def server():
    """A server at 127.0.0.1; what it does is in a path's first part."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self):
            answers[self.path.split("/")[1]](self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", answers
        http.shutdown()


@pytest.fixture
def site(server, monkeypatch):
    """The server, whose address is taken for public; all else of this machine is not."""
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    return server


def answering(*headers: tuple[str, str], body=b"body", status=200):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize("host", PRIVATE[:1] + PRIVATE[8:14] + ["[::1]"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_not_followed(site, tmp_path, host, status):
    address, answers = site
    there = address.replace("127.0.0.1", "127.0.0.2" if host == "127.0.0.1" else host)
    answers["go"] = answering(("Location", f"{there}/secret"), status=status)
    answers["secret"] = answering()
    with pytest.raises(BadClip) as told:
        Downloader(tmp_path, retries=0).fetch(f"{address}/go")
    assert told.value.reason == "private address"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "data:text/plain,x", "//", "http://", "/go"],
)
def test_a_redirect_to_what_is_no_web_address_is_not_followed(site, tmp_path, target):
    address, answers = site
    answers["go"] = answering(("Location", target), status=302)
    with pytest.raises(BadClip, match="not reachable"):
        Downloader(tmp_path, retries=0).fetch(f"{address}/go")
    assert not list(tmp_path.iterdir())


def test_a_name_that_leads_to_a_private_address_is_refused(tmp_path, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    with pytest.raises(BadClip, match="private address"):
        Downloader(tmp_path, retries=0).fetch("http://videos.example/x.mp4")


def test_a_name_that_leads_elsewhere_the_second_time_is_asked_once(tmp_path, monkeypatch):
    """First a public address, then this machine: what was checked is what is connected to."""
    real, asked, connected = socket.getaddrinfo, [], []

    def resolve(host, *arguments, **named):
        if host != "rebinding.example":
            return real(host, *arguments, **named)
        asked.append(host)
        return real("192.0.2.7" if len(asked) == 1 else "127.0.0.1", *arguments, **named)

    def connect(self, address):
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(download, "is_public", lambda address: address == "192.0.2.7" or is_public(address))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(BadClip, match="not reachable"):
        Downloader(tmp_path, retries=0).fetch("http://rebinding.example/x.mp4")
    assert set(connected) == {"192.0.2.7"}


def test_a_proxy_does_not_fetch_from_private_addresses_either(site, tmp_path, monkeypatch):
    address, answers = site
    asked = []
    answers[""] = lambda handler: asked.append(handler.path)
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for host in ("169.254.169.254", "10.0.0.1", "127.0.0.2"):
        with pytest.raises(BadClip, match="private address"):
            Downloader(tmp_path, retries=0).fetch(f"http://{host}/x.mp4")
    assert not asked


@pytest.mark.parametrize("drips", ["body", "headers", "status", "redirects", "retries"])
def test_one_deadline_holds_for_the_whole_transfer(site, tmp_path, drips):
    address, answers = site

    def drip(handler):
        lines = dict(
            body=b"HTTP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\n",
            headers=b"HTTP/1.0 200 OK\r\n",
            status=b"",
        )
        handler.wfile.write(lines[drips])
        try:
            for _ in range(200):
                handler.wfile.write(b"X-A: b\r\n" if drips == "headers" else b"H")
                handler.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass

    def wait(handler):
        time.sleep(0.4)
        answering(("Location", f"/{drips}/{random.random()}"), status=302)(handler)

    answers[drips] = dict(redirects=wait, retries=answering(status=503)).get(drips, drip)
    begun = time.monotonic()
    with pytest.raises(BadClip, match="not reachable") as told:
        Downloader(tmp_path, seconds=1.5, retries=30 if drips == "retries" else 0).fetch(f"{address}/{drips}")
    assert time.monotonic() - begun < 12 and not list(tmp_path.iterdir())
    assert told.value.temporary, "another time it may be faster"


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", value)]
        for value in (
            "abc",
            "-5",
            "1e3",
            "",
            "9" * 5000,
            "0x10",
            "٣",
            "4, 5",
            "4;5",
            "99999999999999999999",
            "NaN",
        )
    ]
    + [[("Content-Length", "4"), ("Content-Length", "5")]]
    + [[("Content-Encoding", value)] for value in ("gzip", "deflate", "br", "zstd", "x", "gzip, gzip, gzip")]
    + [
        [("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "x")],
        [("Location", "x")],
        [("Set-Cookie", "a" * 9000)],
    ],
    ids=lambda headers: f"{headers[0][0]}-{headers[0][1][:12]}",
)
def test_odd_headers_give_the_file_or_a_skipped_record(site, tmp_path, headers):
    address, answers = site
    answers["x"] = lambda handler: answering(*[(n, v.encode().decode("latin-1")) for n, v in headers])(
        handler
    )
    try:
        assert Downloader(tmp_path, retries=0, seconds=5).fetch(f"{address}/x").exists()
    except BadClip as bad:
        assert bad.reason in ("not reachable", "too large") and len(bad.detail) < 1000
    assert not list(tmp_path.glob(".*"))


def test_a_body_that_grows_when_it_is_unpacked_is_too_large(site, tmp_path):
    address, answers = site
    answers["x"] = answering(("Content-Encoding", "gzip"), body=gzip.compress(bytes(50 << 20)))
    with pytest.raises(BadClip, match="too large"):
        Downloader(tmp_path, retries=0, most_bytes=1 << 20).fetch(f"{address}/x")


ODD = [
    *(
        "http://",
        "http:///x",
        "http://[",
        "http://[::1",
        "http://a..b/",
        "http://-/",
        "http://.",
        "http://*/",
    ),
    *(
        "http://a b/",
        "http://\x00/",
        "http://x:99999/",
        "http://x:-1/",
        "http://x:abc/",
        "http://@/",
        "http://:80/",
    ),
    *(
        "http://user:pass@/x",
        "http://x\r\nHost: y/",
        "http://\ud800/",
        "http://xn--/",
        "http://%00/",
        "http://%zz/",
    ),
    *(
        "https://",
        "http://[v1.x]/",
        "http://1.2.3/",
        "http://1.2.3.4.5/",
        "http://999.1.1.1/",
        "http://0x/",
        "http://\u2025/",
    ),
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 200 + "/",
    "http://" + "a" * 5000,
    "http://x.invalid/" + "a" * 100_000,
    "http://x.invalid/\ud800",
]


@pytest.mark.parametrize("address", ODD, ids=range(len(ODD)))
def test_an_odd_address_is_a_skipped_record(tmp_path, address):
    downloader = Downloader(tmp_path, retries=0, seconds=10)
    record = downloader.submit(Record("a", "x", Url(address), "row 1")).result()
    assert record.bad is not None and record.media is None and len(record.bad.detail) < 1000
