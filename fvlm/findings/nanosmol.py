"""nanoSmol's five conclusions beside what the runs here show."""

import numpy as np
import pandas as pd

from fvlm.findings import sources
from fvlm.findings.captions import PRIMARY, STUDY, captions, contrasts_of, ready, seen
from fvlm.findings.words import DATE, lowest_to_highest, to_be_run_again
from fvlm.scaling import Results, all_gaps, nanosmol
from fvlm.scaling.contrasts import AXES, Levels, Parts, percent
from fvlm.scaling.intervals import t_interval
from fvlm.scaling.runs import REAL, nanosmol_runs
from fvlm.scaling.tables import flops_conventions, inference_claim, replayed_correction, size_claims
from fvlm.text import span, with_interval

CLAIMED = 0.6  # percent: what its gap between training and inference is said to stay below


def nanosmol_section(micro: Results | None) -> str:
    replay = replayed_correction().set_index(["frames", "mode", "llm"])["corrected"]
    sizes, walk, flops = size_claims(), inference_claim(), flops_conventions()
    llm, dino = (sizes[sizes["change"].str.startswith(word)]["percent"] for word in ("LLM", "DINO"))
    frames = (
        nanosmol()
        .pivot(index=["llm", "vision", "arch"], columns="frames", values="loss_autoregressive")
        .dropna()
    )
    worse = 100 * (frames[64] / frames[8] - 1)
    few, many = (
        span(*(replay[frames, mode, llm] for llm in ("135m", "360m")), signed=False)
        for frames, mode in ((8, "parallel"), (64, "autoregressive"))
    )
    shrink = f"8 frames: {few} %; 64 frames, frame by frame, it grows: {many} %"
    bigger = f"LLM 135M to 360M: {lowest_to_highest(llm)} %; "
    bigger += f"DINOv2 small to base: {lowest_to_highest(dino, signed=True)} %, 8 frames alone"
    inference = (
        f"at most {walk['percent'].max():.2f} % in {len(walk)} cells, that at 64 frames and the larger LLM"
    )
    longer = f"by {lowest_to_highest(worse)} % in {len(worse)} pairs"
    cheaper, counted = (lowest_to_highest(flops[name]) for name in ("times_cheaper_study", "times_cheaper"))
    rows = [
        ("The cost of one token a frame shrinks with scale", shrink, _verdict_trend(micro)),
        ("LLM size matters more than DINO size", bigger, _verdict_vision(micro)),
        (f"Train/inference gap below {CLAIMED} %", inference, _verdict_inference(micro)),
        ("64 frames are worse than 8", longer, _verdict_frames(micro)),
        (
            "1.1 to 3 times fewer FLOPs",
            f"by its convention {cheaper}, of all eight pairs of cells",
            f"counted from shapes, the same cells: {counted}; {_verdict_flops(flops['times_cheaper'])}",
        ),
    ]
    table = pd.DataFrame(rows, columns=["conclusion", "its own rows", "these runs"]).to_markdown(index=False)
    return f"""## nanoSmol's five conclusions

One seed, 50 validation clips, no samples published, so nothing of it has an interval. Replayed in `notebooks/scaling.ipynb`;
again: `fvlm findings`.{_at_which_sizes(micro)}

{table}
"""


def _at_which_sizes(micro) -> str:
    """What a verdict of outputs/micro does not reach."""
    if not micro:
        return ""
    here, there = (runs["params_trainable"] / 1e6 for runs in (micro.runs, nanosmol_runs()))
    old = (
        f" `micro` was run at equal clips, with the input scale of before {DATE}."
        if _to_be_run_again(micro.runs)
        else ""
    )
    study = captions()
    compared = seen(study).runs.query("arch in @PRIMARY") if study else micro.runs
    later = compared["params_trainable"] / 1e6
    of_later = f", one of `{STUDY}` for {later.min():.2g} to {later.max():.2g} M" if study else ""
    return (
        f" A verdict of `micro` holds for its sizes, {here.min():.2g} to {here.max():.2g} M trained "
        f"parameters{of_later}, its LLMs from\n"
        f"scratch; nanoSmol's cells, {there.min():.0f} to {there.max():.0f} M, began pretrained, and on "
        f"other videos.{old}"
    )


def _to_be_run_again(runs: pd.DataFrame) -> bool:
    return any(map(to_be_run_again, runs["config"]))


def _word(supports: bool, contradicts: bool, again: bool = False) -> str:
    """What an interval says of a conclusion. again: runs that are to be run again decide nothing, whichever way
    they point."""
    if not supports and not contradicts:
        return "cannot decide"
    if again:
        way = "the same way" if supports else "the other way"
        return f"points {way}, in runs that will be run again: decides nothing yet"
    return "supports" if supports else "contradicts"


def _verdict_trend(micro):
    trends = []  # name, axis, slope with its ends, whether it will be run again
    for name, gap in all_gaps(micro).items() if micro else []:
        row = gap.trend.set_index("kind").loc["raw"]
        ends = row["slope"], row["low"], row["high"]
        trends.append((name, AXES["clips"], ends, _to_be_run_again(micro.runs)))
    study = captions()
    for found in contrasts_of(seen(study)) if study and ready(study) else []:
        if found.trend:
            trend = found.trend.estimate
            ends = trend.value, trend.low, trend.high
            trends.append((study.runs["study"].iloc[0], AXES[found.axis], ends, False))
    return (
        "; ".join(
            f"{name}, {axis}: {with_interval(*ends)} points per tenfold: {_word(ends[2] < 0, ends[1] > 0, again)}"
            for name, axis, ends, again in trends
        )
        or "cannot decide: no study of sizes has been run here yet"
    )


def _verdict_vision(micro):
    """Sizes of the vision encoder are comparable within one study alone."""
    studies = [micro, *map(sources.study, REAL)]
    several = any(study and study.runs["vision"].nunique() > 1 for study in studies)
    return f"cannot decide: {'not compared yet' if several else 'no study here has two vision encoders'}"


def _verdict_flops(times_cheaper):
    fewer, three = times_cheaper.min() > 1, times_cheaper.max() >= 3
    return f"{'supports' if fewer else 'contradicts'} fewer, {'supports' if three else 'contradicts'} 3 times"


def _verdict_inference(micro):
    """Not from the question's runs: with their fine passes the two are the same for two frames by
    construction."""
    newer = captions()
    told = []
    for study in (micro or sources.study("sees"), newer and seen(newer), *map(sources.study, REAL)):
        if not study:
            continue
        runs = study.runs[study.runs["arch"] == "foveated"]
        gap, name = 100 * (runs["loss_autoregressive"] / runs["loss_parallel"] - 1), runs["study"].iloc[0]
        if len(gap) == 1:
            told.append(f"{gap.iloc[0]:+.2f} % in one run ({name}), which decides nothing")
            continue
        low, high = t_interval(gap)
        told.append(
            f"{lowest_to_highest(gap, 2, signed=True)} % over {len(gap)} foveated runs ({name}), on average "
            f"{with_interval(gap.mean(), low, high)}: "
            f"{_word(high < CLAIMED, low > CLAIMED, _to_be_run_again(runs))}"
        )
    return "; ".join(told)


def _verdict_frames(micro):
    if not micro:
        return "cannot decide: no runs with other numbers of frames here yet"
    told = []
    for arch, changes in frames_changes(micro, 16, 8).items():
        found = changes.estimate
        word = _word(found.low > 0, found.high < 0, _to_be_run_again(micro.runs))
        told.append(f"{arch} {with_interval(found.value, found.low, found.high)} %: {word}")
    if not told:
        return "cannot decide: one number of frames here so far"
    return f"16 against 8 frames, mean over sizes: {'; '.join(told)}"


def frames_changes(results: Results, many: int, few: int) -> dict[str, Parts]:
    """By architecture of PRIMARY: how much higher the loss is with `many` frames than with `few`, in percent,
    mean over the sizes of which every seed has both; seeds move each size, clips all."""
    found = {}
    for arch in PRIMARY:
        by_seed, by_clip = [], []
        for _, runs in results.runs[results.runs["arch"] == arch].groupby("pair"):
            losses = runs.pivot(index="seed", columns="frames", values="loss_autoregressive")
            if not {many, few} <= set(losses) or losses[[many, few]].isna().any(axis=None):
                continue
            sides = [
                results.samples[results.samples["run"].isin(runs.loc[runs["frames"] == frames, "run"])]
                .groupby("clip_id")["loss_autoregressive"]
                .mean()
                for frames in (many, few)
            ]
            by_seed.append(losses[[many, few]].to_numpy().T)
            by_clip.append(np.stack([side.to_numpy() - side.mean() for side in sides]))
        if by_seed:
            found[arch] = Levels(by_seed, by_clip).estimate(lambda means: float(percent(means).mean()))
    return found
