"""What a model is given besides frames and text, and what its LLM has read so far."""

import contextlib
from contextvars import ContextVar
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

    def check_frames(self, batch: int, frames: int):
        """ValueError for a mask that says nothing of some of these frames."""
        mask = self.frame_mask
        if mask is not None and (mask.dim() != 2 or mask.size(0) != batch or mask.size(1) < frames):
            raise ValueError(f"frame_mask of shape {tuple(mask.shape)}: expected ({batch}, {frames})")

    def check_prompt(self):
        """ValueError for a mask that is not of the prompt, or of no prompt."""
        ids, mask = self.prompt_ids, self.prompt_mask
        if mask is not None and (ids is None or mask.shape != ids.shape):
            expected = "no prompt_mask without prompt_ids" if ids is None else f"expected {tuple(ids.shape)}"
            raise ValueError(f"prompt_mask of shape {tuple(mask.shape)}: {expected}")


NO_PROMPT = PromptAndMasks()  # and nothing is padding
LARGEST = 20.0  # of normalised pixels, which lie between -2.2 and 2.7


_RECORDING = ContextVar("recording", default=False)


@contextlib.contextmanager
def recording():
    """Inside, what is computed asks the device for no values, as where it becomes a CUDA graph."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def is_recorded() -> bool:
    """Whether what is computed becomes a graph, torch.compile's or CUDA's, which can't ask for values."""
    return torch.compiler.is_compiling() or _RECORDING.get()


def as_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Frames (…) of any integer type as uint8, those of floats as they are. ValueError for integers that are
    no pixels, and floats that are not normalised."""
    if frames.dtype == torch.uint8 or is_recorded():
        return frames
    low, high = (float(value) for value in frames.aminmax()) if frames.numel() else (0.0, 0.0)
    if frames.is_floating_point():
        if max(-low, high) > LARGEST:
            raise ValueError(
                f"frames of floats from {low:g} to {high:g}: expected normalised ones, or pixels as integers"
            )
        return frames
    if frames.dtype == torch.bool or low < 0 or high > 255:
        raise ValueError(
            f"frames of {frames.dtype} from {low:g} to {high:g}: expected integers from 0 to 255"
        )
    return frames.to(torch.uint8)


@dataclass
class Context:
    """What the LLM has read so far, where it reads a sequence in parts."""

    cache: DynamicCache  # keys and values of all S positions
    mask: torch.Tensor  # (B, S), False for padding
