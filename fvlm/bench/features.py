"""What the feature store is worth: training with it filled, and without it."""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator

import torch

from fvlm.bench.inputs import random_model
from fvlm.bench.turns import times
from fvlm.config import RunConfig
from fvlm.costs.machine import synchronize
from fvlm.costs.memory import MicroBatch
from fvlm.data import Collator, training_batches
from fvlm.training.distributed import Processes
from fvlm.training.features import Features, fill
from fvlm.training.loop import frozen_weights, training_step
from fvlm.training.optimizer import make_optimizer
from fvlm.weights import load_tokenizer

THREADS = 1

CELLS = {  # measured where none is named, with what they have besides their names
    "T1-T_8f_fov": {},
    "T1-T_8f_bas": {},
    "T3-T_8f_fov": {},
    "T5-T_8f_fov": {},
    "T2-T_2f_fov": dict(task="question", vision_layers=6, fine_passes=3, effective_batch=32),
}


def bench_features(config: RunConfig, samples: int | None = None, repeats: int = 5) -> dict:
    """Clips a second of training steps that read a filled feature store and of steps that compute, in turns.

    samples: clips in a step, by default the cell's own number. With one thread, as a grid's small cells run.
    Loading is part of a step, filling is not. The store is a temporary one. Prints and returns both rates
    (medians of `repeats` after one step each to warm up) and `ratio`, the median of the turns' own, with the
    lowest and highest. ValueError if the vision model is not frozen."""
    samples = samples or config.effective_batch
    config = dataclasses.replace(
        config, dataset="shapes", effective_batch=samples, eval_samples=1, steps=repeats + 1
    )
    seconds = {True: [], False: []}
    model = random_model(config)
    collator = Collator(load_tokenizer(config.llm), config.task)
    with _temporary_store(), _threads(THREADS):
        fill(config, model, None)
        features = Features(config, model)
        stored = training_batches(config, collator, store=features.store)
        drawn = training_batches(config, collator)
        optimizer, micro = make_optimizer(model, config), MicroBatch(samples, False)
        processes = Processes(config)
        with frozen_weights(model, config):
            for step in range(config.steps):
                order = (True, False) if step % 2 else (False, True)
                for reads in order:
                    synchronize(config.device)
                    start = time.perf_counter()
                    batch = next(stored if reads else drawn)
                    training_step(
                        model, optimizer, batch, config, step, micro, processes, features if reads else None
                    )
                    synchronize(config.device)
                    if step:
                        seconds[reads].append(time.perf_counter() - start)
    if features.misses:
        raise RuntimeError(f"{config.cell}: {features.misses} clips were not in the store: too little disk?")
    ratios = [without / reads for reads, without in zip(seconds[True], seconds[False])]
    found = dict(
        cell=config.cell,
        samples=samples,
        threads=THREADS,
        clips_per_second_stored=samples / statistics.median(seconds[True]),
        clips_per_second_computed=samples / statistics.median(seconds[False]),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
    )
    print(
        f"{config.cell}, {samples} clips a step, {config.precision}, {config.device}, "
        f"{THREADS} thread: {found['clips_per_second_stored']:.1f} clips a second with the store, "
        f"{found['clips_per_second_computed']:.1f} without: {times(found)} times"
    )
    return found


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _temporary_store() -> Iterator[None]:
    """Inside, features are kept in a folder that goes away."""
    before = os.environ.get("FVLM_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FVLM_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["FVLM_CACHE"]
            if before is not None:
                os.environ["FVLM_CACHE"] = before
