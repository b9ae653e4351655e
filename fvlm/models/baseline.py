"""The baseline, 16 visual tokens per frame as in SmolVLM, and two controls without queries.

B batch, T frames, P patches, D vision width, W LLM width.
"""

import torch
from torch import nn

from fvlm.models.base import VideoLanguageModel
from fvlm.models.vision import FoveatedEncoder

TOKENS_PER_SIDE = 4  # 16 tokens per frame, whatever the patch grid


class BaselineVLM(VideoLanguageModel):
    """The same DINOv2; its patches, space-to-depth, through an MLP: 16 visual tokens per frame."""

    def build_vision(self, config):
        return FoveatedEncoder(config.vision_config, foveal=False)

    def build_connector(self, config):
        factor = config.image_size // config.vision_config.patch_size // TOKENS_PER_SIDE
        width = config.llm_config.hidden_size
        self.connector = nn.Sequential(
            nn.Linear(factor**2 * config.vision_config.hidden_size, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )

    def visual_tokens(self, cache, mode, queries=None, **prompt_and_masks):
        blocks = space_to_depth(
            self.standardise(cache.patches), cache.grid, TOKENS_PER_SIDE
        )  # (B, T, 16, factor² D)
        if blocks.size(-1) != self.connector[0].in_features:
            raise ValueError(
                f"a baseline for {self.config.image_size}-pixel frames got a patch grid of {cache.grid}"
            )
        return self.scale(self.connector(blocks)), None

    def features(self, cache):
        return cache.patches


class MeanPoolVLM(VideoLanguageModel):
    """The control that sees everything at once: the mean patch, one visual token per frame."""

    def build_vision(self, config):
        return FoveatedEncoder(config.vision_config, foveal=False)

    def build_connector(self, config):
        self.project = nn.Linear(config.vision_config.hidden_size, config.llm_config.hidden_size)

    def visual_tokens(self, cache, mode, queries=None, **prompt_and_masks):
        return self.scale(self.project(self.standardise(self.features(cache)))), None

    def features(self, cache):
        return cache.patches.mean(dim=2, keepdim=True)  # (B, T, 1, D)


class BlindVLM(VideoLanguageModel):
    """The control that sees nothing: no vision model, no visual token."""

    def visual_tokens(self, cache, mode, queries=None, **prompt_and_masks):
        return None, None


def space_to_depth(patches: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Join neighbouring patches: (..., h w, D) to (..., side², (h / side)(w / side) D).

    Rows first, both among the blocks and inside a block, as SmolVLM's pixel shuffle orders them.
    ValueError if the grid does not divide."""
    h, w = grid
    if h % side or w % side:
        raise ValueError(f"a grid of {h} x {w} patches does not divide into {side} x {side} blocks")
    x = patches.unflatten(-2, (side, h // side, side, w // side))  # (..., side, h', side, w', D)
    return x.transpose(-3, -4).flatten(-3).flatten(-3, -2)
