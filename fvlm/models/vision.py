"""The vision encoder: DINOv2, and the query pass, in which a query goes through its layers and attends to
their tokens, but no token attends to it.

B batch, T frames, K queries per frame, P patches, N = 1 + P tokens (CLS first), D vision width, H heads,
d = D / H, Q query width.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PIXEL_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as DINOv2 was trained
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclass
class KeysValues:
    """What a query finds at one layer: the keys and values of all tokens, (B, T, H, N, d) each, and of the
    last layer its normed inputs (B, T, N, D)."""

    keys: torch.Tensor
    values: torch.Tensor
    inputs: torch.Tensor | None = None

    def scores(self, q: torch.Tensor) -> torch.Tensor:
        """Scaled queries (B, T, H, K, d) to attention scores (B, T, H, K, N)."""
        return q @ self.keys.transpose(-1, -2)

    def gather(self, attention: torch.Tensor) -> torch.Tensor:
        """Attention (B, T, H, K, N) to the values it falls on (B, T, H, K, d)."""
        return attention @ self.values

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "KeysValues":
        inputs = None if self.inputs is None else function(self.inputs)
        return KeysValues(function(self.keys), function(self.values), inputs)

    def tensors(self) -> list[torch.Tensor]:
        return [x for x in (self.keys, self.values, self.inputs) if x is not None]

    def join(self, parts: Sequence[Any]) -> "KeysValues":
        """The clips of several as one."""
        inputs = None if self.inputs is None else torch.cat([p.inputs for p in parts])
        return KeysValues(torch.cat([p.keys for p in parts]), torch.cat([p.values for p in parts]), inputs)


@dataclass
class NormedInputs:
    """What a query finds at one layer of a frozen DINOv2: the layer's normed inputs (B, T, N, D), from which
    it would project its keys and values.

    Half as much to keep, and nothing to project: the query goes back through the key projection instead (one
    token, not N), and what it gathers through the value projection. The key's bias adds the same to all
    scores of a query, so softmax does not see it; the value's comes through whole, as attention sums to 1."""

    inputs: torch.Tensor
    attention: Any  # the layer's own, with k_proj and v_proj

    @property
    def keys(self) -> torch.Tensor:
        return self._heads(self.attention.k_proj(self.inputs))  # (B, T, H, N, d)

    @property
    def values(self) -> torch.Tensor:
        return self._heads(self.attention.v_proj(self.inputs))  # (B, T, H, N, d)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return split_heads(x, self.attention.num_attention_heads)

    def _weight(self, projection: nn.Linear) -> torch.Tensor:
        return projection.weight.unflatten(0, (self.attention.num_attention_heads, -1))  # (H, d, D)

    def scores(self, q: torch.Tensor) -> torch.Tensor:
        """As `KeysValues.scores`, but for a constant of each query."""
        back = torch.einsum("bthkd,hde->bthke", q, self._weight(self.attention.k_proj))  # (B, T, H, K, D)
        scores = back.flatten(2, 3) @ self.inputs.transpose(-1, -2)  # (B, T, H K, N)
        return scores.unflatten(2, back.shape[2:4])

    def gather(self, attention: torch.Tensor) -> torch.Tensor:
        """As `KeysValues.gather`."""
        gathered = attention.flatten(2, 3) @ self.inputs  # (B, T, H K, D)
        gathered = gathered.unflatten(2, attention.shape[2:4])  # (B, T, H, K, D)
        values = torch.einsum("bthke,hde->bthkd", gathered, self._weight(self.attention.v_proj))
        bias = self.attention.v_proj.bias.to(values.dtype)
        return values + bias.view(values.size(2), 1, values.size(-1))

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "NormedInputs":
        return NormedInputs(function(self.inputs), self.attention)

    def tensors(self) -> list[torch.Tensor]:
        return [self.inputs]

    def join(self, parts: Sequence[Any]) -> "NormedInputs":
        """The clips of several as one."""
        return NormedInputs(torch.cat([p.inputs for p in parts]), self.attention)


@dataclass
class FrameCache:
    """What DINOv2 made of frames, computed once: what queries find at every layer, and the patches' final
    states.

    layers: one a layer; empty where nothing looks. shape: (B, T). grid: patches down and across.
    Index with a slice of frames: `cache[t : t + 1]`."""

    layers: Sequence[KeysValues | NormedInputs]
    shape: tuple[int, int]
    grid: tuple[int, int]
    finish: Callable[[], torch.Tensor]  # the way to last_hidden_state
    hidden: torch.Tensor | None = None  # (B, T, N), True for tokens that queries can't see
    finished: torch.Tensor | None = None  # last_hidden_state, once it was asked for

    def __getitem__(self, frames: slice) -> "FrameCache":
        count = len(range(*frames.indices(self.shape[1])))
        return self._with(lambda x: x[:, frames], (self.shape[0], count))

    @staticmethod
    def cat(caches: "Sequence[FrameCache]") -> "FrameCache":
        """The clips of several caches, of equally many frames, as one for queries to look at."""
        first = caches[0]
        layers = [layer.join([cache.layers[i] for cache in caches]) for i, layer in enumerate(first.layers)]
        shape = (sum(cache.batch_size for cache in caches), len(first))
        hidden = [cache.hidden for cache in caches if cache.hidden is not None]
        finished = [cache.finished for cache in caches if cache.finished is not None]
        if hidden and len(hidden) < len(caches):
            raise ValueError("caches of which some hide patches: all must, or none")
        return FrameCache(
            layers,
            shape,
            first.grid,
            lambda: torch.cat([c.last_hidden_state for c in caches]),
            torch.cat(hidden) if hidden else None,
            torch.cat(finished) if len(finished) == len(caches) else None,
        )

    def tensors(self) -> list[torch.Tensor]:
        """All that queries find, (B, ...) each: of caches alike in the same order."""
        found = [x for layer in self.layers for x in layer.tensors()]
        return [*found, *(x for x in (self.hidden, self.finished) if x is not None)]

    def repeat(self, times: int) -> "FrameCache":
        """The cache of one clip as that of `times` equal ones (B = 1 to B = times); nothing is copied."""
        return self._with(lambda x: x.expand(times, *x.shape[1:]), (times, self.shape[1]))

    def hide(self, patches: torch.Tensor) -> "FrameCache":
        """The same frames, but queries can't see these patches (B, T, P; True is hidden). Keys and values
        stay, so the other patches still know of the hidden ones."""
        return replace(self, hidden=F.pad(patches.bool(), (1, 0)))

    def shift(self, down: int, across: int) -> "FrameCache":
        """The same frames, but what a query gets for attending to a patch is the value of the patch `down`
        and `across` from it, around the edges."""

        def rolled(values):  # (..., N, d)
            cls, patches = values[..., :1, :], values[..., 1:, :].unflatten(-2, self.grid)
            patches = patches.roll((-down, -across), (-3, -2)).flatten(-3, -2)  # (..., P, d)
            return torch.cat([cls, patches], dim=-2)

        layers = []
        for layer in self.layers:
            inputs = None if layer.inputs is None else rolled(layer.inputs)
            layers.append(KeysValues(layer.keys, rolled(layer.values), inputs))
        return replace(self, layers=layers, finish=lambda: rolled(self.last_hidden_state), finished=None)

    def _with(self, cut: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int]) -> "FrameCache":
        hidden = None if self.hidden is None else cut(self.hidden)
        layers = [layer.map(cut) for layer in self.layers]
        return FrameCache(layers, shape, self.grid, lambda: cut(self.last_hidden_state), hidden)

    def __len__(self) -> int:
        return self.shape[1]

    @property
    def batch_size(self) -> int:
        return self.shape[0]

    @property
    def keys(self) -> list[torch.Tensor]:
        """Each layer's keys (B, T, H, N, d)."""
        return [layer.keys for layer in self.layers]

    @property
    def values(self) -> list[torch.Tensor]:
        """Each layer's values (B, T, H, N, d)."""
        return [layer.values for layer in self.layers]

    def attended(self, attention: torch.Tensor, final: bool = False) -> torch.Tensor:
        """What the last layer's attention (B, T, H, N) falls on, weighted with its mean over heads: that
        layer's normed inputs or, `final`, the states it makes of them, (B, T, D); of K queries a frame,
        (B, T, K, H, N), (B, T, K, D)."""
        inputs = self.last_hidden_state if final else self.layers[-1].inputs
        assert inputs is not None, "the last layer's are kept"
        weights = attention.mean(-2)  # (B, T, N) or (B, T, K, N)
        return weights @ inputs if weights.dim() == 4 else (weights.unsqueeze(-2) @ inputs).squeeze(-2)

    @property
    def last_hidden_state(self) -> torch.Tensor:
        """(B, T, N, D), after DINOv2's final norm. Computed when it is first asked for: queries need the last
        layer's keys and values alone."""
        if self.finished is None:  # no cached_property, whose lock torch.compile can't take
            self.finished = self.finish()
        return self.finished

    @property
    def patches(self) -> torch.Tensor:
        """The patches' final states (B, T, P, D), without CLS."""
        return self.last_hidden_state[:, :, 1:]


class QueryIn(nn.Linear):
    """From a query to the first layer: a linear map without bias (a bias makes all queries alike), scaled to
    the norm of DINOv2's tokens.

    The map starts as the identity, so that a query starts out as the tokens do. The scale is there because
    DINOv2's states have norms of 0.6 to 2 in the first layers: of a query that enters thirty times longer
    the attended values change little, and under 1 % of the energy of its final state then differs between
    clips, against a quarter with this scale (random queries, DINOv2-small, 4 layers;
    tests/models/test_models.py). It is a factor of its own, so that the weights keep a size that one learning
    rate suits."""

    norm: torch.Tensor

    def __init__(self, width: int):
        super().__init__(width, width, bias=False)
        self.register_buffer("norm", torch.ones(()))  # that a query of unit variance enters with

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        return super().forward(queries) * (self.norm * self.in_features**-0.5)


class FoveatedEncoder(PreTrainedModel):
    """DINOv2 for frames and for queries: `encode` runs it on frames, `look` is the query pass over them.

    In the query pass a query goes through every layer's own norm, query projection, output projection, layer
    scale and MLP, and attends to that layer's keys and values of CLS and patches, not to itself. Looking
    again thus costs one token, not a frame. Queries enter by `query_in` and leave by `query_out`, both of
    vision width; with `foveal=False` the two are left out and only `encode` works."""

    config_class = Dinov2Config
    main_input_name = "frames"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["FoveatedEncoder"]  # queries go through parts of its layers
    dinov2: Any  # the parts of its layers are reached by name, and torch types a part as Tensor or Module

    def __init__(self, config: Dinov2Config, foveal: bool = True, frozen: bool = False):
        """foveal: with queries. frozen: DINOv2 is not trained, so that `encode` keeps each layer's normed
        input instead of its keys and values."""
        super().__init__(config)
        self.dinov2 = Dinov2Model(config)
        self.foveal, self.frozen = foveal, frozen
        self.encodes_in: torch.dtype | None = None  # a precision of its own for frames, if it is frozen
        if foveal:
            self.query_in = QueryIn(config.hidden_size)
            self.query_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, QueryIn):
            init.ones_(module.norm)
            init.eye_(module.weight)
            return
        if isinstance(module, nn.Linear):  # keeps unit variance at unit variance
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)

    @torch.no_grad()
    def init_from_tokens(self) -> torch.Tensor:
        """Let queries of unit variance enter with the norm of the CLS token. Call it when DINOv2 has its
        weights.

        Returns the query (Q,) of unit variance that enters as the CLS token itself."""
        embeddings = self.dinov2.embeddings
        cls = (embeddings.cls_token + embeddings.position_embeddings[:, :1]).flatten()  # (D,)
        self.query_in.norm.copy_(cls.norm())
        return cls / cls.norm() * cls.numel() ** 0.5

    @contextlib.contextmanager
    def weights_as(self, dtype: torch.dtype):
        """Inside, the linear maps of a frozen DINOv2 hold their weights in `dtype`; afterwards the exact ones
        again.

        Under autocast to that type the results are the same, bit for bit: it would cast these weights anew in
        every pass, as it keeps such casts only of weights that are trained."""
        exact = {}
        if self.frozen:
            for module in self.dinov2.modules():
                if isinstance(module, nn.Linear):
                    exact |= {p: p.data for p in module.parameters(recurse=False)}
        try:
            for p, weights in exact.items():
                p.data = weights.to(dtype)
            yield
        finally:
            for p, weights in exact.items():
                p.data = weights

    def encode(self, frames: torch.Tensor) -> FrameCache:
        """Run DINOv2 on all frames at once. Frames are independent of each other.

        frames: (B, T, 3, height, width), uint8 pixels, or floats that are normalised already. Height and
        width must be multiples of the patch size (14), or ValueError."""
        with self._own_precision(frames.device.type):
            return self._encode(frames)

    def _encode(self, frames: torch.Tensor) -> FrameCache:
        B, T, _, height, width = frames.shape
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"frames of {height} x {width} pixels: both sides must be multiples of {patch}")
        pixels = normalise(frames.flatten(0, 1), self.dtype)  # (BT, 3, height, width)
        x = self.dinov2.embeddings(pixels)  # (BT, N, D)
        seen = []
        *layers, last = self.dinov2.encoder.layer
        for layer in layers:
            h, x, k, v = self._recomputable(self.encode_layer, layer, x)
            seen.append(self._seen(layer, h, k, v, (B, T)))
        known = None
        if self.foveal and self.frozen:
            seen.append(self._seen(last, last.norm1(x), None, None, (B, T)))
        elif self.foveal:
            h, k, v = known = self._recomputable(self.keys_and_values, last, x)
            seen.append(KeysValues(k.unflatten(0, (B, T)), v.unflatten(0, (B, T)), h.unflatten(0, (B, T))))

        def finish():
            with self._own_precision(frames.device.type):
                h, k, v = known or self._recomputable(self.keys_and_values, last, x)
                y = self._recomputable(self.attend, last, x, h, k, v)
                y = self.dinov2.layernorm(y).unflatten(0, (B, T))  # (B, T, N, D)
                return self._as_read(y) if self.frozen else y

        return FrameCache(seen if self.foveal else [], (B, T), (height // patch, width // patch), finish)

    def _seen(self, layer, h, k, v, shape: tuple[int, int]) -> KeysValues | NormedInputs:
        """What queries find at a layer: h (BT, N, D), k and v (BT, H, N, d)."""
        if not self.frozen:
            return KeysValues(k.unflatten(0, shape), v.unflatten(0, shape))
        return NormedInputs(self._as_read(h).unflatten(0, shape), layer.attention)

    def _own_precision(self, device: str):
        if self.encodes_in is None:
            return contextlib.nullcontext()
        return torch.autocast(device, self.encodes_in)

    def _as_read(self, x: torch.Tensor) -> torch.Tensor:
        """What a frozen encoder gives, in the precision in which a linear map would read it, autocast's. With
        a precision of its own it is rounded to that, and read in fp32."""
        device = x.device.type
        x = x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
        return x if self.encodes_in is None else x.float()

    def encode_layer(self, layer, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One DINOv2 layer on (BT, N, D): its normed input, the new states, and the keys and values
        (BT, H, N, d) that made them."""
        h, k, v = self.keys_and_values(layer, x)
        return h, self.attend(layer, x, h, k, v), k, v

    def keys_and_values(self, layer, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A layer's normed input (BT, N, D), keys and values (BT, H, N, d), without the rest of it."""
        h = layer.norm1(x)
        return h, self._heads(layer.attention.k_proj(h)), self._heads(layer.attention.v_proj(h))

    def attend(
        self, layer, x: torch.Tensor, h: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """The rest of a layer on states x (BT, N, D), given its keys and values (BT, H, N, d); h is the
        layer's norm of x."""
        q = self._heads(layer.attention.q_proj(h))  # (BT, H, N, d)
        kind = self.config._attn_implementation
        if kind == "eager":
            attended = merge_heads((q @ k.transpose(-1, -2) * layer.attention.scaling).softmax(-1) @ v)
        elif kind in (None, "sdpa"):
            attended = merge_heads(F.scaled_dot_product_attention(q, k, v))  # (BT, N, D)
        else:
            attention = ALL_ATTENTION_FUNCTIONS[kind]
            found, _ = attention(layer.attention, q, k, v, None, scaling=layer.attention.scaling)
            attended = found.flatten(-2)  # (BT, N, D), of (BT, N, H, d)
        return self.finish_layer(layer, x, attended)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return split_heads(x, self.config.num_attention_heads)

    def _recomputable(self, function, *arguments):
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(function, *arguments)
        return function(*arguments)

    def finish_layer(self, layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of a layer after its attention, for patches and queries alike: (..., D) to (..., D)."""
        x = torch.addcmul(x, layer.attention.o_proj(attended), layer.layer_scale1.lambda1)
        return torch.addcmul(x, layer.mlp(layer.norm2(x)), layer.layer_scale2.lambda1)

    def look(self, queries: torch.Tensor, cache: FrameCache, return_attention: bool = False):
        """The query pass: one query per frame (B, T, Q) to states (B, T, D), or K queries per frame,
        (B, T, K, Q), to (B, T, K, D). Queries do not see each other.

        With `return_attention` also the attention weights (B, T, layers, H, N), of K queries
        (B, T, K, layers, H, N), CLS first, that the states were made with; they sum to 1 over N. ValueError
        if there are not queries for each frame."""
        if queries.size(1) != len(cache):
            raise ValueError(f"{queries.size(1)} queries for {len(cache)} frames")
        if queries.dim() == 3:
            states, attention = self._look(queries.unsqueeze(2), cache)
            states, attention = states.squeeze(2), [weights.squeeze(3) for weights in attention]
        else:
            states, attention = self._look(queries, cache)
            attention = [weights.transpose(2, 3) for weights in attention]  # (B, T, K, H, N)
        return (states, torch.stack(attention, dim=-3)) if return_attention else states

    def _look(self, queries: torch.Tensor, cache: FrameCache) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Queries (B, T, K, Q) to states (B, T, K, D) and each layer's attention (B, T, H, K, N)."""
        maps = []
        x = self.query_in(queries)  # (B, T, K, D)
        for layer, seen in zip(self.dinov2.encoder.layer, cache.layers, strict=True):
            q = layer.attention.q_proj(layer.norm1(x))
            q = q.unflatten(-1, (layer.attention.num_attention_heads, -1)) * layer.attention.scaling
            scores = seen.scores(q.transpose(2, 3))  # (B, T, H, K, N)
            if cache.hidden is not None:
                scores = scores.masked_fill(cache.hidden[:, :, None, None], float("-inf"))
            attention = scores.softmax(-1)  # (B, T, H, K, N)
            attended = merge_heads(seen.gather(attention))  # (B, T, K, D)
            x = self.finish_layer(layer, x, attended)
            maps.append(attention)
        return self.query_out(self.dinov2.layernorm(x)), maps


def normalise(frames: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 pixels (..., 3, height, width) to the floats DINOv2 expects; floats pass unchanged."""
    if frames.dtype != torch.uint8:
        return frames.to(dtype)
    scale = torch.tensor(PIXEL_STD, device=frames.device).mul(255).reciprocal().view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(PIXEL_MEAN, PIXEL_STD)], device=frames.device).view(3, 1, 1)
    return torch.addcmul(shift, frames.float(), scale).to(dtype)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(..., N, D) to (..., H, N, d), contiguous, so that no later look copies it again."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3).contiguous()


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(..., H, N, d) to (..., N, D)."""
    return x.transpose(-2, -3).flatten(-2)
