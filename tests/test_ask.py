"""Asking a trained run about a file: in Python, and as one command that says how good the model can be."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny, write_video
from PIL import Image

from fvlm import ConfigError, train
from fvlm.ask import choose_run, lettered, parse_seconds
from fvlm.cli import main
from fvlm.data.live import live_frames
from fvlm.gaze import gaze
from fvlm.models.asking import Moment
from fvlm.models.build import processor_of
from fvlm.training.learned import Verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return train(tiny(steps=2, eval_every=2, eval_samples=2, effective_batch=2, out=str(out)))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", count=60)  # 5 seconds


def test_a_file_is_answered_and_described_in_python(run, video):
    model = run.model
    assert isinstance(model.answer(video, "Which shape is red?"), str)
    assert model.describe(video) == model.answer(str(video))
    two = model.answer([video, video], ["Which shape is red?", "What?"], max_new_tokens=3)
    assert two == [model.answer(video, q, max_new_tokens=3) for q in ("Which shape is red?", "What?")]
    moments = model.describe(video, every=2, max_new_tokens=3)
    assert [moment[:2] for moment in moments] == [(0, 2), (2, 4), (4, 5)]
    assert moments[1] == Moment(2, 4, model.answer(video, start=2, end=4, max_new_tokens=3))
    with pytest.raises(ConfigError, match="seconds"):
        model.describe(np.zeros((2, 112, 112, 3), np.uint8), every=1)


@pytest.mark.parametrize("arch", ["foveated4", "baseline", "blind"])
def test_a_choice_is_the_likeliest_answer(arch, video):
    from fvlm import build_model

    model, options = build_model(tiny(arch), pretrained=False), ["red", "a blue circle", "left"]
    losses = model.option_losses(video, "Which shape is red?", options)
    for option, loss in zip(options, losses):
        alone = model.processor(video, "Which shape is red?", labels=option)
        assert model(**alone, mode="autoregressive").loss.item() == pytest.approx(loss.item(), abs=1e-4)
    assert model.choose(video, "Which shape is red?", options) == losses.argmin()
    with pytest.raises(ConfigError, match="two texts"):
        model.choose(video, "What?", ["red"])


def test_gaze_takes_what_people_have(run, video):
    look = gaze(run.model, str(video))
    assert look.frames.shape == (2, 3, 112, 112) and np.allclose(
        gaze(run.model, torch.from_numpy(look.frames)).maps, look.maps
    )


@pytest.mark.parametrize(("size", "bars"), [((60, 120), (0, 112, 28, 84)), ((160, 80), (28, 84, 0, 112))])
def test_own_videos_keep_their_proportions_however_they_are_shown(run, tmp_path, size, bars, monkeypatch):
    """As file, as frames, as picture and in a stream; a run on prepared videos squeezes them."""
    path, (top, bottom, left, right) = write_video(tmp_path / "own.mp4", count=24, size=size), bars
    processor, squeezing = run.model.processor, processor_of(replace(run.config, dataset=str(tmp_path)))
    assert processor.letterbox and not squeezing.letterbox
    squeezed = squeezing.read(path)
    assert (squeezed[:, :, 60, 60] > 0).all() and (squeezed[:, :, 2, 2] + squeezed[:, :, -3, -3] > 0).all()
    pictures = [frame for _, frame in live_frames(path, 4)]
    Image.fromarray(pictures[0]).save(tmp_path / "one.png")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    session = run.model.stream()
    session.see(pictures[0])
    told = []
    generate = run.model.generate
    monkeypatch.setattr(run.model, "generate", lambda **inputs: told.append(inputs) or generate(**inputs))
    run.model.answer(path, "Which shape is red?", max_new_tokens=2)
    every = dict(
        file=processor.read(path),
        frames=processor.read(pictures),
        picture=processor.read(tmp_path / "one.png"),
        folder=processor.read(folder),
        stream=session.frame[None],
        asked=told[0]["frames"][0].numpy(),
        film=gaze(run.model, str(path)).frames,
    )
    for name, frames in every.items():
        inside = frames[:, :, top:bottom, left:right]
        assert frames.sum() == inside.sum() and inside[:, :, 2, 2].any() and inside[:, :, -3, -3].any(), name
    small = np.asarray(
        Image.fromarray(squeezed[0].transpose(1, 2, 0)).resize((right - left, bottom - top), Image.BICUBIC)
    )
    assert np.array_equal(every["file"][0, :, top:bottom, left:right], small.transpose(2, 0, 1)), "all of it"
    run.model.processor.save_pretrained(tmp_path / "saved")
    assert type(processor).from_pretrained(tmp_path / "saved").letterbox, "and is kept beside a model"


def test_a_model_that_was_never_saved_has_its_run_s_processor(run):
    from fvlm import build_model

    fresh = build_model(run.config, pretrained=False)
    assert fresh.processor.frames == run.model.processor.frames == 2


@pytest.mark.parametrize("question", [[], ["Which shape is red?"]])
def test_one_command_answers_and_says_how_good_it_can_be(run, video, question, tmp_path, capsys):
    film = tmp_path / "looked.html"
    assert main(["ask", str(video), *question, "--run", str(run.folder), "--gaze", str(film)]) == 0
    said, told = capsys.readouterr()
    answer, page = run.model.answer(video, *question), film.read_text()
    assert answer in said and len(page) > 1e5
    title = [f"asked: {q}" for q in question] + ["says: ", f"{video.name}, {run.folder.name}"]
    assert all(part in page.split("Plotly.newPlot")[-1] for part in title)
    loss = run.evaluations["loss_autoregressive"].iloc[-1]
    assert (
        "T1-T_2f_fov, trained on 4 clips of shapes (captions)" in told and f"{loss:.3f} nats a token" in told
    )
    assert ("never been asked" in told) == bool(question)


def test_a_run_that_has_learned_nothing_says_so_and_names_one_that_has(run, video, monkeypatch, capsys):
    known = {True: Verdict(True, "far under"), False: Verdict(False, "4.4 nats where a guess gives 1")}
    for learned_here in (True, False):
        monkeypatch.setattr("fvlm.ask.verdict", lambda run, found=known[learned_here]: found)
        for others in (True, False):
            monkeypatch.setattr("fvlm.ask.learned", lambda run, others=others: others)
            assert main(["ask", str(video), "--run", str(run.folder)]) == 0
            told = capsys.readouterr().err
            assert ("means nothing, it has learned nothing: 4.4 nats" in told) != learned_here
            assert ("is one that has learned something" in told) == (others and not learned_here)


def test_describe_prints_timed_lines_and_watch_too(run, video, capsys, tmp_path):
    assert main(["describe", str(video), "--every", "2s", "--run", str(run.folder), "--tokens", "3"]) == 0
    assert [line[:12] for line in capsys.readouterr().out.splitlines()] == [
        "0:00 to 0:02",
        "0:02 to 0:04",
        "0:04 to 0:05",
    ]
    film = ["--gaze", str(tmp_path / "looked.gif")]
    assert main(["describe", str(video), "--every", "2s", "--run", str(run.folder), *film]) == 2
    assert "with --every there are several" in capsys.readouterr().err
    watch = ["watch", str(video), "--ask", "What?", "--every", "2s", "--rate", "2", "--window", "4"]
    assert main([*watch, "--run", str(run.folder), "--tokens", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["0:02", "0:04", "0:04"]
    session = run.model.stream("What?", window=4)
    for now, frame in live_frames(video, rate=2):
        session.see(frame)
        if now == 2:
            assert lines[0] == f"0:02  {session.say(max_new_tokens=3)}"


def test_without_a_run_it_is_the_newest_finished_one(run, tmp_path):
    out = run.folder.parents[1]
    other = train(tiny(seed=1, steps=1, eval_samples=2, effective_batch=2, out=str(out), study="later"))
    assert choose_run(out=out).folder == other.folder
    os.utime(other.folder / "model" / "config.json", (0, 0))
    assert choose_run(out=out).folder == run.folder
    for wrong in (dict(out=tmp_path), dict(folder=tmp_path)):
        with pytest.raises(ConfigError, match="run"):
            choose_run(**wrong)


def test_live_frames_come_at_their_rate(video, tmp_path):
    times = [now for now, frame in live_frames(video, rate=4)]
    assert times == pytest.approx(np.arange(20) / 4, abs=1 / 12) and len(times) == 20
    assert len(list(live_frames(video, rate=100))) == 60, "not more often than it has frames"
    for i in range(3):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    assert [now for now, _ in live_frames(tmp_path, rate=2)] == [0, 0.5, 1]
    Image.new("RGB", (9, 9), "white").save(tmp_path / "10.png")
    assert [frame.mean() for _, frame in live_frames(tmp_path, rate=2)] == [0, 0, 0, 255], "2 before 10"
    for source in ("nowhere.mp4", "97", __file__, str(video.parent / "..")):
        with pytest.raises(ConfigError):
            list(live_frames(source))


@pytest.mark.parametrize("text, value", [("2s", 2), ("500ms", 0.5), ("1m", 60), ("3", 3)])
def test_times_are_read(text, value):
    assert parse_seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "two", "0s", "2h"])
def test_what_is_no_time_is_a_user_s_mistake(text):
    with pytest.raises(ConfigError):
        parse_seconds(text)


def test_pictures_folders_and_cameras_are_asked_too(run, video, tmp_path, capsys, monkeypatch):
    """A file stands where a camera's device would be, and is read as its frames come."""
    from fvlm.data import live

    for i, (_, frame) in enumerate(live_frames(video, rate=1)):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    os.link(video, tmp_path / "video3")
    monkeypatch.setattr(live, "CAMERAS", str(tmp_path / "video{}"))
    monkeypatch.setattr(live, "CAMERA_FORMAT", None)
    first = [frame for _, (_, frame) in zip(range(2), live_frames(video, rate=2))]
    for source, same in ((tmp_path / "0.png", None), (tmp_path, None), ("3", first)):
        assert main(["ask", str(source), "What?", "--run", str(run.folder), "--tokens", "5"]) == 0
        said = run.model.answer(same or source, "What?", max_new_tokens=5)
        assert capsys.readouterr().out.strip() == said
    assert main(["ask", "9", "--run", str(run.folder)]) == 2 and "no camera" in capsys.readouterr().err


@pytest.mark.parametrize(
    "context, question, options",
    [
        ("Question:Which?\nOption:\n(A) red\n(B) a blue one\nOnly give", "Which?", ["red", "a blue one"]),
        ("Which is it?\nA. red\nB. blue\nC. green", "Which is it?", ["red", "blue", "green"]),
        ("What happens?\nA. only one", "What happens?\nA. only one", []),
        ("What happens?", "What happens?", []),
    ],
)
def test_lettered_options_are_told_from_the_question(context, question, options):
    found, letters = lettered(context)
    assert (found, list(letters.values())) == (question, options) and "".join(letters) in "ABCDE"
