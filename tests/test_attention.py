import numpy as np
import pytest
import torch
from conftest import steering, tiny

from fvlm import build_model
from fvlm.attention import gaze
from fvlm.data import open_dataset
from fvlm.plots import gaze_picture, gaze_strip


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
        weights = [w.squeeze(-2) for w in seen if w.dim() == 5]  # of the last pass: (1, t, H, N) per layer
        layers = look.maps.shape[1]
        if mode == "autoregressive":
            inside = torch.cat([torch.stack(weights[i : i + layers], 2) for i in range(0, len(weights), layers)], dim=1)
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
