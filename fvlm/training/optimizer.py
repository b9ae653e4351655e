"""AdamW with a learning rate of its own for the connector, and the schedules."""

import math

import torch

from fvlm.config import RunConfig
from fvlm.models import parameter_group

# Of AdamW. 0.999 would remember the first steps' large gradients for the whole of so short a run.
BETAS = (0.9, 0.95)


def make_optimizer(model, config: RunConfig) -> torch.optim.AdamW:
    """AdamW with decay on matrices only and a rate of its own for the connector."""
    groups = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            connector = parameter_group(name) == "connector"
            groups.setdefault((connector, p.dim() >= 2), []).append(p)
    return torch.optim.AdamW(
        [
            dict(
                params=parameters,
                weight_decay=config.weight_decay * matrix,
                base_lr=config.connector_learning_rate if connector else config.learning_rate,
            )
            for (connector, matrix), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=BETAS,
        fused=True,
    )


def schedule(step: int, config: RunConfig) -> float:
    """Share of the learning rate at a step (counted from 0): linear warm-up, then constant, wsd or cosine."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    left = config.steps - step
    if config.schedule == "wsd":
        return min(1.0, left / max(config.decay * config.steps, 1))
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(config.steps - config.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0
