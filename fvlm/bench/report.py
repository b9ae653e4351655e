"""What every measurement leaves: a table to read, and a JSON file that says where, when and of which commit
it is."""

import datetime
from pathlib import Path

import torch

from fvlm.config import RunConfig
from fvlm.costs.machine import device_name
from fvlm.cpu import cpu_bf16
from fvlm.files import commit, write_json

UNITS = {"_bytes": (" GB", 1e9), "_flops_per_second": (" TFLOP/s", 1e12)}  # by how a column's name ends


def write_report(path: Path, kind: str, config: RunConfig, measured: dict) -> dict:
    """Write `measured` with its kind, device, the CPU's instructions for bf16, precision, date (UTC), commit
    and torch version; returns the whole."""
    report = dict(
        kind=kind,
        device=device_name(config.device),
        cpu_bf16=cpu_bf16(),
        precision=config.precision,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        torch=torch.__version__,
        measured=measured,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    return report


def table(rows: list[dict]) -> str:
    """Measurements as they are read, a row each: names of columns without underscores, numbers to three
    digits, bytes as GB and rates as TFLOP/s, nothing where a row lacks a column."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_title(name) for name in columns]]
    lines += [[_shown(name, row.get(name)) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    numbers = [all(not isinstance(row.get(name), str) for row in rows) for name in columns]
    return "\n".join(
        "  ".join(
            f"{text:>{w}}" if right else f"{text:<{w}}" for text, w, right in zip(line, widths, numbers)
        )
        for line in lines
    )


def _title(name: str) -> str:
    for end, (unit, _) in UNITS.items():
        if name.endswith(end):
            return name.removesuffix(end).replace("_", " ") + unit
    return name.replace("_", " ")


def _shown(name: str, value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    for end, (_, unit) in UNITS.items():
        if name.endswith(end):
            value = value / unit
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
