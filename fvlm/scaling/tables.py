"""Tables of the scaling notebook: gaps, what frames are worth, nanoSmol replayed, what to run next."""

import math

import numpy as np
import pandas as pd

from fvlm.config import RunConfig
from fvlm.costs.flops import (
    NANOSMOL_TEXT_TOKENS,
    flops_per_sample,
    nanosmol_flops_per_sample,
    recomputed_flops_per_sample,
)
from fvlm.costs.plan import parameter_counts
from fvlm.files import find_folder, read_table
from fvlm.scaling.gaps import GapScaling, line_prediction, next_cells, pairs_of, parameter_corrected_gap
from fvlm.scaling.runs import PARAMETERS, Results, nanosmol, nanosmol_training_flops, study_names
from fvlm.text import with_interval, with_suffix


def swapped_table(rows: list[dict]) -> pd.DataFrame:
    """`fvlm.gaze.attention.swapped_frames`' rows of runs, as they are read: mean losses over text tokens with
    a clip's own frames and with another's, and the `difference` (nats per token) with its bootstrap 95 %
    interval over clips (`low`, `high`). Above zero the frames are used."""
    from fvlm.scaling import paired_gap

    table = []
    for run, mine in pd.DataFrame(rows).assign(seed=0).groupby("run", sort=False):
        gap = paired_gap(mine.assign(loss=mine["loss_swapped"]), mine, loss="loss")
        own = float((mine["loss"] * mine["text_tokens"]).sum() / mine["text_tokens"].sum())
        low, high = gap.interval
        table.append(
            dict(
                run=run,
                clips=gap.samples,
                own=own,
                swapped=own + gap.nats,
                difference=gap.nats,
                low=low,
                high=high,
            )
        )
    return pd.DataFrame(table)


SHOWN = {  # a table's column: what a reader sees above it, and how a number in it is written
    "run": ("run", "{}"),
    "clips": ("clips", "{:,}"),
    "own": ("loss with its own frames, nats per text token", "{:.4f}"),
    "swapped": ("with another clip's frames", "{:.4f}"),
    "difference": ("difference, nats per text token", "{:+.4f}"),
    "frames": ("frames per clip", "{}"),
    "mode": ("evaluated", "{}"),
    "llm": ("LLM", "{}"),
    "vision": ("vision model", "{}"),
    "arch": ("architecture", "{}"),
    "raw": ("gap, %", "{:+.2f}"),
    "corrected": ("at equal parameters, %", "{:+.2f}"),
    "published_raw": ("gap as published, %", "{:+.2f}"),
    "published_corrected": ("at equal parameters as published, %", "{:+.2f}"),
    "change": ("change", "{}"),
    "nats": ("change of the loss, nats per text token", "{:+.3f}"),
    "percent": ("change of the loss, %", "{:+.2f}"),
    "millions_added": ("parameters added, M", "{:.0f}"),
    "cell": ("cell", "{}"),
    "micro_batch_8": ("micro-batch at 8 frames", "{}"),
    "micro_batch_64": ("micro-batch at 64 frames", "{}"),
    "cells": ("cells", "{}"),
    "counted_fov": ("foveated, counted, FLOPs per clip", "{:si}"),
    "counted_bas": ("baseline, counted, FLOPs per clip", "{:si}"),
    "times_cheaper": ("times cheaper, counted", "{:.2f}"),
    "study_fov": ("foveated, 6N, FLOPs per clip", "{:si}"),
    "study_bas": ("baseline, 6N, FLOPs per clip", "{:si}"),
    "times_cheaper_study": ("times cheaper, 6N", "{:.2f}"),
    "vision_share_fov": ("DINOv2's share, foveated", "{:.0%}"),
    "vision_share_bas": ("DINOv2's share, baseline", "{:.0%}"),
    "recomputation_fov": ("recomputation would add, foveated", "{:.0%}"),
    **{name: (f"{name}, M", "{:,.1f}") for name in PARAMETERS},
    "from_sizes": ("sizes it is predicted from", "{}"),
    "gap_percent": ("predicted gap, %", "{:+.1f}"),
    "shrinks_percent": ("shrinks the interval by, %", "{:.0f}"),
    "flops": ("training FLOPs of both architectures", "{:si}"),
}

CENTRES = ("difference", "gap_percent", "predicted", "weight", "percent")  # what `low` and `high` are of


def shown(table: pd.DataFrame, names: dict[str, tuple[str, str]] = SHOWN) -> pd.DataFrame:
    """A table as people read it: columns by their `names` with units, numbers in as many digits as say
    something, "not known" for what is not. An interval follows what it is of: `came_low` and `came_high` are
    `came`'s, `low` and `high` those of whichever of CENTRES the table has."""
    centre = next((name for name in CENTRES if name in table), None)
    ends = {column: (f"{column}_low", f"{column}_high") for column in table.columns}
    ends |= {centre: ("low", "high")}
    ends = {column: pair for column, pair in ends.items() if set(pair) <= set(table.columns)}
    columns, within = {}, {end for pair in ends.values() for end in pair}
    for column in (name for name in table.columns if name not in within):
        name, form = names.get(column, (column, "{}"))
        columns[name] = [_written(value, form) for value in table[column]]
        if column in ends:
            pairs = zip(*(table[end] for end in ends[column]))
            title = "95 % interval" if column == centre else f"{name}, 95 % interval"
            columns[title] = [" to ".join(_written(end, form) for end in pair) for pair in pairs]
    return pd.DataFrame(columns)


def _written(value, form: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not known"
    return with_suffix(value) if form == "{:si}" else form.format(value)


PUBLISHED = {"135m": (2.81, 2.44), "360m": (2.37, 1.60)}  # percent, raw and corrected, under a 64-frame label

GRID = [
    f"{pair}_{frames}f_{arch}"
    for pair in ("S-S", "M-S", "S-B", "B-L")
    for frames in (8, 64)
    for arch in ("fov", "bas")
]


def replayed_correction(interpolation: str = "linear") -> pd.DataFrame:
    """nanoSmol's correction for parameters, from its own rows: `raw` and `corrected` gap in percent for each
    number of frames, way of evaluating and size, beside what was published; with its own parameter counts."""
    table, rows = pairs_of(nanosmol()).query("vision == 'small'"), []
    for frames, mode in ((8, "parallel"), (64, "parallel"), (64, "autoregressive")):
        part = table[table["frames"] == frames]
        n, loss = "params_millions_claimed", f"loss_{mode}"
        gap = parameter_corrected_gap(
            part[f"{n}_fov"], part[f"{loss}_fov"], part[f"{n}_bas"], part[f"{loss}_bas"], interpolation
        )
        for llm, raw, corrected in zip(part["llm"], gap["raw_percent"], gap["corrected_percent"]):
            rows.append(
                dict(
                    frames=frames,
                    mode=mode,
                    llm=llm,
                    raw=raw,
                    corrected=corrected,
                    published_raw=PUBLISHED[llm][0],
                    published_corrected=PUBLISHED[llm][1],
                )
            )
    return pd.DataFrame(rows).round(2)


def size_claims() -> pd.DataFrame:
    """ "LLM size >> DINO size", from nanoSmol's rows: what a change of one part did to the loss (frame by
    frame), in nats and percent, and how many parameters it added."""
    table = nanosmol().set_index(["llm", "vision", "frames", "arch"])
    rows = []
    for what, before, after in (
        ("LLM 135M to 360M", ("135m", "small"), ("360m", "small")),
        ("DINOv2 small to base", ("135m", "small"), ("135m", "base")),
    ):
        for frames in (8, 64):
            for arch in ("foveated", "baseline"):
                if (*after, frames, arch) in table.index:
                    a, b = table.loc[(*before, frames, arch)], table.loc[(*after, frames, arch)]
                    change = b["loss_autoregressive"] - a["loss_autoregressive"]
                    added = b["params_millions_claimed"] - a["params_millions_claimed"]
                    percent = 100 * change / a["loss_autoregressive"]
                    rows.append(
                        dict(
                            change=what,
                            frames=frames,
                            arch=arch,
                            nats=change,
                            percent=percent,
                            millions_added=added,
                        )
                    )
    return pd.DataFrame(rows).round(3)


def inference_claim() -> pd.DataFrame:
    """ "train/inference gap < 0.6 %": how much more each foveated cell of nanoSmol lost frame by frame."""
    table = nanosmol().query("arch == 'foveated'")
    gap = 100 * (table["loss_autoregressive"] / table["loss_parallel"] - 1)
    return pd.DataFrame(dict(cell=table["cell"], percent=gap.round(2))).reset_index(drop=True)


def frames_claim() -> pd.DataFrame:
    """ "64 frames worse than 8": the loss that 64 frames added, frame by frame, with the micro-batches they
    were run with."""
    table = nanosmol()
    wide = table.pivot(
        index=["llm", "vision", "arch"], columns="frames", values=["loss_autoregressive", "micro_batch"]
    ).dropna()
    rows = [
        dict(
            llm=llm,
            vision=vision,
            arch=arch,
            nats=row["loss_autoregressive", 64] - row["loss_autoregressive", 8],
            micro_batch_8=int(row["micro_batch", 8]),
            micro_batch_64=int(row["micro_batch", 64]),
        )
        for (llm, vision, arch), row in wide.iterrows()
    ]
    return pd.DataFrame(rows).round(3)


def flops_conventions(text_tokens: float = NANOSMOL_TEXT_TOKENS) -> pd.DataFrame:
    """Training FLOPs of a clip of every pair of the study's cells, counted and by the study's convention: how
    many times cheaper the foveated cell is by each, the share of DINOv2 in what is counted, and what
    recomputation would add."""
    rows = []
    for fov, bas in zip(GRID[::2], GRID[1::2]):
        configs = [RunConfig.from_cell(cell, device="cpu") for cell in (fov, bas)]
        counted = [flops_per_sample(config, text_tokens) for config in configs]
        study = [nanosmol_flops_per_sample(config)["total"] for config in configs]
        again = [recomputed_flops_per_sample(config, text_tokens) for config in configs]
        rows.append(
            dict(
                cells=fov.removesuffix("_fov"),
                counted_fov=counted[0]["total"],
                counted_bas=counted[1]["total"],
                times_cheaper=counted[1]["total"] / counted[0]["total"],
                study_fov=study[0],
                study_bas=study[1],
                times_cheaper_study=study[1] / study[0],
                vision_share_fov=counted[0]["vision"] / counted[0]["total"],
                vision_share_bas=counted[1]["vision"] / counted[1]["total"],
                recomputation_fov=again[0] / counted[0]["total"],
            )
        )
    return pd.DataFrame(rows)


def parameter_conventions() -> pd.DataFrame:
    """Parameters, in millions, of the study's cells by every convention. What nanoSmol counted has, for the
    foveated cells, a reconstruction head that was never trained."""
    claimed = nanosmol().set_index("cell")["params_millions_claimed"]
    rows = []
    for cell in (cell for cell in GRID if "_8f_" in cell):
        counts = parameter_counts(RunConfig.from_cell(cell, device="cpu"))
        values = (
            counts["trainable"],
            counts["total"],
            counts["total"] - counts["embedding"],
            1e6 * claimed.get(cell, math.nan),
        )
        rows.append(
            dict(cell=cell) | {name: value / 1e6 for name, value in zip(PARAMETERS, values, strict=True)}
        )
    return pd.DataFrame(rows).round(1)


def runs_there(results: Results) -> pd.DataFrame:
    """How many runs of each architecture every study has."""
    counts = results.runs.groupby(["study", "arch"], sort=False).size().unstack(fill_value=0)
    counts = counts.rename(columns=lambda arch: f"{arch} runs").rename_axis(columns=None)
    return counts.reset_index()


def answer(gaps: dict[str, GapScaling]) -> pd.DataFrame:
    """How much quality 16 times fewer visual tokens cost, at every size: gaps in percent of the baseline's
    loss with their 95 % intervals, raw, at equal parameters and at equal compute; then the trend per tenfold
    N."""
    if not gaps:
        return pd.DataFrame({"": ["no study with samples of both architectures is here yet"]})
    rows = []
    for name, gap in gaps.items():
        for row in gap.table.to_dict("records"):
            line = dict(
                study=name,
                size=row["pair"],
                parameters=f"{row['params_fov'] / 1e6:.2f} M",
                seeds=row["seeds"],
            )
            rows.append(
                line
                | {
                    _words(kind): _interval(row, f"{kind}_percent") + _beyond(row, kind)
                    for kind in _kinds(gap)
                }
            )
        trend = gap.trend.rename(columns=dict(low="slope_low", high="slope_high")).to_dict("records")
        line = dict(study=name, size="per tenfold", parameters="", seeds="")
        rows.append(line | {_words(row["kind"]): _interval(row, "slope") for row in trend})
    return pd.DataFrame(rows)


def swapped(names: str = "auto") -> pd.DataFrame:
    """What the frames are worth to the runs of these studies whose frames were swapped (`fvlm swap`):
    `swapped_table` of each study's `swapped.parquet`, to four digits. names as in `open_results`."""
    paths = [find_folder(name) / "swapped.parquet" for name in study_names(names) if name != "nanosmol"]
    found = [swapped_table(read_table(path).to_dict("records")) for path in paths if path.exists()]
    if not found:
        return pd.DataFrame({"": ["no run's frames have been swapped here yet"]})
    return pd.concat(found, ignore_index=True).round(4)


def _kinds(gap):
    return list(gap.trend["kind"])


def _words(kind):
    return {
        "raw": "raw, %",
        "parameter_corrected": "at equal parameters, %",
        "flops_corrected": "at equal compute, %",
    }[kind]


def _interval(row, name) -> str:
    if not np.isfinite(row[name]):
        return "not identified"
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _beyond(row, kind) -> str:
    return ", extrapolated" if row.get(f"{kind}_extrapolated", False) else ""


def prediction(cell: str = "B-L_8f_fov") -> pd.DataFrame:
    """What a cell that nanoSmol did not finish is predicted to show, from its finished ones with as many
    frames: the gap in percent (frame by frame) on the line in log N, with a 95 % prediction interval from the
    scatter about it."""
    config = RunConfig.from_cell(cell, device="cpu")
    table = _nanosmol_sizes(config.frames)
    found = line_prediction(table["params"], table["gap"], parameter_counts(config)["total"])
    return pd.DataFrame(
        [
            dict(
                cell=cell,
                from_sizes=len(table),
                gap_percent=round(found.value, 2),
                low=round(found.low, 2),
                high=round(found.high, 2),
            )
        ]
    )


def next_of_nanosmol(cell: str = "B-L_8f_fov") -> pd.DataFrame:
    """Which next pair of cells would shrink the interval of the gap at this size most: nanoSmol's finished
    sizes once more with another seed, or a size that is not there. Compute is counted, for both
    architectures."""
    config = RunConfig.from_cell(cell, device="cpu")
    sizes = _nanosmol_sizes(config.frames).assign(seeds=1)
    missing = [pair for pair in ("S-S", "M-S", "S-B", "B-L") if pair not in set(sizes["pair"])]
    new = {pair: (_params(pair, config.frames), _flops(pair, config.frames)) for pair in missing}
    found = next_cells(sizes, parameter_counts(config)["total"], new)
    return found[["cell", "shrinks_percent", "flops"]].round(1)


def _nanosmol_sizes(frames: int) -> pd.DataFrame:
    table = pairs_of(nanosmol()).query(f"frames == {frames}")
    pairs = [RunConfig.from_cell(cell, device="cpu").pair for cell in table["cell_fov"]]
    gap = 100 * (table["loss_autoregressive_fov"] / table["loss_autoregressive_bas"] - 1)
    return pd.DataFrame(
        dict(
            pair=pairs,
            params=[_params(p, frames) for p in pairs],
            gap=gap.to_numpy(),
            flops=[_flops(p, frames) for p in pairs],
        )
    )


def _params(pair: str, frames: int) -> int:
    return parameter_counts(RunConfig.from_cell(f"{pair}_{frames}f_fov", device="cpu"))["total"]


def _flops(pair: str, frames: int) -> float:
    configs = (RunConfig.from_cell(f"{pair}_{frames}f_{arch}", device="cpu") for arch in ("fov", "bas"))
    return sum(map(nanosmol_training_flops, configs))
