"""`fvlm bench gpu`: the parts that a GPU is put to the test with, here on the CPU."""

import copy
import importlib.metadata
import json
import math
import os
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY, python, tiny
from packaging.requirements import Requirement

from fvlm.architectures import RECORDS
from fvlm.bench import correctness
from fvlm.bench.gpu import bench_gpu
from fvlm.bench.report import table
from fvlm.costs.machine import set_matmul_precision

BARE = ("torch", "transformers", "numpy", "pandas", "pyarrow")  # what a bare machine has, and what those need


def not_on_a_bare_machine() -> set[str]:
    """The importable names that are installed here for other packages' sake alone."""
    there, todo = set(), list(BARE)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in there:
            continue
        there.add(name)
        try:
            needs = map(Requirement, importlib.metadata.requires(name) or ())
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [r.name for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    owners = importlib.metadata.packages_distributions()
    return {
        name
        for name, found in owners.items()
        if name.isidentifier() and not there & {re.sub(r"[-_.]+", "-", owner).lower() for owner in found}
    } - {"fvlm"}


@pytest.mark.slow
def test_one_command_checks_and_measures_a_bare_machine(tmp_path):
    blocked = not_on_a_bare_machine()
    assert {"datasets", "papermill", "plotly", "av", "jupytext", "scipy", "PIL", "accelerate"} <= blocked
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({blocked!r})\n")
    file = tmp_path / "gpu.json"
    cell = ["--device", "cpu", "--cell", "T1-T_8f_fov", "--samples", 2, "--repeats", 1, "--json", file]
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    offline = dict(PYTHONPATH=paths, FVLM_CACHE=str(tmp_path), HF_HUB_OFFLINE="1", PIP_NO_INDEX="1")
    said = python("-m", "fvlm", "bench", "gpu", *cell, env=offline).stdout
    found = json.loads(file.read_text())["measured"]
    assert not found["failed"] and not found["left_out"], found
    checked = {(row["cell"], row["precision"]) for row in found["checks"] if row["check"] == "parallel loss"}
    assert checked == {(f"T1-T_8f_{r.short}", p) for r in RECORDS for p in ("fp32", "bf16")}
    assert {row["check"] for row in found["checks"]} >= {
        "autoregressive loss",
        "recomputed activations",
        "recorded frame by frame",
        "killed and resumed",
    }
    (looks,) = found["looks"]
    assert looks["clips"] == 64 and looks["ratio_low"] <= looks["ratio"] <= looks["ratio_high"]
    (cell,) = found["cells"]
    assert cell["samples_per_second"] > 0 and 0 < cell["matmul_share"] < 1.5 and cell["micro_batch"] == 2
    assert f"{len(found['checks'])} of {len(found['checks'])} checks passed, 1 cells measured" in said


def test_a_device_that_computes_something_else_is_seen(monkeypatch):
    """Here one whose LLM ends with another norm."""

    def copied(model):
        model = copy.deepcopy(model)
        model.llm.model.norm.weight.data.mul_(1.2)
        return model

    monkeypatch.setattr(correctness, "copy", SimpleNamespace(deepcopy=copied))
    rows = correctness.compare_losses(tiny("baseline"))
    assert {r["passed"] for r in rows if r["check"] == "parallel loss"} == {False}


def test_recomputed_activations_that_change_the_gradient_are_seen(monkeypatch):
    whole = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda f, *a, **k: 1.5 * whole(f, *a, **k))
    rows = correctness.compare_losses(tiny("blind"))
    assert [r["passed"] for r in rows if r["check"] == "recomputed activations"] == [False, False]


def test_a_part_that_fails_is_told_and_the_others_are_done(monkeypatch, capsys):
    config = tiny("blind", effective_batch=1)
    monkeypatch.setattr("fvlm.bench.gpu.RATE_SIDE", {"cpu": 256})
    monkeypatch.setattr(
        "fvlm.bench.gpu.checks",
        lambda _: [("none", lambda: 1 // 0), ("nan", lambda: [correctness._row("x", config, math.nan, 1.0)])],
    )
    parts = []
    found = bench_gpu([config], [config], repeats=1, on_part=lambda found: parts.append(copy.deepcopy(found)))
    assert found["failed"] == ["none: ZeroDivisionError: integer division or modulo by zero", "nan: x"]
    assert [row["cell"] for row in found["cells"]] == ["T1-T_2f_bli"]
    assert parts[0]["failed"] and not parts[0]["cells"], "what is known is told after each part"
    assert "0 of 1 checks passed, 1 cells measured" in capsys.readouterr().out


def test_what_no_time_is_left_for_is_told(capsys):
    found = bench_gpu([], [tiny("blind"), tiny("static")], minutes=0)
    assert found["left_out"] == ["T1-T_2f_bli", "T1-T_2f_sta"] and not found["cells"]
    assert "left out, for 0 minutes were up: T1-T_2f_bli, T1-T_2f_sta" in capsys.readouterr().out


def test_a_gpu_multiplies_as_tf32_only_beside_bf16(monkeypatch):
    told = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    for settings in (dict(device="cuda", precision="bf16"), dict(device="cuda"), dict(precision="bf16")):
        set_matmul_precision(tiny(**settings))
    assert told == ["high", "highest"]


def test_a_table_has_a_row_each_with_units():
    rows = [dict(cell="a", peak_memory_bytes=1.5e9, ok=True), dict(cell="bb", rate_flops_per_second=2e12)]
    assert table(rows).splitlines() == [
        "cell  peak memory GB   ok  rate TFLOP/s",
        "a                1.5  yes              ",
        "bb                                    2",
    ]
