"""Losses over the validation samples, in every mode."""

import math
from collections.abc import Callable

import torch

from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.costs.memory import MicroBatch
from fvlm.data import Collator, validation_batches
from fvlm.models.base import MODES
from fvlm.training.distributed import Processes
from fvlm.training.features import Features, batch_inputs
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
) -> tuple[dict[str, float], list[dict]]:
    """Losses over the validation samples in every mode, in nats per text token: the means, and one row per
    sample.

    Each clip goes through the vision model once. Models whose modes do not differ have one loss: parallel and
    autoregressive are the same number, static is NaN. Several processes share the samples; each gets all
    rows."""
    processes = processes or Processes(config)
    model.eval()
    modes = MODES if model.modes_differ else ("parallel",)
    mine = []
    for batch in validation_batches(
        config,
        collator,
        min(16, 2 * micro.size),
        processes.rank,
        processes.world_size,
        features and features.store,
    ):
        rows = []
        on_batch()
        inputs = batch_inputs(batch, processes.device(config), features, "validation")
        with autocast(config):
            frames = inputs.pop("frames")
            frames = model.encode(frames) if isinstance(frames, torch.Tensor) else frames
            outs = {mode: model(frames, **inputs, mode=mode) for mode in modes}
        tokens = outs["parallel"].text_mask.sum(1).tolist()
        sums = {mode: out.token_losses.double().sum(1).tolist() for mode, out in outs.items()}
        for i, clip_id in enumerate(batch.clip_ids):
            per_token = {mode: sums[mode][i] / tokens[i] for mode in modes}
            per_token.setdefault("autoregressive", per_token["parallel"])
            rows.append(
                dict(
                    cell=config.cell,
                    seed=config.seed,
                    clip_id=clip_id,
                    text_tokens=tokens[i],
                    loss_parallel=per_token["parallel"],
                    loss_autoregressive=per_token["autoregressive"],
                    loss_static=per_token.get("static", math.nan),
                )
            )
        mine.append(rows)
    in_order = [row for batches in zip(*processes.all_gather(mine)) for rows in batches for row in rows]
    rows = list(
        {row["clip_id"]: row for row in in_order}.values()
    )  # the last batches may have been filled up with the first
    tokens = sum(row["text_tokens"] for row in rows)
    return {name: sum(row[name] * row["text_tokens"] for row in rows) / tokens for name in LOSSES}, rows
