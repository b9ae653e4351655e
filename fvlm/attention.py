"""Where a model looks. With one query per frame the query's attention is the whole visual channel.

T frames, H heads, h x w patches, Q query width.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fvlm.data.clips import Clip, Collator
from fvlm.models import FoveatedVLM, StaticVLM


@dataclass
class Gaze:
    """The attention of every layer and head on every frame of one clip: exactly the weights the model used."""

    maps: np.ndarray  # (T, layers, H, h, w): attention on each patch
    cls_mass: np.ndarray  # (T, layers, H): attention on CLS; with the patches it sums to 1
    queries: np.ndarray  # (T, Q)
    frames: np.ndarray  # (T, 3, S, S) uint8
    mode: str
    caption: str = ""  # what the model says of the clip; "" without a tokenizer

    def mean(self) -> np.ndarray:
        """Attention on each patch (T, h, w), the mean over all layers and heads."""
        return self.maps.mean(axis=(1, 2))

    def fixations(self) -> np.ndarray:
        """The attention-weighted centre of `mean()` in pixels (T, 2): x, y."""
        weights = self.mean()
        h, w = weights.shape[1:]
        weights = weights / weights.sum(axis=(1, 2), keepdims=True)
        height, width = self.frames.shape[2:]
        x = (weights.sum(axis=1) * (np.arange(w) + 0.5)).sum(axis=1) * width / w
        y = (weights.sum(axis=2) * (np.arange(h) + 0.5)).sum(axis=1) * height / h
        return np.stack([x, y], axis=1)


@torch.no_grad()
def gaze(model: StaticVLM, clip: Clip, mode: str = "autoregressive", tokenizer=None, task: str = "caption") -> Gaze:
    """Where `model` looks in each frame of `clip`.

    mode: static, parallel (queries from the coarse pass) or autoregressive (as at inference). With a tokenizer the
    clip's question is asked first, if that is the task, and `caption` is what the model says.
    TypeError for a model without queries."""
    if not isinstance(model, StaticVLM):
        raise TypeError(f"{type(model).__name__} has no queries, so it has no gaze; foveated and static models have one")
    prompt = {}
    if tokenizer is not None and task == "question":
        batch = Collator(tokenizer, task)([clip])
        prompt = dict(prompt_ids=batch.prompt_ids.to(model.device), prompt_mask=batch.prompt_mask.to(model.device))
    cache = model.encode(torch.from_numpy(clip.frames)[None].to(model.device))
    queries = model(cache, **prompt, mode=mode).queries  # (1, T, Q)
    _, attention = model.vision.look(queries, cache, return_attention=True)  # (1, T, layers, H, 1 + P)
    attention = attention[0].float().cpu().numpy()
    caption = ""
    if tokenizer is not None:
        caption = tokenizer.decode(model.generate(cache, **prompt, mode=mode, queries=queries)[0]).strip()
    return Gaze(
        maps=attention[..., 1:].reshape(*attention.shape[:-1], *cache.grid),
        cls_mass=attention[..., 0],
        queries=queries[0].float().cpu().numpy(),
        frames=clip.frames,
        mode=mode if isinstance(model, FoveatedVLM) else "static",
        caption=caption,
    )
