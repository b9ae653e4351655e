"""Every overlay shows attention on the pixels it was paid to: weights are set so that a query must attend to
a red patch."""

from html import unescape

import numpy as np
import pytest
import torch
from conftest import drawn, pixels, tiny
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from fvlm import ConfigError, build_model
from fvlm.data import Clip
from fvlm.data.video import read_video
from fvlm.gaze.attention import gaze
from fvlm.plots.gaze import (
    causal_figure,
    colour_table,
    film_pictures,
    gaze_picture,
    gaze_player,
    gaze_strip,
    gaze_title,
    layers_figure,
    painted,
    save_gaze,
)
from fvlm.plots.watching import stream_player
from fvlm.watching import Glimpse

PATCHES = [(1, 6), (5, 2), (6, 7)]  # row and column of the red patch in each frame


@pytest.fixture(scope="module")
def drawn_to_red():
    """A foveated model whose every head of every layer attends to red patches and to nothing else."""
    model = build_model(tiny(frames=3), pretrained=False)
    dinov2, width = model.vision.dinov2, 384
    red = torch.tensor([1.0, -1.0]).repeat(width // 2)  # two patterns that are orthogonal in every head
    other = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(width // 4)
    with torch.no_grad():
        embeddings = dinov2.embeddings
        for p in (embeddings.patch_embeddings.projection.weight, embeddings.position_embeddings):
            p.zero_()
        embeddings.patch_embeddings.projection.weight[:, 0] = (
            red[:, None, None] / 14
        )  # red pixels: +2.2, black ones: -2.1
        embeddings.patch_embeddings.projection.bias.copy_(0.1 * other + 2.1 * 14 * red)
        embeddings.cls_token.copy_(other)
        for layer in dinov2.encoder.layer:
            for p in (layer.layer_scale1.lambda1, layer.layer_scale2.lambda1):
                p.zero_()  # states stay as they enter
            for projection in (layer.attention.q_proj, layer.attention.k_proj):
                projection.weight.copy_(3 * torch.eye(width))
                projection.bias.zero_()
        for name in ("static_query", "first_query"):
            getattr(model, name).copy_(red)
        model.to_query.weight.zero_()
    return model


def clip_of(kind: str, folder) -> Clip:
    """Three black frames with one red patch each: square ones, wide ones, or a wide video that is squeezed to
    a square."""
    if kind == "video":
        path = folder / "wide.mp4"
        write_red_video(path)
        frames = read_video(path, 3, 112)[0].transpose(0, 3, 1, 2)
        return Clip(np.where(frames > 128, 255, 0).astype(np.uint8), "red", "wide")
    frames = np.zeros((3, 3, 112, 112 if kind == "square" else 168), np.uint8)
    for t, (row, column) in enumerate(PATCHES):
        frames[t, 0, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = 255
    return Clip(frames, "red", kind)


def write_red_video(path):
    """A video of 320 x 160 pixels: an eighth of it is 40 pixels wide and 20 high."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=3)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 160, "yuv444p", 8_000_000
        stream.codec_context.pix_fmt = "yuv420p"
        for row, column in PATCHES:
            picture = np.zeros((160, 320, 3), np.uint8)
            picture[20 * row : 20 * row + 20, 40 * column : 40 * column + 40] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(params=["square", "wide", "video"])
def look(request, drawn_to_red, tmp_path):
    return gaze(drawn_to_red, clip_of(request.param, tmp_path))


def pixels_of(row, column, scale=1):
    """First and last row, first and last column of a patch."""
    return tuple(scale * 14 * i + end for i in (row, column) for end in (0, scale * 14 - 1))


def bounds(mask):
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max(), columns.min(), columns.max()


def in_heat_map(heat):
    """The pixels that the brightest cell of a heat map trace covers; pixel i reaches from i - 0.5 to i +
    0.5."""
    z = np.array(heat.z, float)
    row, column = np.unravel_index(z.argmax(), z.shape)
    assert z[row, column] > 0.99 * z.sum()
    top, left = heat.y0 + (row - 0.5) * heat.dy, heat.x0 + (column - 0.5) * heat.dx
    return tuple(round(v) for v in (top + 0.5, top + heat.dy - 0.5, left + 0.5, left + heat.dx - 0.5))


def test_the_model_attends_to_the_red_patch(look):
    for t, (row, column) in enumerate(PATCHES):
        assert (look.maps[t, :, :, row, column] > 0.99).all(), "in every layer and head"
    assert np.allclose(look.peaks(), [(14 * c + 7, 14 * r + 7) for r, c in PATCHES])
    assert np.allclose(look.fixations(), look.peaks(), atol=1)


def test_the_strip_shows_it_there(look):
    figure = gaze_strip(look)
    assert all(figure.layout[f"yaxis{n}"].scaleanchor == f"x{n}" for n in range(2, 7)), (
        "square pixels in every frame"
    )
    images, heats = ([d for d in figure.data if d.type == kind] for kind in ("image", "heatmap"))
    for t, patch in enumerate(PATCHES):
        assert in_heat_map(heats[t]) == pixels_of(*patch) == bounds(pixels(images[t])[..., 0] > 128)


VERDANA = dict.fromkeys("fijlt .,'!", 0.395) | dict.fromkeys("mWw@", 1) | dict.fromkeys("rI:;", 0.455)


def pixels_wide(line: str) -> float:
    """At most, of a line of a title: Verdana is the widest font that Plotly asks for."""
    other = {True: 0.79, False: 0.637}
    ems = (VERDANA.get(c, 1 if c > "\xff" else other[c.isupper()]) for c in unescape(line))
    return 13 * sum(ems)


ANY_LENGTH = [
    "short",
    gaze_title("Which shape is red? " * 9, "A black ring moves down. " * 9, "film.mp4", "T-T_8f_fov_seed0"),
    "W" * 300,
    "象" * 300,
    "象の群れが川を渡る " * 30,
    "<b>" * 100,
]


@pytest.mark.parametrize("title", ANY_LENGTH)
def test_every_title_fits_its_figure_below_the_toolbar_and_takes_nothing_from_the_frames(look, title):
    asked, looks = [None, title, "short"], [look.of_frames(np.array([t])) for t in range(3)]
    glimpses = [Glimpse(float(t), None, one, None, asked[t]) for t, one in enumerate(looks)]
    drawings = dict(
        player=lambda title: gaze_player(look, title=title),
        strip=lambda title: gaze_strip(look, title=title),
        one=lambda title: gaze_strip(looks[0], title=title),
        many=lambda title: gaze_strip(look.of_frames(np.arange(3).repeat(2)), title=title),
        stream=lambda title: stream_player(glimpses, title),
    )
    for name, draw in drawings.items():
        figure, bare = draw(title), draw("").layout
        layout = figure.layout
        titles = [layout.title.text] + [frame.layout.title.text for frame in figure.frames]
        titles = [text.split("<br>") for text in titles if text]
        assert all(pixels_wide(line) + 28 <= (layout.width or 650) for lines in titles for line in lines), (
            name
        )
        most = max(map(len, titles))
        assert layout.title.pad.t >= 34, "Plotly's toolbar reaches so far down"
        assert layout.margin.t >= layout.title.pad.t + 17 * most, name
        assert layout.height - layout.margin.t == bare.height - bare.margin.t, f"{name}: frames as large"


def test_a_title_says_whose_words_are_whose_and_of_what():
    assert gaze_title("Which?", "a red\n ring", "film.mp4", "T-T_seed0") == (
        "asked: Which?\nsays: a red ring\nfilm.mp4, T-T_seed0"
    )
    assert gaze_title(None, "", "", "T-T_seed0") == "says: (nothing)\nT-T_seed0"


@pytest.mark.parametrize(
    "text", ["asked", "asked\nsays: this\ntrue: that", "says: " + "a large red circle. " * 40]
)
def test_a_strip_s_title_has_room_above_its_frames(look, text):
    """However long: its lines, a badge's before them, and the names of frames below."""
    figure = gaze_strip(look, title=text)
    layout = figure.layout
    lines = layout.title.text.split("<br>")
    assert lines[0].startswith(text[:5]) and max(map(len, lines)) <= 88 and len(lines) <= 3
    assert layout.title.y == 1 and layout.title.yanchor == "top"
    assert max(map(pixels_wide, lines)) <= layout.width - 28
    room = layout.margin.t - layout.title.pad.t - 22  # names of frames stand right above them
    assert room >= 1.3 * layout.title.font.size * (len(lines) + 1)
    frames = layout.height - layout.margin.t - layout.margin.b
    bare = gaze_strip(look).layout
    assert frames == bare.height - bare.margin.t - bare.margin.b, "a title takes nothing from the frames"


def test_the_picture_shows_it_there(look):
    height, width = look.frames.shape[2:]
    picture = np.asarray(gaze_picture(look, scale=1)).astype(int)
    for t, patch in enumerate(PATCHES):
        lit = picture[height + 4 :, t * (width + 4) : t * (width + 4) + width]
        assert bounds(lit.sum(-1) > 100) == pixels_of(*patch)


def test_the_player_shows_it_there(look):
    boxes = np.array(
        [[[0, 0, 10, 20], [14 * c, 14 * r, 14 * c + 14, 14 * r + 14], [0, 0, 0, 0]] for r, c in PATCHES]
    )
    figure = gaze_player(look, boxes, target=1)
    for t, patch in enumerate(PATCHES):
        image, heat, path, _, others, target = figure.frames[t].data
        assert (min(target.y[:5]) + 0.5, max(target.y[:5]) - 0.5) == pixels_of(*patch)[:2]
        assert len(others.x) == 6, "one other box; the empty one is not drawn"
        assert in_heat_map(heat) == pixels_of(*patch) == bounds(pixels(image)[..., 0] > 128)
        assert np.allclose([path.x[-1], path.y[-1]], [14 * patch[1] + 6.5, 14 * patch[0] + 6.5], atol=1)
        assert len(path.x) == t + 1


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_the_films_show_it_there_with_all_that_was_chosen(look, kind, tmp_path):
    boxes = np.array([[[0, 0, 10, 20], [14 * c, 14 * r, 14 * c + 14, 14 * r + 14]] for r, c in PATCHES])
    chosen = dict(opacity=0.8, scale="Inferno", limits=[(0.0, 2.0)] * 3)
    path = save_gaze(look, tmp_path / f"new/gaze.{kind}", boxes, 1, "Which shape is red? circle", **chosen)
    if kind == "gif":
        film = Image.open(path)
        frames = [np.asarray(film.convert("RGB")) for t in range(film.n_frames) if film.seek(t) is None]
    else:
        import av

        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 3
    times = 336 // max(look.frames.shape[2:]) or 1
    high, wide = (times * side for side in look.frames.shape[2:])
    for t, (row, column) in enumerate(PATCHES):
        shown = frames[t][-high:, :wide].astype(int)
        wanted = painted(look.frames[t], look.map()[t], (0.0, 2.0), "Inferno", 0.8)
        wanted = wanted.repeat(times, axis=0).repeat(times, axis=1).astype(int)
        off = np.abs(shown - wanted).sum(axis=2) > 60  # but for boxes, fixation and the patch's edge
        r, c = (slice(14 * times * i, 14 * times * (i + 1)) for i in (row, column))
        assert off[r, c].any(), "the target's box and the fixation"
        off[r, c] = off[: 21 * times, : 11 * times] = False
        assert off.mean() < 0.002
        assert (shown[: 20 * times, 0].min(axis=1) > 200).mean() > 0.9, "the other object's box"
        title, bar = (
            frames[t][: -high - 20, :300],
            frames[t][-high + 25 : -25, wide + 10 : wide + 28].astype(int),
        )
        assert (title.min(axis=2) < 100).any(), "there is a text above"
        scale = np.frombuffer(colour_table("Inferno"), np.uint8).reshape(256, 3)
        for end, colour in ((0, scale[-1]), (-1, scale[0])):
            assert np.abs(bar[end].mean(axis=0) - colour).max() < 40  # of 256, after GIF's few colours


@pytest.mark.parametrize("title", ["w" * 70, "What is written on the i " * 20, "", "象" * 60, "short"])
def test_a_film_s_title_stays_on_its_picture(look, title):
    (first, *_) = film_pictures(look, title=title)
    (plain, *_) = film_pictures(look)
    assert first.width == plain.width and plain.height <= first.height <= plain.height + 3 * 22
    above = np.asarray(first.convert("L"))[: first.height - plain.height]
    assert (above[:, -4:] > 200).all(), "nothing is cut off at the edge"
    assert (above < 100).any() == bool(title)


def test_a_painted_pixel_is_its_patch_s_weight_in_the_scale_s_colours(look):
    maps, (height, width) = look.map(), look.frames.shape[2:]
    lit = painted(look.frames[1], maps[1], (0.1, 0.9), "Viridis", 0.25)
    table = np.array([unlabel_rgb(c) for c in sample_colorscale("Viridis", np.linspace(0, 1, 256).tolist())])
    for y, x in ((0, 0), (14 * 5 + 3, 14 * 2 + 13), (height - 1, width - 1), (14 * 5, 14 * 2)):
        share = min(max((maps[1, y // 14, x // 14] - 0.1) / 0.8, 0), 1)
        wanted = 0.75 * look.frames[1, :, y, x] + 0.25 * table[round(255 * share)].round()
        assert np.abs(lit[y, x] - wanted).max() <= 1


def test_the_explorer_s_view_shows_it_there_and_clicks_hit_it(look):
    from fvlm.widgets.canvas import FrameView

    view, clicked = FrameView(), []
    view.on_patch(lambda *patch: clicked.append(patch))
    view.on_region(lambda region, tool: clicked.append((region, tool)))
    clip = Clip(look.frames, "red", "x")
    for t, patch in enumerate(PATCHES):
        view.show_look(look, t, clip, 0.5, "Viridis")
        seen = drawn(view)
        assert np.unravel_index(seen["map"].argmax(), seen["map"].shape) == patch and view.low == 0
        assert np.array_equal(seen["frame"], look.frames[t].transpose(1, 2, 0))
        assert bounds(seen["frame"][..., 0] > 128) == pixels_of(*patch)
        middle = [14 * patch[1] + 7, 14 * patch[0] + 7]
        assert np.allclose(seen["path"][-1], middle, atol=1) and len(seen["path"]) == t + 1
        view._handle_custom_msg(dict(patch=list(patch)), [])
    view._handle_custom_msg(dict(region=[1, 2, 3, 4], tool="keep"), [])
    assert clicked == [*PATCHES, ((1, 2, 3, 4), "keep")]


def test_a_page_opens_without_kernel_or_network_and_shows_any_text(look, tmp_path):
    path = save_gaze(look, tmp_path / "gaze.html", title="<script>alert(1)</script> 象" + " long" * 500)
    page = path.read_text()
    assert "Plotly.newPlot" in page and "cdn.plot.ly" not in page.split("Plotly.newPlot")[-1]
    assert "<script>alert" not in page and 10 < page.split("Plotly.newPlot")[-1].count("long") < 60
    with pytest.raises(ConfigError, match=r"\.gif, \.mp4, \.html"):
        save_gaze(look, tmp_path / "gaze.avi")


def test_figures_of_many_clips_show_their_numbers():
    hits = np.array([[0.1, 0.9], [0.5, 0.3]])
    (heat,) = layers_figure(hits, chance=0.05).data
    assert np.array_equal(heat.z, hits) and heat.zmin == 0.05
    changes = [
        ("most attended", 1, 0.2),
        ("most attended", 1, 0.4),
        ("random", 1, 0.0),
        ("random", 4, 0.1),
        ("shifted", 0, 9),
    ]
    rows = [
        dict(clip_id=str(i % 2), what=what, patches=n, loss=1, change=change)
        for i, (what, n, change) in enumerate(changes)
    ]
    attended, random = causal_figure(rows).data
    assert attended.y[0] == pytest.approx(0.3) and list(random.x) == [1, 4] and list(random.y) == [0, 0.1]


def test_the_bars_of_hidden_patches_are_over_clips_not_over_draws():
    """Twenty clips that are all alike, each with four draws that differ."""
    draws = [
        dict(clip_id=str(clip), what="random", patches=4, change=change)
        for clip in range(20)
        for change in (-0.3, -0.1, 0.1, 0.3)
    ]
    attended = [
        dict(clip_id=str(clip), what="most attended", patches=4, change=0.1 * clip) for clip in range(20)
    ]
    shown, random = causal_figure(draws + attended).data
    assert abs(random.y[0]) < 1e-9 and max(random.error_y.array[0], random.error_y.arrayminus[0]) < 1e-9
    assert shown.error_y.array[0] > 0.5
