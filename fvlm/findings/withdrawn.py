"""What this repository said and no longer says: each reading with its date, the reason, and the figures it
rested on."""

import numpy as np
import pandas as pd

from fvlm.findings import sources
from fvlm.findings.questions import STUDIES as QUESTIONS
from fvlm.findings.words import by_shapes, longer, percent
from fvlm.scaling import Results
from fvlm.scaling.intervals import t_interval
from fvlm.scaling.runs import MICRO
from fvlm.text import with_interval
from fvlm.training.results import load_run

AUDIT = sources.OUTPUTS / "audit" / "input_scale.csv"
DATE = "2026-11-25"


def withdrawn_section(micro: Results | None) -> str:
    """The dated section of FINDINGS.md."""
    return f"""## Withdrawn

**{DATE}, questions beside the baseline.** This page and the README said that on questions the foveated model beats the
baseline's 16 tokens ({_question_gaps()} of the answer loss), and that the baseline "sees the shapes but not which one is
meant". That is not shown: within {_steps()} steps the foveated model had learned what the baseline had not *yet*.
The LLMs from scratch read embeddings of norm one, of which little is left after their first layer, and visual tokens were
held to that scale. With the LLM's input multiplied by the square root of its width and nothing else changed, the baseline
learns it as well: {_audit()}. Where either ends is not known. Several choices (how far a question moves the
query at the start, fine passes, layers, easy clips) were made by trying the foveated model alone, and one learning rate served
all architectures. The figures that the reading rested on:

- {by_shapes(sources.right_by_shapes())}
{_longer_line()}
**{DATE}, the trend with size.** The growth of the gap with size holds at equal training clips only.{_equal_flops(micro)}

**{DATE}, all LLMs from scratch.** The numbers of {_scaled(False)} come from models with that input scale, and will be
run again; {_scaled(True)} were run with the mended one. The audit's figures: `outputs/audit/input_scale.csv`.
"""


def _scaled(mended: bool) -> str:
    """The studies of LLMs from scratch that were run with the mended scale, or those that were not."""
    found = []
    for name in ("captions", *QUESTIONS, "sees", MICRO, "question", sources.LONGER):
        first = next((sources.OUTPUTS / name).glob("*/config.json"), None)
        if first is not None and load_run(first.parent).config.scale_input == mended:
            found.append(f"`{name}/`")
    return ", ".join(found) or "none"


def withdrawn_in_short() -> str:
    """The same as one sentence of the README's answer."""
    return (
        f"**Withdrawn on {DATE}**: that on questions it beats the baseline's 16 tokens, and that the baseline "
        f"only guesses which shape is meant (within {_steps()} steps the foveated model had learned what the "
        "baseline had not *yet*; with another scale of the LLM's input the baseline learns it as well, "
        f"{_audit()}), and that the trend with size holds on every axis (it holds at equal clips only); all "
        "numbers of LLMs from scratch will be run again: [figures and reasons](outputs/FINDINGS.md#withdrawn)."
    )


def _question_gaps() -> str:
    samples = sources.questions()[0]
    gaps = [sources.against(part, ["baseline"]).get("baseline") for _, part in samples.groupby("pair")]
    return "; ".join(f"{percent(gap)} %" for gap in gaps if gap)


def _steps() -> int:
    from fvlm.studies.grid import read_grid
    from fvlm.studies.question import GRID

    return read_grid(GRID).cells[0].config.steps


def _audit() -> str:
    """The longest runs of the baseline on the published cells' features, mended scale."""
    table = pd.read_csv(AUDIT, comment="#").query(
        "model == 'baseline' and features == 'dinov2' and scale == 'sqrt_width'"
    )
    last = table.sort_values("steps").groupby(["learning_rate", "seed"], sort=False).tail(1)
    long = last[last["steps"] >= 1000].sort_values("learning_rate")
    runs = [
        f"{100 * row.right:.0f} % right after {row.steps:,} steps at {row.learning_rate:g}"
        for row in long.itertuples()
    ]
    return f"T1, crowded clips: {', '.join(runs)}; one seed each"


def _longer_line() -> str:
    study = sources.study(sources.LONGER)
    return f"- {longer(study, sources.right_by_shapes(sources.LONGER))}\n" if study else ""


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
    """Per size the mean over seeds of `equal_flops_gaps`, with its interval where there are several seeds."""
    gaps = equal_flops_gaps(micro)
    return {
        pair: (values.mean(), *(t_interval(values) if len(values) > 1 else ()))
        for pair, values in gaps[gaps["frames"] == frames].groupby("pair")["percent"]
    }


def equal_flops_gaps(results: Results) -> pd.DataFrame:
    """The foveated model's last loss over the baseline's where that had spent the same training FLOPs, in
    percent: a row per `pair`, `frames`, `seed`. The baseline's curve is straight in log FLOPs between its
    evaluations; of a constant learning rate, each of which is a valid end. Left out where the curve does not
    reach so far."""
    rows = []
    for (pair, frames, seed), runs in results.evaluations.groupby(["pair", "frames", "seed"]):
        curves = {arch: rows.sort_values("step") for arch, rows in runs.groupby("arch")}
        if not {"foveated", "baseline"} <= set(curves):
            continue
        end, curve = curves["foveated"].iloc[-1], curves["baseline"]
        if curve["flops"].iloc[0] <= end["flops"] <= curve["flops"].iloc[-1]:
            loss = np.interp(np.log(end["flops"]), np.log(curve["flops"]), curve["loss_autoregressive"])
            rows.append(
                dict(
                    pair=pair, frames=frames, seed=seed, percent=100 * (end["loss_autoregressive"] / loss - 1)
                )
            )
    return pd.DataFrame(rows, columns=["pair", "frames", "seed", "percent"])
