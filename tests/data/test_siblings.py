"""The built-in world's siblings: what their texts say is in their pixels, in the words of `shapes`."""

import re

import numpy as np
import pytest
from conftest import tiny

from fvlm import ConfigError
from fvlm.data import check_dataset, open_dataset
from fvlm.data.prepare import Settings, prepare, split_of, verify
from fvlm.data.shapes import COLOURS, ShapesWorld
from fvlm.data.siblings import WORLDS, Compared, Stills, Texts, place_of
from fvlm.weights import load_tokenizer

SIBLINGS = [name for name in WORLDS if name != "shapes"]


@pytest.mark.parametrize("name", SIBLINGS)
def test_every_word_is_one_token_of_the_tiny_tokenizer(name):
    tokenizer, world, words = load_tokenizer("tiny"), WORLDS[name](), set()
    for index in range(300):
        clip = world.clip(index, draw=False)
        words |= {w for t in (clip.caption, clip.question) for w in re.findall(r" ?\w+|[^\w\s]", t)}
        words |= {clip.answer, f" {clip.answer}"}
    assert {word for word in words if len(tokenizer.tokenize(word)) != 1} == set()


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_clip_depends_on_seed_and_index_alone_and_siblings_share_no_scene(name):
    world = WORLDS[name]()
    a, b = world.clip(7), WORLDS[name]().clip(7)
    assert np.array_equal(a.frames, b.frames) and (a.caption, a.clip_id) == (b.caption, f"{name}-0-7")
    told = world.clip(7, draw=False)
    assert (told.caption, told.question, told.answer) == (a.caption, a.question, a.answer)
    first = [thing.name for i in range(20) for thing in world.scene(i).things]
    assert first != [thing.name for i in range(20) for thing in ShapesWorld().scene(i).things]


def test_a_still_shows_one_picture_and_says_where_each_object_is():
    for index in range(40):
        world = Stills()
        clip, scene = world.clip(index), world.scene(index)
        assert (clip.frames == clip.frames[:1]).all() and clip.boxes.shape == (8, len(scene.things), 4)
        for thing, (x0, y0, x1, y1) in zip(scene.things, clip.boxes[0]):
            said = re.search(rf"{thing.name}(?: marked \w)? is ([\w ]+)\.", clip.caption)[1]
            x, y = ((x0 + x1) / 2 / 112, (y0 + y1) / 2 / 112)
            assert said == place_of(*thing.start)
            assert ("left" in said) == (x < 0.36) or 0.34 < x < 0.36, (said, x)
            assert ("down" in said) == (y > 0.64) or 0.64 < y < 0.66, (said, y)
            exact = (clip.frames[0] == np.array(COLOURS[thing.colour])[:, None, None]).all(0)
            assert exact[y0:y1, x0:x1].any() or scene.pillar is not None or len(scene.things) > 1
        assert "moves" not in clip.caption and clip.question_kind in Stills.kinds


def test_in_each_picture_compared_there_is_what_the_text_says():
    counts = set()
    for index in range(40):
        world = Compared()
        clip, scene = world.clip(index), world.scene(index)
        starts = sorted({thing.first(8) for thing in scene.things})
        counts.add(len(starts))
        assert starts[0] == 0 and clip.caption.count("enters") == len(starts) - 1
        assert clip.caption.count("stays") == len(scene.things) - len(starts) + 1 > 0
        for start, end in zip(starts, [*starts[1:], 8]):
            assert (clip.frames[start:end] == clip.frames[start]).all()
            assert not start or (clip.frames[start] != clip.frames[start - 1]).mean() > 0.5, "another picture"
            there = (clip.boxes[start, :, 2:] > clip.boxes[start, :, :2]).all(-1)
            assert there.tolist() == [thing.first(8) <= start for thing in scene.things]
        if clip.question_kind == "enters":
            assert clip.answer == max(scene.things, key=lambda thing: thing.enters).colour
    assert counts == {2, 3, 4}
    with pytest.raises(ConfigError, match="two at least"):
        Compared(frames=1)


def test_a_text_alone_has_no_frame_and_answers_its_own_question():
    for index in range(60):
        clip = Texts().clip(index)
        assert clip.frames.shape == (0, 3, 112, 112) and clip.boxes is None and not clip.shows
        assert clip.caption == f"{clip.question} {clip.answer}"
        scene = Texts().scene(index)
        assert scene.caption() in clip.question and clip.answer == scene.questions[scene.asked][1]


def test_siblings_are_datasets_like_the_world_itself():
    for name in SIBLINGS:
        pool = open_dataset(tiny(dataset=f"{name}:pool=30"), "train")
        assert len(pool) == 30 and len({pool.told(i).clip_id for i in range(30)}) == 30
        validation = open_dataset(tiny(dataset=name), "validation")
        assert validation.fingerprint.startswith(f"{name}-v2 ") and validation.key(1) == validation.key(1)
        assert split_of(validation[3].clip_id) == "validation" and split_of(pool.told(3).clip_id) == "train"
        assert validation.key(1) != open_dataset(tiny(dataset="shapes"), "validation").key(1)
    for dataset in ("shapes-stills:questions=motion", "shapes-text:colour=1", "shapes-films"):
        with pytest.raises(ConfigError, match="valid are"):
            check_dataset(dataset)


@pytest.mark.parametrize("name", SIBLINGS)
def test_siblings_are_prepared_as_the_world_is(name, tmp_path):
    manifest = prepare(Settings(name, frames=4, size=56, clips=24, shard=10), tmp_path / "set")
    assert manifest["clips"] == 24 and verify(tmp_path / "set") == [] and not manifest["skipped"]
    assert manifest.get("text_only", False) == (name == "shapes-text")
    config = tiny(dataset=str(tmp_path / "set"), frames=4)
    clip, told = open_dataset(config, "train")[0], open_dataset(config, "train").told(0)
    assert clip.shows == (name != "shapes-text") and clip.caption == told.caption
    assert told.shows == clip.shows
    with pytest.raises(ConfigError, match="never ends"):
        Settings(name)
