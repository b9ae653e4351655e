"""What a run will take, from its configuration alone: parameters, FLOPs, time, memory."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import weakref
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fvlm.cache import cache_folder
from fvlm.config import REPOSITORY, RunConfig
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.memory import HEADROOM, MOST_TOGETHER, MicroBatch, evaluation_sizes, largest_micro_batch
from fvlm.data.mix import is_mix, read_mix
from fvlm.files import write_json

MOST_TRACES = 1000  # kept in the cache folder, the newest; those of older code serve nobody

EXPECTED_SHARE = 0.5  # of the matrix rate that a training step reaches, evaluations included


def parameter_counts(config: RunConfig) -> dict[str, int]:
    """Parameters of a cell by group, from shapes: `fvlm.models.parameter_groups` of a model that is never
    allocated."""
    return _parameter_counts(dataclasses.replace(of_its_shapes(config), device="cpu"))


def _of_any_seed(config: RunConfig) -> RunConfig:
    """The configuration that runs of all seeds share, in whatever folder."""
    return dataclasses.replace(config, seed=0, study="runs", out=".")


# What decides how long and how a cell is trained, but no tensor's shape: one trace serves them all.
SHAPELESS = dict(
    steps=1,
    eval_every=1,
    allow_epochs=True,
    learning_rate=1e-3,
    connector_learning_rate=1e-3,
    warmup=0,
    schedule="constant",
    decay=0.3,
    weight_decay=0.0,
    max_grad_norm=1.0,
    query_init_scale=0.1,
    overwrite=False,
)


def of_its_shapes(config: RunConfig) -> RunConfig:
    """The configuration that all cells share whose tensors have the same shapes. Of the clips of an
    evaluation those count that it keeps at once."""
    kept = min(config.eval_samples, MOST_TOGETHER)
    return dataclasses.replace(_of_any_seed(config), **SHAPELESS, eval_samples=kept)


@functools.lru_cache(maxsize=1024)
def _parameter_counts(config: RunConfig) -> dict[str, int]:
    from fvlm.models import build_model, parameter_groups

    with torch.device("meta"):
        return parameter_groups(build_model(config, pretrained=False))


def run_flops(config: RunConfig) -> float:
    """Training and evaluation FLOPs of a whole run."""
    return _run_flops(_of_any_seed(config))


@functools.lru_cache(maxsize=4096)
def _run_flops(config: RunConfig) -> float:
    evaluated = -(-config.steps // config.eval_every) * config.eval_samples
    training, forward = (_mean_flops(config, trains) for trains in (True, False))
    return config.steps * config.effective_batch * training + 2 * evaluated * forward


def _mean_flops(config: RunConfig, training: bool) -> float:
    """Of a sample in training or of one in validation, where a mix has as many of each domain."""
    seen = flops_per_sample(config, training=training)["total"]
    if not is_mix(config.dataset):
        return seen
    domains = read_mix(config.dataset).domains
    alone = domains.get("text", 0.0) if training else ("text" in domains) / len(domains)
    return (1 - alone) * seen + alone * flops_per_sample(config, training=training, visual=False)["total"]


def expected_seconds(config: RunConfig, rate: float) -> float:
    """How long a run takes where matrices are multiplied at `rate` FLOP/s
    (`fvlm.costs.machine.matmul_rate`)."""
    return run_flops(config) / (EXPECTED_SHARE * rate)


# A CPU process with torch and transformers before any model; in a notebook a little more.
PROCESS_BYTES = 550_000_000


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run is expected to hold, from its configuration alone. Sums to `peak`."""

    parameters: int
    gradients: int
    moments: int  # AdamW's two
    activations: int  # of one micro-batch, with what the backward pass needs for a moment
    process: int  # the process itself, on a CPU

    @property
    def peak(self) -> int:
        return self.parameters + self.gradients + self.moments + self.activations + self.process


def plan_memory(config: RunConfig, micro: MicroBatch) -> MemoryPlan:
    """The peak of one process of a run at a micro-batch: forward and backward pass traced on tensors without
    content, the vision encoder's included, though features that are in the store need none.

    With FSDP parameters, gradients and moments are shared out, but for what is gathered for a moment (one LLM
    layer and all that is not one)."""
    accumulates = micro.size < config.effective_batch // config.processes
    sizes, layers, activations = _traced(
        dataclasses.replace(of_its_shapes(config), processes=1, fsdp=False), micro, accumulates
    )
    parameters = sum(size for _, size, _ in sizes)
    trained = sum(size for _, size, trains in sizes if trains)
    if not accumulates:  # gradients were counted as they came up
        activations = max(activations - trained, 0)
    if config.fsdp:
        gathered = sum(size for name, size, _ in sizes if ".layers." not in name) + parameters // layers
        parameters, trained, activations = (
            parameters // config.processes,
            trained // config.processes,
            activations + gathered,
        )
    process = 0 if config.device.startswith("cuda") else PROCESS_BYTES
    return MemoryPlan(parameters, trained, 2 * trained, activations, process)


@functools.lru_cache(maxsize=1024)
def _traced(
    config: RunConfig, micro: MicroBatch, accumulates: bool
) -> tuple[list[tuple[str, int, bool]], int, int]:
    """Name, bytes and trainability of each parameter, the LLM's layers, and the most bytes that a step or an
    evaluation makes besides them; gradients of earlier micro-batches are taken as there if the step
    `accumulates`. A trace takes a second and more; each is kept in the cache folder, for this code and these
    versions of torch and transformers."""
    digest = hashlib.sha256(json.dumps([_code(), config.to_dict(), vars(micro), accumulates]).encode())
    kept = cache_folder() / "plans" / f"{digest.hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or damaged
        found = json.loads(kept.read_text())
        sizes = [(str(name), int(size), bool(trains)) for name, size, trains in found["sizes"]]
        return sizes, int(found["layers"]), int(found["activations"])
    sizes, layers, activations = _trace(config, micro, accumulates)
    with contextlib.suppress(OSError):  # nowhere to keep it
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, dict(sizes=sizes, layers=layers, activations=activations), durable=False)
        for old in sorted(kept.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-MOST_TRACES]:
            old.unlink()
    return sizes, layers, activations


@functools.cache
def _code() -> str:
    """What a trace depends on besides its arguments, as one word."""
    import transformers

    files = sorted((REPOSITORY / "fvlm").rglob("*.py"))
    found = hashlib.sha256(f"{torch.__version__} {transformers.__version__}".encode())
    for path in files:
        found.update(path.read_bytes())
    return found.hexdigest()


def _trace(config: RunConfig, micro: MicroBatch, accumulates: bool) -> tuple[list, int, int]:
    """`_traced`, found out now."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fvlm.models import FrameCache, build_model

    with torch.device("meta"):
        model = build_model(config, pretrained=False)
    with FakeTensorMode():
        _make_fake(model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad and accumulates else None
        model.set_gradient_checkpointing(micro.checkpointing)
        inputs = _dummy_batch(config, micro.size)
        with _Live() as training:
            with _autocast_like(config):
                loss = model.train()(**inputs, return_logits=False).loss
            loss.backward()
        size, together = evaluation_sizes(config, model.config.vision_config, micro)
        inputs = _dummy_batch(config, size)
        with _Live() as evaluation, _autocast_like(config), torch.no_grad():
            frames = inputs.pop("frames")
            parts = -(-min(together, config.eval_samples) // size) if model.modes_differ else 1
            kept = [model.eval().encode(frames) for _ in range(parts)]
            model(kept[0], **inputs, mode="parallel", return_logits=False)
            if model.modes_differ:
                kept.append(FrameCache.cat(kept))
                if config.device.startswith("cuda"):  # a recording keeps its clips while the next are encoded
                    kept.append(model.encode(frames))
    sizes = [(name, p.numel() * p.element_size(), p.requires_grad) for name, p in model.named_parameters()]
    return sizes, model.config.llm_config.num_hidden_layers, max(training.peak, evaluation.peak)


def planned_micro_batch(config: RunConfig, available: int) -> MicroBatch:
    """`largest_micro_batch` by plan, with headroom in `available` bytes: what `find_micro_batch` would
    measure. Where the weights alone leave no room, nothing is traced."""
    room = HEADROOM * available
    return largest_micro_batch(
        config,
        largest=config.effective_batch // config.processes,
        fits=lambda micro: weights_memory(config) <= room and plan_memory(config, micro).peak <= room,
    )


def weights_memory(config: RunConfig) -> int:
    """Bytes of one process's parameters, gradients and AdamW's moments, all fp32, shared out with FSDP: the
    least that any micro-batch takes."""
    counts = parameter_counts(config)
    return 4 * (counts["total"] + 3 * counts["trainable"]) // (config.processes if config.fsdp else 1)


def what_would_fit(config: RunConfig, available: int) -> list[str]:
    """For a cell that does not fit in `available` bytes: what it needs, and each change that makes it fit."""
    least = plan_memory(config, MicroBatch(1, True))
    advice = [
        f"needs {least.peak / HEADROOM / 1e9:.0f} GB ({weights_memory(config) / 1e9:.1f} GB of it "
        "weights, gradients and moments)"
    ]
    if least.peak <= HEADROOM * 80e9 and available < 80e9:
        advice.append("a card of 80 GB")
    for processes in (2, 4, 8):
        shared = dataclasses.replace(config, processes=processes, fsdp=True)
        if (
            config.effective_batch % processes == 0
            and plan_memory(shared, MicroBatch(1, True)).peak <= HEADROOM * available
        ):
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
                    made[id(old)] = (
                        torch.nn.Parameter(new, old.requires_grad)
                        if isinstance(old, torch.nn.Parameter)
                        else new
                    )
                if old is not None:
                    tensors[name] = made[id(old)]


def _dummy_batch(config: RunConfig, clips: int, text_tokens: int = 64) -> dict:
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
    """Counts the bytes of all tensors that are made inside the block and still there; `peak` is the most at
    once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return True  # tensors without content: what is asked is whether all positions count, and they do
        if function is torch.ops.aten.nonzero.default:
            return torch.arange(arguments[0].numel())[:, None]  # and which do
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
