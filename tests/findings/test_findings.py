"""FINDINGS.md is what the committed results say, and says what planted ones do."""

import itertools
import json
import math
import re

import pandas as pd
import pytest
from conftest import python
from planted import SIZES, planted

from fvlm import ConfigError, RunConfig
from fvlm.findings import prediction, sources
from fvlm.findings.nanosmol import nanosmol_section
from fvlm.findings.page import PAGE, README, readme_answer, readme_results, render, with_answer
from fvlm.findings.prediction import predict, prediction_section
from fvlm.findings.sections import (
    controls_section,
    micro_section,
    question_section,
    rates_section,
    real_weights_in_a_line,
    real_weights_section,
)
from fvlm.findings.withdrawn import DATE, equal_flops_gaps
from fvlm.findings.words import by_shapes
from fvlm.scaling import parameter_counts
from fvlm.studies.grid import read_grid
from fvlm.studies.question import GRID
from fvlm.training.results import Study


def test_the_page_and_the_readme_are_what_the_committed_results_say():
    assert PAGE.read_text() == render(), "run fvlm findings"
    readme = README.read_text()
    assert readme == with_answer(readme), "run fvlm findings"


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
        tables = [
            table.assign(study="micro")[table["pair"].isin(pairs)].reset_index(drop=True) for table in study
        ]
        monkeypatch.setattr(
            sources, "study", lambda name: None if name == sources.LONGER else study._make(tables)
        )
        monkeypatch.setattr(prediction, "PREDICTION", tmp_path / "prediction.json")
        return study._make(tables)

    return put


def test_planted_gaps_and_controls_are_in_their_tables(as_micro):
    micro = as_micro()
    lines = micro_section(micro).splitlines()
    assert sum("T3-T" in line for line in lines) == 2 and sum("| per tenfold" in line for line in lines) == 2
    losses = controls_section(micro).partition("Where it looks")[0]
    rows = [line for line in losses.splitlines() if line.startswith("| T")]
    assert len(rows) == 3
    found, low, high = map(float, re.findall(r"[-+][\d.]+", rows[1].split("|")[2]))
    million = parameter_counts(RunConfig.from_cell("T3-T_8f_fov", device="cpu"))["trainable"] / 1e6
    assert low < 100 * ((1.05 - 0.02 * math.log10(million)) / 1.1 - 1) < high and low < found < high, (
        "static loses 10 %"
    )


def test_the_readme_s_answer_has_the_trend_and_a_row_for_every_size(as_micro):
    study = as_micro()
    assert readme_answer().count("at equal clips it shrinks with size") == 2
    found = readme_results()
    assert "outputs/figures/gap.png" in found and "5 LLM sizes" in found
    captions = [
        line for line in controls_section(study).splitlines() if line.startswith("- On captions, beside")
    ]
    assert [line.count("it is better") for line in captions] == [3] * 3, (
        "controls lose 10 % at three sizes, the foveated less"
    )
    losses = (
        study.evaluations[study.evaluations["arch"] == "blind"].groupby("step")["loss_autoregressive"].mean()
    )
    assert f"blind {100 * (1 - losses.iloc[-1] / losses.iloc[-2]):.1f}." in found, (
        "what the last steps still gave"
    )
    assert real_weights_in_a_line(study) in found.splitlines(), (
        "here the planted study stands for that one too"
    )
    rows = {line.split()[1]: line.split("|")[2:-1] for line in found.splitlines() if line.startswith("| T")}
    assert list(rows) == list(SIZES)
    for pair, (params, *gaps) in rows.items():
        config = RunConfig.from_cell(f"{pair}_8f_fov", device="cpu")
        assert float(params.split()[0]) == round(parameter_counts(config)["trainable"] / 1e6, 2)
        assert sum(bool(gap.strip()) for gap in gaps) == (5 if pair in ("T1-T", "T3-T", "T5-T") else 2)
    assert (
        readme_answer()
        == with_answer(README.read_text()).partition("from here -->\n")[2].partition("\n<!-- to here")[0]
    )
    as_micro(SIZES[:2])
    assert "a trend needs three sizes" in readme_answer()


def test_planted_gazes_and_real_weights_are_in_their_tables(as_micro, monkeypatch, tmp_path):
    micro = as_micro()
    (tmp_path / "micro").mkdir()
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
    assert "hit" not in controls_section(micro), "nothing was scored yet"
    rows = [
        dict(
            run=f"T3-T_8f_{arch}_seed{seed}",
            clip_id=f"c{i}",
            asked="caption",
            hit=hit + i % 2 / 10,
            mass=2 * hit,
            chance=0.1,
        )
        for arch, hit in (("fov", 0.5), ("sta", 0.2))
        for seed in range(3)
        for i in range(20)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "micro" / "gaze.parquet")
    (line,) = [
        line for line in controls_section(micro).partition("*hit*")[2].splitlines() if line.startswith("| T")
    ]
    found = [float(value) for value in re.findall(r"-?[\d.]+", line)[1:]]
    assert found == pytest.approx([0.1, 0.55, 0.25, 0.3, 0.3, 0.3, 1, 0.4, 0.6, 0.6, 0.6]), (
        "chance; hit and mass of both, difference"
    )
    real = real_weights_section(micro)
    assert sum(line.startswith("| T") for line in real.splitlines()) == 10 and "planted" in real
    assert "does in two hours" in real, "a planted run sees fewer clips than nanoSmol's"
    line = real_weights_in_a_line(micro)
    assert (
        line.startswith("From real weights, a part of")
        and line.count(" against ") == 10
        and "; T1-T_16f +" in line
    )
    assert line.count("beside no visual token, foveated -") == 3 and line.count("; baseline -") == 3, (
        "three sizes have a blind one"
    )
    row = next(row for row in real.splitlines() if "T3-T_8f" in row)
    assert re.search(r"T3-T_8f (\S+) \(", line)[1] in row, "the same gap in both"
    blind = next(row for row in real.splitlines() if "T2-T_8f" in row).split("|")[-3:-1]
    assert not "".join(blind).strip(), "no blind run, no number"
    for tell in (real_weights_section, real_weights_in_a_line):
        assert "another clip's frames" not in tell(micro), "nobody swapped them yet"
    rows = [
        dict(
            run=f"T1-T_8f_{arch}_seed0",
            clip_id=f"c{i}",
            text_tokens=5,
            loss=1.0,
            loss_swapped=1 + used + (i % 2 - 0.5) / 10,
        )
        for arch, used in (("fov", 0.3), ("bas", 0.0))
        for i in range(20)
    ]
    for count, words in ((40, "T1-T_8f_fov +0.3000"), (20, "T1-T_8f_bas +0.0000")):
        pd.DataFrame(rows[-count:]).to_parquet(tmp_path / "micro" / "swapped.parquet")
        for told in (real_weights_section(micro), real_weights_in_a_line(micro)):
            assert (
                words in told
                and told.count("no use of them can be told") == 1
                and told.count("nats, used") == (count == 40)
            )
            assert ("says nothing yet" in told) == (count == 20)
    whole = micro._replace(runs=micro.runs.assign(samples_seen=4480))
    assert "does in two hours" not in real_weights_section(whole) + real_weights_in_a_line(whole)


def test_other_sizes_of_the_question_get_a_row_each(monkeypatch, tmp_path):
    """A question study of two sizes and three architectures, of which one answers better and looks at the
    object."""
    samples, gazes, rows = [], [], []
    for pair, arch, seed in itertools.product(("T1-T", "T2-T"), ("foveated", "static", "baseline"), range(3)):
        run, good = f"{pair}_2f_{arch[:3]}_seed{seed}", arch == "foveated"
        names = dict(run=run, pair=pair, arch=arch, seed=seed)
        samples += [
            names | dict(clip_id=f"c{i}", text_tokens=2, loss_autoregressive=1 - 0.5 * good + i / 100)
            for i in range(30)
        ]
        rows.append(dict(run=run, clips=30, right=0.9 if good else 0.25, hit=0.8, hit_other=0.1, chance=0.1))
        if arch != "baseline":
            gazes += [
                dict(
                    run=run,
                    clip_id=f"c{i}",
                    objects=2 + (i > 9),
                    asked="own",
                    hit=0.8 * good,
                    mass=3.0,
                    chance=0.1,
                )
                for i in range(30)
            ]
    said = pd.DataFrame(
        dict(run=row["run"], clip_id=f"c{i}", objects=1 + 3 * (i > 9), right="fov" in row["run"] or i < 20)
        for row in rows
        for i in range(30)
    )
    (tmp_path / "question").mkdir()
    pd.DataFrame(gazes).to_parquet(tmp_path / "question" / "gaze.parquet")
    said.to_parquet(tmp_path / "question" / "answers.parquet")
    study = Study(pd.DataFrame(), pd.DataFrame(samples))
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
    monkeypatch.setattr(sources, "question_results", lambda: pd.DataFrame(rows))
    monkeypatch.setattr(sources, "load_study", lambda folder: study)
    text = question_section()
    rates = {cell.config.cell[:4]: f"{cell.config.learning_rate:g}" for cell in read_grid(GRID).cells}
    rates = ", ".join(f"{pair} {rates[pair]}" for pair in ("T1-T", "T2-T"))
    assert (
        "last 30 % of the steps), tuned on a held-out seed, the same for all architectures of a size: "
        f"{rates}." in text
    )
    assert "3 seeds, 20 clips with three shapes or more" in text and "-0.500 nats" in text
    lines = [line for line in text.splitlines() if line.startswith("| T")]
    right = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert [line.split()[1] for line in lines[:4]] == ["T1-T", "T2-T"] * 2, "answers, then gazes"
    assert right[:3] == [
        ["T1-T", "foveated", "100", "100"],
        ["T1-T", "baseline", "100", "50"],
        ["T1-T", "static", "100", "50"],
    ]
    assert by_shapes(sources.right_by_shapes()).endswith(
        "with 1, 4 shapes in the clip: foveated 100, 100; baseline 100, 50; static 100, 50; a guess among "
        "them 100, 25."
    )
    assert (
        lines[0].count("-0.500 (-0.500 to -0.500)") == 2
        and lines[0].count("25 to 25") == 2
        and "90 to 90" in lines[0]
    )
    assert "+0.800 (+0.800 to +0.800)" in lines[2] and "+0.00 (" in lines[2]
    assert "only training that is missing" not in text, "none was trained for longer yet"
    more = planted(["T2-T_2f_bas", "T2-T_2f_sta"], seeds=(0, 1))
    monkeypatch.setattr(sources, "study", lambda name: more if name == sources.LONGER else None)
    (tmp_path / "question_long").mkdir()
    said[said["run"].isin(more.runs["run"])].to_parquet(tmp_path / "question_long" / "answers.parquet")
    text = question_section().partition("only training that is missing?")[2]
    steps = more.runs["config"].iloc[0].steps
    assert (
        f"after {steps} steps instead of 600 (T2-T, 2 seeds, learning rate 0.0005), in percent: baseline "
        "100, 50; static 100, 50." in text
    )
    losses = more.evaluations.groupby(["arch", "step"])["loss_autoregressive"].mean()
    row = next(
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| static" in line
    )
    assert [float(cell) for cell in row[2:]] == pytest.approx([*losses["static"].round(3), 100, 50])
    rows[:] = [row for row in rows if "bas" not in row["run"]]
    assert "By size" not in question_section(), "without the baseline there is nothing to compare"


def test_the_rates_say_where_a_short_sweep_misleads():
    losses = {
        ("T1-T", 20, 1e-3): 1.0,
        ("T1-T", 20, 2e-3): 0.9,
        ("T1-T", 60, 1e-3): 0.5,
        ("T1-T", 60, 2e-3): 0.8,
        ("T2-T", 20, 1e-3): 1.0,
        ("T2-T", 20, 2e-3): 1.1,
        ("T2-T", 20, 5e-4): 1.2,
        ("T2-T", 60, 1e-3): 0.5,
        ("T2-T", 60, 2e-3): 0.7,
        ("T2-T", 60, 5e-4): 0.6,
    }
    rows = [
        dict(pair=pair, steps=steps, rate=rate, loss=loss + off, seed=100, arch=arch)
        for (pair, steps, rate), loss in losses.items()
        for arch, off in (("foveated", 0.01), ("baseline", -0.01))
    ]
    rows.append(dict(pair="T2-T", steps=60, rate=4e-3, loss=0.1, seed=100, arch="foveated"))
    text = rates_section("micro", pd.DataFrame(rows))
    assert (
        text.count("misleads") == 1
        and "T1-T, 0.001 beside 0.002: +0.100 nats after 20 steps, -0.300 after 60." in text
    )
    assert "own best: foveated 0.410 nats at T2-T (0.004); nothing elsewhere." in text
    assert "may be better: T1-T." in text and "0.004" not in text.partition("misleads")[0], (
        "one architecture alone is no mean"
    )
    assert "--share 0.4`, then" in text and "--rates 0.0005,0.001,0.002`." in rates_section(
        "micro", pd.DataFrame(rows).query("steps == 60")
    )
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| 60")
    ]
    assert table == [["60", "T1-T", "", "0.5000", "0.8000"], ["60", "T2-T", "0.6000", "0.5000", "0.7000"]]


def test_verdicts_follow_the_planted_truth(as_micro):
    page = nanosmol_section(as_micro())
    trend = next(line for line in page.splitlines() if "shrinks with scale" in line)
    assert trend.count("supports") == 2 and "contradicts" not in trend
    walk = next(line for line in page.splitlines() if "Train/inference" in line)
    assert "+0.20 to +0.20 % over 40 foveated runs (micro): supports" in walk
    assert "cannot decide" in next(line for line in page.splitlines() if "DINO size" in line)
    assert "cannot decide: no study of sizes" in nanosmol_section(None)
    sizes = [
        parameter_counts(RunConfig.from_cell(f"{pair}_8f_bas", device="cpu"))["trainable"] / 1e6
        for pair in SIZES
    ]
    assert f" to {max(sizes):.2g} M trained parameters" in page and "157 to 411 M" in page, (
        "as the README's table of sizes"
    )


def test_what_is_withdrawn_stands_in_both_with_its_figures(study):
    gaps = equal_flops_gaps(study)
    curves = {
        (row.arch, row.seed, row.step): row
        for row in study.evaluations.query("pair == 'T1-T' and frames == 8").itertuples()
    }
    steps = sorted({step for _, _, step in curves})
    end, before, last = (
        curves["foveated", 0, steps[-1]],
        *(curves["baseline", 0, step] for step in steps[-2:]),
    )
    assert before.flops < end.flops < last.flops, (
        "the foveated model's FLOPs fall between two of the baseline's evaluations"
    )
    (found,) = gaps.query("pair == 'T1-T' and frames == 8 and seed == 0")["percent"]
    bounds = sorted(100 * (end.loss_autoregressive / row.loss_autoregressive - 1) for row in (before, last))
    assert bounds[0] < found < bounds[1]
    page, readme = PAGE.read_text(), README.read_text()
    for text in (page, readme):
        assert "Withdrawn" in text and DATE in text and "86 % right after 1,300 steps at 0.0003" in text
        outside = re.sub(r"## Withdrawn.*?(?=\n## )", "", re.sub(r"\n\*\*Withdrawn.*", "", text), flags=re.S)
        assert len(outside) > 0.8 * len(text)
        assert "guesses which" not in outside and "beside the baseline's 16 tokens a frame" not in outside


def test_a_prediction_is_written_before_the_largest_size_and_compared_after(as_micro):
    as_micro(SIZES[:4])
    said = json.loads(predict("2026-01-02").read_text())
    assert said["sizes"] == list(SIZES[:4]) and set(said["gaps"]) == {"micro, 8 frames", "micro, 16 frames"}
    assert all(gap["low"] < gap["value"] < gap["high"] for gap in said["gaps"].values())
    assert "has not been run yet" in prediction_section(as_micro(SIZES[:4]))
    text = prediction_section(as_micro())
    assert (
        text.count("- micro,") == 2
        and "2026-01-02" in text
        and text.count("inside") + text.count("outside") == 2
    )
    with pytest.raises(ConfigError, match="T5-T is not"):
        predict("2026-01-02")
    as_micro(SIZES[:2])
    with pytest.raises(ConfigError, match="needs three sizes"):
        predict("2026-01-02")


def test_help_and_mistakes():
    assert "--predict" in python("-m", "fvlm", "findings", "--help").stdout
