"""The README's answer: three paragraphs whose words follow the intervals."""

from fvlm.findings import sources
from fvlm.findings.withdrawn import equal_flops, withdrawn_in_short
from fvlm.findings.words import (
    answers_beside,
    frames_of,
    of_a_saliency_model,
    percent_range,
    trained_sizes,
    trend,
    verdict_of,
    with_interval,
)
from fvlm.scaling import GapScaling, Results
from fvlm.studies.question import CROWDED


def beside_the_cost(learning: str = "") -> list[str]:
    """Whether a question steers the gaze, and if that was run who learns to answer sooner (`learning`); and what
    is withdrawn."""
    head, *lines = [*_steering(), *filter(None, [learning])]
    return [f"{head}\n" + ";\n".join(f"- {line}" for line in lines) + ".", withdrawn_in_short()]


def cost_before(micro: Results, gaps: dict[str, GapScaling], alone: bool = True) -> str:
    """What one token a frame costs, by the runs before 2026-11-25: `alone`, or in short after what later ones
    say."""
    (first, gap), *others = gaps.items()
    frames = frames_of(first)
    raw = {
        row.pair: (row.raw_percent, row.raw_percent_low, row.raw_percent_high)
        for row in gap.table.itertuples()
    }
    trained = micro.runs[micro.runs["arch"] == "foveated"].groupby("pair")["params_trainable"].mean()
    names = {pair: f"{pair} ({trained[pair] / 1e6:.2f} M trained parameters)" for pair in raw}
    config, title = micro.runs["config"].iloc[0], "What one token a frame costs"
    clips = f"{config.steps * config.effective_batch:,} clips"
    if not alone:
        return (
            f"**What earlier runs gave** ({clips}, the input scale of before 2026-11-25, other settings too): at equal clips "
            f"{_ends(raw, names)}"
        )
    trends = trend(gap) + "".join(f"; {frames_of(name)}, {trend(other)}" for name, other in others)
    flops = equal_flops(micro, int(frames.split()[0]))
    reached = {pair: found for pair, found in flops.items() if len(found) == 3}
    spent = f"; at equal training FLOPs {_ends(reached)}{_turned(raw, reached)}" if reached else ""
    return (
        f"**{title}**, in percent of the loss of a baseline that reads 16 (captions of the built-in world, LLMs from "
        f"scratch, {frames}, {clips}, the input scale of before 2026-11-25): at equal clips {_ends(raw, names)}; "
        f"{trends}{spent}"
    )


def _ends(found: dict[str, tuple[float, float, float]], names: dict[str, str] | None = None) -> str:
    """The smallest and the largest size, each in words that follow its interval."""
    sizes = list(found)
    return ", and ".join(
        f"{with_interval(*found[pair])} at {(names or {}).get(pair, pair)}, where {verdict_of(*found[pair][1:])}"
        for pair in dict.fromkeys((sizes[0], sizes[-1]))
    )


def _turned(raw: dict[str, tuple[float, float, float]], flops: dict[str, tuple[float, float, float]]) -> str:
    """Whether an interval that is on one side of zero at equal clips is on the other at equal FLOPs."""
    turned = [
        pair for pair, (_, low, high) in flops.items() if raw[pair][1] > 0 > high or raw[pair][2] < 0 < low
    ]
    return f", the other sign (at {' and '.join(turned)})" if turned else ""


def _steering() -> list[str]:
    """Whether it does, and a line each on the gaze and on the answer, without full stops."""
    samples, table, gazes = sources.questions()
    runs, control = (table[table["run"].str.startswith(f"T2-T_2f_{arch}_")] for arch in ("fov", "sta"))
    follows = runs["hit_low"].min() > runs["hit_other_high"].max()
    study = sources.study("question")
    named = trained_sizes(study, ["T2-T"])["T2-T"]
    eye = ", on DINOv2-small as a saliency model ships it" if of_a_saliency_model(study) else ""
    return [
        f"**Whether a question steers the gaze**: {'it does' if follows else 'that cannot be told'};",
        f"at {named}, asked about one of {CROWDED} or more shapes, the patch that the model attends to most is on that "
        f"shape in {percent_range(runs['hit'])} % of frames (lowest and highest of {len(runs)} seeds{eye}), in "
        f"{percent_range(runs['hit_other'])} % when another is asked about; that of a control with one static query for "
        f"everything in {percent_range(control['hit'])} %, and a patch at random in "
        f"{100 * runs['chance'].mean():.1f} %",
        f"beside that control {answers_beside(samples, table, gazes, 'static')}",
    ]
