"""What time, memory and equality of devices are measured on: models of random weights, random clips, random
texts."""

import torch

from fvlm.config import RunConfig
from fvlm.data import Batch
from fvlm.data.clips import IGNORE
from fvlm.models import build_model
from fvlm.training.loop import compile_backbones

TEXT_TOKENS = 32


def random_model(config: RunConfig):
    """A cell's model with random weights on its device, compiled where its training would be."""
    with torch.device(config.device):  # billions of random numbers take a CPU minutes
        model = build_model(config, pretrained=False)
    if config.compile:
        compile_backbones(model)
    return model


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
