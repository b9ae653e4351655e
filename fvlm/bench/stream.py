"""How many frames a second models see that watch without end, and what they keep of them."""

import dataclasses
import statistics
from collections.abc import Iterable
from contextlib import ExitStack

import torch
from transformers.cache_utils import DynamicCache

from fvlm.bench.peers import SIGLIP, smolvlm
from fvlm.bench.report import table
from fvlm.bench.turns import timed
from fvlm.config import RunConfig
from fvlm.costs.machine import autocast
from fvlm.models import FrameCache, build_model
from fvlm.models.inputs import Context
from fvlm.training.loop import frozen_weights

CONTEXTS = (1, 64, 256)  # frames that a model has seen before those that are timed
# A frame of 27 x 27 patches, 3 x 3 of them joined: the 81 tokens of SmolVLM 2.2B, whose own encoder is larger
SIGLIP_81 = SIGLIP | dict(image_size=378, patch_size=14)
PEERS = ((SIGLIP, 4), (SIGLIP_81, 3))  # vision sizes, patches that are joined along each side


@torch.no_grad()
def bench_stream(config: RunConfig, repeats: int = 5, contexts: Iterable[int] = CONTEXTS) -> dict:
    """One more frame of a stream, after so many frames as `contexts` says: the cell, the baseline with the
    same backbones, and SmolVLM with the same LLM at 64 and at 81 tokens a frame, in turns.

    Prints and returns a row per context and model under `rows`: `tokens_per_frame`; `frames` seen before;
    `seconds` of a frame (median of `repeats` after one to warm up), of which `vision_seconds` until it is
    tokens; `frames_per_second`; `cache_bytes`, the keys and values of what was seen; and `ratio`, the model's
    seconds over the cell's, the median of turns, with the lowest and highest; `llm_ratio`, the same of the
    LLM's part alone, whatever the vision encoders. Also returns `repeats`. The weights are random, and so are
    the keys and values of the frames before, which cost the same."""
    baseline = dataclasses.replace(config, arch="baseline")
    watchers = [_Session(config)]
    watchers += [] if config.arch == "baseline" else [_Session(baseline)]
    watchers += [_Peer(config, *peer) for peer in PEERS]
    rows = []
    contexts = tuple(contexts)
    for frames in contexts:
        seconds = {watcher: [] for watcher in watchers}
        vision = {watcher: [] for watcher in watchers}
        for turn in range(repeats + 1):
            for watcher in watchers if turn % 2 else reversed(watchers):
                watcher.remember(frames)
                with watcher.ready():
                    whole, part = (timed(act, config.device) for act in (watcher.see, watcher.encode))
                if turn:
                    seconds[watcher].append(whole)
                    vision[watcher].append(min(part, whole))
        for watcher in watchers:
            rows.append(_row(watcher, watchers[0], frames, seconds, vision))
            watcher.forget()
    print(table(rows))
    for row in rows:
        if row["frames"] == max(contexts) and row["model"] != config.cell:
            print(
                f"after {row['frames']} frames {config.cell} sees {row['ratio']:.3g} times as many frames a "
                f"second as {row['model']} ({row['llm_ratio']:.3g} times in the LLM's part) and keeps "
                f"{row['tokens_per_frame'] / watchers[0].tokens:.3g} times fewer tokens"
            )
    return dict(cell=config.cell, repeats=repeats, rows=rows)


def _row(watcher, cell, frames: int, seconds: dict, vision: dict) -> dict:
    ratios = [theirs / ours for theirs, ours in zip(seconds[watcher], seconds[cell])]
    llm = {w: statistics.median(seconds[w]) - statistics.median(vision[w]) for w in (watcher, cell)}
    return dict(
        model=watcher.name,
        tokens_per_frame=watcher.tokens,
        frames=frames,
        seconds=statistics.median(seconds[watcher]),
        vision_seconds=statistics.median(vision[watcher]),
        frames_per_second=1 / statistics.median(seconds[watcher]),
        cache_bytes=watcher.cache_bytes,
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        llm_ratio=llm[watcher] / max(llm[cell], 1e-9),
    )


class _Watcher:
    """A model in the middle of a stream, whose keys and values of the past are made up."""

    name: str
    tokens: int  # a frame
    config: RunConfig
    cache: DynamicCache
    kept: int = -1  # tokens that `cache` is to hold

    def remember(self, frames: int):
        """Have seen so many frames, and nothing after them."""
        if self.kept != frames * self.tokens:
            self.kept = frames * self.tokens
            self.cache = made_up(self.like(), self.kept)
        elif new := self.cache.get_seq_length() - self.kept:
            self.cache.crop(-new)

    def forget(self):
        """Give the memory back."""
        self.cache, self.kept = DynamicCache(), -1

    @property
    def cache_bytes(self) -> int:
        """Of the frames remembered, not of the one that was just seen."""
        per_token = sum(
            x[:, :, :1].numel() * x.element_size() for layer in self.cache.layers for x in _kv(layer)
        )
        return per_token * self.kept

    def ready(self):
        return autocast(self.config)


class _Session(_Watcher):
    """Ours: a `StreamSession` of the cell."""

    def __init__(self, config: RunConfig):
        self.config, self.name = config, config.cell
        self.tokens = config.architecture.tokens_per_frame
        self.model = build_model(config, pretrained=False).to(config.device).eval()
        self.session = self.model.stream()
        side = config.image_size
        self.frame = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)

    def like(self) -> DynamicCache:
        with self.ready():
            self.session.see(self.frame)
        return self.session.context.cache

    def remember(self, frames: int):
        super().remember(frames)
        seen = torch.ones(1, self.kept, dtype=torch.bool, device=self.config.device)
        self.session.context = Context(self.cache, seen)

    def see(self):
        self.session.see(self.frame)

    def encode(self):
        cache = self.model.encode(self.frame[None, None].to(self.config.device))
        if isinstance(cache, FrameCache) and not self.config.architecture.has_queries:
            _ = cache.last_hidden_state  # made when it is asked for

    def ready(self):
        stack = ExitStack()
        stack.enter_context(frozen_weights(self.model, self.config))
        stack.enter_context(autocast(self.config))
        return stack


class _Peer(_Watcher):
    """SmolVLM with the cell's LLM: all of a frame's tokens are read at once."""

    def __init__(self, config: RunConfig, sizes: dict, factor: int):
        self.config = config
        self.model, self.tokens = smolvlm(config, sizes, factor)
        self.model.eval()
        self.name = f"SmolVLM, {self.tokens} tokens"
        side = sizes["image_size"]
        self.pixels = torch.randn(1, 1, 3, side, side, device=config.device)
        self.cache = DynamicCache(config=self.model.config.text_config)

    def like(self) -> DynamicCache:
        self.cache = DynamicCache(config=self.model.config.text_config)
        with self.ready():
            self.see()
        return self.cache

    def see(self):
        read = self.model.model.text_model
        read(inputs_embeds=self.encode()[None], past_key_values=self.cache, use_cache=True)

    def encode(self) -> torch.Tensor:
        (features,) = self.model.model.get_image_features(self.pixels).pooler_output
        return features  # (tokens, W)


def made_up(like: DynamicCache, tokens: int) -> DynamicCache:
    """A cache of so many random positions, in the shapes and types of another."""
    cache = DynamicCache()
    for i, layer in enumerate(like.layers):
        cache.update(*(torch.randn_like(x[:, :, :1].expand(-1, -1, tokens, -1)) for x in _kv(layer)), i)
    return cache


def _kv(layer) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.keys, layer.values
