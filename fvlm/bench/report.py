"""What every measurement leaves: a JSON file that says where, when and of which commit it is."""

import datetime
from pathlib import Path

import torch

from fvlm.config import RunConfig
from fvlm.costs.machine import device_name
from fvlm.files import commit, write_json


def write_report(path: Path, kind: str, config: RunConfig, measured: dict) -> dict:
    """Write `measured` with its kind, device, precision, date (UTC), commit and torch version; returns the
    whole."""
    report = dict(
        kind=kind,
        device=device_name(config.device),
        precision=config.precision,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        torch=torch.__version__,
        measured=measured,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    return report
