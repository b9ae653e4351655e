"""What captions name right, attribute by attribute, on planted texts."""

import re

import pandas as pd
import pytest

from fvlm.data.captions import attributes_named, attributes_right
from fvlm.findings import sources
from fvlm.findings.named import (
    GUESS,
    _never_said,
    guess,
    named,
    named_line,
    named_section,
    named_sentences,
    named_table,
)
from fvlm.findings.paired import more_or_less
from fvlm.scaling.intervals import Estimate

TRUE = ["a large red circle moves left", "a small blue square stays still"]
WRONG = {
    "colour": lambda text: text.replace("red", "green").replace("blue", "green"),
    "motion": lambda text: text.replace("moves left", "moves up").replace("stays still", "moves up"),
}


def texts(wrong: dict[str, tuple[str, int]], seeds: int = 3, clips: int = 40, size: str = "T1-T"):
    """Captions of two objects a clip; of each architecture an attribute is named wrong in so many in ten
    clips, one clip more in the second seed."""
    rows = []
    for arch, (attribute, tenths) in wrong.items():
        for seed in range(seeds):
            for clip in range(clips):
                truth = ", ".join(TRUE if clip % 2 else TRUE[::-1])
                missed = clip % 10 < tenths or (seed == 1 and clip == clips - 1)
                text = WRONG[attribute](truth) if missed else truth
                rows.append(
                    dict(run=f"{size}_8f_{arch}_seed{seed}", clip_id=f"{clip:03d}", truth=truth, text=text)
                )
    return pd.DataFrame(rows)


def test_attributes_of_a_caption_are_those_of_its_objects_and_their_mean_is_the_whole():
    truth = "a large red circle moves left, a small blue square stays still"
    text = "a small blue square stays still, a large green circle moves up"
    found = attributes_named(truth, text)
    assert found == dict(colour=0.5, shape=1.0, size=1.0, motion=0.5, number=1.0)
    assert attributes_right(truth, text) == pytest.approx(sum(list(found.values())[:4]) / 4)
    assert attributes_named(truth, "a small blue square stays still") == dict.fromkeys(
        ("colour", "shape", "size", "motion"), 0.5
    ) | dict(number=0.0)
    assert all(value != value for value in list(attributes_named("nothing", text).values())[:4])


@pytest.mark.parametrize("attribute, other", [("colour", "motion"), ("motion", "colour")])
@pytest.mark.parametrize("worse", [True, False])
def test_what_is_named_wrong_more_often_is_told_with_its_sign(attribute, other, worse):
    tenths = (4, 1) if worse else (1, 4)
    rows = named(texts({"fov": (attribute, tenths[0]), "bas": (attribute, tenths[1]), "bli": (attribute, 9)}))
    table = named_table(rows).set_index("architecture")
    assert table.loc["foveated", attribute].startswith(f"{100 - 10 * tenths[0] - 2.5 / 3:.1f} (")
    assert table.loc["foveated", other] == "100.0 (100.0 to 100.0)"
    (line,) = named_sentences(rows)
    assert line.startswith("**At T1-T the foveated model less baseline, points**: ")
    parts = dict(re.findall(r"(colour|motion|shape|the number of objects, of clips) (.*?)(?:;|$)", line))
    value, low, high = map(float, re.findall(r"[-+][\d.]+", parts[attribute]))
    assert value == pytest.approx(-30 if worse else 30, abs=0.1) and low < value < high
    assert parts[attribute].endswith(", less" if worse else ", more")
    assert parts["shape"].endswith("no difference can be told")


def test_what_a_guess_reaches_stands_last():
    last = named_table(named(texts({"fov": ("colour", 0)}))).iloc[-1]
    assert last["architecture"] == GUESS
    assert (last["colour"], last["the number of objects, of clips"]) == ("50.0", "100.0"), (
        "two objects, two colours"
    )
    right = guess(
        [*TRUE, "a large red star moves left, a large red star moves up, a small blue star moves left"]
    )
    assert right["colour"] == pytest.approx((1 + 0 + 2 / 3) / 3) and right["number"] == pytest.approx(2 / 3)


def test_the_order_in_which_objects_are_named_changes_nothing():
    """Several pairings agree in as many attributes: colours decide, whichever is named first."""
    truth = "a large red circle moves left, a small blue square stays still"
    named_so = ["a small red square moves up", "a large blue circle moves up"]
    found = [attributes_named(truth, ", ".join(order)) for order in (named_so, named_so[::-1])]
    assert found[0] == found[1] == dict(colour=0.0, shape=1.0, size=1.0, motion=0.0, number=1.0), (
        "two, not one"
    )
    tie = ["a small red star moves up", "a large blue star moves up"]  # a colour or a size each
    found = [attributes_named(truth, ", ".join(order)) for order in (tie, tie[::-1])]
    assert found[0] == found[1] and (found[0]["colour"], found[0]["size"]) == (1.0, 0.0)


def test_what_is_never_said_and_marks_are_told():
    rows = texts({"fov": ("motion", 10), "bas": ("motion", 0)})
    rows["truth"] = rows["truth"].str.replace("circle", "circle marked K")
    rows["text"] = [row.truth if "bas" in row.run else row.text for row in rows.itertuples()]
    assert "Of the true objects 50 % stay still." in (said := _never_said(named(rows)))
    assert "foveated at T1-T 0 % and 0 % of marks; baseline at T1-T 50 % and 100 % of marks." in said


def test_other_clips_are_not_compared():
    rows = named(texts({"fov": ("colour", 4), "bas": ("colour", 1)}))
    moved = rows["arch"].eq("baseline") & rows["clip_id"].eq("003")
    with pytest.raises(ValueError, match="other seeds or clips"):
        named_sentences(rows.assign(clip_id=rows["clip_id"].mask(moved, "999")))
    with pytest.raises(ValueError, match="missing"):
        named_sentences(
            rows[~(rows["arch"].eq("baseline") & rows["seed"].eq("1") & rows["clip_id"].eq("003"))]
        )


def test_two_sides_are_compared_on_seeds_that_both_have_and_on_no_fewer_than_are_enough():
    rows = texts({"fov": ("colour", 4), "avg": ("colour", 1)})
    few = rows[~rows["run"].isin([f"T1-T_8f_avg_seed{seed}" for seed in (1, 2)])]
    assert named_sentences(named(few)) == []
    two = rows[rows["run"] != "T1-T_8f_avg_seed2"]
    assert len(named_sentences(named(two))) == (1 if sources.LEAST <= 2 else 0)


def test_the_section_is_there_when_the_texts_are(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
    assert named_section("captions") == "" == named_line("captions")
    (tmp_path / "captions" / "measured").mkdir(parents=True)
    rows = texts({"fov": ("colour", 4), "bas": ("colour", 1)})
    rows.to_parquet(tmp_path / "captions" / "measured" / "texts.parquet")
    section = named_section("captions")
    assert "first 40 validation clips" in section and "--clips 40" in section
    assert "; shape +0.0 (" in section and section.count("| T1-T") == 2
    line = named_line("captions")
    assert line.startswith("**What their captions name right** at T1-T") and not line.endswith(".")
    ours, theirs, value, low, high = map(
        float, re.findall(r"[-+]?[\d.]+", line.partition(": colour ")[2])[:5]
    )
    assert (ours, theirs) == (59, 89) and low < value == -30 < high < 0
    assert "size of objects 100 and 100, +0.0 (+0.0 to +0.0)" in line
    rows[rows["run"].str.contains("fov")].to_parquet(tmp_path / "captions" / "measured" / "texts.parquet")
    assert named_line("captions") == "" and "**At" not in named_section("captions")


def test_more_and_less_are_said_as_far_as_their_number_allows():
    doubtful, sure = Estimate(1.0, 0.1, 1.9, 0.03), Estimate(-1.0, -1.2, -0.8, 1e-6)
    assert more_or_less([doubtful]) == ["more"] and more_or_less([]) == []
    assert more_or_less([doubtful] * 3 + [sure]) == ["no difference can be told"] * 3 + ["less"]
