"""Looking frame by frame, recorded: on a GPU all its many small kernels are launched as one CUDA graph."""

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fvlm.models import FrameCache
from fvlm.models.inputs import NO_PROMPT, PromptAndMasks, recording

log = logging.getLogger(__name__)

APART = {"fp32": 1e-4, "bf16": 2e-2}  # at most, between queries replayed and computed, in their own norm

# A function to what it gives, computed as ever, and to what computes it again from the same memory
Record = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, Callable[[], torch.Tensor]]]


def record_cuda(
    device: str, function: Callable[[], torch.Tensor]
) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """Record all that `function` launches on a GPU, and how to launch it again.

    Memory that it reads must stay where it is. RuntimeError where it asks the GPU for a value, or does
    anything else that can't be recorded."""
    with torch.cuda.device(device):
        here, aside = torch.cuda.current_stream(), _aside(device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            first = function()  # libraries set themselves up on first use
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may pin memory meanwhile
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                there = function()
        finally:
            torch.cuda.set_stream(here)  # a capture that failed stays on its own
        there.fill_(math.nan)  # to be seen where a replay writes nothing

    def again() -> torch.Tensor:
        graph.replay()
        return there

    return first, again


@functools.cache
def _aside(device: str):
    """One stream for all recordings of a device, as each stream keeps memory of its own for good."""
    return torch.cuda.Stream(device)


def compute_again(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """In place of a recording where there is none: computed again from the same memory."""
    return function(), function


_REFUSED: set[str] = set()  # devices on which recording has failed in this process: it is not tried again


def recorder(device: str) -> Record | None:
    """How a device records; None for a CPU, which launches nothing, and where it has failed before."""
    there = device.startswith("cuda") and device not in _REFUSED
    return functools.partial(record_cuda, device) if there else None


@dataclass
class _Recording:
    shape: tuple
    clips: FrameCache
    given: PromptAndMasks
    again: Callable[[], torch.Tensor]

    def load(self, caches: Sequence[FrameCache], given: PromptAndMasks):
        """Put other clips and prompts of the same shapes where the recorded ones were."""
        places = self.clips.tensors()
        start = 0
        for cache in caches:
            for place, new in zip(places, cache.tensors(), strict=True):
                place[start : start + cache.batch_size].copy_(new)
            start += cache.batch_size
        for place, new in zip(_tensors(self.given), _tensors(given), strict=True):
            place.copy_(new)


class RecordedLooks:
    """A model's looks frame by frame at many clips, batch after batch of the same shapes, while its weights
    and autocast's copies of them stay as they are: inside one evaluation, in one autocast context. (Another
    thread that leaves an autocast context of its own clears those copies for all threads.)

    The first shape that comes a second time is recorded, and replayed from then on; one, as a recording holds
    its clips. Where recording fails, or gives other queries than the model does, all goes on without, and a
    warning says so; where the LLM's attention is not sdpa it is not tried. Only for a model whose queries
    make its visual tokens, as they do where `VideoLanguageModel.forward` takes `queries`."""

    def __init__(self, model, record: Record | None):
        known = (
            model.llm.config._attn_implementation == "sdpa"
        )  # reads a mask of pairs, as `recording` makes it
        self._model, self._record = model, record if known else None
        self._met: Counter = Counter()
        self._kept: _Recording | None = None

    @torch.no_grad()
    def together(
        self, caches: Sequence[FrameCache], given: PromptAndMasks = NO_PROMPT
    ) -> tuple[FrameCache, torch.Tensor | None]:
        """The clips as one, and the queries (B, T, Q) that the model makes frame by frame; None: it is to
        make them itself. Both are good until the next call."""
        if getattr(self._model.config, "read_final", False):  # made before the recording, which reads them
            for cache in caches:
                _ = cache.last_hidden_state
        shape = _shape(caches, given)
        self._met[shape] += 1
        if self._kept is not None and self._kept.shape == shape:
            self._kept.load(caches, given)
            return self._kept.clips, self._kept.again()
        clips = FrameCache.cat(caches)
        if self._record is None or self._kept is not None or self._met[shape] == 1:
            return clips, None
        clips = replace(clips, finish=_not_kept)  # it would hold what the clips were made of
        given = PromptAndMasks(*(None if x is None else x.clone() for x in _fields(given)))
        try:
            with recording():
                queries, again = self._record(lambda: self._looked(clips, given))
            apart = float((again() - queries).norm() / queries.norm())
        except RuntimeError as error:  # out of memory is one
            self._give_up(error.__context__ or error)
            return clips, None
        if apart <= APART["bf16" if torch.is_autocast_enabled(queries.device.type) else "fp32"]:
            self._kept = _Recording(shape, clips, given, again)
        else:
            self._give_up(f"replayed queries differ by {apart:.1e} of their norm")
        return clips, queries

    def _looked(self, clips: FrameCache, given: PromptAndMasks) -> torch.Tensor:
        _, queries = self._model.visual_tokens(clips, "autoregressive", given=given)
        if queries is None:
            raise RuntimeError(f"{type(self._model).__name__} tells no queries")
        return queries

    def _give_up(self, why):
        reason = str(why).partition("\n")[0]
        log.warning("frame by frame is not recorded as a CUDA graph, which takes longer: %s", reason)
        self._record = None
        _REFUSED.add(str(self._model.device))


def _not_kept() -> torch.Tensor:
    raise RuntimeError("the patches' final states are not kept where looks are recorded")


def _fields(given: PromptAndMasks) -> tuple[torch.Tensor | None, ...]:
    return given.prompt_ids, given.prompt_mask, given.frame_mask


def _tensors(given: PromptAndMasks) -> list[torch.Tensor]:
    return [x for x in _fields(given) if x is not None]


def _shape(caches: Sequence[FrameCache], given: PromptAndMasks) -> tuple:
    """What two batches must share for one recording to serve both."""
    clips = sum(cache.batch_size for cache in caches)
    first = [(tuple(x.shape[1:]), x.dtype) for x in caches[0].tensors()]
    return clips, tuple(first), tuple(None if x is None else tuple(x.shape) for x in _fields(given))
