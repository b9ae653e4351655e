"""The trained part of a model by itself: small, and whole again with the same frozen weights alone."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file, save_file

from fvlm import ConfigError, load_run, train
from fvlm.models import trained
from fvlm.models.trained import FROZEN, LARGEST, WEIGHTS, load_trained
from fvlm.weights import fetch

SHORT = dict(steps=1, eval_every=1, eval_samples=2, effective_batch=2)


@pytest.fixture(scope="module", params=["foveated", "baseline", "blind"])
def run(request, tmp_path_factory, pretrained_small):
    return train(tiny(request.param, out=str(tmp_path_factory.mktemp("out")), **SHORT))


@pytest.fixture
def packed(run, tmp_path):
    return run.pack(tmp_path / "study" / run.folder.name)


def test_a_packed_run_is_small_and_has_the_same_model_bit_for_bit(run, packed):
    files = [path for path in packed.folder.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < LARGEST
    assert not [name for name in load_file(packed.folder / "trained" / WEIGHTS) if "dinov2" in name]
    assert packed.finished and packed.evaluations.equals(run.evaluations)
    one, two = run.model.state_dict(), load_run(packed.folder).model.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    clips = run.validation_clips(2)
    assert packed.write(clips) == run.write(clips)


def test_frozen_weights_are_those_it_was_trained_with_or_it_does_not_load(run, packed, monkeypatch, tmp_path):
    told = json.loads((packed.folder / "trained" / FROZEN).read_text())
    if run.config.arch == "blind":
        assert told == {}
        return
    right = fetch("small")
    other = tmp_path / "other"
    other.mkdir()
    state = load_file(f"{right.folder}/model.safetensors")
    name = next(name for name in state if "layer.0" in name)
    save_file(state | {name: state[name] + 1e-3}, other / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(f"{right.folder}/config.json", other)
    wrong = replace(right, folder=str(other))
    monkeypatch.setattr(trained, "sources_of", lambda name: iter([wrong, right]))
    assert load_trained(packed.folder / "trained")
    monkeypatch.setattr(trained, "sources_of", lambda name: iter([wrong]))
    with pytest.raises(ConfigError, match=f"(?s)small from .*{told['vision']['sha256'][:12]}"):
        load_trained(packed.folder / "trained")


@pytest.mark.parametrize("content", [b"", b"[" * 50_000, bytes(40), b"[]", b"\xff"], ids=range(5))
@pytest.mark.parametrize("name", ["config.json", WEIGHTS, FROZEN])
def test_a_file_that_can_t_be_read_is_one_message(packed, name, content):
    (packed.folder / "trained" / name).write_bytes(content)
    with pytest.raises(ConfigError, match="trained: no trained part of a model that can be read"):
        load_trained(packed.folder / "trained")


@pytest.mark.parametrize("what", ["missing", "foreign", "of another shape"])
def test_a_file_that_does_not_fit_is_named(packed, what):
    path = packed.folder / "trained" / WEIGHTS
    state = load_file(path)
    if what == "foreign":
        state["something"] = torch.zeros(2)
    else:
        del state["end_token"]
        if what == "of another shape":
            state["end_token"] = torch.zeros(3)
    save_file(state, path)
    named = "something" if what == "foreign" else "end_token"
    with pytest.raises(ConfigError, match=f"{what}: {named}"):
        load_trained(path.parent)


def test_what_is_too_large_or_there_already_is_refused(run, packed, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="there already"):
        run.pack(packed.folder)
    monkeypatch.setattr(trained, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="fvlm push"):
        run.pack(tmp_path / "large")
    assert not (tmp_path / "large").exists()
    with pytest.raises(ConfigError, match="no trained part"):
        load_trained(tmp_path)
