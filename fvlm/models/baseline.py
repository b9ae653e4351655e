"""The baseline, 16 visual tokens per frame as in SmolVLM, and two controls without queries.

B batch, T frames, K visual tokens per frame, P patches, D vision width, W LLM width.
"""

import math

import torch
from torch import nn

from fvlm.models.base import NO_PROMPT, VideoLanguageModel
from fvlm.models.vision import FoveatedEncoder

TOKENS_PER_SIDE = 4  # 16 tokens per frame, whatever the patch grid


class BaselineVLM(VideoLanguageModel):
    """DINOv2's patches, joined into a 4 x 4 grid of blocks, through an MLP: 16 visual tokens per frame."""

    def build_vision(self, config):
        return FoveatedEncoder(config.vision_config, foveal=False, frozen=config.freeze_vision)

    def build_connector(self, config):
        factor = config.image_size // config.vision_config.patch_size // TOKENS_PER_SIDE
        width = config.llm_config.hidden_size
        self.connector = nn.Sequential(
            nn.Linear(factor**2 * config.vision_config.hidden_size, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )

    def visual_tokens(self, cache, mode, queries=None, given=NO_PROMPT):
        patches = self.standardise(self.features(cache))  # (B, T, P, D)
        blocks = space_to_depth(patches, cache.grid, TOKENS_PER_SIDE)  # (B, T, 16, factor² D)
        if blocks.size(-1) != self.connector[0].in_features:
            raise ValueError(
                f"a baseline for {self.config.image_size}-pixel frames got a patch grid of {cache.grid}"
            )
        return self.scale(self.connector(blocks)), None  # (B, T, 16, W)

    def features(self, cache):
        return cache.patches  # (B, T, P, D)

    @classmethod
    def visual_token_flops(cls, count, prompt_tokens, mode):
        T, D, W = count.config.frames, count.vision_width, count.llm_width
        blocks, factor = T * TOKENS_PER_SIDE**2, count.grid // TOKENS_PER_SIDE
        first = count.linear(blocks, factor**2 * D, 4 * W, input_grad=not count.config.freeze_vision)
        return dict(vision=count.vision(T), connector=first + count.linear(blocks, 4 * W, W))


class MeanPoolVLM(VideoLanguageModel):
    """The control that does not choose: the mean of a frame's patches, one visual token per frame; of a
    record with more tokens, the means of so many equal parts of the frame, in reading order."""

    def build_vision(self, config):
        return FoveatedEncoder(config.vision_config, foveal=False, frozen=config.freeze_vision)

    def build_connector(self, config):
        self.side = math.isqrt(self.architecture.tokens_per_frame)  # of the grid of parts
        self.project = nn.Linear(config.vision_config.hidden_size, config.llm_config.hidden_size)

    def visual_tokens(self, cache, mode, queries=None, given=NO_PROMPT):
        means = self.standardise(self.features(cache))  # (B, T, K, D)
        return self.scale(self.project(means)), None  # (B, T, K, W)

    def features(self, cache):
        blocks = space_to_depth(cache.patches, cache.grid, self.side)  # (B, T, K, P / K D)
        return blocks.unflatten(-1, (-1, cache.patches.size(-1))).mean(-2)  # (B, T, K, D)

    @classmethod
    def visual_token_flops(cls, count, prompt_tokens, mode):
        T, D, W = count.config.frames, count.vision_width, count.llm_width
        tokens = T * count.config.architecture.tokens_per_frame
        connector = count.linear(tokens, D, W, input_grad=not count.config.freeze_vision)
        return dict(vision=count.vision(T), connector=connector)


class BlindVLM(VideoLanguageModel):
    """The control that sees nothing: no vision encoder, no visual token."""

    def visual_tokens(self, cache, mode, queries=None, given=NO_PROMPT):
        return None, None

    @classmethod
    def visual_token_flops(cls, count, prompt_tokens, mode):
        return {}


def space_to_depth(patches: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """Join neighbouring patches: (..., h w, D) to (..., side², (h / side)(w / side) D), a side x side grid of
    blocks.

    grid: h and w. Blocks, and the patches inside a block, are in reading order, as in SmolVLM's pixel
    shuffle. ValueError if the grid does not divide."""
    h, w = grid
    if h % side or w % side:
        raise ValueError(f"a grid of {h} x {w} patches does not divide into {side} x {side} blocks")
    x = patches.unflatten(-2, (side, h // side, side, w // side))  # (..., side, h', side, w', D)
    return x.transpose(-3, -4).flatten(-3).flatten(-3, -2)
