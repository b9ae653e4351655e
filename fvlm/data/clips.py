"""A clip, and a batch of clips as a model reads it.

B batch, T frames, S side in pixels, L text tokens, M prompt tokens, n objects.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fvlm.config import ConfigError

IGNORE = -100  # label of a position without text
MAX_TEXT_TOKENS = 128


@dataclass
class Clip:
    """One video clip and what is known about it.

    frames: (T, 3, S, S) uint8, T = 0 of a text alone; None where a feature store already has what the vision
    model makes of them. domain: what kind of data a mix says it is.
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
    domain: str = ""

    @property
    def shows(self) -> bool:
        """False of a text alone, which has no frame."""
        return self.frames is None or len(self.frames) > 0

    def text(self, task: str) -> str | None:
        """What a model is to write of this clip: the caption, or the answer to its question."""
        return self.caption if task == "caption" else self.answer


@dataclass
class Batch:
    """Clips side by side, padded to the longest: the arguments of a model's `forward`, and the clips' ids.

    From clips that a feature store knows (`fvlm.data.store.Known`) `frames` is None: `clips` then has them,
    each with its frames or without. Of texts alone frames are (B, 0, 3, S, S); beside clips with frames they
    have black ones, which `frame_mask` hides."""

    frames: torch.Tensor | None  # (B, T, 3, S, S) uint8
    labels: torch.Tensor  # (B, L), -100 after the end of a shorter text
    prompt_ids: torch.Tensor | None  # (B, M)
    prompt_mask: torch.Tensor | None  # (B, M), False after the end of a shorter prompt
    frame_mask: torch.Tensor | None  # (B, T), False after the end of a shorter clip; None: all are full
    clip_ids: list[str]
    clips: list[Clip] = field(default_factory=list)
    shows: list[bool] = field(default_factory=list)  # which have frames; empty: all
    domains: list[str] = field(default_factory=list)  # of a mix: what kind of data each is

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

    def split(self, size: int, apart: bool = True) -> list["Batch"]:
        """Micro-batches of at most `size` clips, those with texts of like length together, without padding
        that none of their clips needs. apart: texts alone in micro-batches of their own, which need no
        vision model; else every micro-batch has frames."""
        order = self.by_length()
        if not apart or not self.has_texts_alone:
            return [self.take(order[i : i + size]) for i in range(0, len(self), size)]
        seen = [i for i in order if self.shows[i]]
        alone = [i for i in order if not self.shows[i]]
        parts = [self.take(seen[i : i + size]) for i in range(0, len(seen), size)]
        return parts + [self.take(alone[i : i + size])._text_alone() for i in range(0, len(alone), size)]

    @property
    def has_texts_alone(self) -> bool:
        """Whether some of its clips have no frame."""
        return not all(self.shows)

    def _text_alone(self) -> "Batch":
        return replace(self, frames=torch.zeros(len(self), 0, 3, 1, 1), frame_mask=None, clips=[])

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
            longest = max(1, int(seen[rows].sum(1).max()))
            frames, seen = frames[:, :longest], seen[rows, :longest]
            seen = None if bool(seen.all()) else seen
        clip_ids, clips, shows, domains = (
            [x[i] for i in rows] if x else [] for x in (self.clip_ids, self.clips, self.shows, self.domains)
        )
        return Batch(frames, labels, ids, mask, seen, clip_ids, clips, shows, domains)


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
            prompt_mask = _mask([len(p) for p in prompts], max(map(len, prompts)))
        frames, known = None, any(clip.key for clip in clips)
        if not known:
            lengths = [len(clip.frames) for clip in clips]
            longest = max(1, *lengths)
            frames = _stack([torch.from_numpy(clip.frames) for clip in clips], longest)
            frame_mask = _mask(lengths, longest) if min(lengths) < longest else None
        return Batch(
            frames,
            _pad(labels, IGNORE),
            prompt_ids,
            prompt_mask,
            frame_mask,
            [clip.clip_id for clip in clips],
            clips if known else [],
            [clip.shows for clip in clips],
            [clip.domain for clip in clips] if any(clip.domain for clip in clips) else [],
        )


def no_frames(size: int) -> np.ndarray:
    """What a text alone has for frames of a side: (0, 3, S, S)."""
    return np.zeros((0, 3, size, size), np.uint8)


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


def _mask(lengths: list[int], longest: int) -> torch.Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]
