import dataclasses
import json

import pytest
import torch
from conftest import steering, tiny
from transformers import GraniteForCausalLM, LlamaForCausalLM

from fvlm import ConfigError, RunConfig, build_model, load_model
from fvlm.architectures import ARCHITECTURES
from fvlm.data import ShapesWorld
from fvlm.models import parameter_groups
from fvlm.models.baseline import space_to_depth

PUBLISHED = {  # millions of parameters
    "S-S": (157.3, 172.06),
    "M-S": (384.9, 411.16),
    "S-B": (223.2, 250.74),
    "B-L": (1802.3, 1915.4),
}


@pytest.mark.parametrize("pair", PUBLISHED)
@pytest.mark.parametrize("arch", [0, 1])
def test_parameter_counts_are_the_study_s(pair, arch):
    with torch.device("meta"):
        model = build_model(RunConfig.from_cell(f"{pair}_8f_{('fov', 'bas')[arch]}"), pretrained=False)
    groups = parameter_groups(model)
    assert groups["total"] / 1e6 == pytest.approx(PUBLISHED[pair][arch], rel=1e-3)
    assert (
        sum(groups[g] for g in ("vision", "connector", "llm", "embedding"))
        == groups["total"]
        == groups["trainable"]
    )


@pytest.mark.parametrize("size, millions", [(1, 0.3), (2, 1), (3, 3), (4, 10), (5, 30)])
def test_tiny_llms_have_the_sizes_their_names_promise(size, millions):
    with torch.device("meta"):
        model = build_model(RunConfig.from_cell(f"T{size}-T_8f_fov"), pretrained=False)
    assert parameter_groups(model)["llm"] / 1e6 == pytest.approx(millions, rel=0.15)


def test_every_architecture_of_a_seed_starts_from_the_same_llm():
    llms = [build_model(tiny(arch), pretrained=False).llm.state_dict() for arch in ARCHITECTURES]
    assert all(torch.equal(llm[name], llms[0][name]) for llm in llms for name in llm)


def test_no_future_frame_changes_a_token(model, clips):
    frames, _ = clips
    changed = frames.clone()
    changed[:, 2:] += torch.randn_like(changed[:, 2:])
    for mode in ("parallel", "autoregressive", "static"):
        before, queries = model.visual_tokens(model.encode(frames), mode)
        after, new_queries = model.visual_tokens(model.encode(changed), mode)
        assert torch.allclose(before[:, :2], after[:, :2], atol=1e-6)
        assert torch.allclose(queries[:, :3], new_queries[:, :3], atol=1e-5), (
            "frame 3 is looked at before it is seen"
        )
        assert not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-3)


@pytest.mark.parametrize("arch", ["foveated", "baseline", "static", "meanpool"])
def test_no_other_clip_changes_a_loss(arch, clips):
    model = build_model(tiny(arch, frames=4), pretrained=False)
    frames, labels = clips
    for mode in ("parallel", "autoregressive", "static"):
        together = model(frames, labels=labels, mode=mode).token_losses
        alone = model(frames[:1], labels=labels[:1], mode=mode).token_losses
        assert torch.allclose(together[:1], alone, atol=1e-5)


def test_a_query_depends_on_the_frames_before_it(model, clips):
    frames, _ = clips
    changed = frames.clone()
    changed[:, 1] = torch.randn_like(changed[:, 1])
    for mode in ("parallel", "autoregressive"):
        difference = (
            (model(frames, mode=mode).queries - model(changed, mode=mode).queries).abs().amax(dim=(0, 2))
        )
        assert (difference[:2] < 1e-5).all() and (difference[2:] > 1e-3).all()


@pytest.mark.parametrize("prompted", [False, True])
def test_autoregressive_equals_parallel_for_the_same_queries(model, clips, prompted):
    frames, labels = clips
    prompt = dict(prompt_ids=torch.randint(1, 400, (2, 3))) if prompted else {}
    own = model(frames, labels=labels, mode="autoregressive", **prompt)
    given = model(frames, labels=labels, mode="parallel", queries=own.queries, **prompt)
    assert torch.allclose(own.token_losses, given.token_losses, atol=1e-4)
    assert own.loss.item() == pytest.approx(given.loss.item(), abs=1e-4)
    assert abs(model(frames, labels=labels, mode="parallel", **prompt).loss - own.loss) > 1e-4, (
        "its own queries differ"
    )


def test_frame_by_frame_queries_are_the_fine_states_of_one_long_pass(model, clips):
    """The KV cache changes nothing: reading `<fine> z_1 … z_T-1` at once gives the same queries."""
    frames, _ = clips
    cache = model.encode(frames)
    tokens, queries = model.look_frame_by_frame(cache)
    states = model.read(*model.prefix(model.fine_token, tokens[:, :-1], batch=2))
    assert torch.allclose(model.queries_from(states, prompted=False), queries, atol=1e-5)


def test_more_fine_passes_come_closer_to_autoregressive(clips):
    """Pass k settles the query of frame k + 1 for good, so after T passes parallel is autoregressive."""
    frames, labels = clips
    gaps = []
    for passes in (1, 2, 3, 5):
        model = steering(build_model(tiny(frames=4, fine_passes=passes), pretrained=False))
        one = model(frames, labels=labels, mode="autoregressive").queries
        gaps.append((model(frames, labels=labels).queries - one).abs().amax().item())
    assert gaps[-1] < 1e-4 < min(gaps[:2]), gaps


def test_a_prompt_steers_the_first_look_and_only_with_a_prompt(model, clips):
    frames, _ = clips
    one, other = torch.full((2, 3), 5), torch.full((2, 3), 9)
    for mode in ("parallel", "autoregressive"):
        q = [model(frames, prompt_ids=p, mode=mode).queries[:, 0] for p in (one, other, None)]
        assert not torch.allclose(q[0], q[1], atol=1e-3) and not torch.allclose(q[0], q[2], atol=1e-3)
        assert torch.equal(q[2], model.first_query.expand(2, -1))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_padding_of_frames_prompts_and_texts_changes_nothing(arch, clips):
    model = build_model(tiny(arch, frames=4), pretrained=False)
    frames, labels = clips
    prompts = torch.randint(1, 400, (2, 5))
    frame_mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    prompt_mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    for mode in ("parallel", "autoregressive"):
        padded = model(
            frames,
            labels=labels,
            prompt_ids=prompts,
            prompt_mask=prompt_mask,
            frame_mask=frame_mask,
            mode=mode,
        )
        alone = model(frames[1:, :3], labels=labels[1:, :4], prompt_ids=prompts[1:, :2], mode=mode)
        assert torch.allclose(padded.token_losses[1, :4], alone.token_losses[0], atol=1e-4)
        assert padded.token_losses[1, 4:].eq(0).all()
        inputs = dict(
            prompt_ids=prompts, prompt_mask=prompt_mask, frame_mask=frame_mask, mode=mode, max_new_tokens=5
        )
        (alone,) = model.generate(frames[1:, :3], prompt_ids=prompts[1:, :2], mode=mode, max_new_tokens=5)
        assert torch.equal(model.generate(frames, **inputs)[1][: len(alone)], alone)


def test_logits_are_computed_only_where_a_label_is(model, clips):
    frames, labels = clips
    assert model(frames, labels=labels).logits.shape == (2, 6, 512)
    assert model(frames).logits.shape == (2, 1, 512)


def test_losses_a_few_logits_at_a_time_are_those_from_all(clips, monkeypatch):
    """Ten labels, three positions at once: the same losses and gradients, and never more than three rows."""
    frames, labels = clips
    model, made = build_model(tiny(frames=4), pretrained=False), []
    losses, gradients = [], []
    monkeypatch.setattr("fvlm.models.base.LOGITS", 3 * 512)
    model.llm.lm_head.register_forward_hook(lambda head, given, logits: made.append(logits[..., 0].numel()))
    for asked in (True, False):
        model.zero_grad()
        out = model(frames, labels=labels, return_logits=asked)
        out.loss.backward()
        losses.append(out.token_losses.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert out.logits is None and made[:5] == [12, 3, 3, 3, 1]
    assert sorted(made[5:]) == [1, 3, 3, 3], "made again in the backward pass"
    assert torch.allclose(*losses, atol=1e-6) and (losses[1][labels == -100] == 0).all()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6, rtol=1e-4), name


def test_the_loss_counts_text_only_and_its_end(model, clips):
    frames, labels = clips
    out = model(frames, labels=labels)
    expected = -out.logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert torch.allclose(out.token_losses, expected * (labels != -100), atol=1e-5)
    assert out.loss.item() == pytest.approx((expected * (labels != -100)).sum().item() / 10, rel=1e-5)


@pytest.mark.parametrize("return_logits", [True, False])
def test_tokens_are_right_where_they_are_what_it_would_write(model, clips, return_logits):
    frames, _ = clips
    labels = model.generate(frames, max_new_tokens=4)
    assert (labels != model.config.llm_config.eos_token_id).all(), "as this seed writes"
    labels[1, 2:] = -100
    labels[0, 3] = (labels[0, 3] + 1) % 512
    out = model(frames, labels=labels, mode="autoregressive", return_logits=return_logits)
    assert out.token_right.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert model.train()(frames, labels=labels, return_logits=return_logits).token_right is None


def test_generated_text_is_the_most_likely_one(model, clips):
    frames, _ = clips
    ids = model.generate(frames, max_new_tokens=4)
    for i, row in enumerate(ids.tolist()):
        for n in range(len(row)):
            labels = torch.tensor([row[: n + 1]])
            logits = model(frames[i : i + 1], labels=labels, mode="autoregressive").logits
            assert logits[0, n].argmax() == row[n]


def test_calibration_centres_what_the_connector_reads_and_is_saved(clips, tmp_path):
    for arch in ("foveated", "baseline", "meanpool"):
        model = build_model(tiny(arch, frames=4), pretrained=False)
        model.calibrate(clips[0])
        x = model.standardise(model.features(model.encode(clips[0]))).flatten(0, -2)
        assert x.mean(0).abs().max() < 1e-3 and (x.std(0) - 1).abs().max() < 1e-2
        model.save_pretrained(tmp_path / arch)
        assert torch.equal(load_model(tmp_path / arch).standardise.mean, model.standardise.mean)


def test_a_visual_token_has_the_norm_of_the_embeddings(model, clips):
    tokens, _ = model.visual_tokens(model.encode(clips[0]), "parallel")
    assert tokens.shape == (2, 4, 1, 96)
    assert torch.allclose(tokens.norm(dim=-1), model.embedding_norm, rtol=1e-4)
    assert model.embedding_norm.item() == pytest.approx(
        model.get_input_embeddings().weight.norm(dim=-1).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("arch", ["foveated", "baseline", "blind"])
def test_a_tiny_llm_is_a_llama_whose_input_is_multiplied_by_the_root_of_its_width(arch):
    mended, plain = (build_model(tiny(arch, scale_input=on), pretrained=False) for on in (True, False))
    assert (type(mended.llm), type(plain.llm)) == (GraniteForCausalLM, LlamaForCausalLM)
    one, other = mended.state_dict(), plain.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    x, mask = torch.randn(2, 5, 96), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert torch.allclose(mended.read(x, mask)[mask], plain.read(x * 96**0.5, mask)[mask], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "scale_input, shares", [(False, (0.022, 0.015, 0.008, 0.005, 0.003)), (True, (0.48,) * 5)]
)
def test_what_a_token_was_outlives_the_first_layer_only_if_the_input_is_scaled(scale_input, shares):
    """The figures in the docstring of `llm_config`: share of a state's energy, T1 to T5."""
    for size, expected in enumerate(shares, 1):
        model = build_model(tiny("blind", llm=f"tiny{size}", scale_input=scale_input), pretrained=False)
        decoder, states = model.llm.get_decoder(), []
        decoder.layers[0].register_forward_hook(lambda layer, given, state, to=states: to.append(state))
        ids = torch.arange(320).view(8, 40)
        x = model.embed(ids)
        model.read(x, torch.ones_like(ids, dtype=torch.bool))
        share = torch.cosine_similarity(states[0], x, dim=-1).square().mean().item()
        assert share == pytest.approx(expected, rel=0.2)


def test_a_model_saved_before_inputs_were_scaled_comes_back_the_same(clips, tmp_path):
    model = build_model(tiny(frames=4, scale_input=False), pretrained=False)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["llm_config"]["model_type"] == "llama"
    again = load_model(tmp_path)
    assert type(again.llm) is LlamaForCausalLM and torch.equal(model(*clips).logits, again(*clips).logits)


def test_the_baseline_orders_patches_as_smolvlm_does():
    from types import SimpleNamespace

    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

    config = SimpleNamespace(
        scale_factor=4,
        vision_config=SimpleNamespace(hidden_size=5),
        text_config=SimpleNamespace(hidden_size=5),
    )
    patches = torch.randn(3, 256, 5)
    assert torch.equal(
        space_to_depth(patches, (16, 16), 4), SmolVLMConnector(config).pixel_shuffle(patches, 4)
    )


@pytest.mark.parametrize(
    "arch, tokens",
    [("foveated", 1), ("static", 1), ("foveated4", 4), ("meanpool", 1), ("meanpool4", 4), ("baseline", 16)],
)
def test_visual_tokens_per_frame(arch, tokens, clips):
    model = build_model(tiny(arch, frames=4), pretrained=False)
    assert model.visual_tokens(model.encode(clips[0]), "parallel")[0].shape == (2, 4, tokens, 96)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_makes_the_tokens_and_queries_that_its_record_says(arch, clips):
    model, record = build_model(tiny(arch, frames=4), pretrained=False), ARCHITECTURES[arch]
    tokens, queries = model.visual_tokens(model.encode(clips[0]), "parallel")
    assert (0 if tokens is None else tokens.size(2)) == record.tokens_per_frame
    assert (queries is not None) == record.has_queries
    model.architecture = dataclasses.replace(record, tokens_per_frame=record.tokens_per_frame + 1)
    with pytest.raises(ValueError, match=f"{record.tokens_per_frame} visual tokens per frame.*{arch}"):
        model(clips[0])


HALVES = (slice(None, 4), slice(4, None))


def test_means_of_parts_are_those_of_the_patches_in_them_in_reading_order(clips):
    model = build_model(tiny("meanpool4", frames=4), pretrained=False)
    cache = model.encode(clips[0])
    patches = cache.patches.unflatten(2, (8, 8))  # 112 pixels
    means = [patches[:, :, rows, columns].mean((2, 3)) for rows in HALVES for columns in HALVES]
    assert torch.allclose(model.features(cache), torch.stack(means, 2), atol=1e-5)
    whole = build_model(tiny("meanpool", frames=4), pretrained=False)
    assert torch.allclose(whole.features(cache), cache.patches.mean(2, keepdim=True), atol=1e-5)


def test_offsets_look_as_queries_of_their_own_would(clips):
    model = build_model(tiny("foveated4", frames=4), pretrained=False)
    cache, query = model.encode(clips[0]), torch.randn(2, 4, 384)
    together = model.see(query, cache)
    states, seen = model.vision.look(model.with_offsets(query), cache, return_attention=True)
    for k, offset in enumerate(model.query_offsets):
        alone, attention = model.vision.look(query + offset, cache, return_attention=True)
        assert torch.allclose(states[:, :, k], alone, atol=1e-4)
        assert torch.allclose(seen[:, :, k], attention, atol=1e-5)
    assert torch.allclose(model.attention(query, cache), seen.mean(2)) and together.shape == (2, 4, 4, 96)
    assert (together[:, :, 0] - together[:, :, 1]).abs().max() > 0.01, "they do not see the same"


def test_with_several_tokens_a_frame_the_query_comes_from_the_state_at_the_frame_s_last(clips):
    """Frame by frame, where queries are made one at a time, is what the parallel passes come to when the fine
    pass is repeated."""
    config = tiny("foveated4", frames=4, fine_passes=4)
    model = steering(build_model(config, pretrained=False)).eval()
    cache = model.encode(clips[0])
    (parallel, queries), (one_by_one, made) = (
        model.visual_tokens(cache, mode) for mode in ("parallel", "autoregressive")
    )
    assert torch.allclose(queries, made, atol=1e-3) and torch.allclose(parallel, one_by_one, atol=1e-3)
    assert (queries[:, 2] - queries[:, 1]).abs().max() > 0.1, "the query moves"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_saved_model_comes_back_the_same(arch, clips, tmp_path):
    model = build_model(tiny(arch, frames=4), pretrained=False)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(model(*clips).logits, again(*clips).logits)


def test_a_saved_model_of_an_unknown_architecture_is_an_error_that_names_the_valid_ones(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(arch="fovated")))
    with pytest.raises(ConfigError, match="'fovated'.*foveated, baseline"):
        load_model(tmp_path)


@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_gradient_checkpointing_changes_no_gradient(arch, clips):
    model = build_model(tiny(arch, frames=4, freeze_vision=False), pretrained=False).train()

    def gradients(on):
        model.zero_grad()
        model.set_gradient_checkpointing(on)
        saved = 0

        def pack(x):
            nonlocal saved
            saved += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model(*clips).loss
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, saved

    plain, kept = gradients(False)
    recomputed, kept_less = gradients(True)
    assert kept_less < 0.6 * kept, "both halves recompute"
    assert plain.keys() == recomputed.keys()
    for name in plain:
        assert torch.allclose(plain[name], recomputed[name], atol=1e-6), name


def test_frozen_parts_get_no_gradient_and_the_rest_does(clips):
    model = build_model(tiny(frames=4, freeze_vision=True, freeze_llm=True), pretrained=False).train()
    model(*clips, prompt_ids=torch.ones(2, 1, dtype=torch.long)).loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (not name.startswith(("llm.", "vision.dinov2."))), name


def test_shapes_that_do_not_fit_are_errors(model, clips):
    frames, labels = clips
    for wrong in (
        dict(frames=frames[0]),
        dict(frames=frames, labels=labels[:1]),
        dict(frames=frames, mode="fast"),
    ):
        with pytest.raises(ValueError):
            model(**wrong)
    with pytest.raises(ValueError, match="multiples of 14"):
        model(frames[..., :100])
    with pytest.raises(ValueError, match="3 queries for 4 frames"):
        model(frames, queries=torch.randn(2, 3, 384))


@torch.no_grad()
def test_what_a_query_brings_back_depends_on_the_scale_it_enters_at(pretrained_small):
    """The figures in the docstrings of `Standardise` and `QueryIn`."""
    model = build_model(RunConfig(llm="tiny1", frames=4, device="cpu")).eval()
    cache = model.encode(
        torch.stack([torch.from_numpy(ShapesWorld(frames=4).clip(i).frames) for i in range(24)])
    )
    queries = torch.randn(3, 384, generator=torch.Generator().manual_seed(0))

    def differs(query):  # share of the foveal states' energy that is not the same for all clips
        states = model.vision.look(query.expand(24, 4, -1), cache).flatten(0, 1)
        return ((states - states.mean(0)).square().sum() / states.square().sum()).item()

    assert differs(model.static_query) == pytest.approx(0.003, abs=0.001)
    assert all(0.2 < differs(query) < 0.3 for query in queries)
    model.vision.query_in.norm.fill_(384**0.5)
    assert all(differs(query) < 0.01 for query in queries)
