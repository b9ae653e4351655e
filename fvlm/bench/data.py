"""The way of a clip from pixels to a training step."""

import dataclasses
import statistics
import tempfile
import time

from fvlm.bench.inputs import random_model
from fvlm.config import RunConfig
from fvlm.costs.machine import synchronize
from fvlm.data import Collator, PreparedDataset, ShapesWorld, training_batches
from fvlm.data.loading import Batches
from fvlm.data.prepare import Settings, prepare
from fvlm.data.prepared import Shuffled
from fvlm.text import span
from fvlm.training.loop import accumulate_gradient
from fvlm.weights import load_tokenizer


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
        dataset = Shuffled(PreparedDataset(folder, "train"), seed=0)
        read = [_reading_rate(dataset, collator, workers) for _ in range(repeats)]

        config = dataclasses.replace(config, dataset=folder, effective_batch=samples, steps=repeats + 2)
        model = random_model(config).train()
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
    """Clips a second through `Batches`, from the first one on."""
    batches = Batches(dataset, [range(i, i + batch) for i in range(0, clips, batch)], collator, workers)
    next(batches)
    start = time.perf_counter()
    return sum(len(b) for b in batches) / (time.perf_counter() - start)
