"""The training loop: one step, many steps.

A step is a function of (weights, optimizer state, seed, step number) alone, so a run that is killed and
started again ends with the same weights, bit for bit, as one that was not."""

import contextlib
import functools
import itertools
import math
import shutil
import time
from collections.abc import Sized

import torch

from fvlm.config import RunConfig
from fvlm.costs.flops import visual_tokens_per_clip
from fvlm.costs.machine import autocast, device_name
from fvlm.costs.memory import (
    MicroBatch,
    available_memory,
    find_micro_batch,
    is_out_of_memory,
    peak_memory,
    reset_peak_memory,
)
from fvlm.costs.plan import planned_micro_batch
from fvlm.data import Batch, Collator, open_dataset, training_batches
from fvlm.data.mix import is_mix, read_mix, repeated
from fvlm.files import commit, disk_refuses, write_table
from fvlm.models import build_model, parameter_groups
from fvlm.models.build import processor_of
from fvlm.training.callbacks import Callbacks
from fvlm.training.checkpoints import TrainingState, restore_moments, save_checkpoint, save_model
from fvlm.training.distributed import Processes
from fvlm.training.evaluation import domain_losses, evaluate
from fvlm.training.features import Features, batch_inputs, open_features
from fvlm.training.optimizer import make_optimizer, schedule
from fvlm.training.progress import NOW, Heartbeat, Progress, Stopped, TrainingError, stop_requested
from fvlm.weights import load_tokenizer

SEARCHED = 64  # times as many samples as calibration needs are looked through for some with frames


def train_loop(config: RunConfig, callbacks: Callbacks | None, processes: Processes):
    """The loop itself, in one process or in each of several; returns the trained model, in evaluation mode.

    Where a callback ends it early the checkpoint stays, so that the run can go on."""
    device = processes.device(config)
    model = build_model(config)
    state = TrainingState.start_or_resume(config, model)
    model.to(device)  # pyright: ignore[reportArgumentType]
    if config.compile:
        compile_backbones(model)
    tokenizer = load_tokenizer(config.llm)
    collator = Collator(tokenizer, config.task)
    if state.step == 0:
        calibrate(model, collator, config)
    micro = state.micro_batch
    shared = processes.wrap(model)
    model = processes.unwrap(shared)
    optimizer = make_optimizer(model, config)
    restore_moments(model, optimizer, state, processes)
    features = open_features(config, model)
    batches = training_batches(
        config, collator, state.step, processes.rank, processes.world_size, features and features.store
    )
    reset_peak_memory(device)
    started = time.perf_counter() - state.seconds
    tell = Heartbeat(config, callbacks, processes)
    if callbacks is not None:
        callbacks.start(config, len(state.evaluations))

    def evaluate_now():
        assert micro is not None
        alive = functools.partial(tell.alive, progress(config, state, loss))
        losses, samples = evaluate(model, collator, config, micro, processes, alive, features)
        state.seconds = time.perf_counter() - started
        state.evaluations.append(evaluation_row(config, model, state, losses, micro))
        state.domains += domain_rows(config, state, samples)
        if processes.is_main:
            write_table(config.folder / "evaluations.parquet", state.evaluations)
            write_table(config.folder / "samples.parquet", samples)
            if state.domains:
                write_table(config.folder / "domains.parquet", state.domains)

    with frozen_weights(model, config), errors_of_the_machine(config, state):
        while state.step < config.steps:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * schedule(state.step, config)
            batch = next(batches)
            if micro is None:
                micro = choose_micro_batch(model, batch, config, processes, features)
                reset_peak_memory(device)
            loss, micro = training_step(
                shared, optimizer, batch, config, state.step, micro, processes, features
            )
            state.step += 1
            state.count(batch, config, processes)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of step {state.step} is {loss} (learning rate {config.learning_rate:g} x "
                    f"{schedule(state.step - 1, config):.3g}, micro-batch {micro.size}). Evaluations and the "
                    "last good checkpoint, "
                    f"step {state.checkpoint_step}, are kept in {config.folder}. "
                    "A lower learning_rate, a longer warmup or fp32 may help."
                )
            state.seconds, state.micro_batch = time.perf_counter() - started, micro
            evaluated = state.step % config.eval_every == 0 or state.step == config.steps
            stopping = stop_asked(config, state, processes, evaluated)
            if evaluated:
                evaluate_now()
            if evaluated or stopping:  # after the evaluation is written, which it stands for
                save_checkpoint(config, model, optimizer, state, processes)
            if stopping:
                raise Stopped(
                    f"asked to stop: {config.cell}, seed {config.seed} goes on from step {state.step} when "
                    "trained again"
                )
            ended = tell(progress(config, state, loss, model, tokenizer))
            if evaluated:  # the process that started several tells them so
                ended |= any(processes.all_gather((config.folder / "end").exists()))
            if ended and state.step < config.steps:
                if not evaluated:
                    evaluate_now()
                    save_checkpoint(config, model, optimizer, state, processes)
                break

    model.eval()
    with errors_of_the_machine(config, state):
        save_model(config, model, processor_of(config), processes)
    if processes.is_main and state.step == config.steps:
        shutil.rmtree(config.folder / "checkpoint", ignore_errors=True)
    return model


@contextlib.contextmanager
def errors_of_the_machine(config: RunConfig, state: TrainingState):
    """A disk that is full or can't be written, and a killed reader of clips, end a run with what is kept and
    how it goes on."""
    from safetensors import SafetensorError

    def kept() -> str:
        step = state.checkpoint_step
        return f"Its last good checkpoint, step {step}, is kept; the same command goes on from it"

    try:
        yield
    except (OSError, SafetensorError) as error:
        if not disk_refuses(error):
            raise
        raise TrainingError(
            f"{config.folder} can't be written ({error}). {kept()} when there is room"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch has no class of its own for it
            raise
        raise TrainingError(
            f"{config.folder}: the process that reads the clips ended ({error}), as it does where there is "
            f"no memory left. {kept()}"
        ) from error


def frozen_weights(model, config: RunConfig):
    """Inside, what is frozen holds its weights as the run's precision reads them, so that no pass casts
    them."""
    if model.vision is None or config.precision != "bf16":
        return contextlib.nullcontext()
    return model.vision.weights_as(torch.bfloat16)


def training_step(
    model,
    optimizer,
    batch: Batch,
    config: RunConfig,
    step: int,
    micro: MicroBatch,
    processes: Processes,
    features: Features | None = None,
) -> tuple[float, MicroBatch]:
    """One optimizer step on an effective batch, or this process's part of it. Returns the mean loss of the
    whole and the micro-batch that fitted.

    If the loss or its gradient is not finite no step is taken and the loss is NaN. When memory runs out the
    step is done again with half the micro-batch, in the end with recomputed activations: the effective batch
    never changes. (Several processes can't do a step again one by one: there it ends the run, with
    advice.)"""
    bare = processes.unwrap(model)
    model.train()
    while True:
        try:
            torch.manual_seed(
                (config.seed << 32) + step
            )  # the same dropout, should a model have it, after a resume
            bare.set_gradient_checkpointing(micro.checkpointing)
            loss = accumulate_gradient(model, batch, config, micro.size, processes, features)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if processes.world_size > 1:
                raise TrainingError(
                    f"out of memory at step {step + 1} with a micro-batch of {micro.size}: give a smaller one"
                ) from error
            optimizer.zero_grad(set_to_none=True)
            micro = micro.smaller(config, error)
    norm = torch.nn.utils.clip_grad_norm_(
        [p for g in optimizer.param_groups for p in g["params"]], config.max_grad_norm
    )
    for group in optimizer.param_groups if batch.has_texts_alone else ():
        for p in group["params"]:  # what only frames use has moved by nothing: the same in every split
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    finite = math.isfinite(loss) and math.isfinite(float(processes.full_tensor(norm)))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss if finite else math.nan, micro


def accumulate_gradient(
    model,
    batch: Batch,
    config: RunConfig,
    size: int,
    processes: Processes | None = None,
    features: Features | None = None,
) -> float:
    """Add the gradient of the batch's mean loss per text token, `size` clips at a time; returns that loss.

    Every token weighs the same whichever micro-batch or process it falls into, so the sum is the large
    batch's gradient."""
    processes = processes or Processes(config)
    device = processes.device(config)
    tokens = processes.all_reduce(batch.text_tokens)
    total = torch.zeros((), device=device)
    parts = batch.split(size, apart=not processes.fsdp)
    for i, part in enumerate(parts):
        inputs = batch_inputs(part, device, features, "train")
        with processes.no_sync(model, more_to_come=i < len(parts) - 1):
            with autocast(config):
                out = model(**inputs, return_logits=False)
                loss = out.token_losses.sum() / tokens
            (loss * processes.world_size).backward()  # data parallelism divides by their number
        total += loss.detach()
    return processes.all_reduce(total.item())


def calibrate(model, collator: Collator, config: RunConfig, clips: int = 16):
    """Let the model measure its features' mean and spread on the first training clips with frames: as many as
    a step has, but two at least, as one frame has no spread."""
    dataset = open_dataset(config, "train")
    clips = max(2, min(clips, config.effective_batch))
    if isinstance(dataset, Sized):
        clips = min(clips, len(dataset))
    shown = (i for i in range(SEARCHED * clips) if dataset.told(i).shows)
    found = list(itertools.islice(shown, clips))
    if not found:  # texts alone teach nothing about frames
        return
    batch = collator([dataset[i] for i in found])
    with autocast(config):
        model.calibrate(batch.inputs(model.device)["frames"])


def compile_backbones(model):
    """Compile both backbones when they first run. Where that fails, as without a C++ compiler, they run as
    they are, and PyTorch says why."""
    torch._dynamo.config.suppress_errors = True
    model.llm.get_decoder().compile()
    if model.vision is not None:
        model.vision.encode_layer = torch.compile(model.vision.encode_layer)


def choose_micro_batch(
    model, batch: Batch, config: RunConfig, processes: Processes, features: Features | None = None
) -> MicroBatch:
    """The configured micro-batch, or the largest that fits, found by trying it on a real batch (FSDP:
    planned, because all processes would have to run out of memory at once). The smallest of all processes'
    choices."""
    if processes.fsdp and config.micro_batch == "auto":
        return planned_micro_batch(config, available_memory(processes.device(config)))

    def attempt(size: int, checkpointing: bool):
        model.train()
        model.set_gradient_checkpointing(checkpointing)
        parts = batch.split(size, apart=not processes.fsdp)
        longest = max(parts, key=lambda part: (any(part.shows or [True]), part.labels.numel()))
        inputs = batch_inputs(longest, processes.device(config), features, "train")
        try:
            with autocast(config):
                loss = model(**inputs, return_logits=False).loss
            loss.backward()
        finally:
            model.zero_grad(set_to_none=True)

    largest = len(batch)  # this process's part of the effective batch
    micro = find_micro_batch(
        attempt, config, largest, trainable=[p for p in model.parameters() if p.requires_grad]
    )
    return min(processes.all_gather(micro), key=lambda micro: (micro.size, not micro.checkpointing))


def evaluation_row(config, model, state: "TrainingState", losses, micro) -> dict:
    groups = parameter_groups(model)
    return dict(
        cell=config.cell,
        seed=config.seed,
        step=state.step,
        samples_seen=state.samples,
        **losses,
        flops=state.flops,
        visual_tokens=visual_tokens_per_clip(config),
        seconds=state.seconds,
        samples_per_second=state.samples / state.seconds,
        peak_memory_bytes=peak_memory(config.device),
        learning_rate=config.learning_rate * schedule(state.step - 1, config),
        params_total=groups["total"],
        params_trainable=groups["trainable"],
        params_embedding=groups["embedding"],
        device=device_name(config.device),
        precision=config.precision,
        micro_batch=micro.size,
        dataset_fingerprint=open_dataset(config, "validation").fingerprint,
        weights="; ".join(model.config.sources),
        commit=commit(),
    )


def domain_rows(config: RunConfig, state: "TrainingState", samples: list[dict]) -> list[dict]:
    """What an evaluation says of each domain of the run's mix, a row each: losses, how many clips they are
    of, training samples and text tokens so far, the weight and the share they have, and how often the
    domain's most repeated data were gone through. Without a mix, no row."""
    if not is_mix(config.dataset):
        return []
    weights, often = read_mix(config.dataset).domains, repeated(config, state.samples)
    return [
        dict(
            cell=config.cell,
            seed=config.seed,
            step=state.step,
            domain=domain,
            **losses,
            weight=weights[domain],
            samples_seen=state.seen.get(domain, [0, 0])[0],
            text_tokens_seen=state.seen.get(domain, [0, 0])[1],
            share=state.seen.get(domain, [0, 0])[0] / state.samples,
            epochs=often[domain],
        )
        for domain, losses in domain_losses(samples).items()
    ]


def progress(config, state, loss, model=None, tokenizer=None) -> Progress:
    rate = state.samples / max(state.seconds, 1e-9)
    left = (config.steps - state.step) * config.effective_batch / max(rate, 1e-9)
    return Progress(state.step, config.steps, loss, rate, left, state.evaluations, model, tokenizer)


def stop_asked(config: RunConfig, state: "TrainingState", processes: Processes, evaluated: bool) -> bool:
    """Whether to stop after this step: the last one is the end anyway, and several processes, which must
    agree, ask each other at evaluations alone."""
    if state.step == config.steps or (processes.world_size > 1 and not evaluated):
        return False
    asked = stop_requested(config.folder)
    return any(processes.all_gather(asked == NOW or (evaluated and asked is not None)))
