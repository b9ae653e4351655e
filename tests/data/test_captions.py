"""Captions read back."""

import pytest

from fvlm.data.captions import ATTRIBUTES, attribute_accuracy, things_named
from fvlm.data.shapes import ShapesDataset, ShapesWorld


def test_every_object_of_a_caption_is_read_back_as_it_was_drawn():
    world = ShapesWorld()
    for index in range(300):
        scene = world.scene(index)
        named = things_named(scene.caption())
        drawn = [{name: getattr(thing, name) for name in ATTRIBUTES} for thing in scene.things]
        assert sorted(named, key=str) == sorted(drawn, key=str)


def test_what_is_no_object_is_not_read():
    assert things_named("A large shiny circle moves up. medium red A A A moves") == []
    (half,) = things_named("Then a small red ring marked A enters and moves")
    assert half == dict(colour="red", shape="ring", size="small", motion="")


A = "A large red circle moves up."
B = "A small blue star stays still. A medium green ring moves left."


def test_each_attribute_counts_for_itself_whatever_the_order():
    swapped = "A medium green ring moves left. A small blue star stays still."
    assert set(attribute_accuracy([A, B], [A, swapped]).right.values()) == {1.0}
    found = attribute_accuracy([A, B], ["A large red square moves down.", B])
    assert found.right == {
        "colour": 1.0,
        "shape": pytest.approx(2 / 3),
        "size": 1.0,
        "motion": pytest.approx(2 / 3),
    }
    assert found.objects == 3 and found.count == 1.0


def test_an_object_that_is_left_out_is_wrong_in_all_and_one_too_many_wins_nothing():
    left_out = attribute_accuracy([A, B], [A, "A small blue star stays still."])
    assert list(left_out.right.values()) == [pytest.approx(2 / 3)] * 4 and left_out.count == 0.5
    assert attribute_accuracy([A, B], [A + " " + A, B]).right == attribute_accuracy([A, B], [A, B]).right
    assert set(attribute_accuracy([A, B], ["", ""]).right.values()) == {0.0}


def test_chance_is_what_a_text_gets_beside_another_clip():
    found = attribute_accuracy([A, A], [A, "A small red ring moves up."])
    assert found.right == {"colour": 1.0, "shape": 0.5, "size": 0.5, "motion": 1.0} == found.chance
    assert set(attribute_accuracy([A, B], [A, B]).chance.values()) == {0.0}


def test_without_clips_or_with_foreign_captions_it_is_an_error():
    for captions, written in (([A], [A]), ([A, "A man plays"], [A, A]), ([A, B], [A])):
        with pytest.raises(ValueError, match="two clips or more"):
            attribute_accuracy(captions, written)


def test_the_world_s_own_captions_are_all_right():
    clips = [ShapesDataset(ShapesWorld(), "validation", 0)[i] for i in range(8)]
    captions = [clip.caption for clip in clips]
    found = attribute_accuracy(captions, captions)
    assert set(found.right.values()) == {1.0} and max(found.chance.values()) < 0.8
