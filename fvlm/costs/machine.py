"""The machine that a run has: how fast it multiplies matrices, in which precision, what it is called."""

import contextlib
import time

import torch

from fvlm.config import ConfigError, RunConfig


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
