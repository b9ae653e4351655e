"""Does a device compute what a CPU does? What must hold before its speed means anything.

Random weights, clips without content: nothing is downloaded and nothing but the core is imported."""

import copy
import dataclasses
import math
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fvlm.architectures import RECORDS
from fvlm.bench.inputs import random_batch
from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.costs.memory import MicroBatch
from fvlm.data import Batch
from fvlm.models import build_model
from fvlm.models.base import MODES
from fvlm.training import recorded
from fvlm.training.distributed import Processes
from fvlm.training.launch import train
from fvlm.training.loop import accumulate_gradient, frozen_weights, training_step
from fvlm.training.optimizer import make_optimizer

ALLOWED = {"fp32": 1e-4, "bf16": 1e-2}  # nats per text token from the CPU's loss in fp32
STEPS, KILLED_AT, SAVED_AT = 4, 3, 2  # of the run that is killed: it goes on from SAVED_AT


def checks(configs: list[RunConfig]) -> Iterator[tuple[str, Callable[[], list[dict]]]]:
    """The checks of a device, each configuration's, at their pairs and frames: names, and functions that do
    them. Rows have `check`, `cell`, `precision`, `difference`, how much is `allowed`, and whether it
    `passed`.

    Every architecture in fp32 and bf16: losses of all its modes, autoregressive among them, against a CPU's
    in fp32; with recomputed activations against without; and looks frame by frame as they are recorded in an
    evaluation against those that are not. Then three optimizer steps, and once a run that is killed against
    one that is not."""
    for config in configs:
        pair = config.cell.partition("_")[0]
        for record in RECORDS:
            cell = f"{pair}_{config.frames}f_{record.short}"
            checked = RunConfig.from_cell(cell, device=config.device, features=False, query_init_scale=1.0)
            yield f"losses of {cell}", lambda checked=checked: compare_losses(checked)
        exact = dataclasses.replace(config, precision="fp32", features=False)
        yield f"steps of {config.cell}", lambda exact=exact: [compare_steps(exact)]
    for device in {config.device for config in configs}:
        yield "resume", lambda device=device: [compare_resumed(device)]


def compare_losses(config: RunConfig, samples: int = 2) -> list[dict]:
    """Losses of a cell on its device against the CPU's in fp32, each mode in both precisions, and training
    losses and gradients with recomputed activations against those without."""
    at_home = dataclasses.replace(config, device="cpu", precision="fp32")
    model = build_model(at_home, pretrained=False)
    batch = random_batch(config, samples, uneven=True)
    inputs = batch.inputs()
    model.calibrate(inputs["frames"])
    expected = {mode: _losses(model, batch, at_home, mode) for mode in _modes(model)}
    model = copy.deepcopy(model).to(config.device)  # pyright: ignore[reportArgumentType]
    rows = []
    for precision, allowed in ALLOWED.items():
        there = dataclasses.replace(config, precision=precision)
        with frozen_weights(model, there):
            for mode, losses in expected.items():
                difference = float((_losses(model, batch, there, mode) - losses).abs())
                rows.append(_row(f"{mode} loss", there, difference, allowed))
            difference = _recomputed(model, batch, there)
            rows.append(_row("recomputed activations", there, difference, allowed))
            if model.modes_differ:
                difference = _recorded(model, batch, there)
                rows.append(_row("recorded frame by frame", there, difference, recorded.APART[precision]))
    return rows


def compare_steps(config: RunConfig, samples: int = 2, steps: int = 3) -> dict:
    """The loss after a few optimizer steps on a device against the CPU's."""
    model, losses = build_model(config, pretrained=False), []
    for device in ("cpu", config.device):
        there, moved = dataclasses.replace(config, device=device), copy.deepcopy(model).to(device)
        optimizer, batch = make_optimizer(moved, there), random_batch(config, samples)
        micro, processes = MicroBatch(samples, False), Processes(there)
        for step in range(steps):
            loss, _ = training_step(moved, optimizer, batch, there, step, micro, processes)
        losses.append(loss)
    return _row(f"loss of step {steps}", config, abs(losses[0] - losses[1]), 10 * ALLOWED["fp32"])


def compare_resumed(device: str) -> dict:
    """The weights of a run that was killed and resumed against those of one that was not: the largest
    difference.

    On a CPU they are the same, bit for bit; a GPU adds up gradients in an order of its own."""
    with tempfile.TemporaryDirectory() as folder:
        vision = Path(folder) / "vision"
        small = RunConfig.from_cell("T1-T_2f_fov", device=device, precision="fp32")
        model = build_model(small, pretrained=False)
        assert model.vision is not None, "a foveated model sees"
        model.vision.dinov2.save_pretrained(vision)  # random weights, but the same in both runs
        settings = dict(vision=str(vision), vision_layers=model.config.vision_config.num_hidden_layers)
        config = dataclasses.replace(
            small,
            **settings,
            **dict(steps=STEPS, eval_every=SAVED_AT, eval_samples=2, effective_batch=2, micro_batch=2),
            features=False,
            out=folder,
        )
        other = dataclasses.replace(config, study="killed")
        whole = _weights(train(config).folder)
        child = multiprocessing.get_context("spawn").Process(target=_train_until_killed, args=(other,))
        child.start()
        child.join()
        if child.exitcode != -signal.SIGKILL or not (other.folder / "checkpoint").is_dir():
            raise RuntimeError(f"the run that was to be killed ended with {child.exitcode}")
        resumed = _weights(train(other).folder)
    difference = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
    return _row("killed and resumed", small, difference, 0.0 if device == "cpu" else ALLOWED["fp32"])


def _train_until_killed(config: RunConfig):
    """In a process of its own: nothing is tidied up after SIGKILL."""

    def kill(progress):
        if progress.step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    train(config, kill)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def _modes(model) -> tuple[str, ...]:
    return MODES if model.modes_differ else ("parallel",)


@torch.no_grad()
def _losses(model, batch: Batch, config: RunConfig, mode: str) -> torch.Tensor:
    with autocast(config):
        return model.eval()(**batch.inputs(config.device), mode=mode, return_logits=False).loss.cpu()


def _recomputed(model, batch: Batch, config: RunConfig) -> float:
    """How far loss and gradient norm, the latter in its own size, move if activations are recomputed."""
    found = []
    for checkpointing in (False, True):
        model.train().set_gradient_checkpointing(checkpointing)
        loss = accumulate_gradient(model, batch, config, len(batch))
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        found.append((loss, norm))
        model.zero_grad(set_to_none=True)
    model.set_gradient_checkpointing(False)
    (loss, norm), (again, norm_again) = found
    return max(abs(loss - again), abs(norm - norm_again) / norm)


@torch.no_grad()
def _recorded(model, batch: Batch, config: RunConfig) -> float:
    """How far queries of clips that a recording did not see, recorded frame by frame, are from those that are
    not, in their own norm. A CPU, which records nothing, computes again from where the recording's clips
    lie. Infinite where recording failed."""
    frames = batch.inputs(config.device)["frames"]
    record = recorded.recorder(config.device) or recorded.compute_again
    looks = recorded.RecordedLooks(model.eval(), record)
    with autocast(config):
        for seen in (frames, frames, frames.flip(1)):
            _, found = looks.together([model.encode(part) for part in seen.split(1)])
        if found is None:
            return math.inf
        found = found.clone()
        _, expected = model.visual_tokens(model.encode(frames.flip(1)), "autoregressive")
    return float((found - expected).norm() / expected.norm())


def _row(check: str, config: RunConfig, difference: float, allowed: float) -> dict:
    return dict(
        check=check,
        cell=config.cell,
        precision=config.precision,
        difference=difference,
        allowed=allowed,
        passed=difference <= allowed,  # NaN does not pass
    )
