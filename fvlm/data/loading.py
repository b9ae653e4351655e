"""From a `RunConfig` to batches: which clips a step sees, in which order, drawn or read by worker processes."""

import os
from collections.abc import Iterator

from torch.utils.data import DataLoader

from fvlm.config import ConfigError, RunConfig
from fvlm.data.clips import Batch, Collator
from fvlm.data.shapes import ShapesDataset, ShapesWorld


def open_dataset(config: RunConfig, split: str):
    """The clips of a split, "train" or "validation", as a map-style dataset of `Clip`.

    It has a `fingerprint`; one without a length never runs out. ConfigError for a dataset that is not there."""
    if config.dataset == "shapes":
        return ShapesDataset(ShapesWorld(frames=config.frames, size=config.image_size), split, config.seed)
    raise ConfigError(f"dataset = {config.dataset!r}: no prepared dataset there; built in is shapes")


def training_batches(config: RunConfig, collator: Collator, start_step: int = 0) -> Iterator[Batch]:
    """One batch of `effective_batch` clips per step from `start_step` on: a function of seed and step alone."""
    dataset = open_dataset(config, "train")
    size = config.effective_batch
    steps = [range(step * size, (step + 1) * size) for step in range(start_step, config.steps)]
    return iter(_loader(dataset, steps, collator, config))


def validation_batches(config: RunConfig, collator: Collator, batch_size: int) -> Iterator[Batch]:
    """The first `eval_samples` clips of the validation split, the same at every evaluation of every run."""
    dataset = open_dataset(config, "validation")
    items = range(config.eval_samples)
    return iter(_loader(dataset, [items[i : i + batch_size] for i in range(0, len(items), batch_size)], collator, config))


def _loader(dataset, batches: list[range], collator, config) -> DataLoader:
    gpu = config.device.startswith("cuda")
    workers = min(8, os.cpu_count() or 1) if gpu else 1  # on a CPU the training itself wants the cores
    return DataLoader(
        dataset, batch_sampler=batches, collate_fn=collator, num_workers=min(workers, len(batches)),
        pin_memory=gpu, prefetch_factor=2 if batches else None,
    )  # fmt: skip
