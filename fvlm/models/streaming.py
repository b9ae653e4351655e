"""A model that watches: one frame at a time, one LLM step each, with texts and new questions at any moment.

K visual tokens per frame (one, of a foveated model), W LLM width, Q query width, h x w patches.
"""

import copy
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from fvlm.config import ConfigError
from fvlm.data.clips import plain_ids
from fvlm.files import readable
from fvlm.huggingface.processor import as_picture
from fvlm.models.inputs import NO_PROMPT, Context, PromptAndMasks
from fvlm.models.looks import Gaze, carried_lengths

REREAD = 256  # frames that are read again when a session without a window is asked something else


class Streaming:
    """What makes a `VideoLanguageModel` a watcher."""

    def stream(
        self: Any, question: str | None = None, window: int | None = None, sink: int = 0
    ) -> "StreamSession":
        """A session that is shown frame after frame; see `StreamSession`."""
        return StreamSession(self, question, window, sink)


class StreamSession:
    """A model in the middle of a video: exactly `mode="autoregressive"`, without knowing the end.

    Each frame costs one look and one LLM step, and its K tokens of KV cache are what stays of it. question:
    stands before the first frame, so that it steers every look. window: at most so many frames are kept, then
    time and memory per frame are constant. When one more comes, the first `sink` frames and the last half of
    the rest stay, and these are read again from the first position on. So at every moment the session is what
    reading the frames it keeps, and no others, gives. Two sessions of one model do not touch each other."""

    def __init__(self, model, question: str | None = None, window: int | None = None, sink: int = 0):
        """ConfigError for a window that does not have room."""
        if sink < 0 or (window is not None and window < sink + 2):
            raise ConfigError(
                f"window = {window}, sink = {sink}: a window has room for 2 frames after the sink"
            )
        self.model, self.window, self.sink = model, window, sink
        self.question = question
        self.seen = 0  # frames
        self._tokens: deque[torch.Tensor] = deque(maxlen=None if window else REREAD)  # (1, 1, K, W) each
        self._last: tuple | None = None  # frame, its FrameCache and query, of which a gaze is made
        self._kept = 0  # frames that the LLM has in its cache
        self._read_again()

    # ── Watching ─────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def see(self, frame):
        """Show the next frame, a PIL image, array or tensor (height, width, 3) or (3, height, width)."""
        picture = self.model.fitted(as_picture(frame))  # (S, S, 3)
        pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))  # (3, S, S)
        cache = self.model.encode(pixels[None, None].to(self.model.device))
        tokens, _ = self.model.visual_tokens(cache, "static", self.query)  # (1, 1, K, W)
        self._last = (pixels, cache, self.query)
        self.seen += 1
        if tokens is None:  # a blind model
            return
        self._tokens.append(tokens)
        if self.window is not None and len(self._tokens) > self.window:
            frames = list(self._tokens)
            half = (self.window - self.sink) // 2
            self._tokens = deque(frames[: self.sink] + frames[-half:])
            self._read_again()
        else:
            self._kept += 1
            states = self.model.read(
                tokens.flatten(1, 2).to(self._dtype), self._ones(tokens.size(2)), self.context
            )
            self.query = self._next_query(states)

    @torch.no_grad()
    def ask(self, question: str | None):
        """Ask something else, or nothing more (None): from the next frame on it looks for that.

        The question stands before the frames, so what is kept of them is read again: all of a window, or
        without one the last REREAD frames."""
        self.question = question
        self._read_again()

    @torch.no_grad()
    def say(self, max_new_tokens: int = 64, **generate) -> str:
        """What the model says of what it has seen so far; watching goes on as if it had not spoken.

        generate: further arguments of transformers' `generate`."""
        past = self.context.mask.size(1)
        end = self.model.end_token.expand(1, 1, -1)  # (1, 1, W)
        embeds = torch.cat([end.new_zeros(1, past, end.size(2)), end], dim=1)  # what is cached is not read
        cache = copy.deepcopy(self.context.cache)
        if generate.get("num_beams", 1) > 1:
            cache.batch_repeat_interleave(generate["num_beams"])
        ids = self.model.generate(
            inputs_embeds=embeds.to(self._dtype),
            attention_mask=torch.ones(1, past + 1, dtype=torch.long, device=embeds.device),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            **generate,
        )
        return self.model.processor.decode(ids[0], skip_special_tokens=True).strip()

    @property
    def frame(self) -> np.ndarray | None:
        """The last frame as the model saw it (3, S, S) uint8; None before the first."""
        return None if self._last is None else self._last[0].numpy()

    @property
    def gaze(self) -> Gaze | None:
        """Where it looked in the last frame, as a `Gaze` of one frame; None before the first. TypeError for a
        model without queries."""
        if not self.model.architecture.has_queries:
            raise TypeError(f"{type(self.model).__name__} has no queries, so it has no gaze")
        if self._last is None:
            return None
        pixels, cache, query = self._last
        query = self.model.static_queries(cache) if query is None else query
        with torch.no_grad():
            attention = self.model.attention(query, cache)[0].float().cpu().numpy()  # (1, layers, H, N)
        maps = attention[..., 1:].reshape(*attention.shape[:-1], *cache.grid)
        return Gaze(
            maps=maps,
            cls_mass=attention[..., 0],
            queries=query[0].float().cpu().numpy(),
            frames=pixels[None].numpy(),
            mode="autoregressive" if self.model.modes_differ else "static",
            carried=carried_lengths(self.model, cache)[0].reshape(maps.shape),
        )

    @property
    def kept(self) -> int:
        """Frames that it can speak of."""
        return self._kept

    @property
    def memory(self) -> int:
        """Bytes that the session holds of what it has seen: the KV cache and tokens to be read again."""
        tensors = [t for layer in self._layers for t in layer] + list(self._tokens)
        return sum(t.numel() * t.element_size() for t in tensors)

    # ── Stopping and going on ────────────────────────────────────────────────────────────────────

    def save(self, path: str | Path):
        """Write the session to a .safetensors file, from which one of the same model goes on."""
        from safetensors.torch import save_file

        tensors = {f"token.{i}": token.contiguous() for i, token in enumerate(self._tokens)}
        for i, (keys, values) in enumerate(self._layers):
            tensors |= {f"keys.{i}": keys.contiguous(), f"values.{i}": values.contiguous()}
        if self.query is not None:
            tensors["query"] = self.query.contiguous()
        about = dict(
            seen=self.seen, kept=self._kept, window=self.window, sink=self.sink, question=self.question
        )
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(tensors, str(path), metadata=dict(session=json.dumps(about)))

    def load(self, path: str | Path) -> "StreamSession":
        """Go on where a saved session was; returns this one. ConfigError if it is of another model, or is
        none that can be read."""
        from safetensors import safe_open

        with (
            readable(f"{path}: no session that can be read"),
            safe_open(str(path), "pt", device=str(self.model.device)) as file,
        ):
            about = json.loads((file.metadata() or {}).get("session", "{}"))
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        layers = [
            (tensors[f"keys.{i}"], tensors[f"values.{i}"])
            for i in range(len(tensors))
            if f"keys.{i}" in tensors
        ]
        if not about or [k.shape[1::2] for k, _ in layers] != [k.shape[1::2] for k, _ in self._layers]:
            raise ConfigError(f"{path}: no session of this model")
        self.seen, self._kept, self.question = about["seen"], about["kept"], about["question"]
        self.window, self.sink = about["window"], about["sink"]
        count = sum(name.startswith("token.") for name in tensors)
        self._tokens = deque(
            (tensors[f"token.{i}"] for i in range(count)), maxlen=None if self.window else REREAD
        )
        self.query, self._last = tensors.get("query"), None
        cache = DynamicCache(config=self.model.config.llm_config)
        for i, (keys, values) in enumerate(layers):
            cache.update(keys, values, i)
        self.context = Context(cache, self._ones(cache.get_seq_length()))
        return self

    # ── What the LLM has read ────────────────────────────────────────────────────────────────────

    def _read_again(self):
        """A new cache of `[question] <fine>` and the frames whose tokens are kept."""
        given, prompt = NO_PROMPT, None
        if self.question is not None:
            prompt = plain_ids(self.model.processor.tokenizer, self.question)
            if not prompt:
                raise ConfigError("an empty question asks nothing: give None")
            given = PromptAndMasks(torch.tensor([prompt], device=self.model.device))
        tokens = torch.cat(list(self._tokens), dim=1) if self._tokens else None  # (1, n, K, W)
        self._kept = len(self._tokens)
        with torch.no_grad():
            x, mask = self.model.prefix(self.model.fine_token, tokens, 1, given)  # (1, S, W), (1, S)
            self.context = Context(DynamicCache(config=self.model.config.llm_config), mask[:, :0])
            states = self.model.read(x, mask, self.context)
            self.query = self._next_query(states, first=tokens is None, prompted=prompt is not None)

    def _next_query(self, states: torch.Tensor, first: bool = False, prompted: bool = False):
        """The query (1, 1, Q) for the next frame, from the LLM's states so far (1, S, W); None where no state
        makes one."""
        if not self.model.modes_differ:
            return None
        state = states[:, -1:]  # (1, 1, W)
        return self.model.queries_from(state, prompted) if first else self.model.to_queries(state)

    def _ones(self, count: int) -> torch.Tensor:
        return torch.ones(1, count, dtype=torch.bool, device=self.model.device)

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.fine_token.dtype

    @property
    def _layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values (1, heads, S, d)."""
        layers: Any = self.context.cache.layers
        return [(layer.keys, layer.values) for layer in layers]
