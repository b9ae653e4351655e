"""Where a model looks, and whether it matters.

All that the LLM gets of a frame is gathered with these attention weights. But from the second layer on a
patch's key and value already hold some of what is around it, CLS holds something of the whole frame, and the
query keeps what earlier layers gave it. So attention on a patch is not yet use of that patch's pixels;
`causal_gaze` hides patches to test whether what is attended to is used.

T frames, H heads, h x w patches, Q query width, N = 1 + h w tokens (CLS first).
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fvlm.architectures import WITH_QUERIES
from fvlm.data.clips import Clip, Collator, plain_ids, text_ids
from fvlm.models import StaticVLM
from fvlm.models.base import VideoLanguageModel
from fvlm.models.looks import Gaze, carried_lengths
from fvlm.models.vision import FrameCache


def gaze(model: StaticVLM, clip, mode: str = "autoregressive", tokenizer=None, task: str = "caption") -> Gaze:
    """Where `model` looks in each frame of `clip`: a `Clip`, or whatever the model's processor reads, such as
    the path of a video or a tensor of frames, sampled as in training.

    mode: static, parallel (queries from the coarse pass) or autoregressive (as at inference). With a
    tokenizer the clip's question is asked first, if that is the task, and `caption` is what the model says.
    TypeError for a model without queries."""
    return EncodedClip(model, as_clip(model, clip), tokenizer, task).gaze(mode)


def as_clip(model: VideoLanguageModel, clip, question: str | None = None) -> Clip:
    """A `Clip` as it is; a path or frames as one, read by the model's processor and asked a question."""
    if isinstance(clip, Clip):
        return clip
    return Clip(
        model.processor.read(clip), "", str(clip) if isinstance(clip, str | Path) else "", question=question
    )


class EncodedClip:
    """One clip through the vision model once, then looked at and masked as often as one likes.

    text: what losses are taken on; without one of the clip's own it is what the model says of it."""

    def __init__(self, model: StaticVLM, clip: Clip, tokenizer=None, task: str = "caption"):
        """TypeError for a model without queries."""
        if not model.architecture.has_queries:
            raise TypeError(
                f"{type(model).__name__} has no queries, so it has no gaze; {' and '.join(WITH_QUERIES)} "
                "models have one"
            )
        self.model, self.tokenizer, self.task = model, tokenizer, task
        with torch.no_grad():
            self.cache = model.encode(torch.from_numpy(clip.frames)[None].to(model.device))
        self._ask(clip)

    def _ask(self, clip: Clip):
        self.clip, self._queries, self._said, self._gazes = clip, {}, {}, {}
        self.prompt = {}
        if self.asks and clip.question:
            ids = self._ids(clip.question)
            self.prompt = dict(prompt_ids=ids, prompt_mask=torch.ones_like(ids, dtype=torch.bool))

    @property
    def asks(self) -> bool:
        """Whether a question comes before the frames."""
        return self.task == "question" and self.tokenizer is not None

    @property
    def question(self) -> str | None:
        """What is asked before the frames; None where the model describes."""
        return self.clip.question if self.asks else None

    def asked(self, clip: Clip) -> "EncodedClip":
        """The same frames with the question and answer of another `Clip`; nothing is encoded again."""
        other = copy(self)
        other._ask(clip)
        return other

    def _ids(self, text: str) -> torch.Tensor:
        return torch.tensor([plain_ids(self.tokenizer, text)], device=self.model.device)

    @torch.no_grad()
    def queries(self, mode: str) -> torch.Tensor:
        """The query (1, T, Q) that the model sends to each frame."""
        if mode not in self._queries:
            self._queries[mode] = self.model(self.cache, **self.prompt, mode=mode).queries
        return self._queries[mode]

    @torch.no_grad()
    def says(self, mode: str = "autoregressive") -> str:
        """The caption or answer the model writes; "" without a tokenizer."""
        if self.tokenizer is None:
            return ""
        if mode not in self._said:
            ids = self.model.generate(self.cache, **self.prompt, mode=mode, queries=self.queries(mode))[0]
            self._said[mode] = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return self._said[mode]

    def gaze(self, mode: str = "autoregressive", write: bool = True) -> Gaze:
        """The `Gaze` in a mode, the same one when asked again; write=False may leave its caption empty, which
        is faster."""
        if mode not in self._gazes:
            self._gazes[mode] = self._gaze(mode)
        if write:
            self._gazes[mode].caption = self.says(mode)
        return self._gazes[mode]

    @torch.no_grad()
    def _gaze(self, mode: str) -> Gaze:
        queries = self.queries(mode)
        attention = self.model.attention(queries, self.cache)  # (1, T, layers, H, N)
        attention = attention[0].float().cpu().numpy()
        maps = attention[..., 1:].reshape(*attention.shape[:-1], *self.cache.grid)
        return Gaze(
            maps=maps,
            cls_mass=attention[..., 0],
            queries=queries[0].float().cpu().numpy(),
            frames=self.clip.frames,
            mode=mode if self.model.modes_differ else "static",
            carried=carried_lengths(self.model, self.cache)[0].reshape(maps.shape),
        )

    def masked_losses(self, hidden: np.ndarray, mode: str = "autoregressive") -> np.ndarray:
        """Text loss, nats per token, with patches out of the queries' sight: (variants,).

        hidden: (variants, T, h, w), True where a patch is hidden. The queries stay those of the unhidden
        clip, so that nothing changes but what they bring back. All variants run as one batch."""
        patches = (
            torch.from_numpy(np.asarray(hidden, bool)).flatten(2).to(self.model.device)
        )  # (variants, T, P)
        return self._losses(self.cache.repeat(len(patches)).hide(patches), mode)

    def without(self, hidden: np.ndarray, mode: str = "autoregressive") -> "WithoutPatches":
        """What happens with patches out of the queries' sight, hidden (T, h, w): every query after the first
        is then made from other states, so the gaze goes elsewhere and the model may say something else.

        The vision model has run before that, so CLS and the other patches still know of the hidden ones."""
        again = copy(self)
        again.cache = self.cache.hide(
            torch.from_numpy(np.asarray(hidden, bool))[None].flatten(2).to(self.model.device)
        )
        again._ask(self.clip)
        text = self.clip.text(self.task) or self.says(mode)
        nothing = np.zeros_like(hidden)
        before, masked = self.masked_losses(np.stack([nothing, hidden]), mode)
        return WithoutPatches(
            look=again.gaze(mode),
            loss_before=float(before),
            loss_masked=float(masked),
            loss_rerouted=float(again._losses(again.cache, mode, text)[0]),
        )

    @torch.no_grad()
    def features(self) -> np.ndarray:
        """What the static query brings back of each frame: (T, D), before it is standardised."""
        return self.model.features(self.cache)[0].float().cpu().numpy()

    def shifted_losses(self, shifts: list[tuple[int, int]], mode: str = "autoregressive") -> np.ndarray:
        """Text loss, nats per token, with what patches carry moved by (down, across) patches in every layer:
        (shifts,). The first layer's attention stays as it was; later ones follow what it brought."""
        return np.concatenate([self._losses(self.cache.shift(*shift), mode) for shift in shifts])

    @torch.no_grad()
    def _losses(self, cache: FrameCache, mode: str, text: str | None = None) -> np.ndarray:
        n, text = cache.batch_size, text or self.clip.text(self.task) or self.says(mode)
        labels = torch.tensor([text_ids(self.tokenizer, text)], device=self.model.device)
        repeated = {name: x.expand(n, -1) for name, x in (self.prompt | dict(labels=labels)).items()}
        out = self.model(cache, **repeated, queries=self.queries(mode).expand(n, -1, -1))
        return (out.token_losses.sum(1) / out.text_mask.sum(1)).double().cpu().numpy()


@dataclass
class WithoutPatches:
    """What a model looks at and says with patches hidden, and the loss of the text, true or else what it says
    with all patches, in nats per token: with all of them, without those that are hidden but with the same
    queries, and with the queries that it then makes."""

    look: Gaze
    loss_before: float
    loss_masked: float
    loss_rerouted: float


def unusual(clip: np.ndarray, known: Sequence[np.ndarray]) -> tuple[float, list[float]]:
    """How far a clip's `EncodedClip.features` (T, D) are from those of known clips, and how far those of each
    known clip are from the others': the root mean square over frames and channels, in standard deviations of
    each channel over the frames of the known ones. About 1 for a clip like them.

    ValueError for fewer than three known clips."""
    if len(known) < 3:
        raise ValueError(f"{len(known)} clips: what is usual takes three")

    def distance(one: np.ndarray, others: list[np.ndarray]) -> float:
        frames = np.concatenate(others)
        return float(np.sqrt(np.square((one - frames.mean(0)) / np.maximum(frames.std(0), 1e-6)).mean()))

    known = list(known)
    each = [distance(one, known[:i] + known[i + 1 :]) for i, one in enumerate(known)]
    return distance(clip, known), each


def same_at_first(model: StaticVLM, prompted: bool, frames: int, one: str, other: str) -> int:
    """In how many frames, from the first, two modes send the same query by construction, whatever the
    weights.

    prompted: a question comes before the frames. Without steering it is all of `frames`. A parallel pass gets
    one frame more right than the pass before it, as a frame's query needs those before it; the first, coarse
    one only a query that no state has moved."""
    if one == other or not model.modes_differ:
        return frames
    if "static" in (one, other):
        return 0
    return min(frames, model.config.fine_passes - prompted)


def steered(model: StaticVLM, task: str, mode: str) -> bool:
    """Whether a question can move the gaze at all: there is one, and states make the queries."""
    return task == "question" and model.modes_differ and mode != "static"


@torch.no_grad()
def swapped_frames(
    model: VideoLanguageModel, clips: list[Clip], tokenizer, task: str, size: int = 8
) -> list[dict]:
    """Does a model use the frames at all? Rows of `clip_id`, `text_tokens`, `loss`, `loss_swapped`: each
    clip's text scored with its own frames, and with those of the next clip (the last with the first's); nats
    per token, frame by frame.

    For every architecture; frames go through the vision model once, `size` clips at a time. A blind control
    is no such test: visual tokens that say nothing of the clip still are parameters more, with which a text
    is learnt sooner. ValueError below two clips."""
    if len(clips) < 2:
        raise ValueError(f"{len(clips)} clips: swapping frames takes two")
    collate, rows = Collator(tokenizer, task), {clip.clip_id: dict(clip_id=clip.clip_id) for clip in clips}
    for start in range(0, len(clips), size):
        shown = clips[start : start + size]
        before = [clips[start + i - 1] for i in range(len(shown))]
        seen = model.encode(collate(shown).frames.to(model.device))
        for name, told in (("loss", shown), ("loss_swapped", before)):
            batch = collate([replace(text, frames=clip.frames) for text, clip in zip(told, shown)])
            out = model(**batch.inputs(model.device) | dict(frames=seen), mode="autoregressive")
            counts = out.text_mask.sum(1)
            for clip_id, count, loss in zip(
                batch.clip_ids, counts.tolist(), (out.token_losses.sum(1) / counts).tolist()
            ):
                rows[clip_id] |= {"text_tokens": count, name: loss}
    return list(rows.values())


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
    """How much the loss rises when patches are hidden: rows of `clip_id`, `what`, `patches`, `loss`, `change`
    (nats per token).

    what: "most attended" (the `patches` most attended of every frame), "random" (as many at random, `draws`
    times), "target" and "elsewhere" (the box of the object asked about, and as many patches outside it),
    "shifted" (what patches carry, moved by half the grid in every layer). A gaze that matters loses more by
    the first than by the second."""
    encoded = EncodedClip(model, clip, tokenizer, task)
    look = encoded.gaze(write=False)
    T, h, w = look.map(summary).shape
    rng = np.random.default_rng(seed)
    variants = [("nothing", 0, np.zeros((T, h, w), bool))]
    ranked = np.argsort(-look.map(summary).reshape(T, -1), axis=1)
    for count in (c for c in counts if c < h * w):
        variants.append(("most attended", count, _mask(ranked[:, :count], h, w)))
        for _ in range(draws):
            variants.append(
                ("random", count, _mask(np.stack([rng.permutation(h * w)[:count] for _ in range(T)]), h, w))
            )
    if clip.boxes is not None and clip.target >= 0:
        box = patches_of_boxes(clip.boxes[:, clip.target], clip.frames.shape[2:], (h, w))
        variants.append(("target", int(box.sum(axis=(1, 2)).max()), box))
        for _ in range(draws):
            outside = [rng.permutation(np.flatnonzero(~b))[: b.sum()] for b in box]
            variants.append(
                (
                    "elsewhere",
                    int(box.sum(axis=(1, 2)).max()),
                    np.stack([_mask(o[None], h, w)[0] for o in outside]),
                )
            )
    losses = encoded.masked_losses(np.stack([hidden for *_, hidden in variants]))
    rows = [
        dict(clip_id=clip.clip_id, what=what, patches=n, loss=loss, change=loss - losses[0])
        for (what, n, _), loss in zip(variants, losses)
    ]
    for loss in encoded.shifted_losses([(h // 2, 0), (0, w // 2), (h // 2, w // 2)]):
        change = loss - losses[0]
        rows.append(dict(clip_id=clip.clip_id, what="shifted", patches=0, loss=loss, change=change))
    return rows


def _mask(patches: np.ndarray, h: int, w: int) -> np.ndarray:
    """Patch numbers per frame (T, k) to a mask (T, h, w)."""
    mask = np.zeros((len(patches), h * w), bool)
    np.put_along_axis(mask, patches, True, axis=1)
    return mask.reshape(-1, h, w)


def patches_of_boxes(boxes: np.ndarray, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The patches (T, h, w) that boxes (T, 4) touch, in pixels of a frame of `size` (height, width); none for
    an empty box."""
    (height, width), (h, w) = size, grid
    x0, y0, x1, y1 = (boxes[:, i, None, None] for i in range(4))
    left, top = np.arange(w)[None, None] * width / w, np.arange(h)[None, :, None] * height / h
    return (left < x1) & (left + width / w > x0) & (top < y1) & (top + height / h > y0) & (x1 > x0)
