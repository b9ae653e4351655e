"""What a model is given besides frames and text, and what its LLM has read so far."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache


@dataclass(frozen=True)
class PromptAndMasks:
    """What a model is given besides frames and text; None where there is none.

    prompt_ids: (B, M), tokens of the prompt, at least one per clip. prompt_mask: (B, M), False for padding
    after a shorter prompt. frame_mask: (B, T), False for padding after a shorter clip."""

    prompt_ids: torch.Tensor | None = None
    prompt_mask: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None


NO_PROMPT = PromptAndMasks()  # and nothing is padding


@dataclass
class Context:
    """What the LLM has read so far, where it reads a sequence in parts."""

    cache: DynamicCache  # keys and values of all S positions
    mask: torch.Tensor  # (B, S), False for padding
