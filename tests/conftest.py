"""Small real models (random weights, few frames) and the runs that several tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fvlm import RunConfig, build_model

REPOSITORY = Path(__file__).resolve().parent.parent


def tiny(arch: str = "foveated", **settings) -> RunConfig:
    """A cell that trains in seconds: the smallest LLM, two frames, random vision weights where a test builds it so."""
    return RunConfig(**dict(llm="tiny1", vision="tiny", arch=arch, frames=2, device="cpu") | settings)


@pytest.fixture(scope="session")
def pretrained_small():
    """The folder of DINOv2-small's weights; skips with the reason where they can't be had."""
    from fvlm import ConfigError
    from fvlm.weights import fetch

    try:
        return Path(fetch("small").folder)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def model():
    """A foveated model with random weights, 3 + 4 layers, 112-pixel frames, whose LLM steers the gaze hard."""
    return steering(build_model(tiny(frames=4), pretrained=False))


def steering(model):
    """The same model with queries that differ from frame to frame, as after training: at the start they hardly do."""
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


def python(*arguments, check=True, env=None) -> subprocess.CompletedProcess:
    """Run this environment's Python in the repository, with `env` added to the environment."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, env=os.environ | (env or {}))
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def tracked() -> list[str]:
    """Every file under version control."""
    return subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
