"""FINDINGS.md and what the README has from the results, put together."""

import contextlib
from pathlib import Path

from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import read_table, write_text
from fvlm.findings import sources
from fvlm.findings.answer import beside_the_cost
from fvlm.findings.captions import (
    STUDY,
    answer,
    captions,
    captions_section,
    readme_table,
    ready,
)
from fvlm.findings.costs import readme_costs
from fvlm.findings.mixes import mix_section
from fvlm.findings.named import named_line
from fvlm.findings.nanosmol import nanosmol_section
from fvlm.findings.prediction import prediction_section, predictions_section
from fvlm.findings.questions import STUDIES as QUESTIONS
from fvlm.findings.questions import gazes, learning, questions, questions_section, steering
from fvlm.findings.questions import ready as questions_ready
from fvlm.findings.rates import rates_section
from fvlm.findings.sections import (
    controls_section,
    micro_section,
    question_section,
    question_seeds_section,
    real_weights_in_a_line,
    real_weights_section,
    sees_section,
)
from fvlm.findings.tree import tree
from fvlm.findings.trust import readme_trust
from fvlm.findings.withdrawn import withdrawn_section
from fvlm.scaling.runs import MICRO, REAL
from fvlm.studies.page import study_page
from fvlm.training.results import Study, load_study

PAGE, README = sources.OUTPUTS / "FINDINGS.md", REPOSITORY / "README.md"
END = "<!-- to here -->"


def mark(name: str) -> str:
    """Where a block of the README begins; it ends at END."""
    return f"<!-- {name}: fvlm findings writes from here -->"


def render() -> str:
    """The page, from the results that are there."""
    micro, study = sources.study(MICRO), captions()
    sections = [_head(), withdrawn_section(micro)]
    if study:
        sections += [captions_section(study), predictions_section(study)]
    if micro:
        sections += [micro_section(micro), controls_section(micro), prediction_section(micro)]
    if asked := {name: found for name in QUESTIONS if (found := questions(name))}:
        sections.append(questions_section(asked))
    sections += [question_section(), question_seeds_section(), sees_section()]
    sections += [real_weights_section(study) for study in map(sources.study, REAL) if study]
    for study in (MICRO, "question"):
        if (path := sources.rates_path(study)).exists():
            sections.append(rates_section(study, read_table(path)))
    return "\n".join(filter(None, [*sections, mix_section(), nanosmol_section(micro)]))


def _head() -> str:
    devices = {device for study in published().values() for device in study.evaluations["device"]}
    return f"""# Findings

Written by `fvlm findings` from the results in this folder; a test compares the two. Losses are in nats per text
token, frame by frame, on validation clips. Intervals hold 95 %: hierarchical bootstrap over clips and seeds, widened
for few seeds (`fvlm.scaling.paired_gap`), unless it says otherwise. Run on: {", ".join(sorted(devices))}.
"""


def published() -> dict[str, Study]:
    """The studies of `outputs/` that have finished runs, by name."""
    found = {}
    for name in (STUDY, *QUESTIONS, MICRO, "question", sources.LONGER, "sees", *REAL):
        with contextlib.suppress(ConfigError):  # none is there yet
            found[name] = load_study(sources.OUTPUTS / name)
    return found


def readme_answer() -> str:
    """The README's first block: the answer in three paragraphs, what a token costs by the study of captions,
    which says of itself that it is interim until it is far enough."""
    study, asked = captions(), questions()
    told = (learning(asked), steering(asked, gazes("questions"))) if questions_ready(asked) else ()
    others = beside_the_cost(*told)
    if not study:
        return "\n\n".join(["No study of sizes has been run here yet.", *others])
    right = [line] if (line := named_line(STUDY)) else []
    return "\n\n".join(["\n- ".join([answer(study), *right]) + ".", *others])


def readme_results() -> str:
    """The README's second block: one table of results, a row per size."""
    study = captions()
    lines = [readme_table(study)] if ready(study) else []
    lines += [real_weights_in_a_line(study) + "\n" for study in map(sources.study, REAL) if study]
    lines.append(
        "[`outputs/FINDINGS.md`](outputs/FINDINGS.md) has each claim with its number, interval, cells and "
        "command: every control and every seed, what a question does to the gaze and to the answer, what the "
        "cell of `make train` sees, learning rates, a prediction and what came, and what these runs say of the five "
        "conclusions of nanoSmol, the earlier study that this repository follows."
    )
    return "\n".join(lines)


BLOCKS = dict(answer=readme_answer, results=readme_results, costs=readme_costs, trust=readme_trust, tree=tree)


def with_answer(readme: str) -> str:
    """The README's text with each of BLOCKS, between its two marks, as the results and files have it now."""
    for name, block in BLOCKS.items():
        before, start, rest = readme.partition(mark(name))
        _, end, after = rest.partition(END)
        assert start and end, f"the README's two marks of {name}"
        readme = f"{before}{start}\n{block()}\n{end}{after}"
    return readme


def write_findings() -> list[Path]:
    """Write outputs/FINDINGS.md, the README's blocks, and the page of every study that is published; returns
    their paths."""
    written = [write_text(PAGE, render()), write_text(README, with_answer(README.read_text()))]
    return written + [study_page(sources.OUTPUTS / name) for name in published()]
