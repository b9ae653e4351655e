"""From a `RunConfig` to batches: which clips a step sees, in which order, drawn or read by worker
processes."""

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import DataLoader

from fvlm.config import BUILT_IN, REPOSITORY, ConfigError, RunConfig
from fvlm.data.clips import Batch, Collator
from fvlm.data.mix import check_mix, is_mix, open_mix
from fvlm.data.mixture import InTurns
from fvlm.data.prepared import open_prepared, parse_mixture
from fvlm.data.shapes import open_shapes
from fvlm.data.siblings import parse_world
from fvlm.data.store import FeatureStore, Known

POLL = 5  # seconds after which it is looked whether the processes that read still live
PATIENCE = 300  # seconds without a batch after which others take over


def open_dataset(config: RunConfig, split: str):
    """The clips of a split, "train" or "validation", by their position in the run's order.

    It has a `fingerprint`; one without a length never runs out. Training clips come in the order of the run's
    seed, validation clips in the same order for every run. ConfigError for a dataset that is not there or
    does not fit."""
    check_dataset(config.dataset)
    if is_mix(config.dataset):
        return open_mix(config, split)
    if config.dataset.partition(":")[0] in BUILT_IN:
        world = parse_world(config.dataset, frames=config.frames, size=config.image_size)
        return open_shapes(world, split, config.seed)
    return open_prepared(
        config.dataset, split, config.frames, config.image_size, config.seed if split == "train" else 0
    )


def check_dataset(dataset: str):
    """ConfigError unless `dataset` is `shapes`, `shapes:setting=value,…` or a sibling of it, a folder, or
    folders with weights that are there, or a mix all of whose folders are.

    Cheap: nothing is opened. For what must know before anything is trained."""
    if is_mix(dataset):
        check_mix(dataset)
        return
    if dataset.partition(":")[0] in BUILT_IN:
        parse_world(dataset)
        return
    for folder, _ in parse_mixture(dataset):
        if not Path(folder).is_dir():
            raise ConfigError(
                f"dataset = {folder!r}: no such folder, nor in {REPOSITORY}; valid are "
                f"{', '.join(BUILT_IN)}, the folder of a prepared dataset, or a mix's file"
            )


def training_batches(
    config: RunConfig,
    collator: Collator,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    store: FeatureStore | None = None,
) -> Iterator[Batch]:
    """One batch per step from `start_step` on: `effective_batch` clips, a function of seed and step alone.

    With several processes (`world`) each gets its part of the same clips, of equal size. store: clips whose
    features it has come without their frames."""
    dataset = open_dataset(config, "train")
    size = config.effective_batch
    if size % world:
        raise ConfigError(f"effective_batch = {size} can't be shared equally by {world} processes")
    first = rank * size // world
    steps = [
        range(step * size + first, step * size + first + size // world)
        for step in range(start_step, config.steps)
    ]
    return _loader(dataset, steps, collator, config, store)


def validation_batches(
    config: RunConfig,
    collator: Collator,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    store: FeatureStore | None = None,
) -> Iterator[Batch]:
    """The first `eval_samples` clips of the validation split, or all if it has fewer, the same at every
    evaluation; of a mix, as many of each domain.

    With several processes (`world`) each gets every `world`-th batch, and as many as the others: the first
    ones again where they do not come out even."""
    dataset = open_dataset(config, "validation")
    items = range(
        min(config.eval_samples, len(dataset)) if hasattr(dataset, "__len__") else config.eval_samples
    )
    if isinstance(dataset, InTurns):  # clips of one kind go through a model together
        items = dataset.part_by_part(len(items))
    batches = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
    while len(batches) % world:
        batches.append(batches[0])
    return _loader(dataset, batches[rank::world], collator, config, store)


def _loader(dataset, batches: list[range], collator, config, store: FeatureStore | None) -> "Batches":
    dataset = dataset if store is None else Known(dataset, store)
    gpu = config.device.startswith("cuda")
    workers = min(8, os.cpu_count() or 1) if gpu else 1  # on a CPU the training itself wants the cores
    return Batches(dataset, batches, collator, workers=min(workers, len(batches)), pin_memory=gpu)


class Batches:
    """An iterator over batches of the clips at given positions, in their order, read ahead by `workers`
    processes (0: by this one).

    A process that was forked while another thread held a lock can wait for that lock forever. So where no
    batch comes for PATIENCE seconds others take over at that batch, with a warning; those may take twice as
    long, as it may also be a slow disk."""

    def __init__(self, dataset, batches: list, collator, workers: int, pin_memory: bool = False):
        self._batches, self._given, self._patience = batches, 0, PATIENCE
        self._settings = dict(collate_fn=collator, num_workers=workers, pin_memory=pin_memory)
        if workers:
            self._settings |= dict(prefetch_factor=2, timeout=POLL)
        self._dataset = dataset
        self._begin()

    def _begin(self):
        left = self._batches[self._given :]
        self._reading = iter(DataLoader(self._dataset, batch_sampler=left, **self._settings))

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        asked = time.monotonic()
        while True:
            try:
                batch = next(self._reading)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out after"):  # torch has no class of its own
                    raise
                if time.monotonic() - asked < self._patience:
                    continue
                warnings.warn(
                    f"no batch for {self._patience:.0f} s: other processes read the clips now", stacklevel=2
                )
                self._patience, self._reading = 2 * self._patience, None  # None: ends those that hang
                self._begin()
                asked = time.monotonic()
            else:
                self._given += 1
                return batch
