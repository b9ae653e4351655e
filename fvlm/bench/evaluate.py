"""What an evaluation's three losses take beside the one that training has anyway."""

import dataclasses

import torch

from fvlm.bench.inputs import random_model
from fvlm.bench.turns import in_turns, ratio_of, times
from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.costs.memory import CPU_LARGEST, MicroBatch, evaluation_sizes
from fvlm.data import Collator, validation_batches
from fvlm.training.evaluation import evaluate
from fvlm.training.loop import frozen_weights
from fvlm.weights import load_tokenizer


def bench_evaluate(config: RunConfig, samples: int = 4, repeats: int = 5) -> dict:
    """An evaluation of `samples` clips, all modes' losses, against encoding them and the parallel loss alone,
    in turns, drawing the clips included in both.

    No feature store, random weights. Prints and returns seconds of either (medians of `repeats` after one
    each to warm up) and `ratio`, the median of the turns' own, with the lowest and highest."""
    config = dataclasses.replace(config, dataset="shapes", eval_samples=samples, features=False)
    model = random_model(config).eval()
    collator = Collator(load_tokenizer(config.llm), config.task)
    micro = MicroBatch(min(samples, CPU_LARGEST), False)
    size, _ = evaluation_sizes(config, model.config.vision_config, micro)

    @torch.no_grad()
    def parallel_alone():
        with autocast(config):
            for batch in validation_batches(config, collator, size):
                inputs = batch.inputs(config.device)
                frames = model.encode(inputs.pop("frames"))
                model(frames, **inputs, mode="parallel", return_logits=False)

    with frozen_weights(model, config):
        turns = in_turns(
            lambda: evaluate(model, collator, config, micro), parallel_alone, repeats, config.device
        )
    print(
        f"{config.cell}, {samples} clips, {config.precision}, {config.device}: an evaluation takes "
        f"{turns['first_seconds']:.2f} s, encoding and the parallel loss alone "
        f"{turns['second_seconds']:.2f} s: {times(turns)} times"
    )
    return dict(
        cell=config.cell,
        samples=samples,
        evaluation_seconds=turns["first_seconds"],
        parallel_seconds=turns["second_seconds"],
        **ratio_of(turns),
    )
