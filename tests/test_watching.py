"""Watching: timed words, films of known truth, how far a question moves the gaze, player and widget."""

import time

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, drawn, steering, tiny

from fvlm import ConfigError, train
from fvlm.ask import choose_run
from fvlm.data import ShapesWorld
from fvlm.data.captions import attributes_right
from fvlm.data.film import Shot, write_film
from fvlm.data.live import live_frames
from fvlm.plots.watching import TRAIL, stream_player
from fvlm.watching import (
    captions_right,
    lines_of,
    moved_by,
    pace,
    run_to_show,
    streamed_beside_alone,
    streamed_captions,
    video_to_show,
    watch,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    run = train(tiny(steps=1, eval_samples=2, effective_batch=2, frames=4, out=out))
    steering(run.model)
    return run


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Five clips of four frames, two frames a second: path and shots."""
    world = ShapesWorld(frames=4, size=112)
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    return path, write_film([world.clip(i) for i in range(5)], path)


def test_a_film_is_its_clips_one_after_the_other(film):
    path, shots = film
    seen = list(live_frames(path, rate=100))
    assert [now for now, _ in seen] == pytest.approx(np.arange(20) / 2)
    assert [(shot.start, shot.end) for shot in shots] == [(2 * i, 2 * i + 2) for i in range(5)]
    for i, (_, frame) in enumerate(seen):
        true = shots[i // 4].clip.frames[i % 4].transpose(1, 2, 0).astype(int)
        assert abs(frame.astype(int) - true).mean() < 6, "but for what the codec loses"


def test_words_come_at_their_time_and_at_the_end_and_a_question_may_come_between(run, film):
    session = run.model.stream()
    glimpses = []
    for glimpse in watch(session, live_frames(film[0], rate=2), every=2, max_new_tokens=4):
        glimpses.append(glimpse)
        if glimpse.seconds == 5 and glimpse.question is None:
            session.ask("Which shape is red?")
    assert [g.seconds for g in glimpses if g.text is not None] == [2, 4, 6, 8, 9.5]
    assert [g.question for g in glimpses if g.text is not None] == [None] * 2 + ["Which shape is red?"] * 3
    assert len(glimpses) == 21 and session.seen == 20 and lines_of(glimpses)[0].startswith("0:02  ")
    plain = run.model.stream()
    for i, (_, frame) in enumerate(live_frames(film[0], rate=2)):
        plain.see(frame)
        same = np.allclose(plain.gaze.maps, glimpses[i].gaze.maps, atol=1e-6)
        assert same == (i <= 10), "the question moves the gaze, from the frame after it on"


def test_what_is_streamed_is_held_against_the_truth(run, film):
    path, shots = film
    captions = streamed_captions(run, path, shots, window=4, rate=2)
    assert captions["true"].tolist() == [shot.clip.caption for shot in shots]
    assert captions["alone"].tolist() == run.write([shot.clip for shot in shots])
    session = run.model.stream(window=4)
    for i, (_, frame) in zip(range(8), live_frames(path, 2)):
        session.see(frame)
        assert i not in (3, 7) or captions["streamed"][i // 4] == session.say(), "said at the shot's end"
    perfect = captions.assign(streamed=captions["true"])
    right = captions_right(perfect).set_index("captions")["right"]
    assert right["streamed"] == 1 and right["beside another shot"] < 0.9
    assert attributes_right("A large red circle moves left.", "A large red circle moves up.") == 0.75


def one_beside_another(wrong: dict, shots=20) -> pd.DataFrame:
    """Shots of one object each, told right but for the motion in the first so many shots of a column. Every
    other shot is hard: its colour and size are told wrong in both."""
    rows = []
    for i in range(shots):
        row = dict(true="A large red circle moves left.")
        for name in ("streamed", "alone"):
            told = "A small blue circle moves left." if i % 2 else row["true"]
            row[name] = told.replace("left", "up") if i < wrong.get(name, 0) else told
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (dict(streamed=8), "-10.0 points (-15.0 to -5.0): worse"),
        (dict(alone=8), "+10.0 points (+5.0 to +15.0): better"),
        (dict(streamed=8, alone=8), "+0.0 points (+0.0 to +0.0): no difference can be told"),
    ],
)
def test_watching_is_told_beside_being_shown_by_differences_on_the_same_shots(wrong, verdict):
    captions = one_beside_another(wrong)
    assert streamed_beside_alone(captions) == f"streamed beside alone, the same 20 shots: {verdict}"
    right = captions_right(captions).set_index("captions")
    assert right.loc["streamed", "low"] < right.loc["alone", "high"], "the two intervals overlap"
    assert right.loc["alone", "low"] < right.loc["streamed", "high"]


def test_few_shots_tell_nothing():
    assert streamed_beside_alone(one_beside_another(dict(streamed=0)).head(3)).endswith("too few to tell")


def test_a_difference_of_both_signs_is_none():
    captions = one_beside_another(dict(streamed=5))
    turned = captions.rename(columns=dict(streamed="alone", alone="streamed"))
    assert streamed_beside_alone(pd.concat([captions, turned])).endswith("no difference can be told")


def test_a_question_moves_the_gaze_from_then_on(run, film):
    moved = moved_by(run, film[0], "Which shape is red?", after=2, until=4)
    assert moved["seconds"].tolist() == [i / 2 for i in range(8)]
    assert (moved["moved"] > 1e-6).tolist() == moved["asked"].tolist() == [False] * 4 + [True] * 4


def test_pace_says_what_is_kept(run, film):
    found = pace(run, film[0], (None, 6), frames=20)
    assert found["seen"].tolist() == [5, 10, 15, 20] * 2 and found["kept"].tolist()[:4] == [5, 10, 15, 20]
    assert found["kept"].tolist()[4:] == [5, 6, 6, 6] and (found["milliseconds"] > 0).all()
    assert found["kilobytes"].tolist()[5:] == [found["kilobytes"][5]] * 3, "a full window grows no more"
    session = run.model.stream()
    for _, frame in live_frames(film[0], 2):
        session.see(frame)
    assert found["kilobytes"][3] == session.memory / 1000


def test_the_player_shows_each_frame_under_its_own_gaze_with_what_was_said_so_far(run, film):
    glimpses = list(watch(run.model.stream("What?"), live_frames(film[0], 2), every=2, max_new_tokens=4))
    figure = stream_player(glimpses, "a film")
    assert len(figure.frames) == 20
    for t in (0, 11, 19):
        shown = figure.frames[t]
        assert np.allclose(shown.data[1].z, glimpses[t].gaze.map()[0], atol=1e-4)
        assert len(shown.data[2].x) == min(t + 1, TRAIL)
        said = lines_of(glimpses[: t + 1] if t < 19 else glimpses)
        assert shown.layout.annotations[0].text.count("0:0") == min(len(said), 3)
        assert "asked: What?" in shown.layout.title.text
    assert len(figure.to_json()) < 20 * 25_000, "stored notebooks stay small"


def test_the_widget_plays_and_takes_questions_meanwhile(run, film):
    from fvlm.widgets.stream import Watcher

    watcher = Watcher(run, film[0], rate=20, every=1, max_new_tokens=3, shots=film[1])
    assert film[1][0].clip.caption in watcher.true.value
    watcher.play.value = True
    end = time.monotonic() + 300  # of a busy machine
    while len(watcher.glimpses) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    watcher.question.value = "Which shape is <red>?"
    while watcher.play.value and time.monotonic() < end:
        time.sleep(0.05)
    assert watcher.play.disabled, "it has ended"
    asked = [glimpse.question for glimpse in watcher.glimpses]
    assert asked[0] is None and asked[-1] == "Which shape is <red>?" and "&lt;red&gt;" in watcher.said.value
    assert np.allclose(drawn(watcher._view)["map"], watcher.glimpses[-1].gaze.map()[0], atol=1e-6)
    most = watcher.glimpses[-1].gaze.map()[0].max()
    assert f"brightest patch: {most:.1%} of the attention" in watcher.now.value, (
        "the scale is each frame's own"
    )
    assert len(watcher.glimpses) == 21 and film[1][-1].clip.caption in watcher.true.value
    assert watcher._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")


def test_the_box_of_what_is_asked_about_is_that_of_the_question_asked_and_of_no_other(run, film):
    from fvlm.widgets.stream import Watcher

    asked = next(shot.clip for shot in film[1] if shot.clip.target >= 0)
    for question, target in ((None, -1), ("Which shape is red, or was?", -1), (asked.question, asked.target)):
        watcher = Watcher(run, film[0], question, max_new_tokens=3, shots=[Shot(0.0, 2.0, asked)])
        assert watcher._view.target == target and len(watcher._view.boxes) == len(asked.boxes[0])


def test_a_model_without_queries_is_watched_without_a_gaze_but_not_shown(film, tmp_path):
    from fvlm.widgets.stream import Watcher

    blind = train(tiny("meanpool", steps=1, eval_samples=2, effective_batch=2, out=str(tmp_path)))
    glimpses = list(watch(blind.model.stream(), live_frames(film[0], 2), max_new_tokens=2))
    assert all(glimpse.gaze is None and glimpse.frame.shape == (3, 112, 112) for glimpse in glimpses)
    with pytest.raises(ConfigError, match="queries"):
        Watcher(blind, film[0])


def test_notebooks_show_what_make_train_leaves_or_a_stand_in_that_no_command_picks(tmp_path, monkeypatch):
    from fvlm import RunConfig, watching

    cell = RunConfig.from_cell("T-T_8f_fov")
    assert (cell.study, watching.QUICK["study"]) == ("runs", "stream_quick")
    with monkeypatch.context() as patch:
        patch.setattr(watching, "QUICK", dict(steps=1, effective_batch=2, eval_samples=2, study="a_quick"))
        patch.setattr(RunConfig, "from_cell", lambda name, **more: tiny(out=str(tmp_path), **more))
        stand_in = run_to_show()
    assert stand_in.finished and stand_in.config.study == "a_quick"
    with pytest.raises(ConfigError, match="no finished run"):
        choose_run(out=tmp_path)
    assert run_to_show(stand_in.folder).folder == stand_in.folder
    monkeypatch.chdir(REPOSITORY / "notebooks")
    shipped = "outputs/trained/T1-T_2f_fov_seed0"
    assert run_to_show(shipped).folder == REPOSITORY / shipped, "README spells it so, notebooks run elsewhere"


@pytest.mark.slow
def test_a_real_video_is_watched(run):
    try:
        video = video_to_show()
    except ConfigError as error:
        pytest.skip(str(error))
    glimpses = list(watch(run.model.stream(window=8), live_frames(video, 2), max_new_tokens=3))
    assert len(glimpses) == 21 and glimpses[-1].seconds == pytest.approx(9.5, abs=0.1)
    assert video_to_show(REPOSITORY / "x.mp4") == REPOSITORY / "x.mp4"
