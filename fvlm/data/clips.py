"""A clip, and a batch of clips as a model reads it.

B batch, T frames, S side in pixels, L text tokens, M prompt tokens, n objects.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from fvlm.config import ConfigError

IGNORE = -100  # label of a position without text
MAX_TEXT_TOKENS = 128


@dataclass
class Clip:
    """One video clip and what is known about it.

    frames: (T, 3, S, S) uint8; None where a feature store already has what the vision model makes of them.
    boxes: (T, n, 4) left, top, right, bottom in pixels, or None. target: the object that the question is
    about, or -1. key: names the frames in a feature store. position: of the clip in its dataset."""

    frames: np.ndarray | None
    caption: str
    clip_id: str
    source: str = ""
    question: str | None = None
    answer: str | None = None
    boxes: np.ndarray | None = None
    target: int = -1
    question_kind: str = ""
    key: str = ""
    position: int = -1

    def text(self, task: str) -> str | None:
        """What a model is to write of this clip: the caption, or the answer to its question."""
        return self.caption if task == "caption" else self.answer


@dataclass
class Batch:
    """Clips side by side, padded to the longest: the arguments of a model's `forward`, and the clips' ids.

    From clips that a feature store knows (`fvlm.data.store.Known`) `frames` is None: `clips` then has them,
    each with its frames or without."""

    frames: torch.Tensor | None  # (B, T, 3, S, S) uint8
    labels: torch.Tensor  # (B, L), -100 after the end of a shorter text
    prompt_ids: torch.Tensor | None  # (B, M)
    prompt_mask: torch.Tensor | None  # (B, M), False after the end of a shorter prompt
    frame_mask: torch.Tensor | None  # (B, T), False after the end of a shorter clip; None: all are full
    clip_ids: list[str]
    clips: list[Clip] = field(default_factory=list)

    def inputs(self, device: str | torch.device = "cpu") -> dict:
        """Keyword arguments for `model(**batch.inputs())`, on `device`."""
        names = ("frames", "labels", "prompt_ids", "prompt_mask", "frame_mask")
        return {
            name: x.to(device, non_blocking=True) for name in names if (x := getattr(self, name)) is not None
        }

    def __len__(self):
        return len(self.clip_ids)

    @property
    def text_tokens(self) -> int:
        """Text tokens of all clips together, end-of-text included."""
        return int((self.labels != IGNORE).sum())

    def split(self, size: int) -> list["Batch"]:
        """Micro-batches of at most `size` clips, those with texts of like length together, without padding
        that none of their clips needs."""
        order = self.by_length()
        return [self.take(order[i : i + size]) for i in range(0, len(self), size)]

    def by_length(self) -> list[int]:
        """Its rows, shortest text first."""
        return (self.labels != IGNORE).sum(1).argsort(stable=True).tolist()

    def take(self, rows: list[int]) -> "Batch":
        """The clips at these rows, without padding that none of them needs."""
        frames = None if self.frames is None else self.frames[rows]
        labels, ids, mask, seen = self.labels[rows], self.prompt_ids, self.prompt_mask, self.frame_mask
        labels = labels[:, : int((labels != IGNORE).sum(1).max())]
        if ids is not None:
            longest = int(mask[rows].sum(1).max())
            ids, mask = ids[rows, :longest], mask[rows, :longest]
        if seen is not None:
            longest = int(seen[rows].sum(1).max())
            frames, seen = frames[:, :longest], seen[rows, :longest]
        clip_ids = [self.clip_ids[i] for i in rows]
        clips = [self.clips[i] for i in rows] if self.clips else []
        return Batch(frames, labels, ids, mask, seen, clip_ids, clips)


class Collator:
    """Makes a `Batch` of clips for a task.

    caption: the text is the caption, there is no prompt. question: the prompt is the question, the text the
    answer. Every text ends with the end-of-text token, which is a label like any other: so the model learns
    to stop."""

    def __init__(self, tokenizer, task: str):
        self.tokenizer, self.task = tokenizer, task

    def __call__(self, clips: list[Clip]) -> Batch:
        """`ConfigError` if a clip lacks the text that the task needs."""
        texts = [clip.text(self.task) for clip in clips]
        for clip, text in zip(clips, texts):
            if not text or (self.task == "question" and not clip.question):
                raise ConfigError(
                    f"clip {clip.clip_id} has no {self.task}: train with another task or prepare the data "
                    "with one"
                )
        labels = [text_ids(self.tokenizer, text) for text in texts]
        prompt_ids = prompt_mask = frame_mask = None
        if self.task == "question":
            prompts = [plain_ids(self.tokenizer, clip.question) for clip in clips]
            prompt_ids = _pad(prompts, self.tokenizer.eos_token_id)
            prompt_mask = _mask([len(p) for p in prompts])
        frames, known = None, any(clip.key for clip in clips)
        if not known:
            lengths = [len(clip.frames) for clip in clips]
            frames = _stack([torch.from_numpy(clip.frames) for clip in clips], max(lengths))
            frame_mask = _mask(lengths) if min(lengths) < max(lengths) else None
        return Batch(
            frames,
            _pad(labels, IGNORE),
            prompt_ids,
            prompt_mask,
            frame_mask,
            [clip.clip_id for clip in clips],
            clips if known else [],
        )


def text_ids(tokenizer, text: str) -> list[int]:
    """A text as labels: its first tokens, at most MAX_TEXT_TOKENS with the end-of-text token after them."""
    return plain_ids(tokenizer, text)[: MAX_TEXT_TOKENS - 1] + [tokenizer.eos_token_id]


def plain_ids(tokenizer, text: str) -> list[int]:
    """The tokens of a text that somebody wrote: where it spells a special token, "<|end|>", it is text all
    the same."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _stack(clips: list[torch.Tensor], length: int) -> torch.Tensor:
    """Clips (t, 3, S, S) to (B, length, 3, S, S), black after the end of a shorter one."""
    longest = [
        clip
        if len(clip) == length
        else torch.cat([clip, clip.new_zeros(length - len(clip), *clip.shape[1:])])
        for clip in clips
    ]
    return torch.stack(longest)


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _mask(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
