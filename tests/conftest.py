"""Small real models (random weights, few frames) and the runs that several tests share."""

import base64
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import counting
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from side_by_side import SideBySide

from fvlm import RunConfig, build_model

REPOSITORY = Path(__file__).resolve().parent.parent


SLOW_FOLDERS = ("notebooks/", "tests/browser/")  # all that is in them; elsewhere tests are marked one by one


def pytest_configure(config):
    config.pluginmanager.register(SideBySide(config))
    counting.register(config)


def pytest_collection_finish():
    """What imports and collection leave behind stays: looking for garbage in it takes 4 % of the tests' CPU
    time."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """`make test-fast` leaves out what is marked slow."""
    for item in items:
        if item.nodeid.startswith(SLOW_FOLDERS):
            item.add_marker("slow")


def tiny(arch: str = "foveated", **settings) -> RunConfig:
    """A cell that trains in seconds: the smallest LLM, two frames, random vision weights where a test builds
    it so."""
    return RunConfig(
        **dict(llm="tiny1", vision="tiny", arch=arch, frames=2, device="cpu", precision="fp32") | settings
    )


@pytest.fixture(scope="session")
def pretrained_small():
    """The folder of DINOv2-small's weights; skips with the reason where they can't be had."""
    from fvlm import ConfigError
    from fvlm.weights import fetch

    try:
        return Path(fetch("small").folder)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium, from Debian if there is none yet; without one the test is skipped, or fails where
    it must run."""
    names = ("chromium", "chromium-browser", "google-chrome")
    with FileLock(Path(tempfile.gettempdir()) / "fvlm-chromium.lock"):  # one test process installs
        if not any(map(shutil.which, names)) and os.geteuid() == 0 and shutil.which("apt-get"):
            for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
                subprocess.run(command, capture_output=True, timeout=600)
    for name in names:
        if path := shutil.which(name):
            return path
    reason = "no Chromium: install Debian's chromium (apt-get install chromium) to run this test"
    (pytest.fail if os.environ.get("FVLM_REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.fixture
def model():
    """A foveated model with random weights, 3 + 4 layers, 112-pixel frames, whose LLM steers the gaze
    hard."""
    return steering(build_model(tiny(frames=4), pretrained=False))


def steering(model):
    """The same model with queries that differ from frame to frame, as after training: at the start they
    hardly do."""
    model.to_query.weight.data.mul_(10)
    return model


@pytest.fixture
def clips():
    """Frames (2, 4, 3, 112, 112) and labels (2, 6), the second text shorter."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(2, 4, 3, 112, 112, generator=generator)
    labels = torch.randint(1, 400, (2, 6), generator=generator)
    labels[1, 4:] = -100
    return frames, labels


def python(*arguments, check=True, env=None, timeout=600) -> subprocess.CompletedProcess:
    """Run this environment's Python in the repository, with `env` added to the environment."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {})
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def tracked() -> list[str]:
    """Every file under version control."""
    return subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def result_columns() -> list[str]:
    """The columns of `evaluations.parquet` that the README describes."""
    table = (REPOSITORY / "README.md").read_text().partition("| column | meaning |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.M)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def write_video(
    path: Path,
    count: int = 24,
    rate: int = 12,
    size=(64, 48),
    codec: str = "mpeg4",
    pts=None,
    gop: int = 6,
    seed: int = 0,
):
    """A video file whose frame i is as bright as `brightness(i)`; `pts` are time stamps in thousandths of a
    second.

    A corner has a colour of the `seed`'s own."""
    import av

    corner = np.random.default_rng(seed).integers(0, 255, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", gop
        stream.bit_rate = 4_000_000
        if pts is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            picture = np.full((size[1], size[0], 3), brightness(i), np.uint8)
            picture[: size[1] // 3, : size[0] // 3] = corner
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(i: int) -> int:
    return 10 + 7 * (i % 32)


def frame_numbers(frames) -> list[int]:
    """Which frames of `write_video` (below 32) these are: (T, S, S, 3)."""
    return [round((float(sorted(frame.reshape(-1).tolist())[frame.size // 2]) - 10) / 7) for frame in frames]


def damaged(tmp_path, kind: str):
    path = tmp_path / "bad.mp4"
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video\n" * 100)
    elif kind == "one frame":
        write_video(path, count=1)
    elif kind == "cut off":
        write_video(path, count=24)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "cut off, index first":
        import av

        write_video(tmp_path / "whole.mp4", count=200)
        with (
            av.open(str(tmp_path / "whole.mp4")) as source,
            av.open(str(path), "w", options={"movflags": "faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif kind == "sound alone":
        import av

        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def drawn(view) -> dict:
    """What a `FrameView` was told to draw: frame (height, width, 3), map (h, w), path (n, 2), number of
    hidden patches."""
    return dict(
        frame=np.asarray(Image.open(io.BytesIO(view.picture))).astype(int),
        map=np.frombuffer(view.map, "<f4").reshape(view.grid),
        path=np.array(view.path).reshape(-1, 2),
        hidden=len(view.hidden),
    )


def pixels(image) -> np.ndarray:
    """What a figure's image trace shows."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.source.partition(",")[2])))).astype(int)
