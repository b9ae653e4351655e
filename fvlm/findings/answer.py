"""The README's answer: three sentences whose words follow the intervals."""

from fvlm.findings import sources
from fvlm.findings.withdrawn import equal_flops, withdrawn_in_short
from fvlm.findings.words import (
    frames_of,
    percent,
    percent_range,
    trend,
    verdict,
    verdict_of,
    with_interval,
)
from fvlm.scaling import GapScaling, Results


def beside_the_cost(learning: str = "") -> list[str]:
    """Whether a question steers the gaze, and if that was run who learns to answer sooner (`learning`); and what
    is withdrawn."""
    return [f"{'; '.join(filter(None, (_steering(), learning)))}.", withdrawn_in_short()]


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
            f"**What earlier runs gave** ({clips}, the input scale of before 2026-11-25): at equal clips "
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


def _steering() -> str:
    samples, table, _ = sources.questions()
    runs = table[table["run"].str.startswith("T2-T_2f_fov_")]
    follows = runs["hit_low"].min() > runs["hit_other_high"].max()
    gaps = {
        pair: gap["static"]
        for pair, part in samples.groupby("pair")
        if (gap := sources.against(part, ["static"]))
    }
    beside = "; ".join(f"{percent(gap)} % at {pair}, where {verdict(gap)}" for pair, gap in gaps.items())
    return (
        f"**Whether a question steers the gaze**: {'it does' if follows else 'that cannot be told'}; asked about one of "
        "three or more shapes, the patch that the model attends to most is on that shape in "
        f"{percent_range(runs['hit'])} % of frames (T2-T, lowest and highest of {len(runs)} seeds), in "
        f"{percent_range(runs['hit_other'])} % when another is asked about, {100 * runs['chance'].mean():.1f} % by "
        "chance; beside a control with one static query for everything its answer's loss changes by "
        f"{beside}"
    )
