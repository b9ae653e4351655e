import dataclasses

import numpy as np
import pytest
import torch
from conftest import steering, tiny

from fvlm import build_model
from fvlm.data import Collator, open_dataset
from fvlm.gaze.attention import (
    EncodedClip,
    causal_gaze,
    gaze,
    patches_of_boxes,
    same_at_first,
    steered,
    swapped_frames,
    unusual,
)
from fvlm.plots.gaze import gaze_picture, gaze_strip
from fvlm.weights import load_tokenizer


@pytest.fixture(scope="module")
def looked():
    config = tiny(frames=4)
    model = steering(build_model(config, pretrained=False))
    clip = open_dataset(config, "validation")[0]
    return model, clip, {mode: gaze(model, clip, mode) for mode in ("parallel", "autoregressive", "static")}


def test_gaze_is_the_attention_inside_the_forward_pass(looked, monkeypatch):
    model, clip, looks = looked
    for mode, look in looks.items():
        seen = []
        softmax = torch.Tensor.softmax

        def watch(self, dim, _softmax=softmax, _seen=seen):
            weights = _softmax(self, dim)
            _seen.append(weights)
            return weights

        with torch.no_grad():
            cache = model.encode(torch.from_numpy(clip.frames)[None])
            monkeypatch.setattr(torch.Tensor, "softmax", watch)
            model(cache, mode=mode)
            monkeypatch.undo()
        weights = [w[:, :, :, 0] for w in seen if w.dim() == 5]  # of the last pass: (1, t, H, N) per layer
        layers = look.maps.shape[1]
        if mode == "autoregressive":
            inside = torch.cat(
                [torch.stack(weights[i : i + layers], 2) for i in range(0, len(weights), layers)], dim=1
            )
        else:
            inside = torch.stack(weights[-layers:], dim=2)
        inside = inside[0].numpy()
        assert np.abs(inside[..., 1:].reshape(look.maps.shape) - look.maps).max() < 1e-6
        assert np.abs(inside[..., 0] - look.cls_mass).max() < 1e-6


def test_patches_and_cls_share_all_attention(looked):
    for look in looked[2].values():
        assert look.maps.shape == (4, 4, 6, 8, 8)
        assert np.allclose(look.maps.sum(axis=(-1, -2)) + look.cls_mass, 1, atol=1e-5)


def test_a_model_without_queries_has_no_gaze(looked):
    with pytest.raises(TypeError, match="has no queries"):
        gaze(build_model(tiny("meanpool"), pretrained=False), looked[1])


def test_a_patch_is_drawn_where_it_is(looked):
    """All attention on patch (2, 5) of an 8 x 8 grid: rows 28 to 42, columns 70 to 84, in both pictures."""
    look = looked[2]["static"]
    look = type(look)(np.zeros_like(look.maps), look.cls_mass, look.queries, look.frames, "static")
    look.maps[..., 2, 5] = 1
    assert np.allclose(look.fixations(), [77, 35])
    figure = gaze_strip(look)
    heat = figure.data[next(i for i, d in enumerate(figure.data) if d.type == "heatmap")]
    row, column = np.argwhere(np.array(heat.z) == 1)[0]
    assert (heat.x0 + column * heat.dx, heat.y0 + row * heat.dy) == (76.5, 34.5), "pixel centres count from 0"
    picture = np.asarray(gaze_picture(look, scale=1)).astype(int)
    lit = picture[116:228, :112]
    difference = lit - (look.frames[0].transpose(1, 2, 0) * 0.18).astype(int)
    rows, columns = np.argwhere(difference.sum(-1) > 3).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (28, 41, 70, 83)


# ── Summaries ────────────────────────────────────────────────────────────────────────────────────


def test_summaries_are_what_they_say(looked):
    look = looked[2]["autoregressive"]
    assert np.allclose(look.map("mean"), look.maps.mean((1, 2))) and np.allclose(
        look.map("last"), look.maps[:, 3].mean(1)
    )
    assert np.array_equal(look.map(layer=2, head=5), look.maps[:, 2, 5]) and np.allclose(
        look.map(layer=1), look.maps[:, 1].mean(1)
    )
    layer, head = look.most_selective()
    entropies = {(i, j): look.entropy(layer=i, head=j).mean() for i in range(4) for j in range(6)}
    assert np.array_equal(look.map("selective"), look.maps[:, layer, head])
    assert entropies[layer, head] <= np.median(list(entropies.values()))
    assert np.allclose(look.map("value").sum((1, 2)), 1)
    whole = look.resolved("selective")
    assert whole == dict(layer=layer, head=head) and look.resolved("last") == dict(summary="last")
    assert look.resolved(layer=1, head=None) == dict(layer=1, head=None)
    with pytest.raises(ValueError, match="valid are mean, last, selective, value"):
        look.map("best")


def test_what_a_patch_carries_is_what_it_adds_to_the_state(looked):
    """All attention on one patch in one head, the others switched off: the state grows by a vector of that
    length."""
    model, clip, looks = looked
    cache = model.encode(torch.from_numpy(clip.frames)[None])
    layer, values = model.vision.dinov2.encoder.layer[1], cache.values[1]
    attended = torch.zeros(4, 6, 64)
    attended[:, 3] = values[0, :, 3, 1 + 17]  # of every frame: head 3, patch 17
    grown = layer.layer_scale1.lambda1 * torch.nn.functional.linear(
        attended.flatten(1), layer.attention.o_proj.weight
    )
    lengths = looks["static"].carried[:, 1, 3].reshape(4, -1)[:, 17]
    assert np.allclose(grown.norm(dim=-1).detach().numpy(), lengths, atol=1e-5)


def test_entropy_is_in_nats(looked):
    look = looked[2]["static"]
    uniform, single = np.full_like(look.maps, 1 / 64), np.zeros_like(look.maps)
    single[..., 3, 4] = 1
    with_maps = lambda maps: type(look)(maps, look.cls_mass, look.queries, look.frames, "static")
    assert np.allclose(with_maps(uniform).entropy(), np.log(64)) and np.allclose(
        with_maps(single).entropy(), 0
    )
    assert np.allclose(with_maps(single).peaks(), [4.5 * 14, 3.5 * 14])


# ── Causal gaze ──────────────────────────────────────────────────────────────────────────────────


def test_hidden_patches_get_no_attention_and_the_others_share_it(looked):
    model, clip, _ = looked
    cache = model.encode(torch.from_numpy(clip.frames)[None])
    hidden = torch.zeros(1, 4, 64, dtype=torch.bool)
    hidden[:, 1, 10:30] = True
    queries = torch.randn(1, 4, 384)
    _, seen = model.vision.look(queries, cache, return_attention=True)
    _, masked = model.vision.look(queries, cache.hide(hidden), return_attention=True)
    assert (masked[0, 1, :, :, 11:31] == 0).all() and torch.allclose(masked.sum(-1), torch.ones(1), atol=1e-5)
    assert torch.allclose(masked[0, [0, 2, 3]], seen[0, [0, 2, 3]], atol=1e-6), "other frames as before"
    rest = torch.cat([seen[0, 1, 0, :, :11], seen[0, 1, 0, :, 31:]], -1)
    assert torch.allclose(
        torch.cat([masked[0, 1, 0, :, :11], masked[0, 1, 0, :, 31:]], -1),
        rest / rest.sum(-1, keepdim=True),
        atol=1e-5,
    )


def test_a_shifted_map_brings_back_what_lies_beside_it(looked):
    """One layer, all attention on one patch: shifted by (1, 2) the query gets the value one down and two to
    the right."""
    model, clip, _ = looked
    cache = model.encode(torch.from_numpy(clip.frames)[None])
    moved = cache.shift(1, 2)
    for before, after in zip(cache.values, moved.values):
        grid, new = (v[0, :, :, 1:].unflatten(2, (8, 8)) for v in (before, after))
        assert torch.equal(new[:, :, 3, 4], grid[:, :, 4, 6]) and torch.equal(
            new[:, :, 7, 7], grid[:, :, 0, 1]
        )
        assert torch.equal(before[..., 0, :], after[..., 0, :]), "CLS stays"
    assert all(torch.equal(a, b) for a, b in zip(cache.keys, moved.keys)), "what is attended to stays"


def test_masked_losses_are_those_of_the_model_run_by_itself(looked):
    model, clip, _ = looked
    tokenizer = load_tokenizer("tiny")
    hidden = np.zeros((3, 4, 8, 8), bool)
    hidden[1, :, :4], hidden[2, 0, 2, 3] = True, True
    encoded = EncodedClip(model, clip, tokenizer, "question")
    losses = encoded.masked_losses(hidden, mode="parallel")
    inputs = Collator(tokenizer, "question")([clip]).inputs()
    with torch.no_grad():
        plain = model(**inputs, mode="parallel")
        assert losses[0] == pytest.approx(plain.loss.item(), abs=1e-5)
        for variant in (1, 2):
            cache = model.encode(inputs["frames"]).hide(torch.from_numpy(hidden[variant]).flatten(1)[None])
            alone = model(cache, **{k: v for k, v in inputs.items() if k != "frames"}, queries=plain.queries)
            assert losses[variant] == pytest.approx(alone.loss.item(), abs=1e-5)
    assert losses[1] != losses[0]
    shifted = encoded.shifted_losses([(0, 0), (0, 8), (4, 4)], mode="parallel")
    assert shifted[:2] == pytest.approx(losses[0], abs=1e-5) and shifted[2] != pytest.approx(
        losses[0], abs=1e-7
    )


@pytest.mark.parametrize("arch", ["foveated", "baseline", "blind"])
def test_swapped_frames_are_the_next_clip_s(arch):
    """Beside scoring text and frames one pair at a time; batches of two, so that a clip's neighbour is in
    another one."""
    config = tiny(arch, frames=2)
    model = build_model(config, pretrained=False).eval()
    tokenizer, dataset = load_tokenizer(config.llm), open_dataset(config, "validation")
    clips = [dataset[i] for i in range(5)]
    rows = swapped_frames(model, clips, tokenizer, "caption", size=2)
    assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in clips]
    for i, (clip, row) in enumerate(zip(clips, rows)):
        for name, frames in (("loss", clip.frames), ("loss_swapped", clips[(i + 1) % 5].frames)):
            batch = Collator(tokenizer, "caption")([dataclasses.replace(clip, frames=frames)])
            with torch.no_grad():
                expected = model(**batch.inputs(), mode="autoregressive").loss.item()
            assert row[name] == pytest.approx(expected, abs=1e-5)
            assert row["text_tokens"] == batch.text_tokens
    differ = [abs(row["loss"] - row["loss_swapped"]) > 1e-4 for row in rows]
    assert not any(differ) if arch == "blind" else all(differ)
    with pytest.raises(ValueError, match="takes two"):
        swapped_frames(model, clips[:1], tokenizer, "caption")


def test_causal_gaze_finds_the_patch_that_decides(looked, monkeypatch):
    """A stand-in loss that depends on one patch's visibility: hiding the attended patches costs, random ones
    hardly."""
    model, clip, looks = looked
    peak = looks["autoregressive"].map().reshape(4, -1).argmax(1)
    monkeypatch.setattr(
        EncodedClip,
        "masked_losses",
        lambda self, hidden: hidden.reshape(len(hidden), 4, -1)[:, range(4), peak].sum(1) / 4.0,
    )
    rows = causal_gaze(model, clip, load_tokenizer("tiny"), "caption", counts=(1, 4), draws=20)
    change = lambda what, n: np.mean([r["change"] for r in rows if r["what"] == what and r["patches"] == n])
    assert change("most attended", 1) == 1 and change("most attended", 4) == 1
    assert change("random", 1) < 0.1 and change("random", 4) < 0.2


def test_causal_gaze_hides_the_object_asked_about_and_as_many_patches_outside_it(looked, monkeypatch):
    """A stand-in loss that counts hidden patches of the object's boxes, and one that counts all that are
    hidden. Who is asked how many there are is asked about no object."""
    model, counted, _ = looked
    clip = open_dataset(tiny(frames=4), "validation")[1]
    assert clip.target >= 0 > counted.target
    box = patches_of_boxes(clip.boxes[:, clip.target], clip.frames.shape[2:], (8, 8))

    def changes(loss):
        monkeypatch.setattr(EncodedClip, "masked_losses", lambda self, hidden: loss(hidden).astype(float))
        rows = causal_gaze(model, clip, load_tokenizer("tiny"), "caption", counts=(1,), draws=20)
        return {w: {r["change"] for r in rows if r["what"] == w} for w in ("target", "elsewhere")}

    assert changes(lambda hidden: (hidden & box).sum((1, 2, 3))) == dict(target={box.sum()}, elsewhere={0})
    assert changes(lambda hidden: hidden.sum((1, 2, 3))) == dict(target={box.sum()}, elsewhere={box.sum()})
    monkeypatch.undo()
    rows = causal_gaze(model, counted, load_tokenizer("tiny"), "caption", counts=(1,), draws=1)
    assert {r["what"] for r in rows} == {"nothing", "most attended", "random", "shifted"}


def test_patches_of_a_box_are_those_it_touches():
    boxes = np.array([[0, 0, 14, 14], [13, 14, 15, 42], [0, 0, 0, 0], [98, 98, 112, 112]])
    masks = patches_of_boxes(boxes, (112, 112), (8, 8))
    assert [np.argwhere(m).tolist() for m in masks] == [
        [[0, 0]],
        [[1, 0], [1, 1], [2, 0], [2, 1]],
        [],
        [[7, 7]],
    ]


def test_without_patches_later_queries_are_made_anew_and_the_answer_with_them(looked):
    model, clip, _ = looked
    encoded = EncodedClip(model, clip, load_tokenizer("tiny"), "question")
    hidden = np.zeros((4, 8, 8), bool)
    hidden[1, 2:5, 1:6] = True
    found, whole = encoded.without(hidden), encoded.gaze()
    assert found.look.maps[1][..., hidden[1]].max() == 0 and found.look.maps[0][..., hidden[1]].min() > 0
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(found.look.queries, whole.queries)]
    assert same == [True, True, False, False], "a frame's query comes from the frames before it"
    assert [found.loss_before, found.loss_masked] == pytest.approx(
        encoded.masked_losses(np.stack([hidden & False, hidden])), abs=1e-6
    )
    cache = encoded.cache.hide(torch.from_numpy(hidden)[None].flatten(2))
    inputs = Collator(encoded.tokenizer, "question")([clip]).inputs()
    with torch.no_grad():
        rerouted = model(**inputs | dict(frames=cache), mode="autoregressive")
    assert found.loss_rerouted == pytest.approx(rerouted.loss.item(), abs=1e-5)
    assert encoded.gaze() is whole, "the clip itself stays as it was"
    nothing = encoded.without(hidden & False)
    assert nothing.loss_rerouted == pytest.approx(nothing.loss_before, abs=1e-6)
    assert np.allclose(nothing.look.maps, whole.maps, atol=1e-6) and nothing.look.caption == whole.caption


def test_what_is_hidden_altogether_has_no_fixation(looked):
    hidden = np.zeros((4, 8, 8), bool)
    hidden[2] = True
    look = EncodedClip(looked[0], looked[1], load_tokenizer("tiny"), "question").without(hidden).look
    assert np.isnan(look.fixations()).any(axis=1).tolist() == [False, False, True, False]
    assert look.map("value")[2].max() == 0 and np.isfinite(look.map("value")).all()


@pytest.mark.parametrize("task", ["caption", "question"])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_modes_are_the_same_for_as_many_frames_as_passes_have_reached(passes, task):
    config = tiny(frames=4, fine_passes=passes)
    model = steering(build_model(config, pretrained=False)).eval()
    model.first_query.data.mul_(1.1)  # at the start it is the static one
    clip = open_dataset(config, "validation")[0]
    encoded = EncodedClip(model, clip, load_tokenizer("tiny"), task)
    for one, other in (("parallel", "autoregressive"), ("static", "parallel"), ("parallel", "parallel")):
        a, b = (encoded.queries(mode)[0] for mode in (one, other))
        same = same_at_first(model, task == "question", 4, one, other)
        assert torch.allclose(a[:same], b[:same], atol=1e-4)
        assert same == 4 or not torch.allclose(a[same], b[same], atol=1e-3)
    static = build_model(tiny("static", frames=4), pretrained=False)
    assert same_at_first(static, False, 4, "parallel", "autoregressive") == 4
    assert steered(model, "question", "parallel") and not steered(static, "question", "parallel")
    assert not steered(model, "question", "static") and not steered(model, "caption", "parallel")


def test_an_unusual_clip_is_far_from_known_ones_and_a_usual_one_is_not(looked):
    model, clip, _ = looked
    dataset = open_dataset(tiny(frames=4), "train")
    known = [EncodedClip(model, dataset[i]).features() for i in range(12)]
    noise = np.random.default_rng(0).integers(0, 255, clip.frames.shape).astype(np.uint8)
    usual, each = unusual(EncodedClip(model, clip).features(), known)
    far, _ = unusual(EncodedClip(model, dataclasses.replace(clip, frames=noise)).features(), known)
    assert len(each) == 12 and 0.5 < np.median(each) < 1.8
    assert usual < 1.5 * max(each) and far > 2 * max(each)
    features = np.concatenate(known)
    mine = (EncodedClip(model, clip).features() - features.mean(0)) / features.std(0)
    assert usual == pytest.approx(np.sqrt(np.mean(mine**2)), rel=1e-4)
    with pytest.raises(ValueError, match="takes three"):
        unusual(known[0], known[1:3])
