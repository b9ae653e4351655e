"""The explorer without a browser: what it shows follows from the gaze, quickly, whatever is chosen. See
test_browser.py too."""

import asyncio
import html
import io
import json
import time
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from conftest import drawn, tiny, write_video
from ipywidgets import Widget
from PIL import Image

from fvlm import ConfigError, RunConfig, load_run, train
from fvlm.data import Clip
from fvlm.data.video import read_video
from fvlm.gaze.attention import EncodedClip, unusual
from fvlm.gaze.scores import askable
from fvlm.training.progress import Stopped
from fvlm.widgets.gaze import Explorer, _Choice
from fvlm.widgets.live import train_live

SHORT = dict(task="question", steps=1, eval_every=1, eval_samples=2, effective_batch=2, frames=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    return {arch: train(tiny(arch, out=out, **SHORT)) for arch in ("foveated", "static", "meanpool")}


@pytest.fixture
def explorer(runs, tmp_path):
    return Explorer([*runs.values()], clips=3, folder=tmp_path / "exports")


def encoded_clip(run, number: int = 0) -> EncodedClip:
    return EncodedClip(run.model, run.validation_clips(number + 1)[number], run.tokenizer, run.config.task)


def curve(explorer) -> np.ndarray:
    return np.frombuffer(explorer.strip.curve, "<f4")


def test_it_shows_the_gaze_of_what_is_chosen(explorer, runs):
    for clip, mode, frame, layer, head in (
        (0, "autoregressive", 1, None, None),
        (2, "parallel", 3, 1, None),
        (1, "static", 2, 3, 4),
    ):
        explorer.clip.value, explorer.mode.value, explorer.frame.value = clip, mode, frame
        explorer.map.value, explorer.head.value = "value" if layer is None else layer, head or -1
        encoded = encoded_clip(runs["foveated"], clip)
        look = encoded.gaze(mode)
        which = dict(summary="value") if layer is None else dict(layer=layer, head=head)
        seen, view = drawn(explorer._view), explorer._view
        assert np.allclose(seen["map"], look.map(**which)[frame - 1], atol=1e-6)
        assert np.array_equal(seen["frame"], look.frames[frame - 1].transpose(1, 2, 0))
        assert np.allclose(seen["path"], look.fixations(**which)[:frame], atol=1e-3)
        assert np.allclose(curve(explorer), look.entropy(**which), atol=1e-5)
        assert view.target == encoded.clip.target and view.boxes == encoded.clip.boxes[frame - 1].tolist()
        strip = np.frombuffer(explorer.strip.maps, "<f4").reshape(-1, *look.maps.shape[3:])
        assert np.allclose(strip, look.map(**which), atol=1e-6), "the filmstrip shows the same maps"
        assert encoded.clip.question in explorer.text.value and encoded.clip.answer in explorer.text.value


def test_a_run_that_has_learned_nothing_says_so_in_red(runs, monkeypatch, tmp_path):
    from fvlm.training.learned import BADGE_COLOUR, Verdict, verdict

    assert verdict(runs["foveated"]).learned is False, "one step"
    shown = Explorer([runs["foveated"], runs["static"]], clips=1, folder=tmp_path)
    assert BADGE_COLOUR in shown.badge.value and "has learned nothing" in shown.badge.value
    assert "the question alone gives" in shown.badge.value
    monkeypatch.setattr("fvlm.widgets.gaze.verdict", lambda run: Verdict(True, "far under"))
    shown.run.value = shown.run.options[1]
    assert shown.badge.value == ""
    shown.run.value = shown.run.options[0]
    assert "has learned nothing" in shown.badge.value, "each has its own"


def test_colours_run_per_clip_per_frame_or_stay_and_all_columns_share_them(explorer):
    explorer.frame.value = 2
    maps = explorer.look.map()
    assert (explorer._view.low, explorer._view.high) == (0, pytest.approx(maps.max()))
    explorer.range.value = "per frame"
    assert explorer._view.high == pytest.approx(maps[1].max()) == explorer.bar.high
    strip = np.frombuffer(explorer.strip.limits, "<f4").reshape(-1, 2)
    assert np.allclose(strip, [(0, m.max()) for m in maps])

    explorer.bar._handle_custom_msg(dict(limits=[0.001, 0.01]), [])
    assert explorer.range.value == "fixed" and (explorer._view.low, explorer._view.high) == (0.001, 0.01)
    explorer.clip.value, explorer.map.value = 1, "last"
    assert (explorer._view.low, explorer._view.high) == (0.001, 0.01), "another clip and map leave them"

    explorer.tabs.selected_index, explorer.range.value = 2, "per clip"
    highest = max(seen.maps.max() for seen in explorer._on_screen)
    assert len(explorer._on_screen) == 3
    for column in explorer._columns:
        assert column.view.high == pytest.approx(highest) == explorer.bar.high


def test_hiding_patches_brings_back_answer_loss_and_where_it_looks_instead(explorer, runs):
    encoded = encoded_clip(runs["foveated"])
    explorer.frame.value = 1
    explorer._view._handle_custom_msg(dict(patch=[3, 5]), [])
    assert drawn(explorer._view)["hidden"] == 1, "at once"
    explorer.wait()
    hidden = np.zeros((3, 8, 8), bool)
    hidden[0, 3, 5] = True
    before, after = encoded.masked_losses(np.stack([np.zeros_like(hidden), hidden]))
    assert explorer.masked_loss == pytest.approx(after, abs=1e-5)
    assert f"{before:.4f} →" in explorer.loss.value and "1 patch hidden" in explorer.loss.value

    explorer._view._handle_custom_msg(dict(region=[0, 0, 6, 8], tool="hide"), [])
    explorer.wait()
    hidden[0, :6] = True
    assert explorer.hidden.tolist() == hidden.tolist()
    found = encoded.without(hidden)
    assert np.allclose(drawn(explorer._rerouted)["map"], found.look.map()[0], atol=1e-6)
    explorer.frame.value = 3
    assert np.allclose(drawn(explorer._rerouted)["map"], found.look.map()[2], atol=1e-6), "later frames too"
    assert np.abs(found.look.map()[2] - explorer.look.map()[2]).max() > 1e-6, "it looks elsewhere"
    assert f"{found.loss_rerouted:.4f}" in explorer.loss.value
    assert (
        html.escape(found.look.caption[:78]) in explorer.loss.value
        and explorer._rerouted.layout.display == ""
    )

    explorer.everywhere.value = True
    explorer._view._handle_custom_msg(dict(region=[2, 2, 4, 5], tool="keep"), [])
    explorer.wait()
    assert "174 patches hidden" in explorer.loss.value and not explorer.hidden[:, 2:4, 2:5].any()
    explorer._view._handle_custom_msg(dict(region=[2, 2, 4, 5], tool="hide"), [])  # nothing is left to see
    explorer.wait()
    assert "192 patches hidden" in explorer.loss.value and drawn(explorer._rerouted)["map"].max() == 0
    assert len(drawn(explorer._rerouted)["path"]) == 0
    explorer.clear.click()
    explorer.wait()
    assert explorer.masked_loss == pytest.approx(before, abs=1e-5) and drawn(explorer._view)["hidden"] == 0
    assert explorer._rerouted.layout.display == "none"


def test_two_questions_side_by_side_on_one_clip_with_the_difference_of_their_maps(explorer, runs):
    run = runs["foveated"]
    questions = askable(run, run.validation_clips(1)[0])
    offered = [value for _, value in explorer.menu.options]
    assert offered == ["", *(clip.question for clip in questions)] and len(offered) > 5
    assert all(clip.answer in label for clip, (label, _) in zip(questions, explorer.menu.options[1:]))
    explorer.tabs.selected_index, explorer.frame.value = 1, 3
    other = next(clip for clip in questions if clip.target not in (-1, questions[0].target))
    explorer.second_menu.value = other.question
    encoded = encoded_clip(run)
    looks = [encoded.gaze(), encoded.asked(other).gaze()]
    for view, text, look, clip in zip(
        explorer._pair, explorer._pair_texts, looks, (questions[0], other), strict=True
    ):
        assert np.allclose(drawn(view)["map"], look.map()[2], atol=1e-6)
        assert view.target == clip.target and clip.question in text.value and clip.answer in text.value
    change = looks[1].map()[2] - looks[0].map()[2]
    view = explorer._difference
    assert np.allclose(drawn(view)["map"], change, atol=1e-6) and np.abs(change).max() > 0
    assert -view.low == view.high == pytest.approx(np.abs(looks[1].map() - looks[0].map()).max()), (
        "no change has the colour in the middle"
    )
    cls = [look.cls_mass[2].mean() for look in looks]
    moved = (np.abs(change).sum() + abs(cls[1] - cls[0])) / 2
    assert f"{moved:.1%} of the attention" in explorer._pair_note.value
    explorer.second.value = "Is it a typed one?"
    assert explorer.second_menu.value == "" and explorer._pair[1].target == -1
    explorer.second_menu.value = other.question
    explorer.mode.value = "static"
    assert "same by construction" in explorer._pair_note.value
    assert np.abs(drawn(view)["map"]).max() == 0
    explorer.clip.value = 1
    assert explorer.second.value == "" and "Choose a second" in explorer._pair_note.value


def test_every_head_of_every_layer_with_its_hits_and_a_click_enlarges_one(explorer, runs):
    clip = next(c for c in askable(runs["foveated"], runs["foveated"].validation_clips(1)[0]) if c.target > 0)
    explorer.menu.value = clip.question
    explorer.tabs.selected_index, explorer.frame.value = 3, 2
    grid, look = explorer.heads, explorer.look
    layers, heads = look.maps.shape[1:3]
    assert grid.shape == [layers, heads, 8, 8]
    assert np.allclose(np.frombuffer(grid.maps, "<f4").reshape(grid.shape), look.maps[1], atol=1e-6)
    boxes, hits = clip.boxes[:, clip.target], np.frombuffer(grid.hits, "<f4").reshape(layers, heads)
    there = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    for layer, head in ((0, 0), (2, 5), (layers - 1, heads - 1)):
        peaks = look.peaks(layer=layer, head=head)[there]
        on = ((boxes[there, :2] <= peaks) & (peaks < boxes[there, 2:])).all(axis=1)
        assert hits[layer, head] == pytest.approx(on.mean())
    explorer.own.value = False
    assert (grid.low, grid.high) == (0, pytest.approx(look.maps.max())) and explorer.bar.high == grid.high
    explorer.range.value = "per frame"
    assert grid.high == pytest.approx(look.maps[1].max()), "all heads share it"
    grid._handle_custom_msg(dict(layer=2, head=5), [])
    assert (explorer.map.value, explorer.head.value, explorer.tabs.selected_index) == (2, 5, 0)
    assert np.allclose(drawn(explorer._view)["map"], look.map(layer=2, head=5)[1], atol=1e-6)


def test_a_zoom_stays_from_frame_to_frame_and_is_the_same_in_all_views(explorer):
    explorer._view.zoom = [2, 2, 6, 6]
    explorer.frame.value = 3
    explorer.clip.value = 1
    assert explorer._view.zoom == [2, 2, 6, 6]
    explorer.tabs.selected_index = 2
    assert all(column.view.zoom == [2, 2, 6, 6] for column in explorer._columns)


def test_clips_go_by_their_questions_where_a_run_answers_them_and_by_their_captions_where_none_does(runs):
    clip = runs["foveated"].validation_clips(1)[0]
    for task, told in (("question", clip.question), ("caption", clip.caption)):
        run = load_run(runs["foveated"].folder)
        run.config = replace(run.config, task=task)
        explorer = Explorer([run], clips=1)
        ((label, _),) = explorer.clip.options
        assert label == f"1: {told}"[:90]
    told = "frame 1 gets the same query in autoregressive and parallel mode by construction"
    assert told in explorer.note.value, "of a caption's run; a question moves the first query too"


def test_modes_that_are_the_same_by_construction_say_so(explorer, runs):
    assert (
        explorer.note.value == "" and explorer._same(explorer.run.value, "parallel", "autoregressive") == ""
    )
    explorer.run.value = next(name for name in explorer.runs if "_sta_" in name)
    assert "all modes are the same by construction" in explorer.note.value
    explorer.tabs.selected_index = 2
    explorer._columns[2].mode.value = "autoregressive"
    assert "Columns 1 and 3: the same run in the same mode" in explorer._columns_note.value


@pytest.mark.alone
@pytest.mark.parametrize("frames", [3, 64, 256])
def test_it_reacts_at_once_from_a_cached_gaze(explorer, runs, frames):
    def seconds(control, value):
        start = time.perf_counter()
        control.value = value
        return time.perf_counter() - start

    clip = explorer._clips[0].clip
    shown = [
        replace(clip, frames=np.resize(clip.frames, (frames, *clip.frames.shape[1:])), boxes=None, target=-1)
    ]
    explorer._clips.append(_Choice(4, shown[0]))
    explorer.clip.options = explorer._clip_labels()
    explorer.mode.value = "parallel"
    explorer.clip.value = 3
    explorer.wait()
    times = [seconds(explorer.frame, v) for v in (2, 3, frames, 1)] + [
        seconds(explorer.map, v) for v in (1, "last", 2)
    ]
    times += [seconds(explorer.head, 3), seconds(explorer.opacity, 0.2), seconds(explorer.scale, "Hot")]
    times += [seconds(explorer.range, "per frame")]
    times += [seconds(explorer.mode, mode) for mode in ("static", "parallel")][1:]
    start = time.perf_counter()
    explorer.drag((0, 0, 4, 4))
    times.append(time.perf_counter() - start)
    assert np.median(times) < 0.15 and max(times) < 0.3, times
    explorer.wait()


def test_side_by_side_the_same_clip_and_frame(explorer, runs):
    explorer.tabs.selected_index = 2
    explorer.frame.value = 3
    names = [column.run.value.partition("/")[2] for column in explorer._columns]
    assert names == [runs[a].folder.name for a in ("foveated", "static", "foveated")]
    for column, arch in zip(explorer._columns, ("foveated", "static", "foveated")):
        look = encoded_clip(runs[arch]).gaze(column.mode.value)
        assert np.allclose(drawn(column.view)["map"], look.map()[2], atol=1e-6)
        assert html.escape(look.caption) in column.text.value


def test_own_videos_by_path_and_by_upload_wait_for_a_question(explorer, tmp_path):
    path = write_video(tmp_path / "my <b>video.mp4", count=24)
    explorer.path.value = str(path)
    assert explorer.clip.label.endswith("my <b>video.mp4")
    assert explorer.look is None and explorer._view.map == b"", "no question is made up, so there is no gaze"
    assert "type a question" in explorer.message.value
    assert drawn(replace_map(explorer._view))["frame"].shape == (112, 112, 3), "but the frame is shown"
    explorer.export.click()
    assert "no gaze to export" in explorer.message.value
    explorer.question.value = "Which shape is red?"
    explorer.wait()
    assert "Which shape is red?" in explorer.text.value and "not known" in explorer.text.value
    assert "model's own text" in explorer.loss.value and explorer.look.frames.shape == (3, 3, 112, 112)
    content = memoryview(path.read_bytes())
    file = dict(
        name="up.mp4", type="video/mp4", size=len(content), content=content, last_modified=datetime.now()
    )
    explorer.upload.value = [file]
    assert explorer.clip.label.endswith("up.mp4") and len(explorer.clip.options) == 5
    assert explorer.question.value == "" and explorer.look is None
    explorer.path.value = "/nowhere/<i>x.mp4"
    assert "unreadable" in explorer.message.value and "<i>x" not in explorer.message.value


def replace_map(view):
    """A view without a map as `drawn` reads one."""
    view.map = np.zeros(view.grid, "<f4").tobytes()
    return view


@pytest.mark.parametrize(("size", "bars"), [((160, 80), (28, 84, 0, 112)), ((60, 120), (0, 112, 28, 84))])
def test_own_videos_keep_their_proportions_and_tell_how_far_they_are(explorer, runs, tmp_path, size, bars):
    path = write_video(tmp_path / "own.mp4", count=24, size=size)
    explorer.path.value = str(path)
    explorer.question.value = "Which shape is red?"
    top, bottom, left, right = bars
    frames = explorer.look.frames
    assert (frames[:, :, :top] == 0).all() and (frames[:, :, bottom:] == 0).all()
    assert (frames[..., :left] == 0).all() and (frames[..., right:] == 0).all()
    squeezed = read_video(str(path), 3, 112)[0].transpose(0, 3, 1, 2)
    inside = frames[:, :, top:bottom, left:right].astype(int)
    same = squeezed[:, :, ::2][:, :, : bottom - top] if size[0] > size[1] else squeezed[..., ::2]
    assert np.abs(inside - same)[..., 20:, 30:].mean() < 3, "the whole picture, in half of one side"
    assert f"{size[0]} × {size[1]}, in its own proportions" in explorer.message.value
    known = [encoded_clip(runs["foveated"], i).features() for i in range(6)]
    own = EncodedClip(runs["foveated"].model, Clip(frames, "", "x")).features()
    far, each = unusual(own, known)
    assert f"{far:.1f} standard deviations" in explorer.message.value
    assert f"{min(each):.1f} to {max(each):.1f}" in explorer.message.value


def test_a_run_that_was_trained_on_squeezed_videos_gets_them_squeezed(explorer, tmp_path):
    path = write_video(tmp_path / "own.mp4", count=24, size=(160, 80))
    run = explorer._home
    kept, run.__dict__["config"] = run.config, replace(run.config)
    object.__setattr__(run.config, "dataset", str(tmp_path))
    try:
        clip = (choice := _Choice(9, None, str(path), "own.mp4")).fitted(run)
        assert np.array_equal(clip.frames, read_video(str(path), 3, 112)[0].transpose(0, 3, 1, 2))
        assert "squeezed to a square, as the videos were" in choice.fit(run)
    finally:
        run.__dict__["config"] = kept


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "", "象の群れが川を渡る", "very long " * 1000])
def test_texts_show_as_text(explorer, text):
    explorer._clips[1].clip = replace(explorer._clips[1].clip, answer=text, question=text or "?")
    explorer.clip.value = 1
    explorer.look.caption = text
    explorer._write_text()
    assert "<script" not in explorer.text.value and "max-height" in explorer.text.value
    assert (text.replace("<", "&lt;").replace(">", "&gt;") or "(nothing)") in explorer.text.value


def test_exports_are_a_download_and_a_stored_notebook_keeps_a_picture(explorer):
    explorer.opacity.value = 0.3
    for kind in ("gif", "mp4", "html"):
        explorer.format.value = kind
        explorer.export.click()
        path = explorer.folder / explorer.download.name
        assert path.suffix == f".{kind}" and explorer.download.content == path.read_bytes()
    page = path.read_text()
    drawn_page = page.split("Plotly.newPlot")[-1]
    assert '"opacity":0.3' in drawn_page and explorer.encoded(explorer.run.value).clip.question in drawn_page
    bundle = explorer._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("frames", [3, 256])
def test_what_a_stored_notebook_keeps_of_the_explorer_is_small(runs, tmp_path, frames):
    """Every state that the widgets ever send, as papermill and JupyterLab store it, and the picture: of 256
    frames, after every tab, an upload and an export."""
    Widget.close_all()
    explorer = Explorer([runs["foveated"], runs["static"]], clips=1, folder=tmp_path)
    clip = explorer._clips[0].clip
    noise = np.random.default_rng(0).integers(0, 255, (frames, 3, 112, 112), np.uint8)
    explorer._clips.append(_Choice(2, replace(clip, frames=noise, boxes=None, target=-1)))
    explorer.clip.options = explorer._clip_labels()
    explorer.clip.value = 1
    for tab in (1, 2, 3, 0):
        explorer.tabs.selected_index = tab
        explorer.frame.value = frames
    explorer.format.value = "mp4"
    explorer.export.click()
    assert len(explorer.download.content) > 1000 and len(explorer.strip.maps) == frames * 64 * 4
    content = memoryview(write_video(tmp_path / "up.mp4", count=24).read_bytes())
    file = dict(name="up.mp4", type="video/mp4", size=len(content), content=content)
    explorer.upload.value = [file | dict(last_modified=datetime.now())]
    assert explorer.upload.value == () and explorer.clip.label.endswith("up.mp4")
    explorer.clip.value = 1
    explorer.wait()
    states = Widget.get_manager_state()["state"].values()
    assert sum(len(json.dumps(state)) for state in states) < 1e6
    picture = explorer._repr_mimebundle_()["image/png"]
    assert len(picture) * 4 / 3 < 1e6 and max(Image.open(io.BytesIO(picture)).size) <= 1200


def test_a_view_that_opens_is_told_what_is_not_in_the_state(explorer, monkeypatch):
    sent, view = [], explorer._view
    monkeypatch.setattr(view, "send", lambda content, buffers: sent.append((content["data"], buffers)))
    view._handle_custom_msg(dict(ask=True), [])
    assert dict(zip(*sent[0])) == dict(picture=view.picture, map=view.map)
    assert not {"picture", "map"} & set(view.get_state()) and view.picture and view.map
    sent.clear()
    explorer.frame.value = 2
    assert len(sent) == 1 and set(sent[0][0]) == {"picture", "map"}, "what changes comes in one message"
    explorer.opacity.value = 0.1
    assert len(sent) == 1, "and what does not change, not at all"
    monkeypatch.setattr(explorer.bar, "send", lambda *_: sent.append("the bar has nothing to send"))
    explorer.scale.value, explorer.range.value = "Hot", "per frame"
    assert "the bar has nothing to send" not in sent


def test_a_run_without_queries_is_refused(runs):
    with pytest.raises(ConfigError, match="foveated or static"):
        Explorer(runs["meanpool"])


@pytest.mark.slow
def test_the_live_curve_is_one_output_that_ends_as_the_last_figure():
    """Run by a real kernel: how often a figure shows itself is decided there."""
    import nbformat
    from nbclient import NotebookClient

    code = (
        "from fvlm import RunConfig\nfrom fvlm.training import Progress\nfrom fvlm.widgets import LiveCurve\n"
        "curve = LiveCurve(RunConfig.from_cell('T1-T_2f_fov'), every=0)\n"
        "for step in (1, 2, 3):\n    curve.on_step(Progress(step, 3, 2.0 / step, 1.0, 0.0, []))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    (output,) = NotebookClient(notebook, timeout=120).execute().cells[0].outputs
    figure = output.data["application/vnd.plotly.v1+json"]
    assert "step 3 of 3" in figure["layout"]["title"]["text"] and len(figure["data"][0]["x"]) == 3


def test_interrupting_a_live_run_stops_it_at_a_checkpoint_and_it_goes_on(tmp_path):
    config = tiny(out=str(tmp_path), steps=6, eval_every=6, eval_samples=1, effective_batch=1, features=False)

    async def interrupted():
        training = asyncio.ensure_future(train_live(config))
        while not (config.folder / "progress.json").exists():
            await asyncio.sleep(0.01)
        training.cancel()
        await training

    with pytest.raises(Stopped, match="goes on from step"):
        asyncio.run(interrupted())
    assert list((config.folder / "checkpoint").glob("step-*"))
    assert asyncio.run(train_live(config)).finished


def test_a_finished_run_is_said_to_be_and_shows_its_curve_and_another_parameter_is_another_run(
    runs, capsys, monkeypatch
):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    done = runs["foveated"]
    run = asyncio.run(train_live(done.config))
    assert run.folder == done.folder and f"already trained: {run.folder}" in capsys.readouterr().out
    (figure,) = [data["application/vnd.plotly.v1+json"] for data in shown]
    assert "already trained" in figure["layout"]["title"]["text"] and figure["data"]
    other = asyncio.run(train_live(replace(done.config, learning_rate=0.01)))
    assert other.folder.parent.name == "runs_learning_rate-0.01" and other.finished
    assert "learning_rate was 0.0005, is 0.01" in capsys.readouterr().out


def test_what_a_user_did_wrong_is_one_line_in_a_notebook():
    with pytest.raises(ConfigError) as wrong:
        RunConfig(llm="tiny", steps=0)
    (line,) = wrong.value._render_traceback_()
    assert line.startswith("ConfigError: steps = 0")


def test_the_most_selective_head_is_one_in_all_that_is_compared(explorer, runs, monkeypatch):
    """The second gaze's own most selective head is another, and would be compared with the first one's."""
    run = runs["foveated"]
    questions = askable(run, run.validation_clips(1)[0])
    other = next(clip for clip in questions if clip.target not in (-1, questions[0].target))
    heads = {questions[0].question: (1, 2), other.question: (3, 4)}
    looks = {question: explorer.gaze(explorer.run.value, "autoregressive", question) for question in heads}
    chosen = {id(look): heads[question] for question, look in looks.items()}
    monkeypatch.setattr(type(explorer.look), "most_selective", lambda look: chosen.get(id(look), (0, 0)))
    explorer.map.value = "selective"
    explorer.tabs.selected_index = 1
    explorer.second.value = other.question
    first, second = explorer._on_screen
    assert np.array_equal(first.maps, first.look.map(layer=1, head=2))
    assert np.array_equal(second.maps, second.look.map(layer=1, head=2))
    assert "layer 2, head 3" in explorer.note.value
    explorer.map.value = "mean"
    assert "layer 2, head 3" not in explorer.note.value


def test_a_run_on_captions_is_not_said_to_follow_a_question(runs, tmp_path):
    out = str(tmp_path / "out")
    captions = train(tiny("foveated", out=out, **SHORT | dict(task="caption")))
    asked = train(tiny("foveated", out=out, **SHORT | dict(seed=1)))
    explorer = Explorer([asked, captions], clips=2, folder=tmp_path)
    explorer.tabs.selected_index = 1
    explorer.second.value = "Which shape is green?"
    explorer.run.value = next(name for name in explorer.runs if explorer.runs[name].config.task == "caption")
    assert "goes elsewhere" not in explorer._pair_note.value and len(explorer._on_screen) == 1


def test_an_export_says_which_map_it_shows_and_is_not_another_s_file(explorer):
    paths, pictures = {}, {}
    explorer.format.value = "html"
    for value in ("mean", "value", 2):
        explorer.map.value = value
        explorer.export.click()
        paths[value] = explorer.folder / explorer.download.name
        pictures[value] = explorer._repr_mimebundle_()["image/png"]
    assert len(set(paths.values())) == 3 == len(set(pictures.values()))
    pages = {value: path.read_text().split("Plotly.newPlot")[-1] for value, path in paths.items()}
    for value, name in (("mean", "mean map"), ("value", "value map"), (2, "layer 3")):
        assert f"autoregressive, {name}" in pages[value]
    assert '"text":"share"' in pages["value"] and '"text":"share"' not in pages["mean"]
