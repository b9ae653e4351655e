"""The machine that a run has: how fast it multiplies matrices, in which precision, what it is called."""

import contextlib
import functools
import hashlib
import json
import platform
import time
from pathlib import Path

import torch
from filelock import FileLock

from fvlm.config import ConfigError, RunConfig
from fvlm.files import write_json
from fvlm.weights import cache_folder


def require_device(device: str):
    """ConfigError unless this machine has the device; for what must know before it begins to compute."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= there:
        valid = ", ".join(["cpu", *(f"cuda:{number}" for number in range(there))])
        raise ConfigError(f"device = {device!r}: this machine has {there} GPUs; valid are {valid}")


def matmul_rate(config: RunConfig, side: int = 4096) -> float:
    """FLOP/s of the machine's own product of two large matrices in the run's precision: the best of three and
    more, as many as a fifth of a second holds, since other processes come between. ConfigError for a GPU that
    is not there."""
    require_device(config.device)
    set_matmul_precision(config)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=config.device, dtype=dtype) for _ in range(2))
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < 0.2:
        synchronize(config.device)
        start = time.perf_counter()
        a @ b
        synchronize(config.device)
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / min(taken)


def synchronize(device: str):
    """Wait until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def autocast(config: RunConfig):
    """The context in which a run's forward passes have its precision."""
    set_matmul_precision(config)
    if config.precision == "bf16":
        return torch.autocast(config.device.split(":")[0], dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_matmul_precision(config: RunConfig):
    """Say how a GPU multiplies what is fp32, for the whole process.

    In a bf16 run what autocast leaves in fp32 is multiplied as TF32, several times as fast and with more
    digits than bf16 has. In an fp32 run it is not: there fp32 means fp32, so that its losses are the CPU's to
    1e-4 (TF32 keeps 10 bits of 23). A CPU is left as it is."""
    if config.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high" if config.precision == "bf16" else "highest")


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


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
            try:
                return bool(json.loads(kept.read_text())["faster"])
            except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
                seconds = _seconds_by_precision()
                faster = seconds["bf16"] < seconds["fp32"]
                write_json(kept, {"faster": faster, "seconds": seconds, "torch": torch.__version__})
                return faster
    except OSError:  # a cache that can't be written to
        seconds = _seconds_by_precision()
        return seconds["bf16"] < seconds["fp32"]


def _seconds_by_precision() -> dict[str, float]:
    taken: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(15):  # in turns, as other processes come between
        for dtype, seconds in taken.items():
            seconds.append(_product_seconds(dtype))
    return {"fp32": min(taken[torch.float32]), "bf16": min(taken[torch.bfloat16])}


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
