"""Memory, measured: how much there is, how much a run takes, and the largest micro-batch that fits."""

import gc
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from fvlm.config import PATCH, RunConfig
from fvlm.costs.machine import require_device

KEPT = 1 << 30  # bytes of encoded frames that an evaluation keeps, to look at many clips at once
MOST_TOGETHER = 64  # clips that it looks at, at once, where KEPT holds them

HEADROOM = 0.88  # share of the memory that a micro-batch may fill: longer texts will come

CPU_LARGEST = 4  # more gains nothing on a CPU: S-S took 3.0 s a clip in fours and eights, 4.0 s in sixteens


class OutOfMemory(RuntimeError):
    """Not even one sample with recomputed activations fits; says what it needs and what would help."""


@dataclass(frozen=True)
class MicroBatch:
    """Samples per forward pass, and whether activations are recomputed."""

    size: int
    checkpointing: bool

    def smaller(self, config: RunConfig, error: Exception | None = None) -> "MicroBatch":
        """The next thing to try when memory ran out: half the samples, then recomputed activations; else
        OutOfMemory."""
        if self.size > 1:
            return MicroBatch(self.size // 2, self.checkpointing)
        if not self.checkpointing and config.gradient_checkpointing == "auto":
            return MicroBatch(1, True)
        # one may plan for a card that is elsewhere
        there = not config.device.startswith("cuda") or torch.cuda.is_available()
        free = f" ({available_memory(config.device) / 2**30:.1f} GiB free)" if there else ""
        raise OutOfMemory(
            f"{config.cell}: one clip of {config.frames} frames does not fit in the memory of "
            f"{config.device}{free}. What helps: "
            "fewer frames, a smaller model, freeze_llm or freeze_vision, several processes with fsdp, or a "
            "card with more memory."
        ) from error


def largest_micro_batch(config: RunConfig, largest: int, fits: Callable[[MicroBatch], bool]) -> MicroBatch:
    """The largest micro-batch, of at most `largest` samples, that `fits`; what the configuration fixes is
    taken as it is. Sizes are tried downwards, on a GPU from `largest`, on a CPU from CPU_LARGEST.

    OutOfMemory with what would help if not even one clip with recomputed activations fits."""
    checkpointing = config.gradient_checkpointing is True
    if config.micro_batch != "auto":
        return MicroBatch(min(config.micro_batch, largest), checkpointing)
    gpu = config.device.startswith("cuda")
    micro = MicroBatch(largest if gpu else min(largest, CPU_LARGEST), checkpointing)
    while not fits(micro):
        micro = micro.smaller(config)
    return micro


def evaluation_sizes(config: RunConfig, vision: PretrainedConfig, micro: MicroBatch) -> tuple[int, int]:
    """Clips per forward pass of an evaluation, and clips whose encoded frames it keeps, to look at them
    together: frame by frame a model does so little at once that many clips take hardly longer than one.

    vision: the vision model's own configuration."""
    size = min(16, 2 * micro.size)
    tokens = config.frames * (1 + (config.image_size // PATCH) ** 2)
    clip = tokens * vision.hidden_size * vision.num_hidden_layers * (2 if config.precision == "bf16" else 4)
    if not config.freeze_vision:
        clip *= 2  # keys and values, not what they are made of
    return size, size * max(1, min(MOST_TOGETHER, KEPT // clip) // size)


def find_micro_batch(
    attempt: Callable[[int, bool], None], config: RunConfig, largest: int, trainable: list[torch.Tensor]
) -> MicroBatch:
    """`largest_micro_batch` by measurement, with headroom.

    `attempt(size, checkpointing)` runs one forward and backward pass. On a GPU each size is tried. On a CPU
    running out of memory ends the process, so one and two samples are measured and the rest follows, since
    activations grow in proportion."""
    moments = sum(
        2 * p.numel() * p.element_size() for p in trainable
    )  # AdamW's, not allocated before its first step
    fits = _fits_gpu if config.device.startswith("cuda") else _CPUFit()
    return largest_micro_batch(config, largest, lambda micro: fits(attempt, micro, moments, config))


def _fits_gpu(attempt, micro: MicroBatch, moments: int, config: RunConfig) -> bool:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(config.device)
    try:
        attempt(micro.size, micro.checkpointing)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
    others = (
        device_memory(config.device)
        - torch.cuda.mem_get_info(config.device)[0]
        - torch.cuda.memory_reserved(config.device)
    )
    return torch.cuda.max_memory_allocated(config.device) + moments + others <= HEADROOM * device_memory(
        config.device
    )


class _CPUFit:
    """A test like `_fits_gpu` that measures one and two samples of each kind and predicts the others."""

    def __init__(self):
        self._measured = {}

    def __call__(self, attempt, micro: MicroBatch, moments: int, config: RunConfig) -> bool:
        if micro.checkpointing not in self._measured:
            free = available_memory("cpu")
            growth = []
            for size in (1, 2)[: micro.size]:
                with PeakGrowth() as peak:
                    attempt(size, micro.checkpointing)
                growth.append(peak.bytes)
            # at least a quarter per sample, should the first measurement be a fluke
            more = max(growth[-1] - growth[0], growth[-1] // 4)
            self._measured[micro.checkpointing] = free, growth[0], more
        free, first, more = self._measured[micro.checkpointing]
        return first + more * (micro.size - 1) + moments <= HEADROOM * free


class PeakGrowth:
    """By how much more memory was held at most inside the block than before it, in `bytes`: allocated on a
    GPU, resident on a CPU (the whole process, sampled every few milliseconds: 0 if all of it was there)."""

    def __init__(self, device: str = "cpu"):
        self.device = device

    def __enter__(self):
        gc.collect()  # what is let go of inside the block would hide what it takes
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
            reset_peak_memory(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        self._before, self._peak, self._stop = _resident(), _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.is_set():
            self._peak = max(self._peak, _resident())
            time.sleep(0.003)

    def __exit__(self, *exception):
        if self.device.startswith("cuda"):
            self._peak = peak_memory(self.device)
        else:
            self._stop.set()
            self._thread.join()
        self.bytes = max(self._peak - self._before, 0)


def is_out_of_memory(error: Exception) -> bool:
    """True for CUDA's and for the CPU allocator's way of saying that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def total_memory() -> int:
    """Bytes of main memory that this machine, or the container it is, has in all."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    return (
        min(total, int(limit.read_text())) if limit.exists() and limit.read_text().strip() != "max" else total
    )


def available_memory(device: str) -> int:
    """Bytes that this process could still take on a device: on a CPU what the machine and its container
    leave."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if not info.exists():  # macOS
        return total_memory() // 2
    free = int(re.search(r"MemAvailable:\s+(\d+) kB", info.read_text())[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def peak_memory(device: str) -> int:
    """Most bytes held since `reset_peak_memory`: allocated on a GPU, resident on a CPU (the whole
    process)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak_memory(device: str):
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # not Linux, or not allowed: the peak then counts from the start of the process


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory("cpu")


def device_memory(device: str) -> int:
    """Bytes of memory that a device has, used or not: a GPU's own, for a CPU `total_memory`.
    ConfigError for a GPU that is not there."""
    require_device(device)
    return torch.cuda.mem_get_info(device)[1] if device.startswith("cuda") else total_memory()
