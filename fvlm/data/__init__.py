"""Clips, where they come from and how they become batches."""

from fvlm.data.clips import Batch, Clip, Collator
from fvlm.data.loading import check_dataset, open_dataset, training_batches, validation_batches
from fvlm.data.prepared import PreparedDataset
from fvlm.data.shapes import ShapesDataset, ShapesWorld

__all__ = [
    "Batch",
    "Clip",
    "Collator",
    "PreparedDataset",
    "ShapesDataset",
    "ShapesWorld",
    "check_dataset",
    "open_dataset",
    "training_batches",
    "validation_batches",
]
