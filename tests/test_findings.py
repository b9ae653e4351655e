"""FINDINGS.md is what the committed results say, and says what planted ones do."""

import json
import math
import re

import pytest
from conftest import python
from test_plots import SIZES, planted

from fvlm import ConfigError, RunConfig, findings
from fvlm.findings import PAGE, controls_section, earlier_section, micro_section, predict, prediction_section, render
from fvlm.scaling import parameter_counts


def test_the_page_is_what_the_committed_results_say():
    assert PAGE.read_text() == render(), "run python -m fvlm.findings"


@pytest.fixture(scope="module")
def study():
    """Five sizes whose foveated gap is 5 % at a million parameters and two points less with each tenfold."""
    cells = [f"{pair}_{frames}f_{arch}" for pair in SIZES for frames in (8, 16) for arch in ("fov", "bas")]
    controls = [f"{pair}_8f_{arch}" for pair in ("T1-T", "T3-T", "T5-T") for arch in ("sta", "avg", "bli")]
    return planted(cells + controls, seeds=range(4), slope=-0.02, noise=0.001)


@pytest.fixture
def as_micro(study, monkeypatch, tmp_path):
    """The study in the place of outputs/micro; called with pairs, as far as those are run."""

    def put(pairs=SIZES):
        tables = [table.assign(study="micro")[table["pair"].isin(pairs)].reset_index(drop=True) for table in study]
        monkeypatch.setattr(findings, "_micro", lambda: study._make(tables))
        monkeypatch.setattr(findings, "PREDICTION", tmp_path / "prediction.json")
        return study._make(tables)

    return put


def test_planted_gaps_and_controls_are_in_their_tables(as_micro):
    micro = as_micro()
    lines = micro_section(micro).splitlines()
    assert sum("T3-T" in line for line in lines) == 2 and sum("per tenfold" in line for line in lines) == 2
    rows = [line for line in controls_section(micro).splitlines() if line.startswith("| T")]
    assert len(rows) == 3
    found, low, high = map(float, re.findall(r"[-+][\d.]+", rows[1].split("|")[2]))
    million = parameter_counts(RunConfig.from_cell("T3-T_8f_fov", device="cpu"))["total"] / 1e6
    assert low < 100 * ((1.05 - 0.02 * math.log10(million)) / 1.1 - 1) < high and low < found < high, "static loses 10 %"


def test_verdicts_follow_the_planted_truth(as_micro):
    page = earlier_section(as_micro())
    trend = next(line for line in page.splitlines() if "shrinks with scale" in line)
    assert trend.count("supports") == 2 and "contradicts" not in trend
    walk = next(line for line in page.splitlines() if "Train/inference" in line)
    assert "+0.20 to +0.20 % over 40 foveated runs (micro): supports" in walk
    assert "cannot decide" in next(line for line in page.splitlines() if "DINO size" in line)
    assert "cannot decide: no study of sizes" in earlier_section(None)


def test_a_prediction_is_written_before_the_largest_size_and_compared_after(as_micro):
    as_micro(SIZES[:4])
    said = json.loads(predict("2026-01-02").read_text())
    assert said["sizes"] == list(SIZES[:4]) and set(said["gaps"]) == {"micro, 8 frames", "micro, 16 frames"}
    assert all(gap["low"] < gap["value"] < gap["high"] for gap in said["gaps"].values())
    assert "has not been run yet" in prediction_section(as_micro(SIZES[:4]))
    text = prediction_section(as_micro())
    assert text.count("- micro,") == 2 and "2026-01-02" in text and text.count("inside") + text.count("outside") == 2
    with pytest.raises(ConfigError, match="T5-T is not"):
        predict("2026-01-02")
    as_micro(SIZES[:2])
    with pytest.raises(ConfigError, match="needs three sizes"):
        predict("2026-01-02")


def test_help_and_mistakes():
    assert "--predict" in python("-m", "fvlm.findings", "--help").stdout
