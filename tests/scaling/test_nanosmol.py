"""What `scaling.ipynb` and FINDINGS.md say in words of nanoSmol's ten rows holds in them."""

import re

import pytest

from fvlm.scaling import nanosmol, tables


def test_the_published_correction_is_that_of_the_8_frame_rows_and_the_64_frame_rows_say_the_opposite():
    corrected = tables.replayed_correction().set_index(["frames", "mode", "llm"])["corrected"]
    assert [corrected[8, "parallel", llm] for llm in ("135m", "360m")] == [2.45, 1.59]
    for mode, ends in (("parallel", (2.6, 3.2)), ("autoregressive", (2.7, 3.8))):
        assert [round(corrected[64, mode, llm], 1) for llm in ("135m", "360m")] == list(ends)


def test_a_larger_llm_helps_in_four_of_four_and_a_larger_dino_in_none_of_two():
    found = tables.size_claims()
    llm, dino = (found[found["change"].str.startswith(word)] for word in ("LLM", "DINO"))
    assert len(llm) == 4 and llm["percent"].round().between(-7, -5).all()
    assert len(dino) == 2 and (dino["percent"] > 0).all() and (dino["frames"] == 8).all()
    assert llm["millions_added"].min() > 2.8 * dino["millions_added"].max(), "three times as many and more"


def test_the_walk_costs_most_at_64_frames_and_the_larger_llm():
    walk = tables.inference_claim().set_index("cell")["percent"]
    assert len(walk) == 5 and walk.max() < 0.6 and walk.idxmax() == "M-S_64f_fov"
    assert walk["M-S_64f_fov"] / walk["S-S_64f_fov"] == pytest.approx(8, abs=0.5)


def test_64_frames_are_worse_in_four_of_four_and_the_foveated_model_loses_more_at_360m():
    nats = tables.frames_claim().set_index(["llm", "arch"])["nats"]
    assert len(nats) == 4 and (nats > 0).all()
    assert nats["360m", "foveated"] > nats["360m", "baseline"]


def test_counted_the_saving_is_smaller_and_dino_is_most_of_it():
    found = tables.flops_conventions().set_index("cells")
    assert found["times_cheaper"].round(1).agg(["min", "max"]).tolist() == [1.2, 2.0]
    assert found["times_cheaper_study"].round(1).agg(["min", "max"]).tolist() == [1.1, 3.1]
    assert (100 * found["vision_share_fov"]).round().agg(["min", "max"]).tolist() == [55, 98]
    long = found[found.index.str.endswith("_64f")]
    assert (long["times_cheaper_study"] > long["times_cheaper"]).all(), "where the LLM reads many tokens"
    assert found["recomputation_fov"].between(0.25, 0.35).all(), "about a third"


def test_three_gaps_predict_anything_and_the_cell_itself_would_tell_most():
    (found,) = tables.prediction().to_dict("records")
    assert found["from_sizes"] == 3 and found["low"] < -10 and found["high"] > 10
    cells = tables.next_of_nanosmol().set_index("cell")
    assert list(cells.index[:2]) == ["B-L, seed 1", "M-S, seed 2"], "M-S is the largest that was run"
    assert cells["flops"].idxmax() == "B-L, seed 1" and cells["shrinks_percent"]["S-B, seed 2"] == 0


def test_nanosmol_has_no_larger_dino_at_64_frames():
    assert len(nanosmol()) == 10 and set(nanosmol().query("vision == 'base'")["frames"]) == {8}


def test_tables_are_shown_with_names_units_and_few_digits():
    every = [
        tables.replayed_correction(),
        tables.size_claims(),
        tables.inference_claim(),
        tables.frames_claim(),
        tables.flops_conventions(),
        tables.parameter_conventions(),
        tables.prediction(),
        tables.next_of_nanosmol(),
        tables.swapped("auto"),
    ]
    for table in every:
        found = tables.shown(table)
        assert len(found) == len(table) and not any("_" in name for name in found.columns)
        assert set(table.columns) - {"low", "high"} <= set(tables.SHOWN), "each has a name for readers"
        assert not re.search(r"\d{6}|\.\d{5}|\bnan\b", found.to_csv()), found
    assert tables.shown(tables.prediction())["95 % interval"].tolist() == ["-14.4 to +17.4"]
    flops = tables.shown(tables.flops_conventions())
    assert (
        flops["foveated, counted, FLOPs per clip"][0] == "339 G" and flops["times cheaper, 6N"][7] == "3.12"
    )
    assert "not known" in tables.shown(tables.parameter_conventions())["as nanoSmol counted, M"].tolist()
