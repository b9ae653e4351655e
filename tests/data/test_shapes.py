import dataclasses
import hashlib
import time

import numpy as np
import pytest

from fvlm import ConfigError, RunConfig, train
from fvlm.data import ShapesDataset, ShapesWorld, check_dataset, open_dataset
from fvlm.data.shapes import COLOURS, QUESTIONS, SHAPES, SIZES, SOLID
from fvlm.data.tokenizer import words
from fvlm.weights import load_tokenizer

CLIPS = [ShapesWorld().clip(i) for i in range(200)]


def digest(clips) -> str:
    h = hashlib.sha256()
    for c in clips:
        for part in (
            c.frames.tobytes(),
            c.boxes.tobytes(),
            c.caption.encode(),
            f"{c.question}{c.answer}{c.target}".encode(),
        ):
            h.update(part)
    return h.hexdigest()[:16]


def test_the_world_is_the_same_on_every_machine():
    """Hashes of clips drawn when the world was made: a change to them is a change of every result made with
    `shapes`."""
    assert digest(CLIPS[:20]) == "1d637c0478d4e0c7"
    assert digest(ShapesWorld(size=224, frames=3, seed=7).clip(i) for i in range(10)) == "43c19c37af46db18"


def test_a_clip_depends_on_seed_and_index_alone():
    assert digest([ShapesWorld().clip(5)]) == digest([CLIPS[5]])
    assert digest([ShapesWorld(seed=1).clip(5)]) != digest([CLIPS[5]])
    assert len({digest([c]) for c in CLIPS}) == len(CLIPS)


def test_training_and_validation_never_share_an_index():
    world = ShapesWorld()
    validation = {ShapesDataset(world, "validation", seed).index(i) for seed in range(3) for i in range(2000)}
    training = [ShapesDataset(world, "train", seed).index(i) for seed in range(3) for i in range(2000)]
    assert len(set(training)) == len(training), "no clip is seen twice, nor by two seeds"
    assert not validation & set(training)
    assert len(validation) == 2000, "every seed is evaluated on the same clips"


def test_captions_name_every_object_and_what_it_does():
    for index, clip in enumerate(CLIPS):
        scene = ShapesWorld().scene(index)
        assert 2 <= len(scene.things) <= 4
        for looks in ("colour", "shape"):
            assert len({getattr(t, looks) for t in scene.things}) == len(scene.things), (
                "so that each can be referred to"
            )
        assert clip.caption.count(".") == len(scene.things)
        for t in scene.things:
            assert f"{t.colour} {t.shape}" in clip.caption
        assert [t for t in scene.things if t.mark] == [scene.things[scene.marked]]
        assert f"marked {scene.things[scene.marked].mark} " in clip.caption and "grey" not in clip.caption


def test_what_comes_in_later_is_told_later_in_order():
    told = 0
    for index, clip in enumerate(CLIPS):
        late = sorted((t for t in ShapesWorld().scene(index).things if t.enters), key=lambda t: t.enters)
        sentences = clip.caption.split(". ")
        assert [
            f"{t.colour} {t.shape}" in s for t, s in zip(late, sentences[len(sentences) - len(late) :])
        ] == [True] * len(late)
        assert sum(s.startswith("Then") for s in sentences) == len(late)
        told += len(late)
    assert told > 40


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_have_one_answer_and_point_at_its_object(kind):
    asked = [(i, c) for i, c in enumerate(CLIPS) if c.question_kind == kind]
    assert len(asked) > 4
    for index, clip in asked:
        things = ShapesWorld().scene(index).things
        if kind == "count":
            assert (clip.answer, clip.target) == (str(len(things)), -1)
            continue
        thing = things[clip.target]
        motion = "nowhere" if thing.motion == "still" else thing.motion
        right = {
            "mark": thing.mark,
            "colour": thing.colour,
            "shape": thing.shape,
            "motion": motion,
            "enters": thing.colour,
        }
        assert clip.answer == right[kind]
        assert kind != "enters" or thing.enters == max(t.enters for t in things) > 0


def test_a_box_holds_the_colour_of_its_object_and_nothing_outside_all_boxes_does():
    found = seen = 0
    for index, clip in enumerate(CLIPS[:60]):
        things = ShapesWorld().scene(index).things
        for t in (0, 7):
            outside = np.ones(clip.frames.shape[2:], bool)
            for thing, (x0, y0, x1, y1) in zip(things, clip.boxes[t]):
                outside[y0:y1, x0:x1] = False
                exact = (clip.frames[t] == np.array(COLOURS[thing.colour])[:, None, None]).all(0)
                found += exact[y0:y1, x0:x1].any()
                seen += x1 > x0
            for thing in things:
                exact = (clip.frames[t] == np.array(COLOURS[thing.colour])[:, None, None]).all(0)
                assert not (exact & outside).any()
    assert found > 0.95 * seen, "few are hidden behind another or a pillar"


def test_objects_move_where_the_caption_says_also_when_the_camera_pans():
    for index, clip in enumerate(CLIPS[:60]):
        for i, thing in enumerate(ShapesWorld().scene(index).things):
            boxes = clip.boxes[thing.first(8) :, i]
            sight = boxes[
                (boxes[:, 2] - boxes[:, 0] == boxes[:, 3] - boxes[:, 1])
            ]  # not cut by the frame's edge
            centre = (sight[:, :2] + sight[:, 2:]) / 2
            if len(sight) < 4:
                continue
            frames, pan = len(sight) - 1, 30 * 112 / 1000 / 7
            dx, dy = centre[-1] - centre[0]
            slack = pan * frames + 2
            expected = dict(
                left=dx < 0, right=dx > 0, up=dy < 0, down=dy > 0, still=abs(dx) <= slack and abs(dy) <= slack
            )
            assert expected[thing.motion], (index, thing, dx, dy)


def test_an_object_has_no_box_before_it_comes_in_and_one_from_then_on():
    late = [
        (i, k, t) for i in range(len(CLIPS)) for k, t in enumerate(ShapesWorld().scene(i).things) if t.enters
    ]
    for index, k, thing in late:
        there = (CLIPS[index].boxes[:, k, 2:] > CLIPS[index].boxes[:, k, :2]).all(-1)
        assert there.tolist() == [t >= thing.first(8) for t in range(8)] and 1 < thing.first(8) < 7


def test_distractors_are_grey_marked_and_in_no_text():
    world = ShapesWorld(distractors=3)
    counts = set()
    for index in range(50):
        scene = world.scene(index)
        counts.add(len(scene.distractors))
        assert all(t.colour == "grey" and t.mark for t in scene.distractors)
        assert not {t.shape for t in scene.distractors} & {t.shape for t in scene.things} or set(SOLID) <= {
            t.shape for t in scene.things
        }
        texts = scene.caption() + "".join(q + a for q, a, _ in scene.questions.values())
        assert "grey" not in texts
    assert counts == {0, 1, 2, 3}


def test_settings_change_what_they_say():
    def share(condition, **settings):
        scenes = [ShapesWorld(**settings).scene(i) for i in range(100)]
        return sum(map(condition, scenes)) / len(scenes)

    small = lambda scene: sum(t.size == "small" for t in scene.things) / len(scene.things)
    assert share(small, small=0) == 0 and share(small, small=100) == 1
    enters = lambda scene: sum(t.enters > 0 for t in scene.things)
    assert share(enters, enter=0) == 0 and share(enters, enter=100) == share(
        lambda s: len(s.things) - 1, enter=100
    )
    pillar = lambda scene: scene.pillar is not None
    assert share(pillar, occlusion=0) == 0 and 0.5 < share(pillar, occlusion=100) < 1, (
        "none that hides a thing all the time"
    )
    assert share(lambda s: s.asked == "shape", questions=("shape",)) == 1
    moving = lambda camera: np.ptp([ShapesWorld(camera=camera).clip(i).boxes[:, 0, 0] for i in (0,)])
    assert moving(200) > moving(0)


def test_settings_as_text():
    assert ShapesWorld.parse("objects=3-5,small=60,questions=shape+colour") == ShapesWorld(
        objects=(3, 5), small=60, questions=("shape", "colour")
    )
    check_dataset("shapes:distractors=2")
    for settings in ("size=3", "small=x", "small=200", "objects=5-3", "questions=taste", "questions=enters"):
        with pytest.raises(ConfigError, match="shapes: "):
            check_dataset(f"shapes:{settings}")


def test_language_alone_answers_no_better_than_chance():
    from fvlm.data.card import language_only

    table = language_only(ShapesWorld(), fit=8000, test=2000)
    assert set(table["question"]) == set(QUESTIONS)
    for row in table.itertuples():
        assert abs(row.guesser - row.chance) < 0.05, row
        assert abs(row.most_common - row.chance) < 0.05, row


def test_the_language_only_guesser_finds_a_rule_where_there_is_one(monkeypatch):
    from fvlm.data import card

    asked = {"shape": [(f"Which shape is {colour}?", shape) for colour, shape in zip(COLOURS, SHAPES)] * 5}
    monkeypatch.setattr(card, "_asked", lambda world, indices: asked)
    assert card.language_only(ShapesWorld(questions=("shape",)))["guesser"].item() == 1


def test_some_objects_are_one_or_two_patches_large():
    sides = {name: thousandths * 112 // 1000 / 14 for name, thousandths in SIZES.items()}
    assert 0.9 <= sides["small"] <= 1.1 and sides["large"] > 2.5
    drawn = {name: 0 for name in SIZES}
    for index in range(len(CLIPS)):
        for thing in ShapesWorld().scene(index).things:
            drawn[thing.size] += 1
    assert min(drawn.values()) > 0.25 * sum(drawn.values())


def test_every_word_of_the_world_is_one_token_of_the_tiny_tokenizer():
    """If this fails the world has new words: `python -m fvlm.data.tokenizer`."""
    tokenizer = load_tokenizer("tiny")
    assert {w: tokenizer.tokenize(w) for w in words(500) if len(tokenizer.tokenize(w)) != 1} == {}
    for text in [CLIPS[0].caption, "héllo 漢字 <script>"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(SHAPES) == 7 and len(COLOURS) == 8


@pytest.mark.filterwarnings("ignore")
def test_a_core_draws_150_clips_a_second_at_224_pixels():
    world = ShapesWorld(size=224)
    [world.clip(i) for i in range(50)]
    rates = []
    for repeat in range(5):
        start = time.process_time()
        [world.clip(1000 + 60 * repeat + i) for i in range(60)]
        rates.append(60 / (time.process_time() - start))
    assert max(rates) >= 150, f"clips a second of processor time: {[round(r) for r in rates]}"


def test_a_pool_is_the_same_clips_for_every_seed_in_another_order():
    config = RunConfig(llm="tiny1", dataset="shapes:pool=50", device="cpu")
    pools = [open_dataset(dataclasses.replace(config, seed=seed), "train") for seed in (0, 1)]
    orders = [[pool.index(i) for i in range(50)] for pool in pools]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1] and len(set(orders[0])) == 50
    again = [pools[0].index(i) for i in range(50, 100)]
    assert sorted(again) == sorted(orders[0]) and again != orders[0], "another epoch, another order"
    assert [pools[0].index(i) for i in (7, 60, 7)] == [orders[0][7], again[10], orders[0][7]]
    other = open_dataset(dataclasses.replace(config, dataset="shapes:pool=50,stretch=1"), "train")
    assert not {other.index(i) for i in range(50)} & set(orders[0])
    endless = open_dataset(dataclasses.replace(config, dataset="shapes"), "train")
    assert not {endless.index(i) for i in range(50)} & set(orders[0]) and not hasattr(endless, "__len__")
    assert all(index % 10 for index in orders[0]), "no validation clip among them"
    shown = [
        open_dataset(dataclasses.replace(config, dataset=d), "validation")
        for d in ("shapes", "shapes:pool=50")
    ]
    assert shown[0].fingerprint == shown[1].fingerprint and shown[0][3].clip_id == shown[1][3].clip_id


def test_each_pass_through_a_pool_asks_about_another_object_of_the_same_clips():
    config = RunConfig(
        llm="tiny1",
        dataset="shapes:objects=3-3,questions=shape,pool=20,passes=3",
        task="question",
        device="cpu",
    )
    pool = open_dataset(config, "train")
    assert len(pool) == 60
    asked = {}
    for item in range(60):
        clip, told = pool[item], pool.told(item)
        assert (clip.question, clip.answer, clip.target) == (told.question, told.answer, told.target)
        asked.setdefault(clip.clip_id, []).append((clip.target, clip.question, clip.answer))
    assert len(asked) == 20 and all(len({t for t, *_ in mine}) == 3 for mine in asked.values())
    assert all(len(set(mine)) == 3 for mine in asked.values())
    once = open_dataset(dataclasses.replace(config, dataset=config.dataset.replace(",passes=3", "")), "train")
    assert [once.key(i) for i in range(20)] == [pool.key(i) for i in range(20)], "features are shared"
    assert {pool.key(i) for i in range(20, 40)} == {pool.key(i) for i in range(20)}
    assert [once[i].question for i in range(20)] == [pool[i].question for i in range(20)]
    assert "passes" not in once.fingerprint and "passes=3" in pool.fingerprint
    assert (
        open_dataset(config, "validation").fingerprint
        == open_dataset(
            dataclasses.replace(config, dataset="shapes:objects=3-3,questions=shape"), "validation"
        ).fingerprint
    )


def test_validation_may_have_crowded_clips_alone():
    config = RunConfig(llm="tiny1", dataset="shapes:objects=1-5,crowded=3", device="cpu")
    shown, plain, crowd = (
        open_dataset(dataclasses.replace(config, dataset=f"shapes:objects={objects}"), "validation")
        for objects in ("1-5,crowded=3", "1-5", "3-5")
    )
    assert {shown[i].boxes.shape[1] for i in range(40)} == {3, 4, 5}
    assert min(plain[i].boxes.shape[1] for i in range(40)) == 1
    assert shown.fingerprint == crowd.fingerprint != plain.fingerprint and shown.key(3) == crowd.key(3)
    trained, before = (
        open_dataset(dataclasses.replace(config, dataset=f"shapes:objects=1-5{more}"), "train")
        for more in (",crowded=3", "")
    )
    assert trained.fingerprint == before.fingerprint and trained.key(3) == before.key(3)
    assert trained[3].caption == before[3].caption
    with pytest.raises(ConfigError, match="crowded = 6: valid are 0 to 5"):
        check_dataset("shapes:objects=1-5,crowded=6")


@pytest.mark.parametrize("settings", ["passes=2", "pool=9,passes=2", "pool=9,passes=0,questions=shape"])
def test_passes_need_a_pool_and_questions_about_any_object(settings):
    with pytest.raises(ConfigError, match="passes"):
        ShapesWorld.parse(settings)


def test_more_than_a_pool_is_more_than_an_epoch(tmp_path):
    config = RunConfig.from_cell(
        "T1-T_2f_bli", dataset="shapes:pool=20", steps=6, out=str(tmp_path), device="cpu"
    )
    with pytest.raises(ConfigError, match="more than one epoch of 20 clips"):
        train(config)
    with pytest.raises(ConfigError, match="pool = -1"):
        check_dataset("shapes:pool=-1")
