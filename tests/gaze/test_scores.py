import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import python, tiny

from fvlm import ConfigError, RunConfig, load_run, train
from fvlm.data import ShapesWorld, open_dataset
from fvlm.gaze.attention import EncodedClip, Gaze
from fvlm.gaze.scores import (
    OBJECT_SCORES,
    SAME_CLIPS,
    SCORES,
    another_question,
    askable,
    gaze_scores,
    interval,
    layer_hits,
    object_scores,
    other_question,
    score,
    summarise,
)
from fvlm.scaling import read_gaze_scores
from fvlm.studies.question import chosen_runs
from fvlm.tables import run_table

SHORT = dict(steps=1, eval_every=1, eval_samples=2, effective_batch=2)


def planted(patches, box_frames):
    """A gaze with all attention on patch (row, column) of each frame, and a target's boxes (T, 4) in
    pixels."""
    maps = np.zeros((len(patches), 2, 3, 8, 8), np.float32)
    for t, (row, column) in enumerate(patches):
        maps[t, :, :, row, column] = 1
    look = Gaze(
        maps,
        np.zeros(maps.shape[:3]),
        np.zeros((len(patches), 4)),
        np.zeros((len(patches), 3, 112, 112), np.uint8),
        "parallel",
    )
    return look, np.array(box_frames)


def test_scores_of_a_planted_gaze():
    """The target fills patches (1, 1), (1, 2), (2, 1), (2, 2) from frame 1 on; the gaze gets there in frame
    3."""
    box = [14, 14, 42, 42]
    look, boxes = planted([(1, 1), (0, 0), (7, 7), (1, 2), (2, 2)], [[0, 0, 0, 0], box, box, box, box])
    scores = score(look, boxes)
    assert (
        scores["hit"] == 0.5 and scores["lag"] == 2 and scores["chance"] == 4 / 64 and scores["centre"] == 0
    )
    assert scores["mass"] == pytest.approx((0 + 0 + 16 + 16) / 4), (
        "a sixteenth of the frame has half the attention"
    )
    never, boxes = planted([(7, 7)] * 3, [[49, 49, 63, 63]] * 3)
    assert score(never, boxes)["lag"] == 3 and score(never, boxes)["centre"] == 1


def test_a_gaze_is_scored_on_all_objects_and_on_those_of_another_clip():
    """Three objects, the third never there: the gaze is on the first, on the second, then on none."""
    first, second, gone = [0, 0, 14, 14], [28, 0, 42, 14], [0, 0, 0, 0]
    boxes = np.array([[first, second, gone]] * 4)
    boxes[3] = gone  # nothing is there to be looked at: no frame to count
    look, _ = planted([(0, 0), (0, 2), (7, 7), (0, 0)], boxes[:, 0])
    far = np.array([[[70, 70, 84, 84], [98, 98, 112, 112]]] * 4)
    assert object_scores(look, boxes, far) == pytest.approx(
        dict(hit_any=2 / 3, coverage=1, hit_any_null=1 / 4, coverage_null=1 / 2)
    )
    alone = object_scores(look, boxes[:, :1], None)
    assert alone["hit_any"] == 1 / 3 and alone["coverage"] == 1 and np.isnan(alone["coverage_null"])
    assert list(alone) == list(OBJECT_SCORES)


def test_the_null_of_a_clip_is_the_next_clip_s_boxes(runs):
    run = runs["foveated"]
    rows = {row["clip_id"]: row for row in gaze_scores(run, clips=6) if row["asked"] == "own"}
    shown = run.validation_clips(6)
    for clip, after in zip(shown, [*shown[1:], shown[0]]):
        if clip.clip_id in rows:
            look = EncodedClip(run.model, clip, run.tokenizer, "question").gaze("autoregressive", write=False)
            expected = object_scores(look, clip.boxes, after.boxes)
            assert {name: rows[clip.clip_id][name] for name in expected} == pytest.approx(expected)


def test_rows_of_before_have_no_object_scores():
    rows = [dict(run="a", asked="own", clip_id=str(i)) | dict.fromkeys(SCORES, 0.5) for i in range(3)]
    assert not set(OBJECT_SCORES) & set(summarise(rows).columns)
    assert set(OBJECT_SCORES) <= set(summarise([row | dict.fromkeys(OBJECT_SCORES, 0.1) for row in rows]))


def test_the_other_question_is_about_another_object_of_the_same_clip():
    world, found = ShapesWorld(), 0
    for clip in (world.clip(i) for i in range(60)):
        other = other_question(world, clip)
        if clip.question_kind not in ("colour", "shape", "motion"):
            assert other is None
            continue
        found += 1
        assert (
            other.target != clip.target
            and other.question != clip.question
            and other.question_kind == clip.question_kind
        )
        assert (other.frames is clip.frames) and other.answer == world.scene(
            int(clip.clip_id.split("-")[2])
        ).ask(clip.question_kind, other.target)[1]
    assert found > 20


def test_intervals_cover_the_mean_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.4 <= high
        for low, high in (interval((rng.random(60) < 0.4).astype(float)) for _ in range(200))
    ]
    assert 0.90 <= np.mean(covered) <= 0.98
    assert interval(np.ones(5)) == (1, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    return {
        arch: train(tiny(arch, task="question", out=out, **SHORT))
        for arch in ("foveated", "static", "meanpool")
    }


def test_the_static_control_s_gaze_cannot_follow_a_question(runs):
    rows = gaze_scores(runs["static"], clips=8)
    own = {r["clip_id"]: r for r in rows if r["asked"] == "own"}
    assert own and all(own[r["clip_id"]]["hit"] == r["hit"] for r in rows if r["asked"] == "other")
    table = summarise(rows + gaze_scores(runs["foveated"], clips=8))
    asked = ["own", SAME_CLIPS, "other"]  # of these eight clips some have no other question
    assert table["asked"].tolist() == asked * 2 and {f"{name}_low" for name in SCORES} <= set(table.columns)
    static = table[table["run"] == runs["static"].folder.name].set_index("asked").drop(columns="run")
    assert static.loc[SAME_CLIPS].equals(static.loc["other"])
    assert static.loc["own", "clips"] > static.loc["other", "clips"]


def test_own_and_other_are_compared_on_the_clips_that_have_both():
    """Of four clips two have another object to ask about, and the gaze finds the object in the other two
    alone."""
    rows = [
        dict(run="a", clip_id=str(i), asked=asked) | dict.fromkeys(SCORES, float(asked == "own" and i > 1))
        for i in range(4)
        for asked in ("own", "other")[: 2 if i < 2 else 1]
    ]
    rows += [row | dict(run="b") for row in rows if row["clip_id"] < "2"]
    table = summarise(rows + [dict(rows[0], run="c")]).set_index(["run", "asked"])
    assert table["clips"].to_dict() == {
        ("a", "own"): 4,
        ("a", SAME_CLIPS): 2,
        ("a", "other"): 2,
        ("b", "own"): 2,
        ("b", "other"): 2,
        ("c", "own"): 1,
    }
    assert table["hit"].tolist() == [0.5, 0, 0, 0, 0, 0], "no difference where both are asked"


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_the_rows(runs):
    import pandas as pd

    fov, sta = runs["foveated"].folder, runs["static"].folder
    done = python("-m", "fvlm", "gaze", "--run", fov, "--run", sta, "--clips", 5)
    for words in ("pointing game", fov.name, sta.name, "other", "gaze.parquet", "coverage_null"):
        assert words in done.stdout
    rows = pd.read_parquet(fov / "gaze.parquet")
    assert set(rows["run"]) == {fov.name, sta.name} and set(SCORES) <= set(rows.columns)
    done = python("-m", "fvlm", "gaze", "--run", runs["meanpool"].folder, check=False)
    assert done.returncode == 2 and "no gaze" in done.stderr
    with pytest.raises(ConfigError, match="no run here"):
        load_run("/nowhere")


@pytest.mark.slow
def test_frames_are_swapped_on_the_command_line(runs):
    import pandas as pd

    fov, avg = runs["foveated"].folder, runs["meanpool"].folder
    done = python("-m", "fvlm", "swap", "--run", fov, avg, "--clips", 4)
    rows = pd.read_parquet(fov / "swapped.parquet")
    assert rows["run"].tolist() == [fov.name] * 4 + [avg.name] * 4
    own = np.average(rows["loss"][:4], weights=rows["text_tokens"][:4])
    assert re.search(rf"{fov.name} +4 +{own:.4f} ", done.stdout)
    done = python("-m", "fvlm", "swap", "--run", fov, "--clips", 1, check=False)
    assert done.returncode == 2 and "takes two" in done.stderr


def test_hits_of_a_layer_and_head_are_those_of_its_own_map(runs):
    run = runs["foveated"]
    hits = layer_hits(run, clips=4)
    inside = []
    for clip in (c for c in run.validation_clips(4) if c.target >= 0):
        look = EncodedClip(run.model, clip, run.tokenizer, "question").gaze(write=False)
        for (x, y), box in zip(look.peaks(layer=2, head=4), clip.boxes[:, clip.target]):
            if box[2] > box[0]:
                inside.append(box[0] <= x < box[2] and box[1] <= y < box[3])
    assert hits.shape == look.maps.shape[1:3] and hits[2, 4] == pytest.approx(np.mean(inside))


def test_a_notebook_s_runs_are_a_foveated_and_a_static_one(runs):
    fov, sta, avg = (str(runs[arch].folder) for arch in ("foveated", "static", "meanpool"))
    assert [run.config.arch for run in chosen_runs(f"{sta},{fov}")] == ["foveated", "static"]
    with pytest.raises(ConfigError, match="foveated and meanpool"):
        chosen_runs(f"{fov},{avg}")
    table = run_table([runs["foveated"]])
    assert table["clips_seen"].tolist() == [2] and table["cell"].tolist() == ["T1-T_2f_fov"]


def test_another_question_is_of_the_clip_that_validation_showed():
    """Not of what training would make of its number, which has fewer objects."""
    config = RunConfig(
        llm="tiny1", dataset="shapes:objects=1-5,crowded=4,questions=shape", task="question", device="cpu"
    )
    dataset = open_dataset(config, "validation")
    for clip in (dataset[i] for i in range(6)):
        other = another_question(SimpleNamespace(config=config, folder="run"), clip)
        colour = re.search(r"is (\w+)\?", other.question)[1]
        assert f" {colour} {other.answer} " in clip.caption and other.question != clip.question


def test_another_question_of_a_clip_or_why_there_is_none(runs):
    clips = runs["foveated"].validation_clips(30)
    asked = next(c for c in clips if c.question_kind == "colour")
    assert another_question(runs["foveated"], asked).target != asked.target
    with pytest.raises(ConfigError, match="only one object"):
        another_question(runs["foveated"], next(c for c in clips if c.question_kind == "mark"))


def test_every_question_that_a_clip_can_be_asked_with_its_truth(runs):
    run, world = runs["foveated"], ShapesWorld(frames=2)
    kinds = set()
    for number, clip in enumerate(run.validation_clips(12)):
        known = askable(run, clip)
        scene = world.scene(10 * number)
        assert (known[0].question, known[0].answer, known[0].target) == (
            clip.question,
            clip.answer,
            clip.target,
        )
        assert len({one.question for one in known}) == len(known) >= 3 * len(scene.things) + 2
        for one in known:
            assert one.frames is clip.frames and one.boxes is clip.boxes
            kinds.add(one.question_kind)
            thing = scene.things[one.target]
            if one.question_kind == "shape":
                assert one.answer == thing.shape and thing.colour in one.question
            elif one.question_kind == "mark":
                assert one.answer == thing.mark and thing.name in one.question
            elif one.question_kind == "count":
                assert one.answer == str(len(scene.things)) and one.target == -1
    assert kinds == {"mark", "colour", "shape", "motion", "enters", "count"}
    assert askable(run, replace(clip, boxes=None, clip_id="own.mp4")) == []


def test_a_caption_s_target_counts_where_it_is_an_object_drawn_by_lot():
    """The marked object draws the eye, and is no object drawn by lot; objects are looked at in every clip."""
    rows = [
        dict(run="a", clip_id=f"{kind}{i}", kind=kind, asked="caption")
        | dict.fromkeys(SCORES, float(kind == "mark"))
        | dict.fromkeys(OBJECT_SCORES, float(i % 2))
        for kind in ("colour", "shape", "motion", "mark", "enters")
        for i in range(4)
    ]
    (row,) = summarise(rows).to_dict("records")
    assert row["clips"] == 12 and row["hit"] == 0 and row["coverage"] == 0.5
    asked = summarise([row | dict(asked="own") for row in rows]).iloc[0]
    assert asked["clips"] == 20 and asked["hit"] == pytest.approx(0.2)
    marked = summarise([row for row in rows if row["kind"] == "mark"]).iloc[0]
    assert marked["clips"] == 0 and np.isnan(marked["hit"]) and marked["coverage"] == 0.5


def test_of_several_files_each_clip_of_a_run_counts_once_and_in_one_mode(tmp_path):
    def row(clip, hit, **kind):
        who = dict(run="a", clip_id=str(clip), kind="colour", asked="own")
        return who | dict.fromkeys(SCORES, hit) | kind

    folder = tmp_path / "study"
    (folder / "a").mkdir(parents=True)
    before = [row(clip, float(clip % 2)) for clip in range(10)]  # without mode and summary
    pd.DataFrame(before).to_parquet(folder / "gaze.parquet")
    once = read_gaze_scores(str(folder)).iloc[0]
    known = [each | dict(mode="autoregressive", summary="mean") for each in before]
    others = [row(clip, 0.0, mode="static", summary="mean") for clip in range(10)]
    others += [row(clip, 0.0, mode="autoregressive", summary="last") for clip in range(10)]
    pd.DataFrame(known + others).to_parquet(folder / "a" / "gaze.parquet")
    (twice,) = read_gaze_scores(str(folder)).to_dict("records")
    assert twice["clips"] == once["clips"] == 10
    assert (twice["hit"], twice["hit_low"]) == (once["hit"], once["hit_low"]) == (0.5, once["hit_low"])


def test_scores_say_in_which_mode_and_map_they_were_made(runs):
    for mode, summary in (("autoregressive", "mean"), ("static", "last")):
        rows = gaze_scores(runs["foveated"], clips=2, mode=mode, summary=summary)
        assert {(row["mode"], row["summary"]) for row in rows} == {(mode, summary)}
