"""Where queries looked: the attention of every layer and head, as numbers.

T frames, H heads, h x w patches, Q query width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fvlm.models.vision import FrameCache

SUMMARIES = {
    "mean": "the mean over all layers and heads",
    "last": "the mean over the heads of the last layer, nearest to the token",
    "selective": "the one head, of all layers, whose attention on this clip has the least entropy",
    "value": "attention times the length of what it adds to the query's state, summed over layers and heads, "
    "as shares among patches; what is read beside the state is not in it",
}


@dataclass
class Gaze:
    """The attention of every layer and head on every frame of one clip: exactly the weights the model used,
    of several looks at a frame their mean."""

    maps: np.ndarray  # (T, layers, H, h, w): attention on each patch
    cls_mass: np.ndarray  # (T, layers, H): attention on CLS; with the patches it sums to 1
    queries: np.ndarray  # (T, Q)
    frames: np.ndarray  # (T, 3, S, S) uint8
    mode: str
    caption: str = ""  # what the model says of the clip; "" without a tokenizer
    carried: np.ndarray | None = field(
        default=None, repr=False
    )  # (T, layers, H, h, w): length of what each patch's value adds to the query's state

    def of_frames(self, frames: Sequence[int]) -> "Gaze":
        """The same gaze in some of its frames, by their numbers from 0."""
        arrays = ("maps", "cls_mass", "queries", "frames", "carried")
        kept = {name: getattr(self, name) for name in arrays if getattr(self, name) is not None}
        return replace(self, **{name: array[list(frames)] for name, array in kept.items()})

    def map(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Attention on each patch (T, h, w): a summary of SUMMARIES, or that of one layer, of one head of it
        or their mean.

        ValueError on an unknown summary."""
        if layer is not None:
            maps = self.maps[:, layer]
            return maps.mean(axis=1) if head is None else maps[:, head]
        if summary == "mean":
            return self.maps.mean(axis=(1, 2))
        if summary == "last":
            return self.maps[:, -1].mean(axis=1)
        if summary == "selective":
            layer, head = self.most_selective()
            return self.maps[:, layer, head]
        if summary == "value":
            weighted = (self.maps * self.carried).sum(axis=(1, 2))
            return _as_shares(weighted)
        raise ValueError(f"summary {summary!r}: valid are {', '.join(SUMMARIES)}")

    def resolved(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> dict:
        """Arguments of `map` that mean one and the same map for every gaze and every part of this one: for
        "selective" the layer and head that it is here."""
        if layer is not None:
            return dict(layer=layer, head=head)
        return (
            dict(zip(("layer", "head"), self.most_selective()))
            if summary == "selective"
            else dict(summary=summary)
        )

    def most_selective(self) -> tuple[int, int]:
        """Layer and head whose attention over CLS and patches has the least entropy, the mean over frames."""
        weights = np.concatenate(
            [self.cls_mass[..., None], self.maps.reshape(*self.maps.shape[:3], -1)], axis=-1
        )
        layer, head = np.unravel_index(_entropy(weights).mean(axis=0).argmin(), self.maps.shape[1:3])
        return int(layer), int(head)

    def entropy(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Entropy in nats (T,) of a map's distribution over patches: log(h w) when it is uniform, 0 on a
        single patch."""
        shares = _as_shares(self.map(summary, layer, head))
        return _entropy(shares.reshape(len(shares), -1))

    def fixations(
        self, summary: str = "mean", layer: int | None = None, head: int | None = None
    ) -> np.ndarray:
        """The attention-weighted centre of a map in pixels (T, 2): x, y; NaN where it is zero everywhere."""
        weights = _as_shares(self.map(summary, layer, head))
        h, w = weights.shape[1:]
        height, width = self.frames.shape[2:]
        x = (weights.sum(axis=1) * (np.arange(w) + 0.5)).sum(axis=1) * width / w
        y = (weights.sum(axis=2) * (np.arange(h) + 0.5)).sum(axis=1) * height / h
        points = np.stack([x, y], axis=1)
        points[weights.sum(axis=(1, 2)) == 0] = np.nan
        return points

    def peaks(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """The centre of the most attended patch in pixels (T, 2): x, y."""
        maps = self.map(summary, layer, head)
        rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:])
        height, width = self.frames.shape[2:]
        return np.stack(
            [(columns + 0.5) * width / maps.shape[2], (rows + 0.5) * height / maps.shape[1]], axis=1
        )


def _as_shares(maps: np.ndarray) -> np.ndarray:
    """Maps (T, h, w) that sum to 1 in every frame, or to 0 where all patches are hidden."""
    sums = maps.sum(axis=(1, 2), keepdims=True)
    return maps / np.where(sums > 0, sums, 1)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.maximum(shares, 1e-30))).sum(axis=-1)


@torch.no_grad()
def carried_lengths(model, cache: FrameCache) -> np.ndarray:
    """How long the vector is that each patch adds to a query's state if all attention falls on it: (B, T,
    layers, H, P).

    The value's way into the state: a head's part of the output projection, then the layer scale."""
    lengths = []
    for layer, values in zip(model.vision.dinov2.encoder.layer, cache.values):
        weight = layer.attention.o_proj.weight * layer.layer_scale1.lambda1[:, None]  # (D, D)
        heads = weight.unflatten(1, (values.size(2), -1)).transpose(0, 1)  # (H, D, d)
        lengths.append((values[..., 1:, :] @ heads.transpose(1, 2)).norm(dim=-1))  # (B, T, H, P)
    return torch.stack(lengths, dim=2).float().cpu().numpy()
