"""Measurements of this machine, each against its own ceiling in the same run."""

import dataclasses
import statistics
import tempfile
import time

import torch

from fvlm.config import RunConfig
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.machine import matmul_rate, synchronize
from fvlm.costs.memory import peak_memory, reset_peak_memory
from fvlm.data import Batch, Collator, PreparedDataset, ShapesWorld, training_batches
from fvlm.data.loading import loader
from fvlm.data.prepare import Settings, prepare
from fvlm.data.prepared import Shuffled
from fvlm.models import build_model
from fvlm.text import span
from fvlm.training.loop import accumulate_gradient
from fvlm.weights import load_tokenizer

TEXT_TOKENS = 32


def bench_train(config: RunConfig, samples: int = 4, repeats: int = 5) -> dict:
    """A training step, forward and backward, against the machine's matrix product, alternating.

    Prints and returns seconds, the share of the matrix rate (median of `repeats` after two steps to warm up,
    with the lowest and highest) and the peak memory in bytes. Random weights: they cost the same."""
    model = build_model(config, pretrained=False).to(config.device).train()
    size = (samples, config.frames, 3, config.image_size, config.image_size)
    labels = torch.randint(3, 400, (samples, TEXT_TOKENS))
    batch = Batch(
        torch.randint(0, 256, size, dtype=torch.uint8),
        labels,
        None,
        None,
        None,
        [str(i) for i in range(samples)],
    )
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
    return dict(seconds=statistics.median(seconds), share=statistics.median(shares), peak_memory_bytes=peak)


def bench_data(
    config: RunConfig, samples: int = 4, repeats: int = 5, clips: int = 200, workers: int = 2
) -> dict:
    """The way of a clip from pixels to a training step, on `shapes` clips of the cell's own size.

    Prints and returns clips a second drawn (one process), prepared and read back (`workers` processes), and
    the share of a training step spent waiting for data, of the cell's real steps (the median and highest of
    `repeats`)."""
    with tempfile.TemporaryDirectory() as folder:
        world = ShapesWorld(frames=config.frames, size=config.image_size)
        for index in range(250):
            if index == 50:  # until then the stamps of the objects are drawn for the first time
                start = time.perf_counter()
            world.clip(index)
        drawn = 200 / (time.perf_counter() - start)

        settings = Settings("shapes", config.frames, config.image_size, clips=clips)
        start = time.perf_counter()
        prepare(settings, folder, workers)
        prepared = clips / (time.perf_counter() - start)

        collator = Collator(load_tokenizer(config.llm), config.task)
        dataset = Shuffled([PreparedDataset(folder, "train")], [1.0], seed=0)
        read = [_reading_rate(dataset, collator, workers) for _ in range(repeats)]

        config = dataclasses.replace(config, dataset=folder, effective_batch=samples, steps=repeats + 2)
        model = build_model(config, pretrained=False).to(config.device).train()
        batches, waits, shares = training_batches(config, collator), [], []
        for step in range(config.steps):
            start = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - start
            accumulate_gradient(model, batch, config, samples)
            synchronize(config.device)
            model.zero_grad(set_to_none=True)
            if step >= 2:
                waits.append(waited)
                shares.append(waited / (time.perf_counter() - start))
    print(
        f"{config.cell}, clips of {config.frames} frames at {config.image_size} px: {drawn:.0f} a second "
        "drawn by one process; "
        f"{prepared:.0f} prepared by {workers}, their start included; {statistics.median(read):.0f} read by "
        f"{workers} "
        f"({span(min(read), max(read), 0, signed=False)}); "
        f"waiting for data {statistics.median(shares):.2%} of a training step "
        f"(at most {max(shares):.2%}, {max(waits) * 1000:.0f} ms)"
    )
    return dict(
        drawn=drawn, prepared=prepared, read=statistics.median(read), waiting=statistics.median(shares)
    )


def _reading_rate(dataset, collator, workers: int, batch: int = 16, clips: int = 2000) -> float:
    """Clips a second through the loader, from its first batch on."""
    batches = iter(loader(dataset, [range(i, i + batch) for i in range(0, clips, batch)], collator, workers))
    next(batches)
    start = time.perf_counter()
    return sum(len(b) for b in batches) / (time.perf_counter() - start)


def bench_gaze(config: RunConfig, repeats: int = 5) -> dict:
    """How long a gaze takes, and how quickly the explorer reacts from a cached one, by a run of a single
    step.

    Prints and returns milliseconds in the kernel, each the median of `repeats`, with the highest: a new clip
    (vision model, gaze, text, drawing), a new frame, another map, a patch hidden; and seconds for the causal
    gaze of a clip."""
    import numpy as np

    from fvlm.gaze.attention import causal_gaze
    from fvlm.training.launch import train
    from fvlm.widgets.gaze import Explorer

    with tempfile.TemporaryDirectory() as folder:
        short = dict(steps=1, eval_every=1, eval_samples=1, effective_batch=1, dataset="shapes", out=folder)
        run = train(dataclasses.replace(config, **short))
        explorer = Explorer(run, clips=repeats + 1)
        frames = [1 + t % 2 for t in range(1, repeats + 1)]
        layers = [i % 2 for i in range(repeats)]
        actions = dict(
            new_clip=[lambda i=i: setattr(explorer.clip, "value", i + 1) for i in range(repeats)],
            frame=[lambda t=t: setattr(explorer.frame, "value", t) for t in frames],
            map=[lambda i=i: setattr(explorer.map, "value", i) for i in layers],
            hide_patch=[lambda i=i: explorer.toggle(i % 8, 0) for i in range(repeats)],
        )
        times = {name: [1000 * _seconds(act) for act in acts] for name, acts in actions.items()}
        clip = run.validation_clips(1)[0]
        causal = [
            _seconds(lambda: causal_gaze(run.model, clip, run.tokenizer, config.task)) for _ in range(repeats)
        ]
    shown = ", ".join(
        f"{name.replace('_', ' ')} {np.median(ms):.0f} ms (at most {max(ms):.0f})"
        for name, ms in times.items()
    )
    print(
        f"{config.cell}, {config.device}: {shown}; causal gaze of a clip {np.median(causal):.1f} s (at most "
        f"{max(causal):.1f})"
    )
    return {name: float(np.median(ms)) for name, ms in times.items()} | dict(
        causal_seconds=float(np.median(causal))
    )


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
