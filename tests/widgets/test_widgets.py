"""The explorer without a browser: what it shows follows from the gaze, quickly, whatever is chosen. See
test_browser.py too."""

import asyncio
import html
import time
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from conftest import pixels, tiny, write_video

from fvlm import ConfigError, RunConfig, train
from fvlm.gaze.attention import EncodedClip
from fvlm.training.progress import Stopped
from fvlm.widgets.gaze import Explorer
from fvlm.widgets.live import train_live

SHORT = dict(task="question", steps=1, eval_every=1, eval_samples=2, effective_batch=2, frames=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    return {arch: train(tiny(arch, out=out, **SHORT)) for arch in ("foveated", "static", "meanpool")}


@pytest.fixture
def explorer(runs, tmp_path):
    return Explorer([*runs.values()], clips=3, folder=tmp_path / "exports")


def shown(view):
    image, heat, path, *_, hidden = view.figure.data
    return dict(
        frame=pixels(image), map=np.array(heat.z), path=np.array([path.x, path.y]).T, hidden=len(hidden.x)
    )


def test_it_shows_the_gaze_of_what_is_chosen(explorer, runs):
    run, dataset = runs["foveated"], runs["foveated"].validation_clips(3)
    for clip, mode, frame, layer, head in (
        (0, "autoregressive", 1, None, None),
        (2, "parallel", 3, 1, None),
        (1, "static", 2, 3, 4),
    ):
        explorer.clip.value, explorer.mode.value, explorer.frame.value = clip, mode, frame
        explorer.map.value, explorer.head.value = "value" if layer is None else layer, head
        look = EncodedClip(run.model, dataset[clip], run.tokenizer, "question").gaze(mode)
        which = dict(summary="value") if layer is None else dict(layer=layer, head=head)
        seen = shown(explorer._view)
        assert np.allclose(seen["map"], look.map(**which)[frame - 1], atol=1e-6)
        assert np.array_equal(seen["frame"], look.frames[frame - 1].transpose(1, 2, 0))
        assert np.allclose(seen["path"], look.fixations(**which)[:frame] - 0.5, atol=1e-3)
        assert np.allclose(explorer._entropy.data[0].y, look.entropy(**which), atol=1e-5)
        assert dataset[clip].question in explorer.text.value and dataset[clip].answer in explorer.text.value


def test_hiding_a_patch_shows_what_it_does_to_the_loss(explorer, runs):
    encoded = EncodedClip(
        runs["foveated"].model,
        runs["foveated"].validation_clips(1)[0],
        runs["foveated"].tokenizer,
        "question",
    )
    explorer.frame.value = 2
    explorer._view.figure.data[1]._dispatch_on_click(_points(explorer, 3, 5), None)
    hidden = np.zeros((2, 3, 8, 8), bool)
    hidden[1, 1, 3, 5] = True
    before, after = encoded.masked_losses(hidden)
    assert explorer.masked_loss == pytest.approx(after, abs=1e-5) and f"{before:.4f} →" in explorer.loss.value
    assert "1 patch hidden" in explorer.loss.value and shown(explorer._view)["hidden"] == 1
    explorer.everywhere.value = True
    explorer._view.figure.data[1]._dispatch_on_click(_points(explorer, 0, 0), None)
    assert "4 patches hidden" in explorer.loss.value
    explorer.clear.click()
    assert explorer.masked_loss == pytest.approx(before, abs=1e-5) and shown(explorer._view)["hidden"] == 0


def _points(explorer, row, column):
    """A click on a patch as Plotly reports it."""
    from plotly.callbacks import Points

    heat = explorer._view.figure.data[1]
    return Points(
        xs=[heat.x0 + column * heat.dx],
        ys=[heat.y0 + row * heat.dy],
        trace_index=1,
        trace_name="",
        point_inds=[],
    )


@pytest.mark.alone
def test_it_reacts_at_once_from_a_cached_gaze(explorer):
    def seconds(control, value):
        start = time.perf_counter()
        control.value = value
        return time.perf_counter() - start

    explorer.mode.value = "parallel"
    times = [seconds(explorer.frame, v) for v in (2, 3, 1)] + [
        seconds(explorer.map, v) for v in (1, "last", 2)
    ]
    times += [seconds(explorer.head, 3), seconds(explorer.opacity, 0.2), seconds(explorer.scale, "Hot")]
    times += [seconds(explorer.mode, m) for m in ("autoregressive", "parallel")]
    assert np.median(times) < 0.15 and max(times) < 1, times


def test_side_by_side_the_same_clip_and_frame(explorer, runs):
    explorer._tabs.selected_index = 1
    explorer.frame.value = 3
    names = [column.run.value.partition("/")[2] for column in explorer._columns]
    assert names == [runs[a].folder.name for a in ("foveated", "static", "foveated")]
    clip = runs["foveated"].validation_clips(1)[0]
    for column, arch in zip(explorer._columns, ("foveated", "static", "foveated")):
        look = EncodedClip(runs[arch].model, clip, runs[arch].tokenizer, "question").gaze(column.mode.value)
        assert (
            np.allclose(shown(column.view)["map"], look.map()[2], atol=1e-6)
            and html.escape(look.caption) in column.text.value
        )


def test_own_videos_by_path_and_by_upload(explorer, tmp_path):
    path = write_video(tmp_path / "my <b>video.mp4", count=24)
    explorer.path.value = str(path)
    assert explorer.clip.label.endswith("my <b>video.mp4") and "not known" in explorer.text.value
    assert "model's own text" in explorer.loss.value and explorer.look.frames.shape == (3, 3, 112, 112)
    explorer.question.value = "Which shape is red?"
    assert "Which shape is red?" in explorer.text.value
    content = memoryview(path.read_bytes())
    file = dict(
        name="up.mp4", type="video/mp4", size=len(content), content=content, last_modified=datetime.now()
    )
    explorer.upload.value = [file]
    assert explorer.clip.label.endswith("up.mp4") and len(explorer.clip.options) == 5
    explorer.path.value = "/nowhere/<i>x.mp4"
    assert "unreadable" in explorer.message.value and "<i>" not in explorer.message.value


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "", "象の群れが川を渡る", "very long " * 1000])
def test_texts_show_as_text(explorer, text):
    explorer._clips[1].clip = replace(explorer._clips[1].clip, answer=text, question=text or "?")
    explorer.clip.value = 1
    explorer.look.caption = text
    explorer._write_text()
    assert "<script" not in explorer.text.value and "max-height" in explorer.text.value
    assert (text.replace("<", "&lt;").replace(">", "&gt;") or "(nothing)") in explorer.text.value


def test_exports_and_the_picture_that_a_stored_notebook_keeps(explorer):
    for kind in ("gif", "mp4", "html"):
        explorer.format.value = kind
        explorer.export.click()
    assert sorted(p.suffix for p in explorer.folder.iterdir()) == [".gif", ".html", ".mp4"]
    bundle = explorer._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle


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
