"""FINDINGS.md and the README's answer, put together."""

from pathlib import Path

import pandas as pd

from fvlm.config import REPOSITORY
from fvlm.files import write_text
from fvlm.findings import sources
from fvlm.findings.nanosmol import nanosmol_section
from fvlm.findings.prediction import prediction_section
from fvlm.findings.sections import (
    controls_section,
    micro_section,
    question_section,
    rates_section,
    real_weights_in_a_line,
    real_weights_section,
    sees_section,
)
from fvlm.findings.withdrawn import withdrawn_in_short, withdrawn_section
from fvlm.findings.words import budget, in_short, percent, still_falling
from fvlm.scaling import all_gaps
from fvlm.scaling.runs import MICRO, REAL
from fvlm.text import with_interval
from fvlm.training.results import load_study

PAGE, README = sources.OUTPUTS / "FINDINGS.md", REPOSITORY / "README.md"
ANSWER = ("<!-- fvlm findings writes from here -->", "<!-- to here -->")  # the README's two marks


def render() -> str:
    """The page, from the results that are there."""
    micro = sources.study(MICRO)
    sections = [_head(), withdrawn_section(micro)]
    if micro:
        sections += [micro_section(micro), controls_section(micro), prediction_section(micro)]
    sections += [question_section(), sees_section()]
    sections += [real_weights_section(study) for study in map(sources.study, REAL) if study]
    for study in (MICRO, "question"):
        if (path := sources.rates_path(study)).exists():
            sections.append(rates_section(study, pd.read_parquet(path)))
    return "\n".join([*sections, nanosmol_section(micro)])


def _head() -> str:
    studies = [
        name
        for name in (MICRO, "question", "sees", *REAL)
        if any((sources.OUTPUTS / name).glob("*/evaluations.parquet"))
    ]
    devices = sorted(
        {device for name in studies for device in load_study(sources.OUTPUTS / name).evaluations["device"]}
    )
    return f"""# Findings

Written by `fvlm findings` from the results in this folder; a test compares the two. Losses are in nats per text
token, frame by frame, on validation clips. Intervals hold 95 %: hierarchical bootstrap over clips and seeds, widened
for few seeds (`fvlm.scaling.paired_gap`), unless it says otherwise. Run on: {", ".join(devices)}.
"""


def readme_answer() -> str:
    """What stands in the README between ANSWER's two marks."""
    micro, lines = sources.study(MICRO), []
    if micro:
        gaps = all_gaps(micro)
        sizes = micro.runs["pair"].nunique()
        lines = [
            f"The foveated model's loss over the baseline's, captions of the built-in world, {sizes} LLM "
            "sizes from scratch; then\n"
            "over that of controls:\n",
            *(f"- {line}" for line in in_short(micro, gaps)),
            f"\n{withdrawn_in_short()}",
            "\n![The gap at every size with its interval, and the trend](outputs/figures/gap.png)\n",
            _answer_table(micro, gaps).to_markdown(index=False),
            "\nIn percent of the loss, with 95 % intervals; below zero the foveated model is better. "
            f"{budget(micro)} "
            f"{still_falling(micro)} "
            "`fvlm grid params/micro.yaml --study mine` runs it again.\n",
        ]
    lines += [real_weights_in_a_line(study) + "\n" for study in map(sources.study, REAL) if study]
    lines.append(
        "[`outputs/FINDINGS.md`](outputs/FINDINGS.md): each claim with its number, interval, cells and "
        "command, and what\n"
        "these runs say of nanoSmol's conclusions."
    )
    return "\n".join(lines)


def _answer_table(micro, gaps) -> pd.DataFrame:
    rows, samples = [], sources.captions(micro)
    for pair, size in micro.runs[micro.runs["arch"] == "foveated"].groupby("pair"):
        row = {"size": pair, "parameters trained": f"{size['params_trainable'].mean() / 1e6:.2f} M"}
        for name, gap in gaps.items():
            found = gap.table.set_index("pair")
            if pair in found.index:
                value, low, high = found.loc[pair, ["raw_percent", "raw_percent_low", "raw_percent_high"]]
                row[f"against the baseline, {name.removeprefix('micro, ')}"] = with_interval(value, low, high)
        found = sources.against(samples[samples["pair"] == pair])
        rows.append(row | {f"against {arch}": percent(gap) for arch, gap in found.items()})
    return pd.DataFrame(rows).fillna("")


def with_answer(readme: str) -> str:
    """The README's text with the answer as the results have it now."""
    before, start, rest = readme.partition(ANSWER[0])
    _, end, after = rest.partition(ANSWER[1])
    assert start and end, "the README's two marks"
    return f"{before}{start}\n{readme_answer()}\n{end}{after}"


def write_findings() -> list[Path]:
    """Write outputs/FINDINGS.md and the README's answer; returns both paths."""
    return [write_text(PAGE, render()), write_text(README, with_answer(README.read_text()))]
