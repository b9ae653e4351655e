"""What it costs, in words: the README's block from the measurements in outputs/bench/*.json."""

import json

import pandas as pd

from fvlm.architectures import ARCHITECTURES
from fvlm.bench.turns import times
from fvlm.findings import sources

FOLDER = sources.OUTPUTS / "bench"


def reports() -> dict[str, dict]:
    """The committed measurements by the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def readme_costs(found: dict[str, dict] | None = None) -> str:
    """The README's block: what each measurement says, and where and when it was made."""
    found = reports() if found is None else found
    found = {name: report for name, report in found.items() if name in WORDS}
    if not found:
        return "Nothing has been measured here yet."
    return "\n\n".join([*(WORDS[name](report) for name, report in found.items()), _made(found)])


def _made(found: dict[str, dict]) -> str:
    devices = sorted({report["device"] for report in found.values()})
    days = sorted({report["date"][:10] for report in found.values()})
    commands = ", ".join(f"`fvlm {report['kind']}`" for report in found.values())
    return (
        f"Measured on {', '.join(devices)}, {' to '.join(dict.fromkeys((days[0], days[-1])))}; ratios are medians "
        f"of turns, with the lowest and highest. Files in [`outputs/bench`](outputs/bench), by {commands}."
    )


def _features(report: dict) -> str:
    measured = report["measured"]
    rows = [
        {
            "training, clips a second": f"{cell}, {row['samples']} a step",
            "vision computed": f"{row['clips_per_second_computed']:.1f}",
            "read from the store": f"{row['clips_per_second_stored']:.1f}",
            "ratio": times(row),
        }
        for cell, row in measured.items()
    ]
    return (
        "**A frozen vision model is looked through once.** What queries and connectors need of a clip is kept on "
        "disk for all runs (`fvlm features --list`); training steps, in "
        f"{report['precision']} with {next(iter(measured.values()))['threads']} thread, then run so many times as fast:\n\n"
        + pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    )


def _evaluate(report: dict) -> str:
    rows = "; ".join(f"{cell} {times(row)}" for cell, row in report["measured"].items())
    return (
        "**An evaluation** gives the losses in parallel, frame by frame and with the static query. Beside "
        f"encoding and the parallel loss alone it takes so many times as long: {rows}."
    )


def _precision(report: dict) -> str:
    ((cell, row),) = report["measured"].items()
    first, second = (setting["setting"] for setting in row["settings"])
    on_cpu = report["device"].startswith("cpu")
    can = report.get("cpu_bf16") if on_cpu else None  # reports of before 2026-11-27 do not say
    where = "" if can is None else f" on a CPU with {' and '.join(can)}" if can else " on a CPU without bf16"
    return (
        f"**Precision**:{where} a training step of {cell} with {second} is {times(row)} times as fast as with "
        f"{first}. `precision=auto` measures which is faster; `bf16_vision` keeps the features of a frozen vision "
        "model in bf16, half as large, and does the rest in fp32."
    )


def _peers(report: dict) -> str:
    lines = []
    for cell, found in report["measured"].items():
        against = " and ".join(
            f"{times(row)} times as fast as {row['peer']} ({row['tokens_per_frame']} tokens a frame)"
            for row in found["peers"]
        )
        lines.append(f"{cell} is {against}")
    return (
        "**Beside SmolVLM** (transformers' implementation, the same LLM, random weights, trained what the cell "
        f"trains), a training step: {'; '.join(lines)}."
    )


def _scaling(report: dict) -> str:
    one, many = (ARCHITECTURES[arch].tokens_per_frame for arch in ("foveated", "baseline"))
    parts = []
    for cell, found in report["measured"].items():
        points = [p for p in found["points"] if p["axis"] == "frames"]
        few, most = _frames(cell), max(p["x"] for p in points)
        ends = {(p["arch"], p["x"]): p for p in points if p["x"] in (few, most)}
        seconds, memory = (
            [
                (ends[arch, most][what] - ends[arch, few][what]) / (most - few)
                for arch in ("foveated", "baseline")
            ]
            for what in ("seconds", "peak_memory_bytes")
        )
        steps = ", ".join(
            f"{count} frames "
            + " and ".join(f"{1000 * ends[arch, count]['seconds']:.0f}" for arch in ("foveated", "baseline"))
            + " ms"
            for count in (few, most)
        )
        parts.append(
            f"at {cell} {one} visual token a frame instead of {many} saves {1000 * (seconds[1] - seconds[0]):.1f} ms and "
            f"{(memory[1] - memory[0]) / 1e6:.1f} MB for each frame, of the {1000 * seconds[1]:.1f} ms that a frame costs "
            f"the baseline, between {few} and {most}. A whole step, what does not grow with frames included, takes "
            f"foveated and baseline with {steps}; the vision model is "
            + " and ".join(
                f"{100 * p['vision_share']:.0f} % of the FLOPs ({p['cell']})"
                for (_, count), p in ends.items()
                if count == most
            )
        )
    return (
        f"**What one token a frame saves**, forward and backward: {'; '.join(parts)}.\n\n"
        "![Time and memory of a training step against frames, LLM and batch](outputs/figures/costs.png)"
    )


def _stream(report: dict) -> str:
    parts = []
    for cell, found in report["measured"].items():
        longest = max(row["frames"] for row in found["rows"])
        ours, *others = [row for row in found["rows"] if row["frames"] == longest]
        beside = "; ".join(
            f"{row['model']} takes {times(row)} times as long, {row['llm_ratio']:.2f} times in the LLM's part alone"
            for row in others
        )
        parts.append(f"After {longest} frames {cell} sees one more in {ours['seconds']:.2f} s; {beside}")
    turns = " and ".join(sorted({str(found["repeats"]) for found in report["measured"].values()}))
    return f"**Watching a stream**, random weights, no window, turns: {turns}. {'. '.join(parts)}."


def _frames(cell: str) -> int:
    return int(cell.split("_")[1].removesuffix("f"))


def scaling_report() -> dict | None:
    """What `fvlm bench scaling` last left in outputs/bench; None if nothing."""
    return reports().get("scaling")


WORDS = dict(  # by the file that `--json` wrote
    features=_features,
    evaluate=_evaluate,
    precision=_precision,
    peers=_peers,
    scaling=_scaling,
    stream=_stream,
)
