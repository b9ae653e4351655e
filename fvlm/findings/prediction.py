"""What sizes were expected to show, from the smaller ones, before they were run; and what came."""

import json
from pathlib import Path

import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.config import REPOSITORY, ConfigError
from fvlm.files import write_json
from fvlm.findings import sources
from fvlm.findings.captions import FRAMES, PRIMARY, STUDY, captions, contrasts_of, reads_final, seen
from fvlm.findings.sources import LEAST
from fvlm.scaling import Results, all_gaps, parameter_counts
from fvlm.scaling.contrasts import AXES, Contrast
from fvlm.scaling.intervals import interval_of_difference
from fvlm.scaling.runs import MICRO
from fvlm.studies.grid import read_grid
from fvlm.text import with_interval

MICRO_PREDICTION = sources.OUTPUTS / MICRO / "prediction.json"
PREDICTIONS = sources.OUTPUTS / STUDY / "predictions.json"
LARGEST = "T5-T"  # of outputs/micro


def predict(date: str) -> Path:
    """Write what each planned size of the study of captions will show of which neither side of the primary
    contrast has a run yet, not even a begun one, from those that are there, beside what was written before.
    ConfigError if there is none, or no trend: fewer than three sizes."""
    study = captions()
    along = _along(study) if study else {}
    if not along:
        raise ConfigError(f"a prediction needs three sizes of outputs/{STUDY} with several seeds each")
    planned = {cell.config.pair: cell.config for cell in _cells() if cell.config.arch == PRIMARY[0]}
    coming = [pair for pair in planned if not _begun(pair, study)]
    if not coming:
        raise ConfigError(f"every size of outputs/{STUDY} has runs: a prediction is written before")
    said, read_final = predictions(), reads_final(study)
    for pair in coming:
        parameters = parameter_counts(planned[pair])["trainable"]
        told = {"size": pair, "parameters": parameters, "date": date, "read_final": read_final, "gaps": {}}
        for axis, found in along.items():
            gap, seeds = found.predict(parameters), found.table.set_index("pair")["seeds"]
            rests_on = {size: int(count) for size, count in seeds.items()}
            told["gaps"][axis] = {"value": gap.value, "low": gap.low, "high": gap.high, "from": rests_on}
        earlier = [each for each in said if each["size"] == pair]
        if not earlier or earlier[-1]["gaps"] != told["gaps"]:
            said.append(told)
    write_json(PREDICTIONS, said)
    return PREDICTIONS


def _begun(pair: str, study: Results) -> bool:
    """Whether a run of either side at a size is among the study's, or has a folder there."""
    runs = study.runs[study.runs["arch"].isin(PRIMARY)]
    folders = (
        folder
        for arch in PRIMARY
        for folder in (sources.OUTPUTS / STUDY).glob(f"{pair}_{FRAMES}f_{ARCHITECTURES[arch].short}_seed*")
    )
    return pair in set(runs["pair"]) or any(folders)


def predictions() -> list[dict]:
    """What was written down, the oldest first: each with `size`, its trained `parameters`, `date`, `read_final`,
    whether looks were read after the last vision layer in the runs that it is from, and by axis the gap in
    percent with its interval and the seeds of each size that it is `from`."""
    return json.loads(PREDICTIONS.read_text()) if PREDICTIONS.exists() else []


def predictions_section(study: Results) -> str:
    """What was predicted of sizes of the study of captions beside what came; nothing if nothing was."""
    rows, along, read_final = [], _axes(study), reads_final(study)
    for said in predictions():
        others = said["read_final"] != read_final
        for axis, gap in said["gaps"].items():
            then = (gap["value"], gap["low"], gap["high"])
            table, left_out = along[axis].table.set_index("pair"), along[axis].left_out
            row = {
                "size": said["size"],
                "written on": said["date"],
                "from (seeds)": ", ".join(f"{pair} ({seeds})" for pair, seeds in gap["from"].items()),
                "looks read": f"{'after' if said['read_final'] else 'before'} the last layer",
                "gap, %": AXES[axis],
                "predicted": with_interval(*then),
                "found": "of other looks"
                if others
                else "no common point"
                if said["size"] in left_out
                else f"fewer than {LEAST} seeds of both"
                if _begun(said["size"], study)
                else "not run yet",
            }
            if said["size"] in table.index and not others:
                now = tuple(table.loc[said["size"], ["percent", "low", "high"]])
                low, high = interval_of_difference(now, then)
                word = (
                    "more than predicted"
                    if low > 0
                    else "less than predicted"
                    if high < 0
                    else "as predicted, as far as can be told"
                )
                row |= {
                    "found": with_interval(*now),
                    "found less predicted": with_interval(now[0] - then[0], low, high),
                    "it is": word,
                }
            rows.append(row)
    if not rows:
        return ""
    return f"""## Predicted before it was run

The foveated model's loss over the baseline's at a size of which no run of `{STUDY}/` was there yet, on the straight line in log N
through the smaller ones (`{STUDY}/predictions.json`, `fvlm findings --predict`). Its interval holds the noise of runs and clips, not
the line's being wrong; that of the difference holds the noise of what came too, as if that were independent of the other, though
validation clips are shared: it may be wider than need be. Sweeps of learning rates may have trained the size by then, on a seed that
neither the prediction nor the study uses.

{pd.DataFrame(rows).fillna("").to_markdown(index=False)}
"""


def _axes(study: Results) -> dict[str, Contrast]:
    """The primary contrast along every axis but equal loss, whose level changes with the sizes that are there."""
    return {found.axis: found for found in contrasts_of(seen(study)) if found.axis != "loss"}


def _along(study: Results) -> dict[str, Contrast]:
    """Those of them with a trend."""
    return {axis: found for axis, found in _axes(study).items() if found.trend is not None}


def _cells():
    cells = read_grid(REPOSITORY / "params" / f"{STUDY}.yaml").cells
    return [cell for cell in cells if cell.config.frames == FRAMES]


def prediction_section(micro: Results) -> str:
    """What was predicted of the largest size of outputs/micro, and what came."""
    if not MICRO_PREDICTION.exists():
        return f"## A prediction\n\nNone was written before {LARGEST} was run.\n"
    said = json.loads(MICRO_PREDICTION.read_text())
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
