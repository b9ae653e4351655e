"""FINDINGS.md is what the committed results say, and says what planted ones do."""

import dataclasses
import itertools
import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from planted import SIZES, planted

from fvlm import RunConfig
from fvlm.cli import main
from fvlm.config import REPOSITORY
from fvlm.findings import nanosmol, page, prediction, sections, sources, words
from fvlm.findings.answer import beside_the_cost
from fvlm.findings.nanosmol import frames_changes, nanosmol_section
from fvlm.findings.page import PAGE, README, readme_results, render, with_answer
from fvlm.findings.prediction import prediction_section
from fvlm.findings.rates import rates_section
from fvlm.findings.sections import (
    controls_section,
    micro_section,
    question_section,
    real_weights_in_a_line,
    real_weights_section,
    sees_section,
)
from fvlm.findings.withdrawn import DATE, equal_flops
from fvlm.findings.words import (
    answers_beside,
    beside,
    by_shapes,
    longer,
    lower_or_higher,
    seen_through,
    still_falling,
    trained_sizes,
    trends,
    verdict,
)
from fvlm.scaling import Results, all_gaps, parameter_counts
from fvlm.scaling.runs import NANOSMOL_SAMPLES
from fvlm.studies.grid import read_grid
from fvlm.studies.question import GRID
from fvlm.training.results import Study


@pytest.mark.slow
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
        monkeypatch.setattr(sources, "study", lambda name: study._make(tables) if name == "micro" else None)
        monkeypatch.setattr(prediction, "MICRO_PREDICTION", tmp_path / "prediction.json")
        return study._make(tables)

    return put


def rows(text: str, *columns: str) -> list[dict[str, str]]:
    """The rows of the one Markdown table of a text that has these columns, by column."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        names, _, *lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in block.splitlines()]
        if set(columns) <= set(names):
            found.append([dict(zip(names, line, strict=True)) for line in lines])
    (table,) = found
    return table


def numbers(text: str) -> list[float]:
    """All numbers with a sign or a point, thousands' commas left out."""
    return [float(n) for n in re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.]*\d)", text.replace(",", ""))]


def interval(cell: str) -> tuple[float, float, float]:
    """A value and its interval, "+1.49 (+0.52 to +2.53)" with whatever comes after."""
    return tuple(map(float, re.match(r"([-+][\d.]+)(?: %)? \(([-+][\d.]+) to ([-+][\d.]+)\)", cell).groups()))


def last_losses(study, pair: str, frames: int = 8) -> dict[str, float]:
    """Per architecture the mean over seeds of a cell's last loss, frame by frame."""
    table = study.evaluations.query("pair == @pair and frames == @frames")
    return table[table["step"] == table["step"].max()].groupby("arch")["loss_autoregressive"].mean().to_dict()


def gap_of(study, pair: str, frames: int, one: str, other: str) -> float:
    """In percent: a cell's loss over another's, means over the text tokens of all samples and seeds."""
    table = study.samples.query("pair == @pair and frames == @frames")
    total = (table["loss_autoregressive"] * table["text_tokens"]).groupby(table["arch"]).sum()
    return 100 * (total[one] / total[other] - 1)


# ── Captions: the gap with size, and controls ────────────────────────────────────────────────────


def test_a_size_s_gap_is_that_of_its_runs_samples(as_micro):
    study = as_micro()
    table = rows(micro_section(study), "size", "raw, %")
    sizes = [(row["study"], row["size"]) for row in table if row["size"] != "per tenfold"]
    assert sizes == [(f"micro, {frames} frames", pair) for frames in (8, 16) for pair in SIZES]
    for row in table:
        if row["size"] in SIZES:
            expected = gap_of(study, row["size"], int(row["study"].split()[1]), "foveated", "baseline")
            value, low, high = interval(row["raw, %"])
            assert low < value < high and value == pytest.approx(expected, abs=0.006)


def test_the_trend_is_that_of_the_gaps_and_shrinks_where_its_interval_is_below_zero(as_micro):
    study = as_micro()
    table = rows(micro_section(study), "size", "raw, %")
    slopes = [interval(row["raw, %"]) for row in table if row["size"] == "per tenfold"]
    assert len(slopes) == 2 and all(low < slope < high < 0 for slope, low, high in slopes)
    for line, (slope, low, high) in zip(trends(all_gaps(study)), slopes, strict=True):
        assert f"{slope:+.2f} ({low:+.2f} to {high:+.2f})" in line
        assert "shrinks" in line and "grows" not in line
        first, last = numbers(line)[1:3]
        assert slope == pytest.approx((last - first) / math.log10(size_of("T5-T") / size_of("T1-T")), abs=0.3)


def size_of(pair: str, arch: str = "fov") -> float:
    """Millions of trained parameters."""
    return parameter_counts(RunConfig.from_cell(f"{pair}_8f_{arch}", device="cpu"))["trainable"] / 1e6


def test_two_sizes_are_no_trend(as_micro):
    for line in trends(all_gaps(as_micro(SIZES[:2]))):
        assert len(numbers(line)) == 3, "frames, two gaps"
        assert not re.search("shrinks|grows|can be told", line)


def test_a_control_s_gap_is_that_of_its_samples_and_holds_what_was_planted(as_micro):
    study = as_micro()
    table = rows(controls_section(study).partition("Where it looks")[0], "size", "against static")
    assert [row["size"] for row in table] == ["T1-T", "T3-T", "T5-T"], "where controls were run"
    for row in table:
        for arch in sources.CONTROLS:
            found, low, high = interval(row[f"against {arch}"])
            expected = gap_of(study, row["size"], 8, "foveated", arch)
            assert low < found < high and found == pytest.approx(expected, abs=0.006)
    _, low, high = interval(table[1]["against static"])
    assert low < 100 * ((1.05 - 0.02 * math.log10(size_of("T3-T"))) / 1.1 - 1) < high, "static loses 10 %"


@pytest.mark.parametrize("arch", sources.CONTROLS)
def test_the_verdict_beside_a_control_that_loses_follows_its_intervals(as_micro, arch):
    """Controls lose 10 % and more at three sizes, the foveated model less."""
    found = beside(sources.captions(as_micro()), arch).split("; ")
    assert [re.search(r"T\d-T", part)[0] for part in found] == ["T1-T", "T3-T", "T5-T"]
    for part in found:
        assert interval(part)[2] < 0 and part.endswith(verdict(Planted(-2, -1)))


class Planted:
    """A gap of which only the interval is known, and with it what is said in percent."""

    def __init__(self, low, high):
        self.interval = self.percent_interval = low, high
        self.percent = (low + high) / 2


def test_a_verdict_is_one_of_three():
    better, worse, open_, edge = (verdict(Planted(*ends)) for ends in ((-2, -1), (1, 2), (-1, 2), (0, 2)))
    assert len({better, worse, open_}) == 3 and edge == open_


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((-91.6, -81.4), "86 % lower (81 to 92)"),
        ((3.2, 21.2), "12 % higher (3 to 21)"),
        ((0.2, 0.6), "0.4 % higher (0.2 to 0.6)"),
        ((-3, 5), "not to be told apart (+1 %, -3 to +5)"),
        ((-3, 0), "not to be told apart (-1.5 %, -3.0 to +0.0)"),
    ],
)
def test_a_loss_is_lower_or_higher_where_its_interval_is(ends, said):
    assert lower_or_higher(Planted(*ends)) == said


# ── The README's part ────────────────────────────────────────────────────────────────────────────


def test_the_readme_has_a_row_for_every_size_with_its_parameters_and_gaps(monkeypatch):
    study = planted([f"{pair}_8f_{arch}" for pair in SIZES for arch in ("fov", "bas")], seeds=range(3))
    monkeypatch.setattr(page, "captions", lambda: study)
    text = readme_results()
    table = rows(text, "size", "trained parameters, foveated")
    assert [row["size"] for row in table] == list(SIZES)
    for row in table:
        parameters = float(row["trained parameters, foveated"].split()[0])
        assert parameters == round(size_of(row["size"]), 2)
    table = rows(text, "size", "seeds", "at equal clips, %")
    assert [row["size"] for row in table] == [*SIZES, "per tenfold"]
    for row in table:
        gaps = [cell for name, cell in row.items() if name.startswith("at equal") and cell]
        assert len(gaps) == 5, "nats, clips, FLOPs with and without vision, loss"
        for cell in gaps:
            value, low, high = interval(cell)
            assert low < value < high


def test_how_far_from_converged_the_earlier_runs_are_is_said(as_micro):
    study = as_micro()
    assert still_falling(study) in render()


def test_still_falling_is_what_the_last_steps_gave(as_micro):
    study = as_micro()
    table = study.evaluations.pivot_table(index="arch", columns="step", values="loss_autoregressive")
    gained = 100 * (1 - table.iloc[:, -1] / table.iloc[:, -2])
    before, last, *shares = numbers(still_falling(study))
    assert [before, last] == list(table.columns[-2:])
    archs = ("foveated", "baseline", *sources.CONTROLS)
    assert shares == pytest.approx([gained[arch] for arch in archs], abs=0.051)


def test_only_what_stands_between_the_readme_s_marks_is_written(monkeypatch):
    monkeypatch.setattr(page, "BLOCKS", dict(one=lambda: "new", two=lambda: "newer"))
    around = "\n".join(
        ["before", page.mark("one"), "{}", page.END, "between", page.mark("two"), "{}", page.END, "after"]
    )
    assert with_answer(around.format("old", "older")) == around.format("new", "newer")


# ── Where it looks ───────────────────────────────────────────────────────────────────────────────


def test_gazes_are_in_the_table_with_their_difference(as_micro, monkeypatch, tmp_path):
    """A foveated model whose hits are 0.5 and 0.6 by turns, its static control's 0.3 lower; mass twice as
    much."""
    micro = as_micro()
    (tmp_path / "micro").mkdir()
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
    assert "hit" not in controls_section(micro), "nothing was scored yet"
    scored = [
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
    pd.DataFrame(scored).to_parquet(tmp_path / "micro" / "gaze.parquet")
    (row,) = rows(controls_section(micro), "hit by chance")
    assert row["size"] == "T3-T" and float(row["hit by chance"]) == 0.1
    assert [float(row[f"hit, {arch}"]) for arch in ("foveated", "static")] == [0.55, 0.25]
    assert [float(row[f"mass, {arch}"]) for arch in ("foveated", "static")] == [1, 0.4]
    assert interval(row["hit, difference"]) == (0.3, 0.3, 0.3)
    assert interval(row["mass, difference"]) == (0.6, 0.6, 0.6)


# ── Real weights ─────────────────────────────────────────────────────────────────────────────────


def test_cells_from_real_weights_have_their_losses_and_gaps_in_a_row(as_micro):
    study = as_micro()
    table = {row["cells"]: row for row in rows(real_weights_section(study), "cells", "seeds")}
    assert set(table) == {f"{pair}_{frames}f" for pair in SIZES for frames in (8, 16)}
    row, losses = table["T3-T_8f"], last_losses(study, "T3-T")
    for arch in ("foveated", "baseline", "blind"):
        assert float(row[arch]) == pytest.approx(losses[arch], abs=6e-4)
    for one, other in (("foveated", "baseline"), ("foveated", "blind"), ("baseline", "blind")):
        value, low, high = interval(row[f"{one} against {other}, %"])
        assert low < value < high
        assert value == pytest.approx(gap_of(study, "T3-T", 8, one, other), abs=0.006)


def test_without_a_blind_run_there_is_no_number_for_it(as_micro):
    table = rows(real_weights_section(as_micro()), "cells", "seeds")
    with_blind = {row["cells"] for row in table if row["foveated against blind, %"]}
    assert with_blind == {f"{pair}_8f" for pair in ("T1-T", "T3-T", "T5-T")}
    assert with_blind == {row["cells"] for row in table if row["blind"] and row["baseline against blind, %"]}


def test_the_line_on_real_weights_has_the_gaps_of_the_table(as_micro):
    study = as_micro()
    line, table = real_weights_in_a_line(study), rows(real_weights_section(study), "cells", "seeds")
    told = {f"{pair}_{frames}f": text for pair, frames, text in parts_of(line)}
    assert list(told) == [row["cells"] for row in table]
    for row in table:
        gaps = [row[f"{one}, %"] for one in GAPS if row[f"{one}, %"]]
        assert re.findall(r"[-+][\d.]+ \([-+][\d.]+ to [-+][\d.]+\)", told[row["cells"]]) == gaps


GAPS = ("foveated against baseline", "foveated against blind", "baseline against blind")


def parts_of(line: str) -> list[tuple[str, str, str]]:
    """What a line says of each cell: pair, frames, text."""
    return re.findall(r"(T\d-T)_(\d+)f (.*?)(?=T\d-T_\d+f |$)", line)


def test_less_than_nanosmol_s_clips_are_said_to_be_less(as_micro):
    part = as_micro()
    whole = part._replace(runs=part.runs.assign(samples_seen=NANOSMOL_SAMPLES))
    said = [f"{NANOSMOL_SAMPLES:,} clips on a GPU" in real_weights_section(study) for study in (part, whole)]
    assert said == [True, False]
    said = ["a part of" in real_weights_in_a_line(study) for study in (part, whole)]
    assert said == [True, False]


@pytest.fixture
def swapped(as_micro, monkeypatch, tmp_path):
    """The planted study, two of whose runs were scored with another clip's frames: the foveated one loses 0.3
    nats, the baseline nothing; called with the architectures that are scored."""
    (tmp_path / "micro").mkdir()
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)

    def put(*archs):
        scored = [
            dict(
                run=f"T1-T_8f_{arch}_seed0",
                clip_id=f"c{i}",
                text_tokens=5,
                loss=1.0,
                loss_swapped=1 + dict(fov=0.3, bas=0.0)[arch] + (i % 2 - 0.5) / 10,
            )
            for arch in archs
            for i in range(20)
        ]
        if scored:
            pd.DataFrame(scored).to_parquet(tmp_path / "micro" / "swapped.parquet")
        return as_micro()

    return put


BOTH = pytest.mark.parametrize("tell", [real_weights_section, real_weights_in_a_line])


@BOTH
def test_what_frames_are_worth_is_told_of_the_runs_that_swapped_them(swapped, tell):
    assert "another clip's frames" not in tell(swapped()), "nobody swapped them yet"
    told = tell(swapped("fov", "bas")).partition("another clip's frames")[2]
    found = re.findall(r"(T1-T_8f_\w+) ([-+].*?) nats, (used|no use)", told)
    worth = {run: interval(rest) for run, rest, _ in found}
    assert {run: use for run, _, use in found} == {"T1-T_8f_fov": "used", "T1-T_8f_bas": "no use"}
    assert worth["T1-T_8f_fov"][0] == 0.3 and worth["T1-T_8f_bas"][0] == 0
    assert worth["T1-T_8f_fov"][1] > 0 > worth["T1-T_8f_bas"][1]


@BOTH
def test_a_gap_says_nothing_yet_where_no_run_uses_its_frames(swapped, tell):
    said = ["says nothing yet" in tell(swapped(*archs)) for archs in (("fov", "bas"), ("bas",))]
    assert said == [False, True]


@pytest.mark.parametrize(
    ("losses", "hardly"), [((1, 1), ""), ((4, 1), "T1-T_8f_fov"), ((4, 4), "T1-T_8f_fov and T1-T_8f_bas")]
)
@BOTH
def test_a_gap_is_no_cost_where_less_than_a_tenth_of_each_loss_is_the_frames_(
    swapped, tell, tmp_path, losses, hardly
):
    """Both runs use their frames, of 0.3 nats: 30 % of a loss of 1, 7.5 % of one of 4."""
    study = swapped("fov", "bas")
    scored = [
        dict(run=f"T1-T_8f_{arch}_seed0", clip_id=f"c{i}", text_tokens=5, loss=loss, loss_swapped=loss + 0.3)
        for arch, loss in zip(("fov", "bas"), losses)
        for i in range(20)
    ]
    pd.DataFrame(scored).to_parquet(tmp_path / "micro" / "swapped.parquet")
    told = tell(study)
    shares = [float(share) for share in re.findall(r"used \(([-+][\d.]+) % of its loss\)", told)]
    assert shares == pytest.approx([30 / loss for loss in losses], abs=0.051)
    assert (
        (f"little yet by {hardly} (" in told)
        == ("is not what one token a frame costs" in told)
        == bool(hardly)
    )
    assert "says nothing yet" not in told


def test_the_line_on_real_weights_says_on_how_many_clips_it_was_read(as_micro):
    line = real_weights_in_a_line(as_micro())
    assert line.count("4 seeds, read on 40 validation clips") == line.count(" nats), after ") > 1


# ── The cell of `make train` ────────────────────────────────────────────────────────────────────


def test_losses_of_the_smallest_cell_are_told_frame_by_frame_first():
    told = " ".join(sees_section().split())
    assert "| frame by frame | all frames at once (parallel) |" in told
    last = pd.read_parquet(sources.OUTPUTS / "sees/T-T_8f_fov_seed1/evaluations.parquet").iloc[-1]
    assert last["loss_autoregressive"] != last["loss_parallel"]
    assert f"| `T-T_8f_fov` | 1 | {last['loss_autoregressive']:.3f} | {last['loss_parallel']:.3f} |" in told
    assert last["commit"] in told


@pytest.mark.parametrize("setting", [None, ("warmup", 7)])
def test_where_the_smallest_cell_has_other_settings_today_it_is_told(setting, monkeypatch, tmp_path):
    shutil.copytree(sources.OUTPUTS / "sees", tmp_path / "sees")
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
    path = tmp_path / "sees/T-T_8f_fov_seed2/config.json"
    kept = json.loads(path.read_text())
    kept |= {} if setting is None else dict([setting])
    path.write_text(json.dumps(kept))
    told, today = sees_section(), RunConfig.from_cell("T-T_8f_fov").warmup
    assert ("with the settings that these cells have today" in told) == (setting is None)
    assert (f"other settings than these cells have today (warmup was 7, is {today})" in told) == bool(setting)


def test_what_rounding_alone_moves_is_told_beside_what_seeds_do(monkeypatch, tmp_path):
    kept = pd.concat(
        pd.read_parquet(sources.OUTPUTS / f"sees/T-T_8f_fov_seed{seed}/evaluations.parquet").tail(1)
        for seed in range(3)
    ).set_index("seed")
    at, between = kept.loc[1], kept.max(numeric_only=True) - kept.min(numeric_only=True)
    again = [(at["loss_autoregressive"] + more, at["loss_parallel"] + 0.002) for more in (-0.01, 0.25)]
    rows = [f"2026-11-27,abc,a way,T-T_8f_fov,1,{frame},{parallel},0.9" for frame, parallel in again]
    head = "date,commit,rounding,cell,seed,loss_autoregressive,loss_parallel,loss_static"
    (tmp_path / "again.csv").write_text("\n".join(["# where it is from", head, *rows]))
    monkeypatch.setattr(sections, "AGAIN", tmp_path / "again.csv")
    told = sees_section()
    assert "0.260 nats frame by frame and 0.002 in parallel" in told
    assert f"differ by {between['loss_autoregressive']:.3f} and {between['loss_parallel']:.3f}" in told
    for frame in (at["loss_autoregressive"], *(frame for frame, _ in again)):
        assert re.search(rf"\| *{frame:.3f} \|", told)


# ── Questions ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A question study of two sizes, three architectures and three seeds: 20 of 30 clips have four shapes or
    three, ten one or two. The foveated model is right, its loss half a nat lower, and it looks at the object
    in 80 % of frames; the others are right in clips of one shape and in half of those of four. Its pieces may
    be changed before a section is written."""
    study = SimpleNamespace(samples=[], gazes=[], runs=[])
    for pair, arch, seed in itertools.product(("T1-T", "T2-T"), ("foveated", "static", "baseline"), range(3)):
        run, good = f"{pair}_2f_{arch[:3]}_seed{seed}", arch == "foveated"
        names = dict(run=run, pair=pair, arch=arch, seed=seed)
        study.samples += [
            names | dict(clip_id=f"c{i}", text_tokens=2, loss_autoregressive=1 - 0.5 * good + i / 100)
            for i in range(30)
        ]
        right = 0.9 if good else 0.25
        study.runs.append(
            dict(run=run, clips=30, right=right, right_low=right - 0.05, right_high=right + 0.05)
            | dict(hit=0.8, hit_low=0.75, hit_other=0.1, hit_other_high=0.15, chance=0.1)
        )
        if arch != "baseline":
            of_run = dict(run=run, asked="own", hit=0.8 * good, chance=0.1)
            study.gazes += [
                of_run | dict(clip_id=f"c{i}", objects=2 + (i > 9), mass=3 + 0.6 * good + i / 100)
                for i in range(30)
            ]
            study.gazes += [row | dict(asked="other", hit=0.1, mass=1.0) for row in study.gazes[-30:]]
    study.said = pd.DataFrame(
        dict(run=row["run"], clip_id=f"c{i}", objects=1 + 3 * (i > 9), right="fov" in row["run"] or i < 20)
        for row in study.runs
        for i in range(30)
    )
    (tmp_path / "question").mkdir()
    pd.DataFrame(study.gazes).to_parquet(tmp_path / "question" / "gaze.parquet")
    study.said.to_parquet(tmp_path / "question" / "answers.parquet")
    loaded = Study(pd.DataFrame(), pd.DataFrame(study.samples))
    monkeypatch.setattr(sources, "OUTPUTS", tmp_path)
    monkeypatch.setattr(sources, "question_runs", lambda: pd.DataFrame(study.runs))
    monkeypatch.setattr(sources, "load_study", lambda folder: loaded)
    return study


def test_answers_and_gaze_are_told_of_crowded_clips_at_t2(asked):
    """Twenty of thirty clips have three shapes or more."""
    loss, right, gaze = re.findall(r"^- \*\*.*\n", question_section(), re.M)
    assert numbers(loss.replace(" nats", "").replace(" %", ""))[:3] == [-0.5] * 3
    assert numbers(loss)[-2:] == [3, 20], "seeds, clips"
    assert numbers(right) == [90, 90, 25, 25] and numbers(gaze) == [80, 80, 80, 80, 10, 10, 10]


def control(asked, right_low=None) -> str:
    """What is said of the static control, whose runs' intervals of right answers begin at `right_low`."""
    rows = [row for row in asked.runs if "_sta_" in row["run"]]
    for row, low in zip(rows, right_low or []):
        row["right_low"] = low
    return answers_beside(*sources.questions(), "static")


def test_the_loss_on_the_answer_is_told_of_every_size(asked):
    told = control(asked)
    assert re.findall(r"(\d+) % lower \(\d+ to \d+\) at (T\d-T)", told) == [("42", "T1-T"), ("42", "T2-T")]
    for row in asked.samples:
        row["loss_autoregressive"] += 0.8 if row["arch"] == "foveated" else 0
    sources.load_study("question").samples["loss_autoregressive"] = [
        row["loss_autoregressive"] for row in asked.samples
    ]
    assert re.findall(r"% (lower|higher)", control(asked)) == ["higher"] * 2


@pytest.mark.parametrize(
    ("right_low", "said", "never"),
    [
        ([0.2] * 6, ("it had not learned the task", "who learns sooner"), "learned more than to guess"),
        ([0.5] * 6, ("it had learned more than to guess,", "how far each had come"), "not learned the task"),
        ([0.5] * 2 + [0.2] * 4, ("to guess in 2 of 6 runs", "how far each had come"), "not learned the task"),
    ],
)
def test_a_control_had_learned_the_task_where_its_answers_are_above_a_guess(asked, right_low, said, never):
    """A guess among three shapes is right in a third."""
    told = control(asked, right_low)
    assert all(part in told for part in said) and never not in told
    assert "a guess among the shapes on 33 %" in told and "after the 600 steps" in told
    assert told in question_section()


def test_what_a_control_lacked_is_said_as_long_as_it_lacks_it(asked, monkeypatch, tmp_path):
    lacks = ("rate that was not tuned", f"the input scale of before {DATE}", "to be run again")
    assert all(lack in control(asked) for lack in lacks)
    pd.DataFrame(dict(arch=["foveated", "static"])).to_parquet(tmp_path / "rates.parquet")
    monkeypatch.setattr(sources, "rates_path", lambda study: tmp_path / "rates.parquet")
    assert [lack in control(asked) for lack in lacks] == [False, True, True]
    monkeypatch.setattr(words, "GRID", REPOSITORY / "params" / "questions.yaml")
    assert not any(lack in control(asked) for lack in lacks)
    assert "who learns sooner" in control(asked), "and it had not learned the task"
    assert control(asked, [0.5] * 6).endswith("it had learned more than to guess")


def test_the_readme_has_the_control_s_gaze_beside_chance(asked):
    for row in asked.runs:
        row["hit"] = 0.3 if "_sta_" in row["run"] else 0.8
    steering, _ = beside_the_cost()
    assert "it does" in steering and "everything in 30 to 30 %, and a patch at random in 10.0 %" in steering
    assert f"beside that control {control(asked)}" in steering and not re.search(r"\.\s+[A-Z]", steering)
    for row in asked.runs:
        row["hit_other_high"] = 0.9
    assert "that cannot be told" in beside_the_cost()[0]


def test_that_the_vision_encoder_is_a_saliency_model_s_is_said_where_it_is(as_micro):
    study = as_micro()
    other = study._replace(runs=study.runs.assign(weights="small from somewhere (of a saliency model)"))
    assert seen_through(study) == "" and "saliency" in seen_through(other)


def test_a_size_is_met_with_its_trained_parameters(as_micro):
    names = trained_sizes(as_micro(), ["T2-T", "T3-T", "S-S"])
    first = f"T2-T ({size_of('T2-T'):.2f} M trained parameters)"
    assert names == {"T2-T": first, "T3-T": f"T3-T ({size_of('T3-T'):.2f} M)", "S-S": "S-S"}
    assert trained_sizes(None, ["T2-T"]) == {"T2-T": "T2-T"}


def test_every_size_of_the_question_has_a_row_of_answers_and_losses(asked):
    table = rows(question_section(), "right, foveated, %")
    assert [row["size"] for row in table] == ["T1-T", "T2-T"]
    for row in table:
        ranges = [numbers(row[f"right, {arch}, %"]) for arch in ("foveated", "static", "baseline")]
        assert ranges == [[90, 90], [25, 25], [25, 25]]
        for other in ("static", "baseline"):
            assert interval(row[f"answer loss against {other}, nats"]) == (-0.5, -0.5, -0.5)


def test_every_size_of_the_question_has_a_row_of_gazes(asked):
    table = rows(question_section(), "hit by chance")
    assert [row["size"] for row in table] == ["T1-T", "T2-T"]
    for row in table:
        assert interval(row["hit, difference"]) == (0.8, 0.8, 0.8)
        assert interval(row["mass, difference"]) == (0.6, 0.6, 0.6)


def test_right_answers_are_told_by_the_number_of_shapes_beside_a_guess(asked):
    *table, guess = rows(question_section(), "1", "4")
    found = {(row["size"], row["model"]): (float(row["1"]), float(row["4"])) for row in table}
    rights = dict(foveated=(100, 100), baseline=(100, 50), static=(100, 50))
    assert found == {(pair, arch): rights[arch] for pair in ("T1-T", "T2-T") for arch in rights}
    assert (float(guess["1"]), float(guess["4"])) == (100, 25)
    sentence = numbers(by_shapes(sources.right_by_shapes()))
    assert sentence == [1, 4, *(n for arch in rights for n in rights[arch]), 100, 25], "shapes, shares, guess"


def test_the_question_s_rates_are_those_of_its_grid(asked):
    rates = {cell.config.cell[:4]: cell.config.learning_rate for cell in read_grid(GRID).cells}
    (line,) = [line for line in question_section().splitlines() if "learning rate" in line]
    found = {pair: float(rate) for pair, rate in re.findall(r"(T\d-T) (0\.\d+)", line)}
    assert found == {pair: rates[pair] for pair in ("T1-T", "T2-T")}
    assert "falling to zero over the last 30 % of the steps" in line


def test_without_the_baseline_no_size_is_compared(asked):
    asked.runs[:] = [row for row in asked.runs if "bas" not in row["run"]]
    with pytest.raises(ValueError, match="not enough values"):
        rows(question_section(), "right, foveated, %")


def test_longer_training_has_its_losses_and_answers_in_a_table(asked, monkeypatch, tmp_path):
    more = planted(["T2-T_2f_bas", "T2-T_2f_sta"], seeds=(0, 1))
    monkeypatch.setattr(sources, "study", lambda name: more if name == sources.LONGER else None)
    (tmp_path / "question_long").mkdir()
    kept = asked.said[asked.said["run"].isin(more.runs["run"])]
    kept.to_parquet(tmp_path / "question_long" / "answers.parquet")
    text = question_section()
    table = {row["model"]: row for row in rows(text, "size", "model", "loss, step 1")}
    losses = more.evaluations.groupby(["arch", "step"])["loss_autoregressive"].mean()
    assert set(table) == {"baseline", "static"}
    for arch, row in table.items():
        assert row["size"] == "T2-T"
        found = [float(row[f"loss, step {step}"]) for step in losses[arch].index]
        assert found == pytest.approx(losses[arch].tolist(), abs=6e-4)
        assert [float(row[f"right with {n}, %"]) for n in (1, 4)] == [100, 50]
    steps = more.runs["config"].iloc[0].steps
    line = longer(more, sources.right_by_shapes(sources.LONGER))
    assert line in text and re.findall(r"after (\d+) steps instead of (\d+)", line) == [(str(steps), "600")]
    assert numbers(line)[-4:] == [100, 50, 100, 50]


def test_without_longer_runs_there_is_no_table_of_them(asked, monkeypatch):
    monkeypatch.setattr(sources, "study", lambda name: None)
    with pytest.raises(ValueError, match="not enough values"):
        rows(question_section(), "model", "right with 1, %")


# ── Learning rates ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def swept() -> pd.DataFrame:
    """A sweep in two lengths. At T1 the rate that is ahead after 20 steps is behind after 60; at T2 the short
    runs and the long ones agree; of 4e-3 there is one architecture alone."""
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
    found = [
        dict(pair=pair, steps=steps, rate=rate, loss=loss + off, seed=100, arch=arch)
        for (pair, steps, rate), loss in losses.items()
        for arch, off in (("foveated", 0.01), ("baseline", -0.01))
    ]
    found.append(dict(pair="T2-T", steps=60, rate=4e-3, loss=0.1, seed=100, arch="foveated"))
    return pd.DataFrame(found)


def test_rates_have_the_mean_of_both_architectures_and_none_of_one_alone(swept):
    table = rows(rates_section("micro", swept), "steps", "pair")
    found = {
        (row["pair"], int(row["steps"]), float(rate)): float(row[rate])
        for row in table
        for rate in set(row) - {"steps", "pair"}
        if row[rate]
    }
    both = swept[swept["rate"] < 4e-3].groupby(["pair", "steps", "rate"])["loss"].mean()
    assert found == pytest.approx(both.to_dict())


def test_a_short_sweep_misleads_where_the_long_runs_turn_the_order(swept):
    (line,) = [line for line in rates_section("micro", swept).splitlines() if "misleads" in line]
    assert "T1-T" in line and "T2-T" not in line
    assert numbers(line) == [0.001, 0.002, 0.1, 20, -0.3, 60], "nats more, then less, of the later best rate"


def test_a_best_rate_at_the_edge_is_named(swept):
    (line,) = [line for line in rates_section("micro", swept).splitlines() if "may be better" in line]
    assert re.findall(r"T\d-T", line) == ["T1-T"], "of two rates one is always at the edge"


def test_what_one_rate_for_both_costs_is_beside_each_one_s_own_best(swept):
    (line,) = [line for line in rates_section("micro", swept).splitlines() if "own best" in line]
    (found,) = re.findall(r"(\w+) ([\d.]+) nats at (\S+) \(([\d.]+)\)", line)
    assert found == ("foveated", "0.410", "T2-T", "0.004")


def test_the_command_for_a_sweep_names_its_rates_or_its_two_rounds(swept):
    one, two = (rates_section("micro", table) for table in (swept.query("steps == 60"), swept))
    assert "--rates 0.0005,0.001,0.002`" in one and "--share" not in one
    assert "--share 0.4`" in two and "--rates" not in two


# ── nanoSmol, and what is withdrawn ──────────────────────────────────────────────────────────────


def conclusions(micro) -> dict[str, str]:
    """What these runs say of each of nanoSmol's conclusions, by its first words."""
    table = rows(nanosmol_section(micro), "conclusion", "these runs")
    return {" ".join(row["conclusion"].split()[:2]): row["these runs"] for row in table}


def verdicts(text: str) -> list[str]:
    return re.findall("supports|contradicts|cannot decide", text)


def test_a_gap_that_shrinks_supports_that_it_shrinks(as_micro):
    assert verdicts(conclusions(as_micro())["The cost"]) == ["supports"] * 2, "at 8 and at 16 frames"


def test_frame_by_frame_losses_a_fifth_of_a_percent_above_support_a_gap_below_06(as_micro):
    said = conclusions(as_micro())["Train/inference gap"].split(";")[0]
    assert numbers(said)[:3] == [0.2, 0.2, 40] and verdicts(said) == ["supports"], "lowest, highest, runs"


@pytest.mark.parametrize(("times", "word"), [(1, "supports"), (1.01, "contradicts")])
def test_frame_by_frame_losses_of_the_newer_study_are_told_beside(as_micro, monkeypatch, times, word):
    newer = planted(["T1-T_8f_fov", "T1-T_8f_bas"], seeds=range(4))
    runs = newer.runs.assign(loss_autoregressive=newer.runs["loss_autoregressive"] * times, study="captions")
    monkeypatch.setattr(nanosmol, "captions", lambda: newer._replace(runs=runs))
    _, said, *_ = conclusions(as_micro())["Train/inference gap"].split("; ")
    gap = 100 * (1.002 * times - 1)
    assert numbers(said)[:3] == [round(gap, 2), round(gap, 2), 4] and "(captions)" in said
    assert verdicts(said) == [word]


@pytest.mark.parametrize(("slope", "word"), [(-0.05, "supports"), (0.05, "contradicts")])
def test_the_newer_study_s_trend_is_told_beside_along_every_axis_that_has_one(
    as_micro, monkeypatch, slope, word
):
    cells = [f"{pair}_8f_{arch}" for pair in SIZES for arch in ("fov", "bas")]
    newer = planted(cells, seeds=range(4), slope=slope, noise=0.001)
    newer = newer._replace(runs=newer.runs.assign(study="captions"))
    monkeypatch.setattr(nanosmol, "captions", lambda: newer)
    said = [part for part in conclusions(as_micro())["The cost"].split("; ") if part.startswith("captions")]
    (clips,) = [part for part in said if ", at equal clips: " in part]
    gaps = {pair: last_losses(newer, pair) for pair in SIZES}
    percents = [100 * (gap["foveated"] / gap["baseline"] - 1) for gap in gaps.values()]
    line = np.polyfit([math.log10(size_of(pair)) for pair in SIZES], percents, 1)
    assert verdicts(clips) == [word] and numbers(clips)[0] == pytest.approx(line[0], abs=0.3)
    assert "captions, at equal clips" in conclusions(None)["The cost"], "without the older study too"


def test_frame_by_frame_losses_on_both_sides_of_the_bound_are_told_with_their_mean(as_micro):
    study = as_micro()
    said = {}
    for worse in (1.01, 1.02, 1.2):  # of every fourth run
        losses = study.runs["loss_autoregressive"].copy()
        losses[study.runs["seed"] == 0] *= worse
        micro = study._replace(runs=study.runs.assign(loss_autoregressive=losses))
        told = conclusions(micro)["Train/inference gap"].split(";")[0]
        mean, low, high = interval(told.partition("on average ")[2])
        assert low < mean < high and mean == pytest.approx(0.2 + 25 * (worse - 1) * 1.002, abs=0.006)
        (said[worse],) = verdicts(told)
    assert said == {1.01: "supports", 1.02: "cannot decide", 1.2: "contradicts"}


@pytest.mark.parametrize(("turn", "way"), [(1, "the same way"), (-1, "the other way")])
def test_runs_to_be_run_again_decide_nothing_wherever_they_point(as_micro, monkeypatch, turn, way):
    study = as_micro()
    old = [dataclasses.replace(config, scale_input=False) for config in study.runs["config"]]
    micro = study._replace(runs=study.runs.assign(config=old))
    trend = all_gaps(study)
    for gap in trend.values():
        row = gap.trend["kind"] == "raw"
        ends = gap.trend.loc[row, ["low", "high"]].to_numpy()
        gap.trend.loc[row, ["low", "high"]] = ends if turn == 1 else -ends[:, ::-1]
    monkeypatch.setattr(nanosmol, "all_gaps", lambda micro: trend)
    said = conclusions(micro)["The cost"]
    assert said.count(f"points {way}, in runs that will be run again") == said.count(
        ", at equal clips: "
    ) == 2 and not re.search("supports|contradicts", said)
    assert said.count("decides nothing yet") == 2
    assert "decides nothing yet" in conclusions(micro)["Train/inference gap"].split(";")[0]
    assert f"the input scale of before {DATE}" in nanosmol_section(micro)
    assert f"the input scale of before {DATE}" not in nanosmol_section(study)


def test_one_vision_model_decides_nothing_about_its_size(as_micro):
    assert verdicts(conclusions(as_micro())["LLM size"]) == ["cannot decide"]


def test_without_a_study_of_sizes_nothing_is_decided_about_them(monkeypatch):
    monkeypatch.setattr(nanosmol, "captions", lambda: None)
    assert (
        verdicts(conclusions(None)["The cost"])
        == verdicts(conclusions(None)["64 frames"])
        == ["cannot decide"]
    )


def test_the_sizes_a_verdict_holds_for_are_told_beside_nanosmol_s(as_micro):
    text = nanosmol_section(as_micro())
    sizes = [size_of(pair, arch) for pair in SIZES for arch in ("fov", "bas", "sta", "avg", "bli")]
    assert f"{min(sizes):.2g} to {max(sizes):.2g} M" in text and "157 to 411 M" in text


def test_what_frames_change_is_told_of_each_architecture(study):
    """More frames make the foveated model's loss higher by a twentieth, and leave the baseline's."""
    runs = study.runs.copy()
    few = runs[runs["frames"] == 8].set_index(["pair", "arch", "seed"])["loss_autoregressive"]
    many = runs["frames"] == 16
    who = pd.MultiIndex.from_frame(runs.loc[many, ["pair", "arch", "seed"]])
    factor = np.where(runs.loc[many, "arch"] == "foveated", 1.05, 1.0)
    runs.loc[many, "loss_autoregressive"] = few.reindex(who).to_numpy() * factor
    found = frames_changes(Results(runs, study.evaluations, study.samples), 16, 8)
    assert found["foveated"].estimate.value == pytest.approx(5) and found["foveated"].estimate.low > 0
    assert found["baseline"].estimate.value == pytest.approx(0, abs=1e-9)
    told = nanosmol._verdict_frames(Results(runs, study.evaluations, study.samples))
    assert re.search(r"foveated \+5.00 .*supports; baseline [+-]0.00 .*cannot decide", told), told
    eight = Results(*(table[table["frames"] == 8] for table in study))
    assert frames_changes(eight, 16, 8) == {} and "one number of frames" in nanosmol._verdict_frames(eight)


def test_the_gap_at_equal_flops_lies_between_those_at_the_evaluations_around(study):
    curves = {
        (row.arch, row.seed, row.step): row
        for row in study.evaluations.query("pair == 'T1-T' and frames == 8").itertuples()
    }
    steps = sorted({step for _, _, step in curves})
    end = curves["foveated", 0, steps[-1]]
    before, last = (curves["baseline", 0, step] for step in steps[-2:])
    assert before.flops < end.flops < last.flops
    (found,) = equal_flops(Results(*(table[table["seed"] == 0] for table in study)))["T1-T"]
    losses = before.loss_autoregressive, last.loss_autoregressive
    low, high = sorted(100 * (end.loss_autoregressive / loss - 1) for loss in losses)
    assert low < found < high


@pytest.mark.parametrize("path", [PAGE, README], ids=lambda path: path.name)
def test_what_is_withdrawn_is_dated_has_its_figures_and_is_said_nowhere_else(path):
    text = path.read_text()
    outside = re.sub(
        r"## Withdrawn.*?(?=\n## )", "", re.sub(r"\n\*\*Withdrawn.*(\n- .*)*", "", text), flags=re.S
    )
    inside = "".join(piece for piece in text.splitlines(True) if piece not in outside)
    assert DATE in inside and "86 % right after 1,300 steps at 0.0003" in inside
    assert len(outside) > 0.8 * len(text)
    assert "guesses which" not in outside and "beside the baseline's 16 tokens a frame" not in outside


# ── The prediction ───────────────────────────────────────────────────────────────────────────────


def test_a_prediction_is_compared_with_what_came_once_the_largest_size_is_there(as_micro):
    few = as_micro(SIZES[:4])
    assert "None was written before T5-T was run" in prediction_section(few)
    true = gap_of(as_micro(), "T5-T", 8, "foveated", "baseline")
    gaps = {
        "micro, 8 frames": dict(value=true + 1, low=true - 1, high=true + 3),
        "micro, 16 frames": dict(value=60.0, low=50.0, high=70.0),
    }
    said = dict(date="2026-01-02", sizes=list(SIZES[:4]), gaps=gaps)
    prediction.MICRO_PREDICTION.write_text(json.dumps(said))
    assert "found" not in prediction_section(few)
    whole = as_micro()
    text = prediction_section(whole)
    assert "2026-01-02" in text
    for name, gap in gaps.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"- {name}")]
        predicted, found = re.findall(r"[-+][\d.]+ % \([-+][\d.]+ to [-+][\d.]+\)", line)
        assert interval(predicted) == tuple(round(gap[key], 2) for key in ("value", "low", "high"))
        came = gap_of(whole, "T5-T", int(name.split()[1]), "foveated", "baseline")
        assert interval(found)[0] == pytest.approx(came, abs=0.006)
        assert line.endswith(": inside." if gap["low"] <= came <= gap["high"] else ": outside.")


def test_the_command_can_write_a_prediction(capsys):
    with pytest.raises(SystemExit):
        main(["findings", "--help"])
    assert "--predict" in capsys.readouterr().out
