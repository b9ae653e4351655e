"""Training one cell: `train(config)`.

A step is a function of (weights, optimizer state, seed, step number) alone, so a run that is killed and started
again ends with the same weights, bit for bit, as one that was not.
"""

import contextlib
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fvlm.config import ConfigError, RunConfig
from fvlm.data import Batch, Collator, open_dataset, training_batches, validation_batches
from fvlm.distributed import Processes, train_in_processes
from fvlm.flops import flops_per_sample, visual_tokens_per_clip
from fvlm.memory import (
    MicroBatch,
    available_memory,
    find_micro_batch,
    is_out_of_memory,
    peak_memory,
    planned_micro_batch,
    reset_peak_memory,
)
from fvlm.models import build_model, parameter_groups
from fvlm.results import Run, commit, load_run, write_json, write_table
from fvlm.weights import load_tokenizer

BETAS = (0.9, 0.95)  # of AdamW; 0.999 would remember the first steps' large gradients for the whole of so short a run
DECAY_SHARE = 0.3  # of the steps, at the end of the wsd schedule
CONNECTOR_PREFIXES = ("llm.", "vision.dinov2.")  # parameters outside these are the connector


class TrainingError(RuntimeError):
    """Training can't go on; the message says why and what is kept."""


class Stopped(TrainingError):
    """Somebody asked the run to stop (`request_stop`); it did, at a checkpoint, and goes on from there when trained again."""


@dataclass
class Progress:
    """What a progress display is told after every step."""

    step: int
    steps: int
    loss: float  # nats per text token, this step's training samples
    samples_per_second: float
    seconds_left: float
    evaluations: list[dict]


def train(config: RunConfig, on_progress: Callable[[Progress], None] | None = None) -> Run:
    """Train one cell and leave its results in `config.folder`.

    Finished already with the same configuration: nothing is done again. Interrupted: resumes from the last
    evaluation. Another configuration's results in the folder: ConfigError, unless `config.overwrite`.
    Raises TrainingError if the loss is no longer finite or memory does not suffice; what was reached is kept."""
    from filelock import FileLock, Timeout

    config.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(config.folder / ".lock", timeout=0):
            _claim(config)
            run = load_run(config.folder)
            if not run.finished:
                for leftover in ("stop", "progress.json"):
                    (config.folder / leftover).unlink(missing_ok=True)
                try:
                    if config.processes > 1:
                        train_in_processes(config, on_progress)
                    else:
                        run._model = train_loop(config, on_progress, Processes(config))
                finally:
                    (config.folder / "progress.json").unlink(missing_ok=True)
            return run
    except Timeout:
        raise ConfigError(f"{config.folder}: another process is training this run") from None


def train_loop(config: RunConfig, on_progress: Callable[[Progress], None] | None, processes: Processes):
    """The loop itself, in one process or in each of several; returns the trained model, in evaluation mode."""
    device = processes.device(config)
    model = build_model(config)
    state = TrainingState.start_or_resume(config, model)
    model.to(device)
    if config.compile:
        compile_backbones(model)
    tokenizer = load_tokenizer(config.llm)
    collator = Collator(tokenizer, config.task)
    if state.step == 0:
        calibrate(model, collator, config)
    micro = state.micro_batch
    shared = processes.share(model)
    model = processes.bare(shared)
    optimizer = make_optimizer(model, config)
    restore_moments(model, optimizer, state, processes)
    batches = training_batches(config, collator, state.step, processes.rank, processes.world)
    reset_peak_memory(device)
    started = time.perf_counter() - state.seconds
    tell = Heartbeat(config, on_progress, processes)

    while state.step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(state.step, config)
        batch = next(batches)
        if micro is None:
            micro = choose_micro_batch(model, batch, config, processes)
            reset_peak_memory(device)
        loss, micro = training_step(shared, optimizer, batch, config, state.step, micro, processes)
        state.step += 1
        state.count(batch, config, processes)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {state.step} is {loss} (learning rate {config.learning_rate:g} x "
                f"{schedule(state.step - 1, config):.3g}, micro-batch {micro.size}). Evaluations and the last good checkpoint, "
                f"step {state.checkpoint_step}, are kept in {config.folder}. "
                "A lower learning_rate, a longer warmup or fp32 may help."
            )
        state.seconds = time.perf_counter() - started
        if state.step % config.eval_every == 0 or state.step == config.steps:
            alive = functools.partial(tell.alive, progress(config, state, loss))
            losses, samples = evaluate(model, collator, config, micro, processes, on_batch=alive)
            state.seconds = time.perf_counter() - started
            state.evaluations.append(evaluation_row(config, model, state, losses, micro))
            state.micro_batch = micro
            if processes.main:
                write_table(config.folder / "evaluations.parquet", state.evaluations)
                write_table(config.folder / "samples.parquet", samples)
            save_checkpoint(config, model, optimizer, state, processes)  # last: what it stands for is then all there
            stop_if_asked(config, state, processes)
        tell(progress(config, state, loss))

    model.eval()
    save_model(config, model, tokenizer, processes)
    if processes.main:
        shutil.rmtree(config.folder / "checkpoint", ignore_errors=True)
    return model


def _claim(config: RunConfig):
    """Make the folder this configuration's: refuse another's results, forget what overwrite allows to forget."""
    if not config.allow_epochs:
        dataset = open_dataset(config, "train")
        needed = config.steps * config.effective_batch
        if hasattr(dataset, "__len__") and needed > len(dataset):
            raise ConfigError(
                f"{config.steps} steps x {config.effective_batch} = {needed} samples are more than one epoch of "
                f"{len(dataset)} clips: fewer steps, more data, or allow_epochs"
            )
    path = config.folder / "config.json"
    if path.exists():
        changed = config.changes_from(load_run(config.folder).config)
        if not changed:
            return
        if not config.overwrite:
            raise ConfigError(
                f"{config.folder} holds a run with another configuration ({'; '.join(changed)}): "
                "give overwrite (--set overwrite=true, -p overwrite True) to replace it, or another study name"
            )
        for item in config.folder.iterdir():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    write_json(path, {name: value for name, value in config.to_dict().items() if name not in ("out", "study", "overwrite")})


# ── One step ─────────────────────────────────────────────────────────────────────────────────────


def training_step(
    model, optimizer, batch: Batch, config: RunConfig, step: int, micro: MicroBatch, processes: Processes
) -> tuple[float, MicroBatch]:
    """One optimizer step on an effective batch, or this process's part of it. Returns the mean loss of the whole and the
    micro-batch that fitted.

    If the loss or its gradient is not finite no step is taken and the loss is NaN.
    When memory runs out the step is done again with half the micro-batch, in the end with recomputed
    activations: the effective batch never changes. (Several processes can't do a step again one by one: there it ends
    the run, with advice.)"""
    bare = processes.bare(model)
    model.train()
    while True:
        try:
            torch.manual_seed((config.seed << 32) + step)  # the same dropout, should a model have it, after a resume
            bare.set_gradient_checkpointing(micro.checkpointing)
            loss = accumulate_gradient(model, batch, config, micro.size, processes)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if processes.world > 1:
                raise TrainingError(
                    f"out of memory at step {step + 1} with a micro-batch of {micro.size}: give a smaller one"
                ) from error
            optimizer.zero_grad(set_to_none=True)
            micro = micro.smaller(config, error)
    norm = torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], config.clip)
    finite = math.isfinite(loss) and math.isfinite(float(processes.whole(norm)))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss if finite else math.nan, micro


def accumulate_gradient(model, batch: Batch, config: RunConfig, size: int, processes: Processes | None = None) -> float:
    """Add the gradient of the batch's mean loss per text token, `size` clips at a time; returns that loss.

    Every token weighs the same whichever micro-batch or process it falls into, so the sum is the large batch's gradient."""
    processes = processes or Processes(config)
    device = processes.device(config)
    tokens = processes.sum(batch.text_tokens)
    total = torch.zeros((), device=device)
    parts = batch.split(size)
    for i, part in enumerate(parts):
        with processes.accumulating(model, more_to_come=i < len(parts) - 1):
            with autocast(config):
                out = model(**part.inputs(device))
                loss = out.token_losses.sum() / tokens
            (loss * processes.world).backward()  # data parallelism divides by their number
        total += loss.detach()
    return processes.sum(total.item())


def calibrate(model, collator: Collator, config: RunConfig, clips: int = 16):
    """Let the model measure its features' mean and spread on the first training clips."""
    dataset = open_dataset(config, "train")
    batch = collator([dataset[i] for i in range(min(clips, config.effective_batch))])
    with autocast(config):
        model.calibrate(batch.frames.to(model.device))


def autocast(config: RunConfig):
    if config.precision == "bf16":
        return torch.autocast(config.device.split(":")[0], dtype=torch.bfloat16)
    return contextlib.nullcontext()


def make_optimizer(model, config: RunConfig) -> torch.optim.AdamW:
    """AdamW with decay on matrices only and a rate of its own for the connector."""
    groups = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            connector = not name.startswith(CONNECTOR_PREFIXES)
            groups.setdefault((connector, p.dim() >= 2), []).append(p)
    return torch.optim.AdamW(
        [
            dict(params=parameters, weight_decay=config.weight_decay * matrix,
                 base_lr=config.connector_learning_rate if connector else config.learning_rate)
            for (connector, matrix), parameters in groups.items()
        ],
        lr=config.learning_rate, betas=BETAS, fused=True,
    )  # fmt: skip


def restore_moments(model, optimizer, state: "TrainingState", processes: Processes):
    """Give the optimizer what a checkpoint kept of it."""
    for name, p in model.named_parameters():
        if f"exp_avg.{name}" in state.moments:
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[p] = {key: processes.part(state.moments[f"{key}.{name}"], p) for key in keys}
    state.moments = {}


def schedule(step: int, config: RunConfig) -> float:
    """Share of the learning rate at a step (counted from 0): linear warm-up, then constant, wsd or cosine."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    left = config.steps - step
    if config.schedule == "wsd":
        return min(1.0, left / max(DECAY_SHARE * config.steps, 1))
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(config.steps - config.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def compile_backbones(model):
    model.llm.get_decoder().compile()
    if model.vision is not None:
        model.vision.encode_layer = torch.compile(model.vision.encode_layer)


def choose_micro_batch(model, batch: Batch, config: RunConfig, processes: Processes) -> MicroBatch:
    """The configured micro-batch, or the largest that fits, found by trying it on a real batch (FSDP: planned, because
    all processes would have to run out of memory at once). The smallest of all processes' choices."""
    if processes.fsdp and config.micro_batch == "auto":
        return planned_micro_batch(config, available_memory(processes.device(config)))

    def attempt(size: int, checkpointing: bool):
        model.train()
        model.set_gradient_checkpointing(checkpointing)
        try:
            with autocast(config):
                loss = model(**batch.split(size)[0].inputs(processes.device(config))).loss
            loss.backward()
        finally:
            model.zero_grad(set_to_none=True)

    largest = len(batch)  # this process's part of the effective batch
    micro = find_micro_batch(attempt, config, largest, trainable=[p for p in model.parameters() if p.requires_grad])
    return min(processes.gather(micro), key=lambda micro: (micro.size, not micro.checkpointing))


# ── Evaluation ───────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def evaluate(
    model, collator: Collator, config: RunConfig, micro: MicroBatch, processes: Processes | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], list[dict]]:  # fmt: skip
    """Losses over the validation samples in every mode, in nats per text token: the means, and one row per sample.

    Each clip goes through the vision model once. Models without queries have one loss: parallel and
    autoregressive are the same number, static is NaN. Several processes share the samples; each gets all rows."""
    processes = processes or Processes(config)
    model.eval()
    modes = ("parallel", "autoregressive", "static") if model.has_queries else ("parallel",)
    mine = []
    for batch in validation_batches(config, collator, min(16, 2 * micro.size), processes.rank, processes.world):
        rows = []
        on_batch()
        inputs = batch.inputs(processes.device(config))
        with autocast(config):
            frames = model.encode(inputs.pop("frames"))
            outs = {mode: model(frames, **inputs, mode=mode) for mode in modes}
        tokens = outs["parallel"].text_mask.sum(1).tolist()
        sums = {mode: out.token_losses.double().sum(1).tolist() for mode, out in outs.items()}
        for i, clip_id in enumerate(batch.clip_ids):
            per_token = {mode: sums[mode][i] / tokens[i] for mode in modes}
            per_token.setdefault("autoregressive", per_token["parallel"])
            rows.append(
                dict(cell=config.cell, seed=config.seed, clip_id=clip_id, text_tokens=tokens[i],
                     loss_parallel=per_token["parallel"], loss_autoregressive=per_token["autoregressive"],
                     loss_static=per_token.get("static", math.nan))
            )  # fmt: skip
        mine.append(rows)
    in_order = [row for batches in zip(*processes.gather(mine)) for rows in batches for row in rows]
    rows = list({row["clip_id"]: row for row in in_order}.values())  # the last batches may have been filled up with the first
    tokens = sum(row["text_tokens"] for row in rows)
    names = ("loss_parallel", "loss_autoregressive", "loss_static")
    return {name: sum(row[name] * row["text_tokens"] for row in rows) / tokens for name in names}, rows


def evaluation_row(config, model, state: "TrainingState", losses, micro) -> dict:
    groups = parameter_groups(model)
    return dict(
        cell=config.cell, seed=config.seed, step=state.step, samples_seen=state.samples, **losses,
        flops=state.flops, visual_tokens=visual_tokens_per_clip(config), seconds=state.seconds,
        samples_per_second=state.samples / state.seconds, peak_memory_bytes=peak_memory(config.device),
        learning_rate=config.learning_rate * schedule(state.step - 1, config),
        params_total=groups["total"], params_trainable=groups["trainable"], params_embedding=groups["embedding"],
        device=device_name(config.device), precision=config.precision, micro_batch=micro.size,
        dataset_fingerprint=open_dataset(config, "validation").fingerprint, weights="; ".join(model.config.sources),
        commit=commit(),
    )  # fmt: skip


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


def progress(config, state, loss) -> Progress:
    rate = state.samples / max(state.seconds, 1e-9)
    left = (config.steps - state.step) * config.effective_batch / max(rate, 1e-9)
    return Progress(state.step, config.steps, loss, rate, left, state.evaluations)


# ── Being watched ────────────────────────────────────────────────────────────────────────────────


class Heartbeat:
    """Tells who waits how far a run is: `on_progress`, after every step, and for other processes `progress.json` in its
    folder, written at most once a second and gone when training ends."""

    def __init__(self, config: RunConfig, on_progress, processes: Processes):
        self._path = config.folder / "progress.json" if processes.main else None
        self._on_progress, self._written = on_progress, -math.inf

    def __call__(self, progress: Progress):
        self.alive(progress, now=progress.step == progress.steps)
        if self._on_progress:
            self._on_progress(progress)

    def alive(self, progress: Progress, now: bool = False):
        """A sign of life in the middle of an evaluation."""
        if self._path and (now or time.monotonic() - self._written > 1):
            write_json(self._path, vars(progress) | dict(pid=os.getpid(), time=time.time()))
            self._written = time.monotonic()


def read_progress(folder: Path) -> dict | None:
    """The fields of `Progress`, the process's `pid` and the `time` it wrote them, of a run that trains in `folder`."""
    try:
        return json.loads((folder / "progress.json").read_text())
    except FileNotFoundError:
        return None


def request_stop(folder: Path):
    """Ask the run that trains in `folder`, from any process, to stop at its next checkpoint: it raises `Stopped`."""
    (folder / "stop").touch()


def stop_if_asked(config: RunConfig, state: "TrainingState", processes: Processes):
    if any(processes.gather((config.folder / "stop").exists())) and state.step < config.steps:
        raise Stopped(f"asked to stop: {config.cell}, seed {config.seed} goes on from step {state.step} when trained again")


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────────


class TrainingState:
    """How far a run has come: everything but weights and data, which follow from it."""

    def __init__(self):
        self.step = self.checkpoint_step = self.samples = 0
        self.flops = self.seconds = 0.0
        self.evaluations: list[dict] = []
        self.micro_batch: MicroBatch | None = None
        self.moments: dict[str, torch.Tensor] = {}

    def count(self, batch: Batch, config: RunConfig, processes: Processes):
        prompt = float(batch.prompt_mask.sum()) if batch.prompt_mask is not None else 0
        clips, text, prompt = map(sum, zip(*processes.gather((len(batch), batch.text_tokens, prompt))))
        self.samples += clips
        self.flops += clips * flops_per_sample(config, text / clips, prompt / clips)["total"]

    @classmethod
    def start_or_resume(cls, config: RunConfig, model) -> "TrainingState":
        """The state of the last complete checkpoint, whose weights go into `model`; a new one if there is none."""
        from safetensors.torch import load_file

        state = cls()
        folder = _last_checkpoint(config.folder)
        if folder is None:
            return state
        saved = json.loads((folder / "state.json").read_text())
        if saved["sources"] != model.config.sources:
            raise ConfigError(f"{folder} was started from {saved['sources']}, but now there is {model.config.sources}")
        state.step = state.checkpoint_step = saved["step"]
        state.samples, state.flops, state.seconds = saved["samples"], saved["flops"], saved["seconds"]
        state.evaluations = saved["evaluations"]
        state.micro_batch = MicroBatch(**saved["micro_batch"])
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, tensor in load_file(folder / "weights.safetensors").items():
                tensors[name].copy_(tensor)
        state.moments = load_file(folder / "optimizer.safetensors")
        return state


def save_checkpoint(config: RunConfig, model, optimizer, state: TrainingState, processes: Processes):
    """Write a checkpoint beside the last one, and only then remove that: a kill at any moment leaves one."""
    from safetensors.torch import save_file

    processes.settle(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b for name, b in model.named_buffers() if name in model.state_dict()}
    weights = {name: processes.whole(t) for name, t in (trained | buffers).items()}
    moments = {
        f"{key}.{name}": processes.whole(value) for name, p in trained.items() for key, value in optimizer.state.get(p, {}).items()
    }
    state.checkpoint_step = state.step
    if not processes.main:
        return
    root = config.folder / "checkpoint"
    root.mkdir(exist_ok=True)
    for leftover in root.glob(".*"):
        shutil.rmtree(leftover)
    building = root / f".step-{state.step:06d}"
    building.mkdir()
    save_file(weights, building / "weights.safetensors")
    save_file(moments, building / "optimizer.safetensors")
    write_json(
        building / "state.json",
        dict(step=state.step, samples=state.samples, flops=state.flops, seconds=state.seconds, sources=model.config.sources,
             micro_batch=vars(state.micro_batch), evaluations=state.evaluations),
    )  # fmt: skip
    building.rename(root / f"step-{state.step:06d}")
    for older in sorted(root.glob("step-*"))[:-1]:
        shutil.rmtree(older)


def _last_checkpoint(folder: Path) -> Path | None:
    return max((folder / "checkpoint").glob("step-*"), default=None)


def save_model(config: RunConfig, model, tokenizer, processes: Processes):
    """Write `model/`, weights and tokenizer, all or nothing."""
    weights = {name: processes.whole(t) for name, t in model.state_dict().items()} if processes.fsdp else None
    if not processes.main:
        return
    building, final = config.folder / ".model", config.folder / "model"
    shutil.rmtree(building, ignore_errors=True)
    model.save_pretrained(building, state_dict=weights)
    tokenizer.save_pretrained(building)
    shutil.rmtree(final, ignore_errors=True)
    building.rename(final)
