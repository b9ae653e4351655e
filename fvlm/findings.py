"""What the committed results show, in words: `python -m fvlm.findings` writes outputs/FINDINGS.md and the README's answer
from them, and nothing in either is typed by hand, so a test can compare both with the results.

`--predict` writes what the largest size of outputs/micro is expected to show, from the smaller ones, before it is run.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.grid import read_grid
from fvlm.question import CROWDED, GRID
from fvlm.question import results as question_results
from fvlm.results import load_study, write_json, write_text
from fvlm.scaling import Results, all_gaps, earlier_study, gap_scaling, open_results, paired_gap, parameter_counts
from fvlm.scaling.gaps import Gap
from fvlm.scaling.runs import EARLIER_SAMPLES, MICRO, REAL
from fvlm.scaling.tables import answer, flops_conventions, inference_claim, replayed_correction, size_claims
from fvlm.tune import best_rates, mean_losses

OUTPUTS = REPOSITORY / "outputs"
PAGE, PREDICTION = OUTPUTS / "FINDINGS.md", OUTPUTS / MICRO / "prediction.json"
STUDIES = (MICRO, "question", "sees", *REAL)
CONTROLS = ("static", "meanpool", "blind")
README, ANSWER = REPOSITORY / "README.md", ("<!-- python -m fvlm.findings writes from here -->", "<!-- to here -->")
LARGEST = "T5-T"


def render() -> str:
    """The page, from the results that are there."""
    micro = _study(MICRO)
    sections = [_head()]
    if micro:
        sections += [micro_section(micro), controls_section(micro), prediction_section(micro)]
    sections += [question_section(), sees_section()]
    sections += [real_weights_section(study) for study in map(_study, REAL) if study]
    for study in (MICRO, "question"):
        path = OUTPUTS / f"{study}_rates" / "rates.parquet"
        if path.exists():
            sections.append(rates_section(study, pd.read_parquet(path)))
    return "\n".join([*sections, earlier_section(micro)])


def readme_answer() -> str:
    """What stands in the README between ANSWER's two marks."""
    micro, lines = _study(MICRO), []
    if micro:
        gaps = all_gaps(micro)
        sizes = micro.runs["pair"].nunique()
        lines = [
            f"The foveated model's loss over the baseline's, captions of the built-in world, {sizes} LLM sizes from scratch:\n",
            *(f"- {line}" for line in [*_trends(gaps), *_query_buys(micro)]),
            "\n![The gap at every size with its interval, and the trend](outputs/figures/gap.png)\n",
            _answer_table(micro, gaps).to_markdown(index=False),
            f"\nIn percent of the loss, with 95 % intervals; below zero the foveated model is better. {_budget(micro)} "
            f"{_still_falling(micro)} "
            "`python -m fvlm grid params/micro.yaml --study mine` runs it again.\n",
        ]
    lines += [real_weights_in_a_line(study) + "\n" for study in map(_study, REAL) if study]
    lines.append(
        "[`outputs/FINDINGS.md`](outputs/FINDINGS.md): each claim with its number, interval, cells and command, and what\n"
        "these runs say of the earlier study's conclusions."
    )
    return "\n".join(lines)


def _answer_table(micro, gaps) -> pd.DataFrame:
    rows = []
    for pair, size in micro.runs[micro.runs["arch"] == "foveated"].groupby("pair"):
        row = {"size": pair, "parameters trained": f"{size['params_trainable'].mean() / 1e6:.2f} M"}
        for name, gap in gaps.items():
            found = gap.table.set_index("pair")
            if pair in found.index:
                value, low, high = found.loc[pair, ["raw_percent", "raw_percent_low", "raw_percent_high"]]
                row[f"against the baseline, {name.removeprefix('micro, ')}"] = _with_interval(value, low, high)
        samples = micro.samples[(micro.samples["pair"] == pair) & (micro.samples["frames"] == 8)]
        rows.append(row | {f"against {arch}": _percent(gap) for arch, gap in _against(samples).items()})
    return pd.DataFrame(rows).fillna("")


def _head() -> str:
    studies = [name for name in STUDIES if any((OUTPUTS / name).glob("*/evaluations.parquet"))]
    devices = sorted({device for name in studies for device in load_study(OUTPUTS / name).evaluations["device"]})
    return f"""# Findings

Written by `python -m fvlm.findings` from the results in this folder; a test compares the two. Losses are in nats per text
token, frame by frame, on validation clips. Intervals hold 95 %: hierarchical bootstrap over clips and seeds, widened
for few seeds (`fvlm.scaling.paired_gap`), unless it says otherwise. Run on: {", ".join(devices)}.
"""


# ── What was found ───────────────────────────────────────────────────────────────────────────────


def micro_section(micro: Results) -> str:
    gaps = all_gaps(micro)
    table = answer(gaps).to_markdown(index=False)
    return f"""## What 16 times fewer visual tokens cost, from scratch

The foveated model's loss over the baseline's, in percent, on captions of the built-in world; parameters are those trained.

{table}

{chr(10).join(f"- {line}" for line in _trends(gaps))}

{_budget(micro)} {_still_falling(micro)} Learning rates were tuned per size on a held-out seed:
`micro_rates/rates.parquet`.

Cells: `micro/`. Again: `python -m fvlm grid params/micro.yaml --study mine`, or the command in a cell's notebook.
"""


def _trends(gaps) -> list[str]:
    """A sentence for each number of frames: from the smallest size to the largest, and whether that is a trend."""
    lines = []
    for name, gap in gaps.items():
        trend, table, where = gap.trend.set_index("kind").loc["raw"], gap.table, name.removeprefix("micro, ")
        small, large = (f"{row['raw_percent']:+.2f} % at {row['pair']}" for row in (table.iloc[0], table.iloc[-1]))
        if not np.isfinite(trend["slope"]):
            lines.append(f"{where}: {small} to {large}; a trend needs three sizes.")
            continue
        word = "it shrinks with size" if trend["high"] < 0 else "it grows with size" if trend["low"] > 0 else "no trend can be told"
        slope = _with_interval(trend["slope"], trend["low"], trend["high"])
        lines.append(f"{where}: {small} to {large}; {slope} points per tenfold parameters: {word}.")
    return lines


def _budget(results: Results) -> str:
    """How long what was trained, where."""
    runs, rows = results.runs, results.evaluations
    config = runs["config"].iloc[0]
    devices = ", ".join(sorted(rows["device"].unique()))
    return (
        f"{len(runs)} runs, {config.steps} steps of {config.effective_batch} clips each, constant learning rate, "
        f"{config.precision}, on {devices}: {runs['seconds'].sum() / 3600:.1f} hours of one process, evaluations included."
    )


def _still_falling(micro: Results) -> str:
    """How far from converged the models are: what the steps between the last two evaluations still gave, per architecture."""
    losses = micro.evaluations.pivot_table(index="arch", columns="step", values="loss_autoregressive")
    before, last = losses.columns[-2:]
    gained = 100 * (1 - losses[last] / losses[before])
    archs = ", ".join(f"{arch} {gained[arch]:.1f}" for arch in ("foveated", "baseline", *CONTROLS) if arch in gained)
    return f"Training was short: from step {before} to {last} the loss still fell by (percent) {archs}."


def _query_buys(micro: Results) -> str:
    """What the dynamic query buys against the static control at each size, on both tasks, in words that follow the intervals."""
    tasks = {"captions": micro.samples[micro.samples["frames"] == 8], "questions": _scored_questions()[0]}
    lines = []
    for task, samples in tasks.items():
        told = []
        for pair, part in samples.groupby("pair", sort=False):
            if gap := _against(part, ["static"]).get("static"):
                low, high = gap.interval
                word = "it helps" if high < 0 else "it costs" if low > 0 else "no difference can be told"
                told.append(f"{_percent(gap)} % at {pair}, {word}")
        lines.append(f"A dynamic query beside a static one, on {task}: {'; '.join(told)}.")
    return lines


def controls_section(micro: Results) -> str:
    rows = []
    samples = micro.samples[micro.samples["frames"] == 8]
    for pair, part in samples.groupby("pair", sort=False):
        if found := _against(part):
            rows.append({"size": pair} | {f"against {arch}": _percent(gap) for arch, gap in found.items()})
    return f"""## What the dynamic query buys on captions

The foveated model's loss over that of controls with the same size, budget and clips, 8 frames, in percent; below zero it is
better.

{pd.DataFrame(rows).to_markdown(index=False)}
{_caption_gaze()}"""


def _against(samples: pd.DataFrame, archs=CONTROLS) -> dict[str, Gap]:
    """The foveated model's gap to each other architecture that is in one size's samples."""
    found = {arch: [samples[samples["arch"] == name] for name in ("foveated", arch)] for arch in archs}
    return {arch: paired_gap(*both) for arch, both in found.items() if all(map(len, both))}


def _caption_gaze() -> str:
    path = OUTPUTS / MICRO / "gaze.parquet"
    if not path.exists():
        return ""
    return f"""
Where it looks, for captions, of an object drawn by lot. *hit*: the share of frames whose most attended patch is on it. *mass*:
the attention it gets over its share of the frame; 1 is no preference. The difference is foveated less static.

{_gazes(pd.read_parquet(path), "caption").to_markdown(index=False)}

Again: `python -m fvlm gaze --run outputs/mine/T?-T_8f_{{fov,sta}}_seed? --clips 128 --out outputs/mine/gaze.parquet`.
"""


def _gazes(gazes: pd.DataFrame, asked: str) -> pd.DataFrame:
    """Per size the foveated model's gaze beside its static control's, means over seeds, and the difference's interval."""
    gazes = gazes[gazes["asked"] == asked]
    gazes = gazes.assign(text_tokens=1, **gazes["run"].str.extract(r"^(?P<pair>[^_]+)_\d+f_(?P<arch>[a-z]+)_seed(?P<seed>\d+)$"))
    rows = []
    for pair, part in gazes.groupby("pair"):
        both = [part[part["arch"] == arch] for arch in ("fov", "sta")]
        if not all(map(len, both)):
            continue
        row = {"size": pair, "hit by chance": f"{part['chance'].mean():.3f}"}
        for name, digits in (("hit", 3), ("mass", 2)):
            gap = paired_gap(*both, loss=name)
            row |= {f"{name}, {arch}": f"{half[name].mean():.{digits}f}" for arch, half in zip(("foveated", "static"), both)}
            row[f"{name}, difference"] = _with_interval(gap.nats, *gap.interval, digits)
        rows.append(row)
    return pd.DataFrame(rows)


def _scored_questions() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of the runs whose answers were scored: the samples of crowded clips, a row per run (`fvlm.question.results`), and gazes."""
    table = question_results()
    gazes = pd.read_parquet(OUTPUTS / "question" / "gaze.parquet").query(f"objects >= {CROWDED}")
    samples = load_study(OUTPUTS / "question").samples
    return samples[samples["clip_id"].isin(gazes["clip_id"]) & samples["run"].isin(table["run"])], table, gazes


def question_section() -> str:
    samples, table, gazes = _scored_questions()
    gap = _against(samples[samples["pair"] == "T2-T"], ["static"])["static"]
    fov, sta = (table[table["run"].str.startswith(f"T2-T_2f_{arch}_")] for arch in ("fov", "sta"))
    return f"""## A question steers the gaze, and that helps

- **Answer loss**: {_nats(gap)} against the static control, {gap.seeds} seeds, {gap.samples} clips with three shapes or more.
- **Right answers**: {_range(fov["right"])} % with the query that the question steers, {_range(sta["right"])} % without.
- **Gaze** on the object asked about: {_range(fov["hit"])} % of frames, static {_range(sta["hit"])} %, chance \
{100 * fov["chance"].mean():.1f} %; {_range(fov["hit_other"])} % when another object is asked about.

Ranges are over seeds; every seed with its own intervals is in the README. Cells: `T2-T_2f_fov`, `T2-T_2f_sta` in
`question/`. Again: `make question`.
{_question_sizes(samples, table, gazes)}
What did not work on the way, and what it took, is in `fvlm/question.py`.
"""


def _question_sizes(samples, table, gazes) -> str:
    rows = []
    for pair, part in samples.groupby("pair"):
        gaps = _against(part, ["static", "baseline"])
        if len(gaps) < 2:
            continue
        row = dict(size=pair)
        for short, name in (("fov", "foveated"), ("sta", "static"), ("bas", "baseline")):
            row[f"right, {name}, %"] = _range(table.loc[table["run"].str.startswith(f"{pair}_2f_{short}_"), "right"])
        for name, gap in gaps.items():
            row[f"answer loss against {name}, nats"] = _with_interval(gap.nats, *gap.interval, 3)
        rows.append(row)
    if not rows:
        return ""
    return f"""
The same at other sizes, and beside the baseline's 16 tokens per frame (right answers: lowest and highest seed):

{pd.DataFrame(rows).to_markdown(index=False)}

{_gazes(gazes, "own").to_markdown(index=False)}

{_question_rates([row["size"] for row in rows])} Again: `python -m fvlm.question --all`.
"""


def _question_rates(sizes: list[str]) -> str:
    """At which rates those sizes were trained, and whether a sweep chose them."""
    configs = [cell.config for cell in read_grid(GRID).cells]
    rates = {config.cell.partition("_")[0]: config.learning_rate for config in configs}
    if not (OUTPUTS / "question_rates" / "rates.parquet").exists():
        return f"All were trained at the rate found for T2-T, {rates['T2-T']:g}; one of their own may suit the others better."
    return f"Learning rates: {', '.join(f'{size} {rates[size]:g}' for size in sizes)}, tuned per size on a held-out seed (below)."


def sees_section() -> str:
    samples = load_study(OUTPUTS / "sees").samples
    gap = paired_gap(*(samples[samples["arch"] == arch] for arch in ("foveated", "blind")))
    return f"""## The smallest cell sees

- **Caption loss**: {_nats(gap)} against the blind control after the few minutes of `make train`, {gap.seeds} seeds, \
{gap.samples} clips.

Cells: `T-T_8f_fov`, `T-T_8f_bli` in `sees/`. Again: `python -m fvlm train --cell T-T_8f_fov --set seed=1`.
"""


def _real_weights(study: Results) -> pd.DataFrame:
    """A row per pair of cells, foveated and baseline, from real weights: losses and the gap with its interval."""
    rows = []
    for (pair, frames), part in study.samples.groupby(["pair", "frames"], sort=False):
        both = [part[part["arch"] == arch] for arch in ("foveated", "baseline")]
        if all(map(len, both)):
            gap, runs = paired_gap(*both), study.runs[(study.runs["pair"] == pair) & (study.runs["frames"] == frames)]
            losses = runs.groupby("arch")["loss_autoregressive"].mean()
            rows.append({"cells": f"{pair}_{frames}f", "clips seen": int(runs["samples_seen"].iloc[0]),
                         "foveated": f"{losses['foveated']:.3f}", "baseline": f"{losses['baseline']:.3f}",
                         "gap, %": _percent(gap), "clips": gap.samples, "seeds": gap.seeds})  # fmt: skip
    return pd.DataFrame(rows)


def real_weights_in_a_line(study: Results) -> str:
    budget = "the study's own budget" if _whole_budget(study) else "a part of the study's budget, what a CPU does in two hours"
    told = [
        f"{row['cells']} {row['gap, %']} % ({row['foveated']} against {row['baseline']} nats) after {row['clips seen']:,} clips, "
        f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}"
        for row in _real_weights(study).to_dict("records")
    ]
    return f"From real weights, {budget}: {'; '.join(told)}."


def _whole_budget(study: Results) -> bool:
    return bool((study.runs["samples_seen"] >= EARLIER_SAMPLES).all())


def real_weights_section(study: Results) -> str:
    name, weights = study.runs["study"].iloc[0], "; ".join(sorted(study.runs["weights"].unique()))
    budget = "" if _whole_budget(study) else (
        f" That is what a CPU does in two hours a cell, not the study's own budget of {EARLIER_SAMPLES:,} clips on a GPU."
    )  # fmt: skip
    return f"""## Real weights

{_budget(study)}{budget} With one seed an interval is for
these weights: how far another seed would move the gap is not in it. {_still_falling(study)} Weights: {weights}.

{_real_weights(study).to_markdown(index=False)}

Cells: `{name}/`. Again: `python -m fvlm grid params/{name}.yaml --study mine`, or the command in a cell's notebook.
"""


def prediction_section(micro: Results) -> str:
    if not PREDICTION.exists():
        return f"## A prediction\n\nNone was written before {LARGEST} was run.\n"
    said = json.loads(PREDICTION.read_text())
    lines = []
    for name, gap in all_gaps(micro).items():
        then, now = said["gaps"].get(name), gap.table.set_index("pair")
        if then and LARGEST in now.index:
            value, low, high = now.loc[LARGEST, ["raw_percent", "raw_percent_low", "raw_percent_high"]]
            word = "inside" if then["low"] <= value <= then["high"] else "outside"
            predicted = f"{then['value']:+.2f} % ({then['low']:+.2f} to {then['high']:+.2f})"
            lines.append(f"- {name}: predicted {predicted}, found {value:+.2f} % ({low:+.2f} to {high:+.2f}): {word}.")
    return f"""## A prediction, and what came

From {", ".join(said["sizes"])}, written on {said["date"]} before {LARGEST} was run (`micro/prediction.json`): the gap on the line
in log N, whose interval holds the noise of runs and clips, not the line's being wrong. The sweep of learning rates had
trained {LARGEST} by then, on a seed that neither the prediction nor the study uses.

{chr(10).join(lines) or f"{LARGEST} has not been run yet."}
"""


def rates_section(study: str, table: pd.DataFrame) -> str:
    """study: the name of its grid file; table: `fvlm.tune`'s rows."""
    config = read_grid(REPOSITORY / "params" / f"{study}.yaml").cells[0].config
    losses = mean_losses(table).unstack().sort_index(axis=1)
    few, all_ = losses.index.levels[0].min(), losses.index.levels[0].max()
    short, full = losses.loc[few], losses.loc[all_]
    lines = []
    for pair in short.index.intersection(full.index):
        both = pd.DataFrame({few: short.loc[pair], all_: full.loc[pair]}).dropna()
        early, late = (both[steps].idxmin() if len(both) else None for steps in (few, all_))
        if early != late:
            less, more = (both[steps][late] - both[steps][early] for steps in (few, all_))
            change = f"{late:g} beside {early:g}: {less:+.3f} nats after {few} steps, {more:+.3f} after {all_}"
            lines.append(f"- **A short sweep misleads** at {pair}, {change}.")
    edges = best_rates(table).query("edge")["pair"].tolist()
    lines.append(
        f"- At the edge of what was tried at full length, so that a rate beyond may be better: {', '.join(edges) or 'no size'}."
    )
    rows = losses.map("{:.4f}".format).where(losses.notna(), "").rename(columns="{:g}".format)
    first = " --share 0.4`, then without `--share` for the rates that are left" if few < all_ else "`"
    return f"""## The learning rate of each size, on {config.task}s

Parallel loss, the mean of foveated and baseline, at the last step, {config.frames} frames, seed {table["seed"].iloc[0]}, which
no study uses: one seed, no interval. The longest runs decide.

{rows.reset_index().to_markdown(index=False, disable_numparse=True)}

{chr(10).join(lines)}

Again: `python -m fvlm.tune params/{study}.yaml{first}.
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
    for name, gap in all_gaps(micro).items():
        row = gap.trend.set_index("kind").loc["raw"]
        word = "supports" if row["high"] < 0 else "contradicts" if row["low"] > 0 else "cannot decide"
        words.append(f"{name}: {_with_interval(row['slope'], row['low'], row['high'])} points per tenfold: {word}")
    return "; ".join(words)


def _verdict_inference(micro):
    """Not from the question's runs: with their fine passes the two are the same for two frames by construction."""
    told = []
    for study in (micro or _study("sees"), *map(_study, REAL)):
        if not study:
            continue
        runs = study.runs[study.runs["arch"] == "foveated"]
        gap = 100 * (runs["loss_autoregressive"] / runs["loss_parallel"] - 1)
        word = "supports" if gap.max() < 0.6 else "contradicts"
        found = (
            f"{gap.min():+.2f} to {gap.max():+.2f} % over {len(gap)} foveated runs"
            if len(gap) > 1
            else f"{gap.iloc[0]:+.2f} % in one run"
        )
        told.append(f"{found} ({runs['study'].iloc[0]}): {word}")
    return "; ".join(told)


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


def _study(name: str) -> Results | None:
    try:
        return open_results(str(OUTPUTS / name), unfinished=False)
    except ConfigError:
        return None


def _nats(gap: Gap) -> str:
    (low, high), p = gap.interval, gap.percent
    return f"{gap.nats:+.3f} nats ({low:+.3f} to {high:+.3f}), {p:+.1f} %,"


def _with_interval(value: float, low: float, high: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _percent(gap: Gap) -> str:
    return _with_interval(gap.percent, *gap.percent_interval)


def _range(values) -> str:
    return f"{100 * values.min():.0f} to {100 * values.max():.0f}"


def _t_interval(values) -> tuple[float, float]:
    from scipy.stats import t as student

    half = student.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def with_answer(readme: str) -> str:
    """The README's text with the answer as the results have it now."""
    before, start, rest = readme.partition(ANSWER[0])
    _, end, after = rest.partition(ANSWER[1])
    assert start and end, "the README's two marks"
    return f"{before}{start}\n{readme_answer()}\n{end}{after}"


def predict(date: str) -> Path:
    """Write what the largest size will show, from the others. ConfigError if it has been run, or fewer than three others."""
    micro = _study(MICRO)
    if micro is None or LARGEST in set(micro.runs["pair"]):
        raise ConfigError(f"a prediction is written when the other sizes of outputs/micro are there and {LARGEST} is not")
    found = {}
    for frames in sorted(set(micro.runs["frames"])):
        runs = micro.runs[micro.runs["frames"] == frames]
        gap = gap_scaling(micro.samples[micro.samples["frames"] == frames], runs)
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
    print(write_text(README, with_answer(README.read_text())))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
