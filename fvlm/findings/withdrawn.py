"""What this repository said and no longer says: each reading with its date, the reason, and the figures it
rested on."""

import pandas as pd

from fvlm.config import ConfigError
from fvlm.findings import sources
from fvlm.findings.questions import STUDIES as QUESTIONS
from fvlm.findings.questions import questions
from fvlm.findings.words import DATE, by_shapes, frames_of, longer, percent, trend
from fvlm.scaling import Results, all_gaps
from fvlm.scaling.contrasts import contrast
from fvlm.scaling.runs import MICRO
from fvlm.studies.question import CROWDED
from fvlm.text import with_interval
from fvlm.training.results import load_run

AUDIT = sources.OUTPUTS / "audit" / "input_scale.csv"


def withdrawn_section(micro: Results | None) -> str:
    """The dated section of FINDINGS.md."""
    return f"""## Withdrawn

**{DATE}, questions beside the baseline.** This page and the README said that on questions the foveated model beats the
baseline's 16 tokens ({_question_gaps()} of the answer loss), and that the baseline "sees the shapes but not which one is
meant". That is not shown: within {_steps()} steps the foveated model had learned what the baseline had not *yet*.
The LLMs from scratch read embeddings of norm one, of which little is left after their first layer, and visual tokens were
held to that scale. With the LLM's input multiplied by the square root of its width the baseline learns it as well
(T1-T, crowded clips, one seed a learning rate):
{_audit_beside()}.
{_where_each_ends()} Several choices (how far a question moves the
query at the start, fine passes, layers, easy clips) were made by trying the foveated model alone, and one learning rate served
all architectures. The figures that the reading rested on:

- {by_shapes(sources.right_by_shapes())}
{_longer_line()}
**{DATE}, the trend with size.** That the gap grows with size was said without its axis, and holds in those runs at equal training clips at
the most{_at_equal_clips(micro)}.{_equal_flops(micro)}

**{DATE}, all LLMs from scratch.** The numbers of {_scaled(False)} come from models with that input scale, and will be
run again; {_scaled(True)} were run with the mended one. The audit's figures: `outputs/audit/input_scale.csv`.
"""


def _where_each_ends() -> str:
    if questions() is None:
        return "Where either ends is not known."
    return "Where each ends, and how soon, is in *Questions, run again*."


def _scaled(mended: bool) -> str:
    """The studies of LLMs from scratch that were run with the mended scale, or those that were not."""
    found = []
    for name in ("captions", *QUESTIONS, "sees", MICRO, "question", sources.LONGER):
        first = next((sources.OUTPUTS / name).glob("*/config.json"), None)
        if first is not None and load_run(first.parent).config.scale_input == mended:
            found.append(f"`{name}/`")
    return ", ".join(found) or "none"


def withdrawn_in_short() -> str:
    """The same in the README's answer: a line for each claim, with its reason."""
    old, reasons = _scaled(False), "[figures and reasons](outputs/FINDINGS.md#withdrawn)"
    again = "" if old == "none" else f"the runs of {old} are with the old scale and will be run again: "
    lines = [
        f"**Withdrawn on {DATE}**, what earlier runs were said to show:",
        "- *that on questions the foveated model beats the baseline's 16 tokens, and that the baseline only guesses which "
        f"shape is meant*: the runs ended after {_steps()} steps, when the foveated model had learned the task and the "
        "baseline had not *yet*; with another scale of the LLM's input the baseline learns it too (T1-T, clips with "
        f"{CROWDED} shapes or more, one seed a learning rate: {_audit()});",
        "- *that the cost of one token a frame grows with size whatever is held equal*: in those runs it was not seen to grow at "
        f"equal training FLOPs, nor, as far as they can tell, at equal training clips{_at_equal_clips(sources.study(MICRO))};",
        f"- {again}{reasons}.",
    ]
    return "\n".join(lines)


def _question_gaps() -> str:
    samples = sources.questions()[0]
    gaps = [sources.against(part, ["baseline"]).get("baseline") for _, part in samples.groupby("pair")]
    return "; ".join(f"{percent(gap)} %" for gap in gaps if gap)


def _steps() -> int:
    from fvlm.studies.grid import read_grid
    from fvlm.studies.question import GRID

    return read_grid(GRID).cells[0].config.steps


def _audit_runs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ends of the audit's long runs of the baseline on the published cells' features, with the mended scale
    and with the published one: a row for each learning rate and seed."""
    table = pd.read_csv(AUDIT, comment="#").query("model == 'baseline' and features == 'dinov2'")
    last = table.sort_values("steps").groupby(["scale", "learning_rate", "seed"], sort=False).tail(1)
    long = last[last["steps"] >= 1000].sort_values("learning_rate")
    return long[long["scale"] == "sqrt_width"], long[long["scale"] == "published"]


def _right(row) -> str:
    return f"{100 * row.right:.0f} % right after {row.steps:,} steps"


def _audit() -> str:
    return ", ".join(f"{_right(row)} at {row.learning_rate:g}" for row in _audit_runs()[0].itertuples())


def _audit_beside() -> str:
    """The same, each beside the run that differs from it in the scale alone, where there is one."""
    mended, published = _audit_runs()
    told = []
    for row in mended.itertuples():
        same = published.query(f"learning_rate == {row.learning_rate} and seed == {row.seed}")
        found = f"{_right(row)} at {row.learning_rate:g} (seed {row.seed})"
        if len(same):
            found += f", beside {_right(same.iloc[0])} with the old scale and nothing else changed but when it was read"
        else:
            found += ", which was not run with the old scale"
        told.append(found)
    return ";\n".join(told)


def _longer_line() -> str:
    study = sources.study(sources.LONGER)
    return f"- {longer(study, sources.right_by_shapes(sources.LONGER))}\n" if study else ""


def _at_equal_clips(micro: Results | None) -> str:
    """What intervals say of that now."""
    told = [f"{frames_of(name)}, {trend(gap)}" for name, gap in all_gaps(micro).items()] if micro else []
    return f" ({'; '.join(told)})" if told else ""


def _equal_flops(micro: Results | None) -> str:
    if not micro:
        return ""
    told = [
        f"{pair} {with_interval(*found) if len(found) > 1 else f'{found[0]:+.2f}'}"
        for pair, found in equal_flops(micro).items()
    ]
    if not told:
        return ""
    return (
        " At equal training FLOPs, the\nfoveated model at its end beside the baseline's own curve at the "
        "same FLOPs, 8 frames, "
        f"percent, Student's t over seeds:\n{'; '.join(told)}."
    )


def equal_flops(micro: Results, frames: int = 8) -> dict[str, tuple[float, ...]]:
    """Per size the foveated model's last loss over the baseline's where that had spent the same training FLOPs,
    in percent, as `contrast` reads it; with its interval where there are several seeds. Of a constant learning
    rate every evaluation is a valid end."""
    part = Results(*(table[table["frames"] == frames] for table in micro))
    try:
        table = contrast(part, axis="flops").table
    except ConfigError:  # no seed of both
        return {}
    return {
        row.pair: (row.percent, row.low, row.high) if row.seeds > 1 else (row.percent,)
        for row in table.itertuples()
    }
