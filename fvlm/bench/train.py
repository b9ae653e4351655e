"""A training step against the machine's own matrix product, or against one with another setting."""

import statistics
import time

from fvlm.bench.inputs import TEXT_TOKENS, random_batch, random_model
from fvlm.bench.parts import parts_of_step
from fvlm.bench.report import table
from fvlm.bench.turns import in_turns, ratio_of, times
from fvlm.config import RunConfig
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.machine import matmul_rate, synchronize
from fvlm.costs.memory import peak_memory, reset_peak_memory
from fvlm.text import span
from fvlm.training.loop import accumulate_gradient, frozen_weights


def bench_train(config: RunConfig, samples: int = 4, repeats: int = 5) -> dict:
    """A training step, forward and backward, against the machine's matrix product, alternating.

    Prints and returns seconds, the share of the matrix rate (median of `repeats` after two steps to warm up,
    with the lowest and highest), the peak memory in bytes, and the seconds of each part (`parts_of_step`).
    Random weights: they cost the same."""
    model = random_model(config).train()
    batch = random_batch(config, samples)
    flops = samples * flops_per_sample(config, TEXT_TOKENS)["total"]
    reset_peak_memory(config.device)
    seconds, shares = [], []
    for repeat in range(-2, repeats):
        ceiling = matmul_rate(config)
        synchronize(config.device)
        start = time.perf_counter()
        accumulate_gradient(model, batch, config, samples)
        synchronize(config.device)
        elapsed = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
        if repeat >= 0:
            seconds.append(elapsed)
            shares.append(flops / elapsed / ceiling)
    peak = peak_memory(config.device)
    print(
        f"{config.cell}, {samples} clips x {config.frames} frames, {TEXT_TOKENS} text tokens, "
        f"{config.precision}, {config.device}: "
        f"{statistics.median(seconds):.2f} s a step, {flops / 1e9:.0f} GFLOP, "
        f"{statistics.median(shares):.2f} of the matrix rate "
        f"({span(min(shares), max(shares), signed=False)}, last {ceiling / 1e9:.0f} GFLOP/s), "
        f"peak {peak / 1e9:.2f} GB"
    )
    parts = parts_of_step(model, config, batch.inputs(config.device), repeats)
    total = sum(parts.values())
    print("of a whole step: " + ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in parts.items()))
    return dict(
        seconds=statistics.median(seconds),
        share=statistics.median(shares),
        peak_memory_bytes=peak,
        **{f"{name.replace(' ', '_')}_seconds": part for name, part in parts.items()},
    )


def compare_train(configs: dict[str, RunConfig], samples: int = 4, repeats: int = 5) -> dict:
    """Training steps, forward and backward, of two configurations by what they are called, in turns.

    Prints and returns seconds of either (medians of `repeats` after one to warm up) and `ratio`, the first's
    over the second's: so many times as fast is the second; with the lowest and highest of the turns."""
    steps = [training_step_of(config, samples) for config in configs.values()]
    first, second = configs
    turns = in_turns(*steps, repeats, max(config.device for config in configs.values()))  # cuda before cpu
    rows = [
        dict(setting=name, cell=config.cell, samples=samples, seconds=turns[f"{which}_seconds"])
        for which, (name, config) in zip(("first", "second"), configs.items())
    ]
    print(table(rows))
    print(f"{second} is {times(turns)} times as fast as {first}")
    return dict(settings=rows, **ratio_of(turns))


def training_step_of(config: RunConfig, samples: int):
    """A function that does a training step but for the optimizer's part."""
    model = random_model(config).train()
    model.set_gradient_checkpointing(config.gradient_checkpointing is True)
    batch = random_batch(config, samples)
    size = samples if config.micro_batch == "auto" else min(samples, config.micro_batch)

    def step():
        with frozen_weights(model, config):
            accumulate_gradient(model, batch, config, size)
        model.zero_grad(set_to_none=True)

    return step
