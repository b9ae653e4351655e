"""Training on a mix: texts alone go through the same model, counts are kept, a killed run ends as one that
was not."""

import dataclasses
import json

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file

from fvlm import ConfigError, build_model, load_run, train
from fvlm.architectures import ARCHITECTURES
from fvlm.config import DOMAINS
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.plan import run_flops
from fvlm.data import Collator, open_dataset, training_batches
from fvlm.data.siblings import Texts
from fvlm.training.features import Features
from fvlm.training.loop import accumulate_gradient
from fvlm.weights import load_tokenizer

MIX = "params/mix/shapes.yaml"
SHORT = dict(dataset=MIX, steps=4, eval_every=2, eval_samples=4, effective_batch=8, micro_batch=4)


def mixed_batch(config):
    return next(training_batches(config, Collator(load_tokenizer(config.llm), config.task)))


@pytest.mark.parametrize("arch", ["foveated", "baseline", "static", "meanpool", "blind"])
def test_a_text_alone_is_read_as_if_there_were_no_vision(arch):
    """Beside clips whose frames are hidden by a mask, and by itself without any frame; and its loss is that
    of the LLM on the same embeddings."""
    assert arch in ARCHITECTURES
    config = tiny(arch, **SHORT)
    batch, model = mixed_batch(config), build_model(config, pretrained=False).eval()
    assert 0 < sum(batch.shows) < len(batch) and batch.frame_mask is not None
    with torch.no_grad():
        masked = model(**batch.inputs()).token_losses
        for part in batch.split(4):
            for mode in ("parallel", "autoregressive"):
                losses = model(**part.inputs(), mode=mode).token_losses
                for row, clip_id in enumerate(part.clip_ids):
                    if not part.shows[row] or mode == "parallel":
                        whole = masked[batch.clip_ids.index(clip_id)]
                        assert torch.allclose(losses[row], whole[: losses.size(1)], atol=2e-4), (
                            clip_id,
                            mode,
                        )
        alone = batch.split(4)[-1]
        assert alone.frames.size(1) == 0 and not any(alone.shows)
        start = torch.stack([model.fine_token, model.end_token]).expand(len(alone), -1, -1)
        x = torch.cat([start, model.embed(alone.labels[:, :-1].clamp(min=0))], dim=1)
        logits = model.llm(inputs_embeds=x).logits[:, 1:]
        expected = torch.nn.functional.cross_entropy(logits.mT, alone.labels, reduction="none")
        assert torch.allclose(model(**alone.inputs()).token_losses, expected, atol=2e-4)


@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_micro_batches_and_a_feature_store_change_no_gradient(arch, tmp_path, monkeypatch):
    monkeypatch.setenv("FVLM_FEATURES_GB", "1")
    config = tiny(arch, **SHORT)
    model = build_model(config).train()
    features, gradients = Features(config, model), []
    collator = Collator(load_tokenizer(config.llm), config.task)
    for size, kept in ((8, None), (3, None), (3, features), (8, features)):
        store = kept and kept.store
        one = dataclasses.replace(config, steps=1)
        batch = next(training_batches(one, collator, store=store))
        loss = accumulate_gradient(model, batch, config, size, features=kept)
        gradients.append((loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-5)
        for g, first in zip(gradient, gradients[0][1], strict=True):
            assert torch.allclose(g, first, atol=1e-5, rtol=1e-3)


def test_a_text_alone_costs_what_the_llm_does():
    config = tiny("baseline")
    groups = flops_per_sample(config, 30, visual=False)
    blind = flops_per_sample(tiny("blind"), 30)
    assert groups["vision"] == groups["connector"] == 0 and groups["total"] == blind["total"]
    assert groups["total"] < flops_per_sample(config, 30)["total"] / 2
    whole, half, none = (
        run_flops(tiny("baseline", dataset=f"{MIX}:{weights}", steps=100, eval_every=100, eval_samples=1))
        for weights in ("video=1", "video=0.5,text=0.5", "text=1")
    )
    assert none < whole / 2 and half == pytest.approx((whole + none) / 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run on a mix."""
    return train(tiny(out=str(tmp_path_factory.mktemp("whole")), **SHORT))


def test_a_mix_trained_stopped_and_resumed_equals_one_never_stopped(whole, tmp_path):
    class Stop(Exception):
        pass

    def stop(progress):
        if progress.step == 3:
            raise Stop

    config = tiny(out=str(tmp_path), **SHORT)
    with pytest.raises(Stop):
        train(config, on_progress=stop)
    assert not load_run(config.folder).finished
    resumed = train(config)
    a, b = (load_file(run.folder / "model/model.safetensors") for run in (whole, resumed))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
    assert whole.domains.equals(resumed.domains) and whole.samples.equals(resumed.samples)


def test_every_evaluation_has_each_domain_s_losses_and_counts(whole):
    table = whole.domains
    assert table["step"].tolist() == [2] * 4 + [4] * 4 and table["domain"].tolist() == list(DOMAINS) * 2
    last = table[table["step"] == 4].set_index("domain")
    assert last["samples_seen"].sum() == 32 and (last["clips"] == 1).all()
    data = open_dataset(whole.config, "train")
    for domain, row in last.iterrows():
        seen = [data.told(p) for p in range(32)]
        assert row["samples_seen"] == sum(clip.domain == domain for clip in seen)
        assert row["epochs"] == pytest.approx(row["samples_seen"] / 4800)
        mine = whole.samples[whole.samples["domain"] == domain]
        tokens = mine["text_tokens"]
        assert row["loss_parallel"] == pytest.approx((mine["loss_parallel"] * tokens).sum() / tokens.sum())
        assert (row["loss_autoregressive"] == row["loss_parallel"]) == (domain == "text")
    assert last["weight"].tolist() == pytest.approx([w / 0.99 for w in (0.33, 0.34, 0.12, 0.2)])


def test_counts_match_the_weights_to_a_percent():
    """Of what a run of the design's length sees."""
    config = tiny(dataset=MIX)
    counts = open_dataset(config, "train").counts(4000)
    assert counts / 4000 == pytest.approx([w / 0.99 for w in (0.33, 0.34, 0.12, 0.2)], rel=0.01)


def test_another_mix_in_the_same_file_is_not_gone_on_with(whole, tmp_path):
    file = tmp_path / "mine.yaml"
    parts = [
        dict(domain="video", data="shapes", weight=1, samples=60),
        dict(domain="text", data="shapes-text", weight=1),
    ]
    file.write_text(json.dumps(dict(parts=parts)))
    settings = SHORT | dict(dataset=str(file), out=str(tmp_path / "out"), steps=2, arch="blind")
    config = tiny(**settings)
    train(config)
    parts[0]["samples"] = 61
    file.write_text(json.dumps(dict(parts=parts)))
    with pytest.raises(ConfigError, match="changed"):
        train(config)
    with pytest.raises(ConfigError, match="At most"):
        train(dataclasses.replace(config, steps=20, allow_epochs=True, overwrite=True))


def test_a_run_on_texts_alone_trains_too(tmp_path):
    run = train(tiny(out=str(tmp_path), **SHORT | dict(dataset="shapes-text", effective_batch=2, steps=2)))
    assert run.finished and run.samples["loss_parallel"].notna().all()
    assert run.write([Texts().clip(3)])[0] is not None
