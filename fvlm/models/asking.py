"""Asking a model about videos: texts out of files and frames, with the processor that was saved with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fvlm.config import ConfigError
from fvlm.data.video import opened, resized
from fvlm.files import readable
from fvlm.huggingface.processor import FoveatedProcessor, as_clips
from fvlm.models.vision import FrameCache


class Moment(NamedTuple):
    """What a model says of one stretch of a video, in seconds."""

    start: float
    end: float
    text: str


class Asking:
    """What a `VideoLanguageModel` can be asked."""

    make_processor: Callable[[], FoveatedProcessor] | None = None
    _processor: FoveatedProcessor | None = None

    @property
    def processor(self: Any) -> FoveatedProcessor:
        """What makes videos and texts this model's inputs: saved with it, or set. ConfigError if neither."""
        if self._processor is None:
            if self.make_processor is not None:
                self._processor = self.make_processor()
            elif self.name_or_path:
                with readable(f"{self.name_or_path}: no processor was saved there that can be read"):
                    self._processor = FoveatedProcessor.from_pretrained(self.name_or_path)
            else:
                raise ConfigError(
                    "this model has no processor yet: set model.processor = FoveatedProcessor(…)"
                )
        return self._processor

    @processor.setter
    def processor(self, processor: FoveatedProcessor):
        self._processor = processor

    def fitted(self: Any, picture: np.ndarray) -> np.ndarray:
        """A picture (height, width, 3) uint8 as a square of the model's size (S, S, 3), as its processor
        makes it one; squeezed where it has no processor yet."""
        if self._processor is None and self.make_processor is None and not self.name_or_path:
            return resized(picture, self.config.image_size)
        return self.processor.fitted(picture)

    def answer(self: Any, video, question: str | list[str] | None = None, **generate) -> str | list[str]:
        """What the model says of a video when it is asked: a text, or a list of them for several clips.

        video: what a `FoveatedProcessor` reads: the path of a video, a picture or a folder of pictures, or
        frames. question: one for all clips, or one a clip; without one it describes. generate: further
        arguments of `generate`, and `start` and `end`, in seconds, of a file."""
        clips = as_clips(video)
        cut = {name: generate.pop(name) for name in ("start", "end") if name in generate}
        inputs = self.processor(clips, question, **cut).to(self.device)
        texts = self.processor.batch_decode(self.generate(**inputs, **generate), skip_special_tokens=True)
        texts = [text.strip() for text in texts]
        several = isinstance(video, list) and not (len(clips) == 1 and clips[0] is not video[0])
        return texts if several or getattr(video, "ndim", 4) == 5 else texts[0]

    def choose(self: Any, video, question: str | None, options: list[str]) -> int:
        """Which of several answers to a question is the likeliest, by its place in `options`.

        Likely is what has the least mean loss per text token, its end included, truly frame by frame. The
        video is looked at once. ConfigError below two options."""
        return int(self.option_losses(video, question, options).argmin())

    def option_losses(self: Any, video, question: str | None, options: list[str]) -> torch.Tensor:
        """The mean loss in nats per text token of each answer (options,) to a question about one video."""
        if len(options) < 2 or not all(options):
            raise ConfigError(f"options = {options!r}: a choice is between two texts at least")
        return self.score(video, question, options)[0]

    def score(self: Any, video, question: str | None, texts: list[str]) -> tuple[torch.Tensor, list[bool]]:
        """How likely texts are after a question about one video: the mean loss of each in nats per text token
        (texts,), and whether it is, to its end, what the model itself would write."""
        n = len(texts)
        inputs = self.processor([video], question).to(self.device)
        with torch.no_grad():
            queries = self(**inputs, mode="autoregressive").queries  # (1, T, Q)
            rows = {name: x.expand(n, *x.shape[1:]) for name, x in inputs.items()}
            rows["labels"] = self.processor.label_ids(texts).to(self.device)
            rows["queries"] = None if queries is None else queries.expand(n, -1, -1)
            if isinstance(cache := self.encode(inputs["frames"]), FrameCache):
                rows["frames"] = cache.repeat(n)
            out = self(**rows, mode="autoregressive")
        greedy = ((out.logits.argmax(-1) == rows["labels"]) | ~out.text_mask).all(1)
        return out.token_losses.sum(1) / out.text_mask.sum(1), greedy.tolist()

    def describe(self: Any, video, every: float | None = None, **generate) -> str | list[str] | list[Moment]:
        """What the model says of a video unasked: a text, or a list of them for several clips.

        every: seconds; a file is then described stretch by stretch, as a list of `Moment`."""
        if every is None:
            return self.answer(video, **generate)
        if not isinstance(video, str | Path):
            raise ConfigError("every is of a video file: frames have no seconds")
        if not every > 0:
            raise ConfigError(f"every = {every}: must be more than 0 seconds")
        whole, found, start = seconds(video), [], 0.0
        while start < whole:
            end = min(start + every, whole)
            if whole - end < every / 2:  # too short to be a stretch of its own
                end = whole
            cut = dict(start=start, end=end if end < whole else None)
            found.append(Moment(start, end, self.answer(video, **cut, **generate)))
            start = end
        return found


def seconds(path: str | Path) -> float:
    """How long a video file is. ConfigError if it is none."""
    import av

    try:
        with opened(str(path)) as container:
            if not container.streams.video or not container.duration:
                raise ConfigError(f"{path}: not a video with a length")
            return container.duration / av.time_base
    except (av.FFmpegError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise ConfigError(f"{path}: not a video that opens: {error}") from error
