"""What the largest size of outputs/micro is expected to show, from the smaller ones, before it is run; and
what came."""

import json
from pathlib import Path

import numpy as np

from fvlm.config import ConfigError, RunConfig
from fvlm.files import write_json
from fvlm.findings import sources
from fvlm.scaling import Results, all_gaps, gap_scaling, parameter_counts
from fvlm.scaling.runs import MICRO
from fvlm.text import with_interval

PREDICTION = sources.OUTPUTS / MICRO / "prediction.json"
LARGEST = "T5-T"


def predict(date: str) -> Path:
    """Write what the largest size will show, from the others. ConfigError if it has been run, or fewer than
    three others."""
    micro = sources.study(MICRO)
    if micro is None or LARGEST in set(micro.runs["pair"]):
        raise ConfigError(
            f"a prediction is written when the other sizes of outputs/micro are there and {LARGEST} is not"
        )
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
            predicted, found = with_interval(**then, unit=" %"), with_interval(value, low, high, unit=" %")
            lines.append(f"- {name}: predicted {predicted}, found {found}: {word}.")
    return f"""## A prediction, and what came

From {", ".join(said["sizes"])}, written on {said["date"]} before {LARGEST} was run (`micro/prediction.json`): the gap on the line
in log N, whose interval holds the noise of runs and clips, not the line's being wrong. The sweep of learning rates had
trained {LARGEST} by then, on a seed that neither the prediction nor the study uses.

{chr(10).join(lines) or f"{LARGEST} has not been run yet."}
"""
