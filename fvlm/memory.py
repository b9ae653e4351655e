"""Memory: how much there is, how much a run takes, and the largest micro-batch that fits."""

import dataclasses
import functools
import gc
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fvlm.config import RunConfig

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
        """The next thing to try when memory ran out: half the samples, then recomputed activations; else OutOfMemory."""
        if self.size > 1:
            return MicroBatch(self.size // 2, self.checkpointing)
        if not self.checkpointing and config.gradient_checkpointing == "auto":
            return MicroBatch(1, True)
        there = not config.device.startswith("cuda") or torch.cuda.is_available()  # one may plan for a card that is elsewhere
        free = f" ({available_memory(config.device) / 2**30:.1f} GiB free)" if there else ""
        raise OutOfMemory(
            f"{config.cell}: one clip of {config.frames} frames does not fit in the memory of {config.device}{free}. What helps: "
            "fewer frames, a smaller model, freeze_llm or freeze_vision, several processes with fsdp, or a card with more memory."
        ) from error


def find_micro_batch(
    attempt: Callable[[int, bool], None], config: RunConfig, largest: int, trainable: list[torch.Tensor]
) -> MicroBatch:
    """The largest micro-batch, of at most `largest` samples, that fits with headroom; what the configuration fixes is
    taken as it is.

    `attempt(size, checkpointing)` runs one forward and backward pass. On a GPU sizes are tried downwards from
    `largest`; on a CPU from four, because larger ones only wait for memory; and as running out of memory
    ends the process there, one and two samples are measured and the rest follows, since activations grow in proportion."""
    checkpointing = config.gradient_checkpointing is True
    if config.micro_batch != "auto":
        return MicroBatch(min(config.micro_batch, largest), checkpointing)
    moments = sum(2 * p.numel() * p.element_size() for p in trainable)  # AdamW's, not allocated before its first step
    gpu = config.device.startswith("cuda")
    fits = _fits_gpu if gpu else _CPUFit()
    micro = MicroBatch(largest if gpu else min(largest, CPU_LARGEST), checkpointing)
    while not fits(attempt, micro, moments, config):
        micro = micro.smaller(config)
    return micro


def _fits_gpu(attempt, micro: MicroBatch, moments: int, config: RunConfig) -> bool:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(config.device)
    try:
        attempt(micro.size, micro.checkpointing)
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
    others = device_memory(config.device) - torch.cuda.mem_get_info(config.device)[0] - torch.cuda.memory_reserved(config.device)
    return torch.cuda.max_memory_allocated(config.device) + moments + others <= HEADROOM * device_memory(config.device)


class _CPUFit:
    """A test like `_fits_gpu` that measures one and two samples of each kind and predicts the others."""

    def __init__(self):
        self._measured = {}

    def __call__(self, attempt, micro: MicroBatch, moments: int, config: RunConfig) -> bool:
        if micro.checkpointing not in self._measured:
            free = available_memory("cpu")
            growth = []
            for size in (1, 2)[: micro.size]:
                with _PeakGrowth() as peak:
                    attempt(size, micro.checkpointing)
                growth.append(peak.bytes)
            more = max(growth[-1] - growth[0], growth[-1] // 4)  # at least this much per sample, should the first be a fluke
            self._measured[micro.checkpointing] = free, growth[0], more
        free, first, more = self._measured[micro.checkpointing]
        return first + more * (micro.size - 1) + moments <= HEADROOM * free


class _PeakGrowth:
    """How much the process grew at most inside the block, in `bytes`, sampled every few milliseconds."""

    def __enter__(self):
        gc.collect()  # what is let go of inside the block would hide what it takes
        self._before, self._peak, self._stop = _resident(), _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.is_set():
            self._peak = max(self._peak, _resident())
            time.sleep(0.003)

    def __exit__(self, *exception):
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
    return min(total, int(limit.read_text())) if limit.exists() and limit.read_text().strip() != "max" else total


def available_memory(device: str) -> int:
    """Bytes that this process could still take on a device: on a CPU what the machine and its container leave."""
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
    """Most bytes held since `reset_peak_memory`: allocated on a GPU, resident on a CPU (the whole process)."""
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
    """Bytes of memory that a GPU has, used or not."""
    return torch.cuda.mem_get_info(device)[1]


# ── Before a run: what it will take ──────────────────────────────────────────────────────────────

PROCESS_BYTES = 550_000_000  # a CPU process with torch and transformers before any model; in a notebook a little more


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run is expected to hold, from its configuration alone. Sums to `peak`."""

    parameters: int
    gradients: int
    moments: int  # AdamW's two
    activations: int  # of one micro-batch, with what the backward pass needs for a moment
    process: int  # the process itself, on a CPU
    micro: MicroBatch

    @property
    def peak(self) -> int:
        return self.parameters + self.gradients + self.moments + self.activations + self.process


def plan_memory(config: RunConfig, micro: MicroBatch) -> MemoryPlan:
    """The peak of one process of a run at a micro-batch: forward and backward pass traced on tensors without content.

    With FSDP parameters, gradients and moments are shared out, but for what is gathered for a moment (one LLM layer and
    all that is not one)."""
    accumulates = micro.size < config.effective_batch // config.processes
    sizes, layers, activations = _traced(dataclasses.replace(config, processes=1, fsdp=False), micro, accumulates)
    parameters = sum(size for _, size, _ in sizes)
    trained = sum(size for _, size, trains in sizes if trains)
    if not accumulates:  # gradients were counted as they came up
        activations = max(activations - trained, 0)
    if config.fsdp:
        gathered = sum(size for name, size, _ in sizes if ".layers." not in name) + parameters // layers
        parameters, trained, activations = parameters // config.processes, trained // config.processes, activations + gathered
    process = 0 if config.device.startswith("cuda") else PROCESS_BYTES
    return MemoryPlan(parameters, trained, 2 * trained, activations, process, micro)


@functools.lru_cache(maxsize=256)
def _traced(config: RunConfig, micro: MicroBatch, accumulates: bool) -> tuple[list[tuple[str, int, bool]], int, int]:
    """Name, bytes and trainability of each parameter, the LLM's layers, and the most bytes that a step or an evaluation
    makes besides them; gradients of earlier micro-batches are taken as there if the step `accumulates`."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fvlm.models import build_model

    with torch.device("meta"):
        model = build_model(config, pretrained=False)
    with FakeTensorMode():
        _make_fake(model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad and accumulates else None
        model.set_gradient_checkpointing(micro.checkpointing)
        inputs = _made_up_batch(config, micro.size)
        with _Live() as training:
            with _autocast_like(config):
                loss = model.train()(**inputs).loss
            loss.backward()
        inputs = _made_up_batch(config, min(16, 2 * micro.size))
        with _Live() as evaluation, _autocast_like(config), torch.no_grad():
            frames = model.eval().encode(inputs.pop("frames"))
            model(frames, **inputs, mode="parallel")
    sizes = [(name, p.numel() * p.element_size(), p.requires_grad) for name, p in model.named_parameters()]
    return sizes, model.config.llm_config.num_hidden_layers, max(training.peak, evaluation.peak)


def planned_micro_batch(config: RunConfig, available: int) -> MicroBatch:
    """The largest micro-batch whose plan leaves headroom in `available` bytes, as `find_micro_batch` would measure it.

    OutOfMemory with what would help if not even one clip with recomputed activations fits."""
    largest = config.effective_batch // config.processes
    micro = MicroBatch(
        largest if config.device.startswith("cuda") else min(largest, CPU_LARGEST), config.gradient_checkpointing is True
    )
    if config.micro_batch != "auto":
        return MicroBatch(min(config.micro_batch, largest), micro.checkpointing)
    while plan_memory(config, micro).peak > HEADROOM * available:
        micro = micro.smaller(config)
    return micro


def what_would_fit(config: RunConfig, available: int) -> list[str]:
    """For a cell that does not fit in `available` bytes: what it needs, and each change that makes it fit."""
    least = plan_memory(config, MicroBatch(1, True))
    state = least.parameters + least.gradients + least.moments
    advice = [f"needs {least.peak / HEADROOM / 1e9:.0f} GB ({state / 1e9:.1f} GB of it weights, gradients and moments)"]
    if least.peak <= HEADROOM * 80e9 and available < 80e9:
        advice.append("a card of 80 GB")
    for processes in (2, 4, 8):
        shared = dataclasses.replace(config, processes=processes, fsdp=True)
        if config.effective_batch % processes == 0 and plan_memory(shared, MicroBatch(1, True)).peak <= HEADROOM * available:
            advice.append(f"processes={processes} fsdp=true: sharded over {processes} such cards")
            break
    frozen = dataclasses.replace(config, freeze_llm=True)
    if not config.freeze_llm and plan_memory(frozen, MicroBatch(1, True)).peak <= HEADROOM * available:
        advice.append("freeze_llm=true (another experiment)")
    return advice


def _make_fake(model):
    """Replace tensors on the meta device by ones of the surrounding FakeTensorMode, tied ones by one."""
    made = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new
                if old is not None:
                    tensors[name] = made[id(old)]


def _made_up_batch(config: RunConfig, clips: int, text_tokens: int = 64) -> dict:
    """Inputs of a model with the size of a batch and nothing in it."""
    size = config.image_size
    inputs = dict(frames=torch.empty(clips, config.frames, 3, size, size, dtype=torch.uint8))
    inputs["labels"] = torch.ones(clips, text_tokens if config.task == "caption" else 2, dtype=torch.long)
    if config.task == "question":
        inputs["prompt_ids"] = torch.ones(clips, 10, dtype=torch.long)
    return inputs


def _autocast_like(config: RunConfig):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bf16")


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside the block and still there; `peak` is the most at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return True  # tensors without content: what is asked is whether all positions count, and they do
        result = function(*arguments, **keywords or {})
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key, size):
        self._known.discard(key)
        self.now -= size
