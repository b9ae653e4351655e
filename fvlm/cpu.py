"""In which precision this CPU multiplies matrices faster; found out once."""

import functools
import hashlib
import json
import platform
import time
from pathlib import Path

import torch
from filelock import FileLock

from fvlm.cache import cache_folder


def cpu_bf16() -> list[str]:
    """The instructions with which this CPU multiplies bf16 itself."""
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return [name for name in ("avx512_bf16", "amx_bf16") if can.get(name)]


@functools.cache
def cpu_faster_in_bf16() -> bool:
    """Whether this CPU multiplies matrices faster in bf16 than in fp32. To have the instructions is not
    enough: on one that has them a step of S-S took 6.4 s instead of 10.3, on another, with AVX512_BF16 and
    without AMX, half as long again as in fp32.

    Measured once and kept in fvlm's cache, for each kind of CPU and each torch: where the two are near each
    other, processes that measured for themselves would train the cells of one study in both."""
    if not cpu_bf16():  # emulated
        return False
    kept = cache_folder() / f"bf16-{_cpu_kind()}.json"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            return _kept_or_measured(kept)
    except OSError:  # a cache that can't be written to
        return _measured()["faster"]


def _kept_or_measured(kept: Path) -> bool:
    try:
        return bool(json.loads(kept.read_text())["faster"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        found = _measured()
        kept.write_text(json.dumps(found))
        return found["faster"]


def _measured() -> dict:
    """Whether it is `faster`, and the `seconds` of a product in either precision."""
    taken: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(15):  # in turns, as other processes come between
        for dtype, seconds in taken.items():
            seconds.append(_product_seconds(dtype))
    fp32, bf16 = (min(taken[dtype]) for dtype in (torch.float32, torch.bfloat16))
    return {"faster": bf16 < fp32, "seconds": {"fp32": fp32, "bf16": bf16}, "torch": torch.__version__}


def _product_seconds(dtype, side: int = 512) -> float:
    """How long this CPU takes for the product of two square matrices."""
    a = torch.ones(side, side, dtype=dtype)
    start = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - start


def _cpu_kind() -> str:
    """A name for what decides how fast a process multiplies here: the CPU's model and torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:  # no Linux
        lines = []
    which = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
    cpu = [line for line in lines if line.partition(":")[0].strip() in which]
    told = [*(cpu or [platform.processor(), platform.machine()]), torch.__version__]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
