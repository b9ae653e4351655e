"""What was found: the sections of FINDINGS.md, a function each."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.config import RunConfig
from fvlm.files import read_table
from fvlm.findings import sources
from fvlm.findings.words import (
    answers_beside,
    beside_controls,
    budget,
    longer,
    nats,
    percent,
    percent_range,
    question_rates,
    seen_through,
    still_falling,
    to_be_run_again,
    trends,
    verdict,
)
from fvlm.gaze.scores import of_any_object
from fvlm.scaling import Results, all_gaps, paired_gap
from fvlm.scaling.gaps import Gap
from fvlm.scaling.runs import MICRO, NANOSMOL_SAMPLES
from fvlm.scaling.tables import answer, swapped_table
from fvlm.studies.question import configs
from fvlm.text import with_interval
from fvlm.training.results import load_run, load_study

AGAIN = sources.OUTPUTS / "audit" / "sees_again.csv"  # runs of sees/ trained again elsewhere
HARDLY = 10  # percent of its loss: a model that loses less with another clip's frames hardly uses its own


def micro_section(micro: Results) -> str:
    gaps = all_gaps(micro)
    table = answer(gaps).to_markdown(index=False)
    return f"""## What 16 times fewer visual tokens cost, with the input scale of before 2026-11-25

The foveated model's loss over the baseline's, in percent, on captions of the built-in world; parameters are those trained.

{table}

{chr(10).join(f"- {line}" for line in trends(gaps))}

{budget(micro)} {still_falling(micro)} Learning rates were tuned per size on a held-out seed:
`micro_rates/rates.parquet`.

Cells: `micro/`. Again: `fvlm grid params/micro.yaml --study mine`, or the command in a cell's notebook.
"""


def controls_section(micro: Results) -> str:
    rows, samples = [], sources.captions(micro)
    for pair, part in samples.groupby("pair", sort=False):
        if found := sources.against(part):
            rows.append({"size": pair} | {f"against {arch}": percent(gap) for arch, gap in found.items()})
    return f"""## What does the dynamic query buy on captions?

The foveated model's loss over that of controls with the same size, budget and clips, 8 frames, in percent; below zero it is
better.

{pd.DataFrame(rows).to_markdown(index=False)}

{chr(10).join(f"- {line}" for line in beside_controls("captions", samples, sources.CONTROLS))}
{_caption_gaze(micro)}"""


def _caption_gaze(micro: Results) -> str:
    path = sources.OUTPUTS / MICRO / "gaze.parquet"
    if not path.exists():
        return ""
    rows = read_table(path)
    clips = of_any_object(rows[rows["asked"] == "caption"])["clip_id"].nunique()
    return f"""
Where it looks, for captions, of an object drawn by lot (in {clips} of the clips that were scored). *hit*: the share of frames whose most attended patch is on it. *mass*:
the attention it gets over its share of the frame; 1 is no preference. The difference is foveated less static.{seen_through(micro)}

{_gazes(rows, "caption").to_markdown(index=False)}

Again: `fvlm gaze --run outputs/mine/T?-T_8f_{{fov,sta}}_seed? --clips 128 --out outputs/mine/gaze.parquet`.
"""


def _gazes(gazes: pd.DataFrame, asked: str) -> pd.DataFrame:
    """Per size the foveated model's gaze beside its static control's, means over seeds, and the difference's
    interval."""
    gazes = sources.with_names(gazes[gazes["asked"] == asked]).assign(text_tokens=1)
    gazes = of_any_object(gazes) if asked == "caption" else gazes
    rows = []
    for pair, part in gazes.groupby("pair"):
        both = [part[part["arch"] == arch] for arch in ("foveated", "static")]
        if not all(map(len, both)):
            continue
        row = {"size": pair, "hit by chance": f"{part['chance'].mean():.3f}"}
        for name, digits in (("hit", 3), ("mass", 2)):
            gap = paired_gap(*both, loss=name)
            row |= {
                f"{name}, {arch}": f"{half[name].mean():.{digits}f}"
                for arch, half in zip(("foveated", "static"), both)
            }
            row[f"{name}, difference"] = with_interval(gap.nats, *gap.interval, digits)
        rows.append(row)
    return pd.DataFrame(rows)


def question_section() -> str:
    samples, table, gazes = sources.questions()
    gap = sources.against(samples[samples["pair"] == "T2-T"], ["static"])["static"]
    fov, sta = (table[table["run"].str.startswith(f"T2-T_2f_{arch}_")] for arch in ("fov", "sta"))
    return f"""## Does a question steer the gaze, and does that help?

- **Answer loss**: {nats(gap)} against the static control, {gap.seeds} seeds, {gap.samples} clips with three shapes or more.
- **Right answers**: {percent_range(fov["right"])} % with the query that the question steers, {percent_range(sta["right"])} % \
without.
- **Gaze** on the object asked about: {percent_range(fov["hit"])} % of frames, static {percent_range(sta["hit"])} %, chance \
{100 * fov["chance"].mean():.1f} %; {percent_range(fov["hit_other"])} % when another object is asked about.
- On questions, beside {ARCHITECTURES["static"].description}, {answers_beside(samples, table, gazes, "static")}.{_tried_on()}

Ranges are over seeds; every seed with its own intervals is below. Cells: `T2-T_2f_fov`, `T2-T_2f_sta` in
`question/`. Again: `make question`.{seen_through(sources.study("question"))}
{_question_sizes(samples, table, gazes)}
What did not work on the way, and what it took, is in `LOG.md`.
"""


def _tried_on() -> str:
    """Of the study as it was run first."""
    if not to_be_run_again(configs()[0]):
        return ""
    return " Its settings were found by trying the foveated model alone, see *Withdrawn*."


def question_seeds_section() -> str:
    """Each run of `make question` with its own intervals."""
    runs = configs()
    table, config = sources.question_runs().set_index("run").loc[[run.folder.name for run in runs]], runs[0]
    numbers = {
        "answer loss, nats per token": "loss",
        "right answers": "right",
        "hit": "hit",
        "hit when asked about another object": "hit_other",
    }
    rows = {"run": [f"`{run}`" for run in table.index]} | {
        title: [
            f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"
            for _, row in table.iterrows()
        ]
        for title, name in numbers.items()
    }
    (clips,) = table["clips"].unique()
    return f"""### Every seed

"Which shape is red?" is asked before clips of {config.frames} frames with one to five shapes, some of them small, late or behind a
pillar. The foveated model and its static control, one learned query for everything, have the same vision encoder (the first
{config.vision_layers} layers of DINOv2-small, frozen), LLM, budget and clips. Frame by frame, the {clips} of {config.eval_samples} validation clips with
three shapes or more, bootstrap 95 % intervals over clips:

{pd.DataFrame(rows).to_markdown(index=False)}

*hit*: the most attended patch (mean over all layers and heads) is inside the box of the object asked about; a patch at
random is in {100 * table["chance"].iloc[0]:.1f} % of frames. The last column scores the same box while another object is asked about.
"""


def _question_sizes(samples, table, gazes) -> str:
    rows = []
    for pair, part in samples.groupby("pair"):
        gaps = sources.against(part, ["static", "baseline"])
        if len(gaps) < 2:
            continue
        row = dict(size=pair)
        for arch in ("foveated", "static", "baseline"):
            named = table["run"].str.startswith(f"{pair}_2f_{ARCHITECTURES[arch].short}_")
            row[f"right, {arch}, %"] = percent_range(table.loc[named, "right"])
        for name, gap in gaps.items():
            row[f"answer loss against {name}, nats"] = with_interval(gap.nats, *gap.interval, 3)
        rows.append(row)
    if not rows:
        return ""
    return f"""
By size (right answers: lowest and highest seed). A model whose right answers are near a guess had not learned the task when these
runs ended; whether it can is another question, see *Withdrawn*.

{pd.DataFrame(rows).to_markdown(index=False)}

{_gazes(gazes, "own").to_markdown(index=False)}

Right answers by the number of shapes in the clip, all validation clips, percent, mean over seeds, beside a guess among the
shapes that are there.

{_by_shapes(sources.right_by_shapes()).to_markdown(index=False)}

{question_rates([row["size"] for row in rows])} Again: `fvlm question --all`.
{_trained_longer()}"""


def _trained_longer() -> str:
    study = sources.study(sources.LONGER)
    if study is None:
        return ""
    right = sources.right_by_shapes(sources.LONGER)
    losses = study.evaluations.pivot_table(
        index=["pair", "arch"], columns="step", values="loss_autoregressive"
    )
    losses = losses.reindex(right.index).rename(columns="loss, step {}".format).round(3)
    shares = right.rename(columns="right with {}, %".format).round(1)
    table = pd.concat([losses, shares], axis=1).rename_axis(["size", "model"]).reset_index()
    return f"""
Is it only training that is missing? {longer(study, right)} Losses are over all
validation clips.

{table.to_markdown(index=False)}

{budget(study)} Again: `fvlm question --grid params/{sources.LONGER}.yaml`.
"""


def _by_shapes(right: pd.DataFrame) -> pd.DataFrame:
    guess = pd.DataFrame(
        {"size": [""], "model": ["a guess among them"]} | {count: [100 / count] for count in right.columns}
    )
    rows = right.rename_axis(index=["size", "model"]).reset_index().astype(dict(model=str))
    return pd.concat([rows, guess]).round(1)


def sees_section() -> str:
    folder = sources.OUTPUTS / "sees"
    evaluations, samples = load_study(folder)
    last = evaluations.sort_values("step").groupby(["cell", "seed"])
    ends = last[["loss_autoregressive", "loss_parallel"]].last()
    losses = ends.map("{:.3f}".format).sort_index(ascending=[False, True]).rename("`{}`".format, level=0)
    losses.columns = ["frame by frame", "all frames at once (parallel)"]
    gap = paired_gap(*(samples[samples["arch"] == arch] for arch in ("foveated", "blind")))
    return f"""## Does the cell of `make train` see?

- **Caption loss**: {nats(gap)} against the blind control after the few minutes of `make train`, {gap.seeds} seeds, \
{gap.samples} clips.

Each seed's loss at the end, the same budget and clips:

{losses.reset_index().to_markdown(index=False, disable_numparse=True)}

{_settings_beside_today(folder, evaluations)}
{_trained_again(ends)}

Cells: `T-T_8f_fov`, `T-T_8f_bli` in `sees/`. Again: `fvlm train --cell T-T_8f_fov --set seed=1`.
"""


def _trained_again(ends: pd.DataFrame) -> str:
    """What runs of the same cells, seeds and settings gave where numbers are rounded in other ways (AGAIN),
    beside those kept. ends: their last losses, a row per cell and seed."""
    again = pd.read_csv(AGAIN, comment="#")
    told = []
    for (cell, seed), runs in again.groupby(["cell", "seed"]):
        kept = ends.loc[[(cell, seed)]].assign(run="kept in `sees/`")
        rows = runs.assign(run=[f"{row.date}, {row.rounding} ({row.commit})" for row in runs.itertuples()])
        both = pd.concat([kept, rows], ignore_index=True)[["run", *ends.columns]]
        widths = [f"{both[loss].max() - both[loss].min():.3f}" for loss in ends.columns]
        seeds = [f"{x:.3f}" for x in ends.loc[cell].max() - ends.loc[cell].min()]
        table = both.round(3).to_markdown(index=False, floatfmt=".3f")
        told.append(
            f"Seed {seed} of `{cell}` was trained again with the same settings, clips and weights, so that nothing but "
            f"rounding differs (and the code, which gives the same first steps):\n\n{table}\n\n"
            f"From the lowest to the highest {widths[0]} nats frame by frame and {widths[1]} in parallel; the seeds above "
            f"differ by {seeds[0]} and {seeds[1]}."
        )
    return "\n\n".join(told)


def _settings_beside_today(folder: Path, evaluations: pd.DataFrame) -> str:
    """By which code a study was trained, and whether its cells still have those settings; device and
    precision are the machine's and left out."""
    changed = set()
    for path in folder.glob("*/config.json"):
        kept = load_run(path.parent).config
        machine = dict(seed=kept.seed, device=kept.device, precision=kept.precision)
        changed |= set(RunConfig.from_cell(kept.cell, **machine).changes_from(kept))
    settings = (
        f"other settings than these cells have today ({'; '.join(sorted(changed))})"
        if changed
        else "the settings that these cells have today"
    )
    return (
        f"Trained by the code of commit {', '.join(sorted(evaluations['commit'].unique()))}, with {settings}."
    )


def _real_weights(study: Results) -> Iterator[tuple[str, pd.DataFrame, dict[tuple[str, str], Gap]]]:
    """Cells from real weights that differ in architecture alone and have both: their name (`S-S_8f`), runs,
    and gaps of the foveated model and the baseline to each other and to the blind control, where that was
    run."""
    for (pair, frames), samples in study.samples.groupby(["pair", "frames"], sort=False):
        gaps = {
            ("foveated", arch): gap for arch, gap in sources.against(samples, ["baseline", "blind"]).items()
        }
        gaps |= {
            ("baseline", arch): gap
            for arch, gap in sources.against(samples, ["blind"], of="baseline").items()
        }
        if ("foveated", "baseline") in gaps:
            yield (
                f"{pair}_{frames}f",
                study.runs[(study.runs["pair"] == pair) & (study.runs["frames"] == frames)],
                gaps,
            )


def real_weights_in_a_line(study: Results) -> str:
    much = (
        "the study's own budget"
        if _whole_budget(study)
        else "a part of the study's budget, what a CPU does in two hours"
    )
    told = []
    for name, runs, gaps in _real_weights(study):
        losses, gap = runs.groupby("arch")["loss_autoregressive"].mean(), gaps["foveated", "baseline"]
        told.append(
            f"{name} {percent(gap)} %, {verdict(gap)} ({losses['foveated']:.3f} against "
            f"{losses['baseline']:.3f} nats), after "
            f"{int(runs['samples_seen'].iloc[0]):,} clips, {gap.seeds} seed{'s' * (gap.seeds > 1)}, read on "
            f"{gap.samples} validation clips"
        )
        blind = [
            f"{arch} {percent(gap)} %, {verdict(gap)}"
            for (arch, other), gap in gaps.items()
            if other == "blind"
        ]
        told += [f"beside no visual token, {'; '.join(blind)}"] if blind else []
    return f"From real weights, {much}: {'; '.join(told)}.{_begun_to_see(study)}"


def _begun_to_see(study: Results) -> str:
    """What the frames are worth to the cells whose frames were swapped: to models that do not use them a gap
    is no cost."""
    path = sources.OUTPUTS / study.runs["study"].iloc[0] / "swapped.parquet"
    if not path.exists():
        return ""
    table = swapped_table(read_table(path).to_dict("records"))
    shares = 100 * table["difference"] / table["own"]
    told = [
        f"{row.run.rpartition('_')[0]} {with_interval(row.difference, row.low, row.high, 4)} nats, "
        f"{'used' if row.low > 0 else 'no use of them can be told'} ({share:+.1f} % of its loss)"
        for row, share in zip(table.itertuples(), shares)
    ]
    return (
        f" With another clip's frames instead of its own the loss changes by: {'; '.join(told)}."
        f"{_hardly_used(table, shares)}"
    )


def _hardly_used(table: pd.DataFrame, shares: pd.Series) -> str:
    """What a gap is worth between models that do not use their frames, or hardly. table: `swapped_table`;
    shares: of its loss, percent."""
    if (table["low"] <= 0).all():
        return " The gap says nothing yet of what the tokens carry."
    if shares.min() >= HARDLY:
        return ""
    little = table["run"].str.rpartition("_")[0][shares < HARDLY]
    return (
        f" Frames are used little yet by {' and '.join(little)} (changes of under {HARDLY} % of the loss), so that the gap is "
        "not what one token a frame costs; "
        "a loss below that of no visual token does not show seeing either, as tokens that say nothing of the clip are "
        "trained parameters too (`LOG.md`, 2026-11-24)."
    )


def _real_weights_table(study: Results) -> pd.DataFrame:
    rows = []
    for name, runs, gaps in _real_weights(study):
        losses, gap = runs.groupby("arch")["loss_autoregressive"].mean(), gaps["foveated", "baseline"]
        row = {
            "cells": name,
            "clips seen": int(runs["samples_seen"].iloc[0]),
            "seeds": gap.seeds,
            "clips": gap.samples,
        }
        row |= {arch: f"{losses[arch]:.3f}" for arch in ("foveated", "baseline", "blind") if arch in losses}
        rows.append(row | {f"{arch} against {other}, %": percent(gap) for (arch, other), gap in gaps.items()})
    return pd.DataFrame(rows).fillna("")


def _whole_budget(study: Results) -> bool:
    return bool((study.runs["samples_seen"] >= NANOSMOL_SAMPLES).all())


def real_weights_section(study: Results) -> str:
    name, weights = study.runs["study"].iloc[0], "; ".join(sorted(study.runs["weights"].unique()))
    less = (
        ""
        if _whole_budget(study)
        else (
            " That is what a CPU does in two hours a cell, not the study's own budget of "
            f"{NANOSMOL_SAMPLES:,} clips on a GPU."
        )
    )
    return f"""## Real weights

{budget(study)}{less} With one seed an interval is for
these weights: how far another seed would move the gap is not in it. {still_falling(study)}{_begun_to_see(study)}
Weights: {weights}.

{_real_weights_table(study).to_markdown(index=False)}

Cells: `{name}/`. Again: `fvlm grid params/{name}.yaml --study mine`, or the command in a cell's notebook; then
`fvlm swap --run outputs/mine/*_{{fov,bas}}_seed? --out outputs/mine/swapped.parquet`.
"""
