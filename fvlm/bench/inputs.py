"""Random clips with random texts: time, memory and equality of devices are measured on them."""

import torch

from fvlm.config import RunConfig
from fvlm.data import Batch
from fvlm.data.clips import IGNORE

TEXT_TOKENS = 32


def random_batch(config: RunConfig, samples: int, uneven: bool = False) -> Batch:
    """`samples` clips of random pixels in the cell's frames and size, with TEXT_TOKENS random text tokens
    each, on the CPU. uneven: texts of different lengths, the shortest half as long as the longest."""
    generator = torch.Generator().manual_seed(config.seed)
    size = (samples, config.frames, 3, config.image_size, config.image_size)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.randint(3, 400, (samples, TEXT_TOKENS), generator=generator)
    if uneven:
        for i in range(1, samples):
            labels[i, TEXT_TOKENS - i * TEXT_TOKENS // (2 * samples) :] = IGNORE
    return Batch(frames, labels, None, None, None, [str(i) for i in range(samples)])
