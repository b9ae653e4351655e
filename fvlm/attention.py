"""Where a model looks, and whether it matters. With one query per frame the query's attention is the whole visual channel.

T frames, H heads, h x w patches, Q query width, N = 1 + h w tokens (CLS first).
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from fvlm.data.clips import Clip, Collator
from fvlm.models import FoveatedVLM, StaticVLM
from fvlm.models.vision import FrameCache

SUMMARIES = {
    "mean": "the mean over all layers and heads",
    "last": "the mean over the heads of the last layer, nearest to the token",
    "selective": "the one head, of all layers, whose attention on this clip has the least entropy",
    "value": "attention times the length of what it carries into the token, summed over layers and heads, as shares of the whole",
}


@dataclass
class Gaze:
    """The attention of every layer and head on every frame of one clip: exactly the weights the model used."""

    maps: np.ndarray  # (T, layers, H, h, w): attention on each patch
    cls_mass: np.ndarray  # (T, layers, H): attention on CLS; with the patches it sums to 1
    queries: np.ndarray  # (T, Q)
    frames: np.ndarray  # (T, 3, S, S) uint8
    mode: str
    caption: str = ""  # what the model says of the clip; "" without a tokenizer
    carried: np.ndarray | None = field(default=None, repr=False)  # (T, layers, H, h, w): length of each patch's value in the token

    def map(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Attention on each patch (T, h, w): a summary of SUMMARIES, or that of one layer, of one head of it or their mean.

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

    def mean(self) -> np.ndarray:
        """Attention on each patch (T, h, w), the mean over all layers and heads."""
        return self.map("mean")

    def most_selective(self) -> tuple[int, int]:
        """Layer and head whose attention over CLS and patches has the least entropy, the mean over frames."""
        weights = np.concatenate([self.cls_mass[..., None], self.maps.reshape(*self.maps.shape[:3], -1)], axis=-1)
        layer, head = np.unravel_index(_entropy(weights).mean(axis=0).argmin(), self.maps.shape[1:3])
        return int(layer), int(head)

    def entropy(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Entropy in nats (T,) of a map's distribution over patches: log(h w) when it is uniform, 0 on a single patch."""
        shares = _as_shares(self.map(summary, layer, head))
        return _entropy(shares.reshape(len(shares), -1))

    def fixations(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """The attention-weighted centre of a map in pixels (T, 2): x, y."""
        weights = _as_shares(self.map(summary, layer, head))
        h, w = weights.shape[1:]
        height, width = self.frames.shape[2:]
        x = (weights.sum(axis=1) * (np.arange(w) + 0.5)).sum(axis=1) * width / w
        y = (weights.sum(axis=2) * (np.arange(h) + 0.5)).sum(axis=1) * height / h
        return np.stack([x, y], axis=1)

    def peaks(self, summary: str = "mean", layer: int | None = None, head: int | None = None) -> np.ndarray:
        """The centre of the most attended patch in pixels (T, 2): x, y."""
        maps = self.map(summary, layer, head)
        rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:])
        height, width = self.frames.shape[2:]
        return np.stack([(columns + 0.5) * width / maps.shape[2], (rows + 0.5) * height / maps.shape[1]], axis=1)


def _as_shares(maps: np.ndarray) -> np.ndarray:
    """Maps (T, h, w) that sum to 1 in every frame."""
    return maps / maps.sum(axis=(1, 2), keepdims=True)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.maximum(shares, 1e-30))).sum(axis=-1)


@torch.no_grad()
def gaze(model: StaticVLM, clip: Clip, mode: str = "autoregressive", tokenizer=None, task: str = "caption") -> Gaze:
    """Where `model` looks in each frame of `clip`.

    mode: static, parallel (queries from the coarse pass) or autoregressive (as at inference). With a tokenizer the
    clip's question is asked first, if that is the task, and `caption` is what the model says.
    TypeError for a model without queries."""
    _needs_queries(model)
    prompt = _prompt(model, clip, tokenizer, task) if tokenizer is not None else {}
    cache = model.encode(torch.from_numpy(clip.frames)[None].to(model.device))
    queries = model(cache, **prompt, mode=mode).queries  # (1, T, Q)
    _, attention = model.vision.look(queries, cache, return_attention=True)  # (1, T, layers, H, N)
    attention = attention[0].float().cpu().numpy()
    caption = ""
    if tokenizer is not None:
        caption = tokenizer.decode(model.generate(cache, **prompt, mode=mode, queries=queries)[0]).strip()
    maps = attention[..., 1:].reshape(*attention.shape[:-1], *cache.grid)
    return Gaze(
        maps=maps,
        cls_mass=attention[..., 0],
        queries=queries[0].float().cpu().numpy(),
        frames=clip.frames,
        mode=mode if isinstance(model, FoveatedVLM) else "static",
        caption=caption,
        carried=carried_lengths(model, cache)[0].reshape(maps.shape),
    )


def carried_lengths(model: StaticVLM, cache: FrameCache) -> np.ndarray:
    """How long the vector is that each patch adds to a query's state if all attention falls on it: (B, T, layers, H, P).

    The value's way into the state: a head's part of the output projection, then the layer scale."""
    lengths = []
    for layer, values in zip(model.vision.dinov2.encoder.layer, cache.values):
        weight = layer.attention.o_proj.weight * layer.layer_scale1.lambda1[:, None]  # (D, D)
        heads = weight.unflatten(1, (values.size(2), -1)).transpose(0, 1)  # (H, D, d)
        lengths.append((values[..., 1:, :] @ heads.transpose(1, 2)).norm(dim=-1))  # (B, T, H, P)
    return torch.stack(lengths, dim=2).float().cpu().numpy()


def _needs_queries(model):
    if not isinstance(model, StaticVLM):
        raise TypeError(f"{type(model).__name__} has no queries, so it has no gaze; foveated and static models have one")


def _prompt(model, clip: Clip, tokenizer, task: str) -> dict:
    if task != "question":
        return {}
    batch = Collator(tokenizer, task)([clip])
    return dict(prompt_ids=batch.prompt_ids.to(model.device), prompt_mask=batch.prompt_mask.to(model.device))


# ── Does it matter? ──────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def masked_losses(model: StaticVLM, clip: Clip, hidden: np.ndarray, tokenizer, task: str, mode="autoregressive") -> np.ndarray:
    """Text loss, nats per token, with patches of the clip out of the queries' sight: (variants,).

    hidden: (variants, T, h, w), True where a patch is hidden. The queries stay those of the unhidden clip, so that
    nothing changes but what they bring back. All variants run as one batch."""
    cache, inputs, queries = _looked(model, clip, tokenizer, task, mode)
    patches = torch.from_numpy(np.asarray(hidden, bool)).flatten(2).to(model.device)  # (variants, T, P)
    return _losses(model, cache.repeat(len(patches)).hide(patches), queries, inputs)


@torch.no_grad()
def shifted_losses(
    model: StaticVLM, clip: Clip, shifts: list[tuple[int, int]], tokenizer, task: str, mode="autoregressive"
) -> np.ndarray:
    """Text loss, nats per token, with the whole gaze map moved by (down, across) patches: (shifts,)."""
    cache, inputs, queries = _looked(model, clip, tokenizer, task, mode)
    return np.concatenate([_losses(model, cache.shift(*shift), queries, inputs) for shift in shifts])


def _looked(model, clip, tokenizer, task, mode):
    """A clip's cache, the rest of its batch, and the queries the model sends to it."""
    _needs_queries(model)
    inputs = Collator(tokenizer, task)([clip]).inputs(model.device)
    cache = model.encode(inputs.pop("frames"))
    asked = {name: inputs[name] for name in ("prompt_ids", "prompt_mask") if name in inputs}
    return cache, inputs, model(cache, **asked, mode=mode).queries


def _losses(model, cache: FrameCache, queries, inputs: dict) -> np.ndarray:
    repeated = {name: x.expand(cache.batch_size, *x.shape[1:]) for name, x in inputs.items()}
    out = model(cache, **repeated, queries=queries.expand(cache.batch_size, -1, -1))
    return (out.token_losses.sum(1) / out.text_mask.sum(1)).double().cpu().numpy()


def causal_gaze(
    model: StaticVLM,
    clip: Clip,
    tokenizer,
    task: str,
    counts=(1, 2, 4, 8, 16),
    draws: int = 8,
    summary: str = "mean",
    seed: int = 0,
) -> list[dict]:
    """How much the loss rises when patches are hidden: rows of `what`, `patches`, `loss`, `change` (nats per token).

    what: "most attended" (the `patches` most attended of every frame), "random" (as many at random, `draws` times),
    "target" and "elsewhere" (the box of the object asked about, and as many patches outside it), "shifted" (the whole
    map moved by half the grid). A gaze that matters loses more by the first than by the second."""
    look = gaze(model, clip, tokenizer=tokenizer, task=task)
    T, h, w = look.map(summary).shape
    rng = np.random.default_rng(seed)
    variants = [("nothing", 0, np.zeros((T, h, w), bool))]
    ranked = np.argsort(-look.map(summary).reshape(T, -1), axis=1)
    for count in (c for c in counts if c < h * w):
        variants.append(("most attended", count, _mask(ranked[:, :count], h, w)))
        for _ in range(draws):
            variants.append(("random", count, _mask(np.stack([rng.permutation(h * w)[:count] for _ in range(T)]), h, w)))
    if clip.boxes is not None and clip.target >= 0:
        box = patches_of_boxes(clip.boxes[:, clip.target], clip.frames.shape[-1], (h, w))
        variants.append(("target", int(box.sum(axis=(1, 2)).max()), box))
        for _ in range(draws):
            outside = [rng.permutation(np.flatnonzero(~b))[: b.sum()] for b in box]
            variants.append(("elsewhere", int(box.sum(axis=(1, 2)).max()), np.stack([_mask(o[None], h, w)[0] for o in outside])))
    losses = masked_losses(model, clip, np.stack([hidden for *_, hidden in variants]), tokenizer, task)
    rows = [dict(what=what, patches=n, loss=loss, change=loss - losses[0]) for (what, n, _), loss in zip(variants, losses)]
    for loss in shifted_losses(model, clip, [(h // 2, 0), (0, w // 2), (h // 2, w // 2)], tokenizer, task):
        rows.append(dict(what="shifted", patches=0, loss=loss, change=loss - losses[0]))
    return rows


def _mask(patches: np.ndarray, h: int, w: int) -> np.ndarray:
    """Patch numbers per frame (T, k) to a mask (T, h, w)."""
    mask = np.zeros((len(patches), h * w), bool)
    np.put_along_axis(mask, patches, True, axis=1)
    return mask.reshape(-1, h, w)


def patches_of_boxes(boxes: np.ndarray, size: int, grid: tuple[int, int]) -> np.ndarray:
    """The patches (T, h, w) that boxes (T, 4), in pixels of a frame of side `size`, touch; none for an empty box."""
    h, w = grid
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    left, top = np.arange(w)[None, None] * size / w, np.arange(h)[None, :, None] * size / h
    return (left < x1) & (left + size / w > x0) & (top < y1) & (top + size / h > y0) & (x1 > x0)
