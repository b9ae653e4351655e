"""Videos, pictures and texts as a model's inputs: what a saved model's processor does.

B batch, T frames, S side in pixels, M prompt tokens, L text tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from fvlm.config import ConfigError
from fvlm.data.clips import IGNORE, Clip, Collator, plain_ids, text_ids
from fvlm.data.tables import PICTURE_SUFFIXES, pictures_in
from fvlm.data.video import (
    BadClip,
    Pictures,
    Still,
    Video,
    boxed,
    evenly_spaced,
    letterboxed,
    picture_shape,
    resized,
    shown_shape,
)


class FoveatedProcessor(ProcessorMixin):
    """Makes what people have of what a model reads, with the frames and the size it was trained with.

    frames: T, evenly spaced over a clip as in training; a shorter one repeats its last frame. image_size: S.
    task: what the model was trained on, "caption" or "question". letterbox: pictures that are no squares keep
    their proportions between black bars; else they are squeezed to squares, as those of prepared datasets
    are. Saved and loaded beside the model."""

    def __init__(self, tokenizer=None, frames=8, image_size=224, task="caption", letterbox=False):
        super().__init__(tokenizer)
        self.frames, self.image_size, self.task = frames, image_size, task
        self.letterbox = letterbox

    def __call__(
        self, videos=None, text=None, labels=None, start: float | None = None, end: float | None = None
    ) -> BatchFeature:
        """Keyword arguments of a model's `forward` and `generate`: `frames` (B, T, 3, S, S), with a text
        `prompt_ids` and `prompt_mask` (B, M), with labels, texts that are scored, `labels` (B, L).

        videos: one clip or a list of several. A clip is the path of a video (from `start` to `end` seconds),
        of a picture or of a folder of pictures; or frames, as a list of PIL images or arrays, or one array or
        tensor (T, height, width, 3) or (T, 3, height, width), uint8 or floats from 0 to 1. text, labels: one
        for all clips, or one a clip. ConfigError for what can't be read."""
        if videos is None or len(as_clips(videos)) == 0:
            raise ConfigError("no clips: a processor needs videos; for texts alone there is its tokenizer")
        clips = [self.read(clip, start, end) for clip in as_clips(videos)]
        found: dict[str, Any] = dict(frames=torch.stack([torch.from_numpy(clip) for clip in clips]))
        if text is not None:
            found |= self._padded(_each(text, len(clips), "text"), "prompt_ids", "prompt_mask")
        if labels is not None:
            found["labels"] = self.label_ids(_each(labels, len(clips), "labels"))
        return BatchFeature(found)

    def _padded(self, texts: list[str], ids_name: str, mask_name: str) -> dict[str, torch.Tensor]:
        rows = [plain_ids(self.tokenizer, text) for text in texts]
        if not all(rows):
            raise ConfigError("an empty text asks nothing: leave text out")
        longest = max(map(len, rows))
        pad = self.tokenizer.eos_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        return {ids_name: ids, mask_name: mask}

    def label_ids(self, texts: list[str]) -> torch.Tensor:
        """Texts as labels (B, L), each with the end-of-text token, -100 after a shorter one."""
        rows = [text_ids(self.tokenizer, text) for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [IGNORE] * (longest - len(row)) for row in rows])

    def collate(self, clips: list[Clip]) -> dict[str, torch.Tensor]:
        """`fvlm.data` clips with their texts as keyword arguments of `forward`: a `data_collator` of
        transformers' Trainer."""
        return Collator(self.tokenizer, self.task)(clips).inputs()

    def read(self, clip, start: float | None = None, end: float | None = None) -> np.ndarray:
        """One clip, as `__call__` takes it, to frames (T, 3, S, S) uint8."""
        if isinstance(clip, str | Path):
            return self._read_file(Path(clip), start, end)
        if start is not None or end is not None:
            raise ConfigError("start and end are of a video file; frames are sampled as they are given")
        pictures = [as_picture(frame) for frame in clip]
        if not pictures:
            raise ConfigError("a clip without a frame")
        chosen = [pictures[i] for i in evenly_spaced(len(pictures), self.frames)]
        return self._stacked(np.stack([self.fitted(picture) for picture in chosen]))

    def fitted(self, picture: np.ndarray) -> np.ndarray:
        """A picture (height, width, 3) uint8 as a square of the model's size (S, S, 3)."""
        return (boxed if self.letterbox else resized)(picture, self.image_size)

    def _read_file(self, path: Path, start, end) -> np.ndarray:
        if not path.exists():
            raise ConfigError(f"{path}: not there")
        if path.is_dir():
            files = tuple(map(str, pictures_in(path)))
            source = Still(files[0]) if len(files) == 1 else Pictures(files)
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            source = Still(str(path))
        else:
            source = Video(str(path), start, end)
        try:
            frames = source.read(self.frames, self.image_size).frames  # squeezed to squares
            if self.letterbox and isinstance(source, Video):
                frames, _ = letterboxed(frames, shown_shape(source.file))
            elif self.letterbox:
                files = source.files if isinstance(source, Pictures) else (source.file,)
                shown = [files[i] for i in evenly_spaced(len(files), self.frames)]
                boxes = [letterboxed(frames[t : t + 1], picture_shape(file)) for t, file in enumerate(shown)]
                frames = np.concatenate([boxed_frames for boxed_frames, _ in boxes])
            return self._stacked(frames)
        except BadClip as error:
            raise ConfigError(f"{path}: {error.reason}, {error.detail}") from error

    def _stacked(self, frames: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))  # (T, 3, S, S)


def as_clips(videos) -> list:
    """One clip, or several in a list or an array, as a list of clips."""
    if isinstance(videos, str | Path):
        return [videos]
    if hasattr(videos, "ndim"):  # an array or a tensor
        if videos.ndim not in (4, 5):
            raise ConfigError(f"frames of shape {tuple(videos.shape)}: expected (frames, height, width, 3)")
        return [videos] if videos.ndim == 4 else list(videos)
    if hasattr(videos, "convert"):  # a PIL image
        return [[videos]]
    videos = list(videos)
    first = videos[0] if videos else None
    of_frames = hasattr(first, "convert") or getattr(first, "ndim", 4) == 3
    return [videos] if of_frames else videos


def as_picture(frame) -> np.ndarray:
    """A frame, PIL image, array or tensor, as (height, width, 3) uint8. ConfigError if it is none."""
    if hasattr(frame, "convert"):
        return np.asarray(frame.convert("RGB"))
    picture = frame.detach().cpu().numpy() if isinstance(frame, torch.Tensor) else np.asarray(frame)
    if picture.ndim == 3 and picture.shape[0] == 3 and picture.shape[2] != 3:
        picture = picture.transpose(1, 2, 0)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ConfigError(
            f"a frame of shape {picture.shape}: expected (height, width, 3) or (3, height, width)"
        )
    if picture.dtype != np.uint8:
        if picture.min() < 0 or picture.max() > (1 if picture.dtype.kind == "f" else 255):
            raise ConfigError(
                f"a frame with values from {picture.min()} to {picture.max()}: floats are 0 to 1"
            )
        picture = picture * 255 if picture.dtype.kind == "f" else picture
    return np.ascontiguousarray(np.rint(picture).astype(np.uint8))


def _each(texts: str | Sequence[str], clips: int, name: str) -> list[str]:
    found = [texts] * clips if isinstance(texts, str) else list(texts)
    if len(found) != clips:
        raise ConfigError(f"{len(found)} {name} for {clips} clips: give one for all, or one a clip")
    return found
