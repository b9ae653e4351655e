"""Losses over the validation samples, in every mode."""

import math
from collections.abc import Callable, Iterator

import torch

from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.costs.memory import MicroBatch, evaluation_sizes
from fvlm.data import Batch, Collator, validation_batches
from fvlm.data.clips import IGNORE
from fvlm.models.base import MODES, VideoTextOutput
from fvlm.models.inputs import PromptAndMasks
from fvlm.training.distributed import Processes
from fvlm.training.features import Features, batch_inputs
from fvlm.training.recorded import RecordedLooks, recorder
from fvlm.training.results import LOSSES


@torch.no_grad()
def evaluate(
    model,
    collator: Collator,
    config: RunConfig,
    micro: MicroBatch,
    processes: Processes | None = None,
    on_batch: Callable[[], None] = lambda: None,
    features: Features | None = None,
    recorded: bool = True,
) -> tuple[dict[str, float], list[dict]]:
    """Losses over the validation samples in every mode, in nats per text token, and `right`, the share of
    texts whose every token is the likeliest one, frame by frame: the means, and one row per sample.

    Each clip goes through the vision model once. On a GPU frame by frame is `recorded` as a CUDA graph.
    Models whose modes do not differ have one loss: parallel and autoregressive are the same number, static is
    NaN. Several processes share the samples; each gets all rows."""
    processes = processes or Processes(config)
    model.eval()
    size, together = evaluation_sizes(config, model.config.vision_config, micro)
    store = features and features.store
    device, mine, apart = processes.device(config), [], not processes.fsdp
    looks = RecordedLooks(model, recorder(str(device)) if recorded and apart and not config.compile else None)
    batches = validation_batches(config, collator, together, processes.rank, processes.world_size, store)
    with autocast(config):  # one for all batches: weights are cast once, and stay where a graph reads them
        for batch in batches:
            who: dict = dict(cell=config.cell, seed=config.seed)
            rows = {clip_id: who | dict(clip_id=clip_id) for clip_id in batch.clip_ids}
            for clip_id, domain in zip(batch.clip_ids, batch.domains):
                rows[clip_id]["domain"] = domain
            for part, outputs in part_outputs(model, batch, size, device, looks, on_batch, features, apart):
                tokens = (part.labels != IGNORE).sum(1)
                for mode, out in outputs.items():
                    assert out.token_losses is not None and out.token_right is not None
                    losses = (out.token_losses.double().sum(1).cpu() / tokens).tolist()
                    right = (out.token_right.sum(1).cpu() == tokens).double().tolist()  # 1 or 0
                    for clip_id, count, *found in zip(part.clip_ids, tokens.tolist(), losses, right):
                        found = zip((f"loss_{mode}", f"right_{mode}"), found)
                        rows[clip_id] |= {"text_tokens": count} | dict(found)
            for row in rows.values():
                row.setdefault("loss_autoregressive", row["loss_parallel"])
                row.setdefault("loss_static", math.nan)
                right = {mode: row.pop(f"right_{mode}", math.nan) for mode in MODES}
                row["right"] = right["autoregressive" if model.modes_differ else "parallel"]
            mine.append(list(rows.values()))
    in_order = [row for batches in zip(*processes.all_gather(mine)) for rows in batches for row in rows]
    rows = list({row["clip_id"]: row for row in in_order}.values())  # batches may have been filled up
    return mean_losses(rows) | dict(right=sum(row["right"] for row in rows) / len(rows)), rows


def mean_losses(rows: list[dict]) -> dict[str, float]:
    """`LOSSES` of samples together, in nats per text token."""
    tokens = sum(row["text_tokens"] for row in rows)
    return {name: sum(row[name] * row["text_tokens"] for row in rows) / tokens for name in LOSSES}


def domain_losses(rows: list[dict]) -> dict[str, dict]:
    """The losses of each domain of a mix over its own samples, from `evaluate`'s rows: `LOSSES`, nats per
    text token, and `clips`; none where the run's dataset is no mix."""
    found = {}
    for domain in dict.fromkeys(row["domain"] for row in rows if "domain" in row):
        mine = [row for row in rows if row["domain"] == domain]
        found[domain] = mean_losses(mine) | dict(clips=len(mine))
    return found


def part_outputs(
    model,
    batch: Batch,
    size: int,
    device: str,
    looks: RecordedLooks,
    on_batch,
    features: Features | None,
    apart: bool = True,
) -> Iterator[tuple[Batch, dict[str, VideoTextOutput]]]:
    """Clips of a batch, and what the model makes of their texts by mode, for all its clips.

    Frames are encoded and scored in parts of at most `size` clips; frame by frame all are looked at together
    (but for clips with frames missing: their parts differ in length). apart: texts alone in parts without
    frames."""
    caches = []
    modes = MODES if model.modes_differ else ("parallel",)
    together = model.modes_differ and batch.frame_mask is None and not batch.has_texts_alone
    for part in batch.split(size, apart):
        on_batch()
        inputs = batch_inputs(part, device, features, "validation")
        frames = inputs.pop("frames")
        frames = model.encode(frames) if isinstance(frames, torch.Tensor) else frames
        caches.append(frames)
        here = [mode for mode in modes if not (together and mode == "autoregressive")]
        yield part, {mode: model(frames, **inputs, mode=mode, return_logits=False) for mode in here}
    if together:
        batch = batch.take(batch.by_length())
        inputs = batch.inputs(device)
        inputs.pop("frames", None)
        given = PromptAndMasks(inputs.get("prompt_ids"), inputs.get("prompt_mask"))
        clips, queries = looks.together(caches, given)
        out = model(clips, **inputs, queries=queries, mode="autoregressive", return_logits=False)
        yield batch, {"autoregressive": out}
