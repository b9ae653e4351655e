"""What training resumes from, and the model it leaves."""

import json
import shutil
import warnings
from pathlib import Path

import torch

from fvlm.config import ConfigError, RunConfig
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.memory import MicroBatch
from fvlm.data import Batch
from fvlm.data.clips import IGNORE
from fvlm.files import damaged, put, seal, sync, write_json
from fvlm.training.distributed import Processes
from fvlm.training.progress import TrainingError


def restore_moments(model, optimizer, state: "TrainingState", processes: Processes):
    """Give the optimizer what a checkpoint kept of it."""
    for name, p in model.named_parameters():
        if f"exp_avg.{name}" in state.moments:
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[p] = {
                key: processes.distribute_tensor(state.moments[f"{key}.{name}"], p) for key in keys
            }
    state.moments = {}


class TrainingState:
    """How far a run has come: everything but weights and data, which follow from it."""

    def __init__(self):
        self.step = self.checkpoint_step = self.samples = 0
        self.flops = self.seconds = 0.0
        self.evaluations: list[dict] = []
        self.domains: list[dict] = []  # of a mix: a row per evaluation and domain
        self.seen: dict[str, list[int]] = {}  # of a mix: samples and text tokens by domain
        self.micro_batch: MicroBatch | None = None
        self.moments: dict[str, torch.Tensor] = {}

    def count(self, batch: Batch, config: RunConfig, processes: Processes):
        """Add a step's batch, all processes' parts of it."""
        text = (batch.labels != IGNORE).sum(1).tolist()
        prompt = [0] * len(batch) if batch.prompt_mask is None else batch.prompt_mask.sum(1).tolist()
        shows, domains = batch.shows or [True] * len(batch), batch.domains or [""] * len(batch)
        rows = [row for part in processes.all_gather(list(zip(shows, domains, text, prompt))) for row in part]
        self.samples += len(rows)
        for visual in (True, False):
            mine = [row for row in rows if row[0] == visual]
            if n := len(mine):
                text_tokens, prompt_tokens = sum(row[2] for row in mine) / n, sum(row[3] for row in mine) / n
                self.flops += n * flops_per_sample(config, text_tokens, prompt_tokens, visual=visual)["total"]
        for _, domain, tokens, _ in rows if batch.domains else ():
            samples, before = self.seen.get(domain, [0, 0])
            self.seen[domain] = [samples + 1, before + tokens]

    @classmethod
    def start_or_resume(cls, config: RunConfig, model) -> "TrainingState":
        """The state of the last checkpoint, whose weights go into `model`; a new one if there is none."""
        from safetensors.torch import load_file

        state = cls()
        folder = _last_checkpoint(config.folder)
        if folder is None:
            return state
        saved = json.loads((folder / "state.json").read_text())
        if saved["sources"] != model.config.sources:
            raise ConfigError(
                f"{folder} was started from {saved['sources']}, but now there is {model.config.sources}"
            )
        state.step = state.checkpoint_step = saved["step"]
        state.samples, state.flops, state.seconds = saved["samples"], saved["flops"], saved["seconds"]
        state.evaluations = saved["evaluations"]
        state.domains, state.seen = saved.get("domains", []), saved.get("seen", {})
        state.micro_batch = MicroBatch(**saved["micro_batch"])
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, tensor in load_file(folder / "weights.safetensors").items():
                tensors[name].copy_(tensor)
        state.moments = load_file(folder / "optimizer.safetensors")
        return state


def save_checkpoint(config: RunConfig, model, optimizer, state: TrainingState, processes: Processes):
    """Write a checkpoint beside the last one, and only when it can be read back remove that: a kill or a
    power failure at any moment leaves one."""
    from safetensors.torch import save_file

    processes.reshard(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b for name, b in model.named_buffers() if name in model.state_dict()}
    weights = {name: processes.full_tensor(t) for name, t in (trained | buffers).items()}
    moments = {
        f"{key}.{name}": processes.full_tensor(value)
        for name, p in trained.items()
        for key, value in optimizer.state.get(p, {}).items()
    }
    state.checkpoint_step = state.step
    if not processes.is_main:
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
        dict(
            step=state.step,
            samples=state.samples,
            flops=state.flops,
            seconds=state.seconds,
            sources=model.config.sources,
            micro_batch=vars(state.micro_batch),
            evaluations=state.evaluations,
            domains=state.domains,
            seen=state.seen,
        ),
    )
    seal(building)
    written = building.rename(root / f"step-{state.step:06d}")
    sync(root)
    if name := damaged(written):
        raise TrainingError(
            f"{written / name} can't be read back as it was written: is the disk failing? The checkpoint "
            "before it is kept"
        )
    for older in sorted(root.glob("step-*"))[:-1]:
        shutil.rmtree(older)


def _last_checkpoint(folder: Path) -> Path | None:
    return max((folder / "checkpoint").glob("step-*"), default=None)


def set_aside_damaged(folder: Path):
    """Rename a run's last checkpoint if it is not as it was written, and say so; then the one before it."""
    while (found := _last_checkpoint(folder)) and (name := damaged(found)):
        aside = found.with_name(f"damaged-{found.name}")
        shutil.rmtree(aside, ignore_errors=True)
        found.rename(aside)
        warnings.warn(
            f"{found / name} is damaged: this checkpoint is set aside as {aside.name}, training goes on from "
            "the one before it, or from the start",
            stacklevel=2,
        )


def save_model(config: RunConfig, model, processor, processes: Processes):
    """Write `model/`, weights and processor (with the tokenizer), all or nothing, also when power fails."""
    weights = (
        {name: processes.full_tensor(t) for name, t in model.state_dict().items()} if processes.fsdp else None
    )
    if not processes.is_main:
        return
    building, final = config.folder / ".model", config.folder / "model"
    shutil.rmtree(building, ignore_errors=True)
    model.save_pretrained(building, state_dict=weights)
    processor.save_pretrained(building)
    put(building, final)
