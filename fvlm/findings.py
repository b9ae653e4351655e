"""What the committed results show, in words: `python -m fvlm.findings` writes outputs/FINDINGS.md from them, and nothing in
it is typed by hand, so a test can compare the page with the results.

`--predict` writes what the largest size of outputs/micro is expected to show, from the smaller ones, before it is run.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.question import CROWDED
from fvlm.question import results as question_results
from fvlm.results import load_study, write_json, write_text
from fvlm.scaling import Results, all_gaps, earlier_study, gap_scaling, open_results, paired_gap, parameter_counts
from fvlm.scaling.gaps import Gap
from fvlm.scaling.tables import answer, flops_conventions, inference_claim, replayed_correction, size_claims

OUTPUTS = REPOSITORY / "outputs"
PAGE, PREDICTION = OUTPUTS / "FINDINGS.md", OUTPUTS / "micro" / "prediction.json"
LARGEST = "T5-T"
PARAMS = "params_trainable"  # by which micro's sizes differ: all have the same frozen eye


def render() -> str:
    """The page, from the results that are there."""
    sections = [_head(), question_section(), sees_section()]
    micro = _micro()
    if micro:
        sections += [micro_section(micro), controls_section(micro), prediction_section(micro)]
    return "\n".join([*sections, earlier_section(micro)])


def _head() -> str:
    studies = [name for name in ("question", "sees", "micro") if any((OUTPUTS / name).glob("*/evaluations.parquet"))]
    devices = sorted({device for name in studies for device in load_study(OUTPUTS / name).evaluations["device"]})
    return f"""# Findings

Written by `python -m fvlm.findings` from the results in this folder; a test compares the two. Losses are in nats per text
token, frame by frame, on validation clips. Intervals hold 95 %: hierarchical bootstrap over clips and seeds, widened
for few seeds (`fvlm.scaling.paired_gap`), unless it says otherwise. Run on: {", ".join(devices)}.
"""


# ── What was found ───────────────────────────────────────────────────────────────────────────────


def question_section() -> str:
    table = question_results().set_index("run")
    gazes = pd.read_parquet(OUTPUTS / "question" / "gaze.parquet").query(f"objects >= {CROWDED}")
    samples = load_study(OUTPUTS / "question").samples
    samples = samples[samples["clip_id"].isin(gazes["clip_id"]) & (samples["pair"] == "T2-T")]
    gap = paired_gap(*(samples[samples["arch"] == arch] for arch in ("foveated", "static")))
    fov, sta = (table[table.index.str.contains(f"_{arch}_")] for arch in ("fov", "sta"))
    return f"""## A question steers the gaze, and that helps

- **Answer loss**: {_nats(gap)} against the static control, {gap.seeds} seeds, {gap.samples} clips with three shapes or more.
- **Right answers**: {_range(fov["right"])} % with the query that the question steers, {_range(sta["right"])} % without.
- **Gaze** on the object asked about: {_range(fov["hit"])} % of frames, static {_range(sta["hit"])} %, chance \
{100 * fov["chance"].mean():.1f} %; {_range(fov["hit_other"])} % when another object is asked about.

Ranges are over seeds; every seed with its own intervals is in the README. Cells: `T2-T_2f_fov`, `T2-T_2f_sta` in
`question/`. Again: `make question`.

What did not work on the way, and what it took, is in `fvlm/question.py`.
"""


def sees_section() -> str:
    samples = load_study(OUTPUTS / "sees").samples
    gap = paired_gap(*(samples[samples["arch"] == arch] for arch in ("foveated", "blind")))
    return f"""## The smallest cell sees

- **Caption loss**: {_nats(gap)} against the blind control after the few minutes of `make train`, {gap.seeds} seeds, \
{gap.samples} clips.

Cells: `T-T_8f_fov`, `T-T_8f_bli` in `sees/`. Again: `python -m fvlm train --cell T-T_8f_fov --set seed=1`.
"""


def micro_section(micro: Results) -> str:
    gaps = all_gaps(micro, params=PARAMS)
    table = answer(gaps).to_markdown(index=False)
    return f"""## What 16 times fewer visual tokens cost, five sizes from scratch

The foveated model's loss over the baseline's, in percent, on captions of the built-in world; parameters are those trained.

{table}

Cells: `micro/`. Again: `python -m fvlm grid params/micro.yaml --study mine`, or the command in a cell's notebook. Learning
rates were tuned per size on a held-out seed: `micro_rates/rates.parquet`.
"""


def controls_section(micro: Results) -> str:
    rows = []
    samples = micro.samples[micro.samples["frames"] == 8]
    for pair, part in samples.groupby("pair", sort=False):
        row = dict(size=pair)
        for arch in ("static", "meanpool", "blind"):
            both = [part[part["arch"] == name] for name in ("foveated", arch)]
            if all(map(len, both)):
                gap = paired_gap(*both)
                low, high = gap.percent_interval
                row[f"against {arch}, %"] = f"{gap.percent:+.2f} ({low:+.2f} to {high:+.2f})"
        if len(row) > 1:
            rows.append(row)
    return f"""## What the dynamic query buys on captions

The foveated model's loss over that of controls with the same size, budget and clips, 8 frames; below zero it is better.

{pd.DataFrame(rows).to_markdown(index=False)}
"""


def prediction_section(micro: Results) -> str:
    if not PREDICTION.exists():
        return f"## A prediction\n\nNone was written before {LARGEST} was run.\n"
    said = json.loads(PREDICTION.read_text())
    lines = []
    for name, gap in all_gaps(micro, params=PARAMS).items():
        then, now = said["gaps"].get(name), gap.table.set_index("pair")
        if then and LARGEST in now.index:
            value, low, high = now.loc[LARGEST, ["raw_percent", "raw_percent_low", "raw_percent_high"]]
            word = "inside" if then["low"] <= value <= then["high"] else "outside"
            predicted = f"{then['value']:+.2f} % ({then['low']:+.2f} to {then['high']:+.2f})"
            lines.append(f"- {name}: predicted {predicted}, found {value:+.2f} % ({low:+.2f} to {high:+.2f}): {word}.")
    return f"""## A prediction, and what came

From {", ".join(said["sizes"])}, written on {said["date"]} before {LARGEST} was run (`micro/prediction.json`): the gap on the line
in log N, whose interval holds the noise of runs and clips, not the line's being wrong.

{chr(10).join(lines) or f"{LARGEST} has not been run yet."}
"""


# ── The earlier study's conclusions ──────────────────────────────────────────────────────────────


def earlier_section(micro: Results | None) -> str:
    replay = replayed_correction().set_index(["frames", "mode", "llm"])["corrected"]
    sizes, walk, flops = size_claims(), inference_claim(), flops_conventions()
    llm, dino = (sizes[sizes["change"].str.startswith(word)]["percent"] for word in ("LLM", "DINO"))
    frames = earlier_study().pivot(index=["llm", "vision", "arch"], columns="frames", values="loss_autoregressive").dropna()
    worse = 100 * (frames[64] / frames[8] - 1)
    small, large = (f"{replay[64, 'autoregressive', llm]:.2f}" for llm in ("135m", "360m"))
    shrink = f"8 frames: {replay[8, 'parallel', '135m']:.2f} to {replay[8, 'parallel', '360m']:.2f} %"
    shrink += f"; 64 frames, frame by frame, it grows: {small} to {large} %"
    bigger = f"LLM 135M to 360M: {llm.min():.1f} to {llm.max():.1f} %; "
    bigger += f"DINOv2 small to base: {dino.min():+.1f} to {dino.max():+.1f} %, 8 frames alone"
    inference = f"at most {walk['percent'].max():.2f} % in {len(walk)} cells, that at 64 frames and the larger LLM"
    longer = f"by {worse.min():.1f} to {worse.max():.1f} % in {len(worse)} pairs"
    cheaper, counted = (f"{flops[name].min():.1f} to {flops[name].max():.1f}" for name in ("times_cheaper_study", "times_cheaper"))
    rows = [
        ("The cost of one token a frame shrinks with scale", shrink, _verdict_trend(micro)),
        ("LLM size matters more than DINO size", bigger, "cannot decide: one eye in all runs here"),
        ("Train/inference gap below 0.6 %", inference, _verdict_inference(micro)),
        ("64 frames are worse than 8", longer, _verdict_frames(micro)),
        ("1.1 to 3 times fewer FLOPs", f"by its convention {cheaper}, of all eight pairs of cells",
         f"counted from shapes, the same cells: {counted}; supports fewer, contradicts 3 times"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["conclusion", "its own rows", "these runs"]).to_markdown(index=False)
    return f"""## The earlier study's five conclusions

One seed, 50 validation clips, no samples published, so nothing of it has an interval. Replayed in `notebooks/scaling.ipynb`;
again: `python -m fvlm.findings`.

{table}
"""


def _verdict_trend(micro):
    if not micro:
        return "cannot decide: no study of sizes has been run here yet"
    words = []
    for name, gap in all_gaps(micro, params=PARAMS).items():
        row = gap.trend.set_index("kind").loc["raw"]
        word = "supports" if row["high"] < 0 else "contradicts" if row["low"] > 0 else "cannot decide"
        words.append(f"{name}: {row['slope']:+.2f} points per tenfold ({row['low']:+.2f} to {row['high']:+.2f}): {word}")
    return "; ".join(words)


def _verdict_inference(micro):
    """Not from the question's runs: with their fine passes the two are the same for two frames by construction."""
    runs = micro.runs if micro else open_results(str(OUTPUTS / "sees"), unfinished=False).runs
    runs = runs[runs["arch"] == "foveated"]
    gap = 100 * (runs["loss_autoregressive"] / runs["loss_parallel"] - 1)
    word = "supports" if gap.max() < 0.6 else "contradicts"
    return f"{gap.min():+.2f} to {gap.max():+.2f} % over {len(gap)} foveated runs ({', '.join(sorted(set(runs['study'])))}): {word}"


def _verdict_frames(micro):
    if not micro:
        return "cannot decide: no runs with other numbers of frames here yet"
    runs = micro.runs.pivot(index=["pair", "arch", "seed"], columns="frames", values="loss_autoregressive").dropna()
    if 8 not in runs or 16 not in runs:
        return "cannot decide: one number of frames here so far"
    change = 100 * (runs[16] / runs[8] - 1)
    low, high = _t_interval(change)
    word = "supports, for 16 frames" if low > 0 else "contradicts, for 16 frames" if high < 0 else "cannot decide"
    return f"16 against 8 frames: {change.mean():+.2f} % ({low:+.2f} to {high:+.2f}, {len(change)} pairs of runs): {word}"


# ── Words and files ──────────────────────────────────────────────────────────────────────────────


def _micro() -> Results | None:
    try:
        return open_results(str(OUTPUTS / "micro"), unfinished=False)
    except ConfigError:
        return None


def _nats(gap: Gap) -> str:
    (low, high), p = gap.interval, gap.percent
    return f"{gap.nats:+.3f} nats ({low:+.3f} to {high:+.3f}), {p:+.1f} %,"


def _range(values) -> str:
    return f"{100 * values.min():.0f} to {100 * values.max():.0f}"


def _t_interval(values) -> tuple[float, float]:
    from scipy.stats import t as student

    half = student.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def predict(date: str) -> Path:
    """Write what the largest size will show, from the others. ConfigError if it has been run, or fewer than three others."""
    micro = _micro()
    if micro is None or LARGEST in set(micro.runs["pair"]):
        raise ConfigError(f"a prediction is written when the other sizes of outputs/micro are there and {LARGEST} is not")
    found = {}
    for frames in sorted(set(micro.runs["frames"])):
        runs = micro.runs[micro.runs["frames"] == frames]
        gap = gap_scaling(micro.samples[micro.samples["frames"] == frames], runs, params=PARAMS)
        at = parameter_counts(RunConfig.from_cell(f"{LARGEST}_{frames}f_fov", device="cpu"))["trainable"]
        estimate = gap.predict(at)
        if not np.isfinite(estimate.value):
            raise ConfigError(f"{frames} frames: a prediction needs three sizes")
        found[f"micro, {frames} frames"] = dict(value=estimate.value, low=estimate.low, high=estimate.high)
    write_json(PREDICTION, dict(date=date, sizes=sorted(set(micro.runs["pair"])), gaps=found))
    return PREDICTION


def main():
    parser = argparse.ArgumentParser(prog="python -m fvlm.findings", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--predict", action="store_true", help=f"predict {LARGEST} from the smaller sizes, before it is run")
    options = parser.parse_args()
    if options.predict:
        from datetime import date

        print(predict(date.today().isoformat()))
    print(write_text(PAGE, render()))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
