"""How long a model looks before it writes, and how fast it writes."""

import statistics

import torch

from fvlm.bench.inputs import random_batch
from fvlm.bench.turns import timed
from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.models import FrameCache, build_model
from fvlm.training.loop import frozen_weights

NEW_TOKENS = 32


@torch.no_grad()
def bench_generate(config: RunConfig, samples: int = 4, repeats: int = 5) -> dict:
    """Writing NEW_TOKENS tokens of text for `samples` clips at once, truly frame by frame, and its parts.

    Prints and returns seconds (medians of `repeats` after one to warm up): `encode_seconds`, the vision model
    on all frames; `first_token_seconds`, from pixels to the first token of each clip; `seconds`, to the last;
    and `tokens_per_second`, of all clips together, after the first. Random weights, and no text ends
    early."""
    model = build_model(config, pretrained=False).to(config.device).eval()
    model.generation_config.eos_token_id = None
    frames = random_batch(config, samples).inputs(config.device)["frames"]

    def encode():
        cache = model.encode(frames)
        if isinstance(cache, FrameCache) and not config.architecture.has_queries:
            _ = cache.last_hidden_state  # made when it is asked for

    acts = dict(
        encode=encode,
        first_token=lambda: model.generate(frames, max_new_tokens=1),
        whole=lambda: model.generate(frames, max_new_tokens=NEW_TOKENS),
    )
    seconds = {name: [] for name in acts}
    with frozen_weights(model, config), autocast(config):
        for turn in range(repeats + 1):
            for name, act in acts.items():
                elapsed = timed(act, config.device)
                if turn:
                    seconds[name].append(elapsed)
    written = [whole - first for whole, first in zip(seconds["whole"], seconds["first_token"])]
    found = dict(
        cell=config.cell,
        samples=samples,
        encode_seconds=statistics.median(seconds["encode"]),
        first_token_seconds=statistics.median(seconds["first_token"]),
        seconds=statistics.median(seconds["whole"]),
        tokens_per_second=samples * (NEW_TOKENS - 1) / statistics.median(written),
    )
    print(
        f"{config.cell}, {samples} clips, {config.precision}, {config.device}: encoded in "
        f"{found['encode_seconds']:.2f} s, first token after {found['first_token_seconds']:.2f} s, all "
        f"{NEW_TOKENS} after {found['seconds']:.2f} s, {found['tokens_per_second']:.0f} tokens a second"
    )
    return found
