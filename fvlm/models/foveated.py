"""The foveated model: one visual token per frame, looked up by a query that the LLM emits after the frame
before.

B batch, T frames, W LLM width, D vision width, Q = D query width.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import DynamicCache

from fvlm.models.base import Context, VideoLanguageModel
from fvlm.models.vision import FoveatedEncoder, FrameCache


class StaticVLM(VideoLanguageModel):
    """The control without a gaze: one learned query for every frame. Also what `FoveatedVLM` builds on."""

    vision: FoveatedEncoder

    def build_vision(self, config):
        return FoveatedEncoder(config.vision_config)

    def build_connector(self, config):
        self.static_query = nn.Parameter(torch.empty(config.vision_config.hidden_size))
        self.project = nn.Linear(config.vision_config.hidden_size, config.llm_config.hidden_size)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, StaticVLM):
            init.normal_(module.static_query, std=1.0)  # 0.02 would make its attention uniform

    @torch.no_grad()
    def init_from_backbones(self):
        """Also: the learned queries start as DINOv2's CLS token, which has learned what is worth looking
        at."""
        super().init_from_backbones()
        cls = self.vision.init_from_tokens()
        for name, query in self.named_parameters(recurse=False):
            if name.endswith("_query"):
                query.copy_(cls)

    def visual_tokens(self, cache, mode, queries=None, **prompt_and_masks):
        if queries is None:
            queries = self.static_queries(cache)
        return self.see(queries, cache), queries

    def static_queries(self, cache: FrameCache) -> torch.Tensor:
        B, T = cache.batch_size, len(cache)
        return self.static_query.expand(B, T, -1)  # (B, T, Q)

    def see(self, queries: torch.Tensor, cache: FrameCache) -> torch.Tensor:
        """One visual token per frame: queries (B, T, Q) to tokens (B, T, 1, W) at the LLM's embedding
        norm."""
        return self.scale(self.project(self.standardise(self.vision.look(queries, cache)))).unsqueeze(2)

    def features(self, cache: FrameCache) -> torch.Tensor:
        return self.vision.look(self.static_queries(cache), cache)  # pyright: ignore[reportReturnType]


class FoveatedVLM(StaticVLM):
    """The LLM's state after frame t, through `to_query` and added to a learned `first_query`, is the query
    for frame t + 1.

    parallel: coarse pass `[prompt] <coarse> z°_1 … z°_T-1` over tokens z° of the static query; its states are
    the queries of the fine pass, `[prompt] <fine> z_1 … z_T <end> text`. With `fine_passes` above 1, the
    states of a fine pass make the queries of the next. (The state after the last frame would decide where to
    look in a frame that never comes, so it is not computed.) autoregressive: the fine sequence frame by
    frame, each query from the fine state before it. static: the fine sequence over z°.

    The first frame has no state before it, so its query is `first_query` alone; with a prompt its state, at
    the mode token, is added like any other, so that a question steers the first look too.

    `config.query_init_scale` is the size, in norms of a query, of what a state adds to it at the start.
    Steering that has not learned yet is noise: captions, which need little of it, did no better with 1 and
    ran less alike in parallel and frame by frame (one seed: 0.867 and 0.872 nats with 0.1, 0.882 and 0.896
    with 1); a question learns to steer in half the steps with 1 (see `LOG.md`)."""

    has_queries = True

    def build_connector(self, config):
        super().build_connector(config)
        self.coarse_token = nn.Parameter(torch.empty(config.llm_config.hidden_size))
        self.first_query = nn.Parameter(torch.empty(config.vision_config.hidden_size))
        self.to_query = nn.Linear(config.llm_config.hidden_size, config.vision_config.hidden_size, bias=False)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FoveatedVLM):
            init.normal_(module.coarse_token, std=0.02)
            init.normal_(module.first_query, std=1.0)
            init.normal_(
                module.to_query.weight, std=self.config.query_init_scale * module.to_query.in_features**-0.5
            )

    def visual_tokens(self, cache, mode, queries=None, **prompt_and_masks):
        if queries is None:
            if mode == "autoregressive":
                return self.look_frame_by_frame(cache, **prompt_and_masks)
            queries = (
                self.static_queries(cache) if mode == "static" else self.look_ahead(cache, **prompt_and_masks)
            )
        return self.see(queries, cache), queries

    def look_ahead(self, cache: FrameCache, **prompt_and_masks) -> torch.Tensor:
        """Queries of the last fine pass (B, T, Q), all frames at once: each from the pass before it, one
        frame back."""
        B = cache.batch_size
        queries = self.static_queries(cache)
        for mode_token in [self.coarse_token] + [self.fine_token] * (self.config.fine_passes - 1):
            tokens = self.see(queries, cache)[:, :-1]  # (B, T - 1, 1, W)
            states = self.read(*self.prefix(mode_token, tokens, batch=B, **prompt_and_masks))
            queries = self.queries_from(
                states[:, -len(cache) :], prompted=prompt_and_masks["prompt_ids"] is not None
            )
        return queries

    def look_frame_by_frame(self, cache: FrameCache, **prompt_and_masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T, 1, W) and queries (B, T, Q) as at inference: no frame is looked at before the one
        ahead of it."""
        B, T = cache.batch_size, len(cache)
        prompted, frame_mask = prompt_and_masks["prompt_ids"] is not None, prompt_and_masks["frame_mask"]
        seen = (
            torch.ones(B, T, dtype=torch.bool, device=self.device)
            if frame_mask is None
            else frame_mask.bool()
        )
        prefix, mask = self.prefix(self.fine_token, None, batch=B, **prompt_and_masks)
        context = Context(DynamicCache(config=self.config.llm_config), mask[:, :0])
        state = self.read(prefix, mask, context)[:, -1:]  # at <fine>
        tokens, queries = [], []
        for t in range(T):
            queries.append(
                self.queries_from(state, prompted) if t == 0 else self.to_queries(state)
            )  # (B, 1, Q)
            tokens.append(self.see(queries[t], cache[t : t + 1]))  # (B, 1, 1, W)
            if t < T - 1:
                state = self.read(tokens[t].squeeze(2).to(prefix.dtype), seen[:, t : t + 1], context)
        return torch.cat(tokens, dim=1), torch.cat(queries, dim=1)

    def queries_from(self, states: torch.Tensor, prompted: bool) -> torch.Tensor:
        """States at the mode token and after each frame but the last (B, T, W) to queries (B, T, Q)."""
        queries = self.to_queries(states)
        return (
            queries
            if prompted
            else torch.cat([self.first_query.expand_as(queries[:, :1]), queries[:, 1:]], dim=1)
        )

    def to_queries(self, states: torch.Tensor) -> torch.Tensor:
        """LLM states (..., W), whatever their size, to queries (..., Q)."""
        return self.first_query + self.to_query(F.rms_norm(states, (states.size(-1),)))
