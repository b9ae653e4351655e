"""The foveated model: one visual token per frame, brought back by a query that the LLM makes after the frame
before. In training:

    cache = encode(frames)                                  # keys and values of every DINOv2 layer, once
    queries = static_query for every frame                  # (B, T, Q)
    repeat fine_passes times:                               # the first time is the coarse pass
        tokens = project(look(queries, cache))              # (B, T, W): one per frame
        states = llm([prompt] <coarse> tokens[:T - 1])      # (B, T, W): at <coarse> and after each frame
        queries = first_query + to_query(rms_norm(states))  # (B, T, Q): frame t's from the state before it
    tokens = project(look(queries, cache))                  # (B, T, W)
    logits = llm([prompt] <fine> tokens <end> text)         # (B, L, V)
    loss = cross_entropy(logits, text)                      # text alone

At inference there is no coarse pass: the LLM reads `[prompt] <fine>` and then one token at a time, and its
state makes the query for the next frame. See `FoveatedVLM` for what the sketch leaves out.

With K tokens per frame a frame is looked at by K queries, each the one of the sketch and a learned offset,
and the state after a frame is the one at its last token. K = 1 has no offset.

B batch, T frames, K visual tokens per frame, L text tokens, W LLM width, V vocabulary, D vision width,
Q = D query width.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import DynamicCache

from fvlm.models.base import NO_PROMPT, Context, PromptAndMasks, VideoLanguageModel
from fvlm.models.vision import FoveatedEncoder, FrameCache


class StaticVLM(VideoLanguageModel):
    """The control whose query nothing steers: one learned query for every frame. `FoveatedVLM` adds steering
    to it. Its record's `tokens_per_frame` is with how many offsets on it a frame is looked at."""

    vision: FoveatedEncoder
    query_offsets: nn.Parameter | None

    def build_vision(self, config):
        return FoveatedEncoder(config.vision_config, frozen=config.freeze_vision)

    def build_connector(self, config):
        D, K = config.vision_config.hidden_size, self.architecture.tokens_per_frame
        self.looks = K  # at each frame
        self.static_query = nn.Parameter(torch.empty(D))
        self.query_offsets = nn.Parameter(torch.empty(K, D)) if K > 1 else None
        self.project = nn.Linear(self.feature_width(config) // K, config.llm_config.hidden_size)

    def feature_width(self, config):
        # each query's own channels: what is the same for all clips differs between queries
        return (
            self.architecture.tokens_per_frame * (1 + config.read_attended) * config.vision_config.hidden_size
        )

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, StaticVLM):
            init.normal_(module.static_query, std=1.0)  # 0.02 would make its attention uniform
            if module.query_offsets is not None:
                init.normal_(module.query_offsets, std=1.0)

    @torch.no_grad()
    def init_from_backbones(self):
        """Also start the learned queries as DINOv2's CLS token, which has learned what is worth attending
        to."""
        super().init_from_backbones()
        cls = self.vision.init_from_tokens()  # (Q,)
        for name, query in self.named_parameters(recurse=False):
            if name.endswith("_query"):
                query.copy_(cls)

    def visual_tokens(self, cache, mode, queries=None, given=NO_PROMPT):
        queries = self.static_queries(cache) if queries is None else queries  # (B, T, Q)
        return self.see(queries, cache), queries

    def static_queries(self, cache: FrameCache) -> torch.Tensor:
        """The static query for every frame: (B, T, Q)."""
        return self.static_query.expand(cache.batch_size, len(cache), -1)

    def see(self, queries: torch.Tensor, cache: FrameCache) -> torch.Tensor:
        """Queries (B, T, Q) to each frame's visual tokens (B, T, K, W) at the LLM's embedding norm."""
        found = self.standardise(self.glimpse(queries, cache))  # (B, T, K D or K 2 D)
        found = found.unflatten(-1, (self.looks, -1))  # (B, T, K, D or 2 D)
        return self.scale(self.project(found))  # (B, T, K, W)

    def glimpse(self, queries: torch.Tensor, cache: FrameCache) -> torch.Tensor:
        """What queries (B, T, Q) bring back: their states (B, T, D) and, with `config.read_attended`, beside
        them what the last layer's attention falls on, as it enters that layer or, with `config.read_final`,
        as it leaves it, (B, T, 2 D) in all. With offsets one after the other, (B, T, K D) or (B, T, K 2 D).

        Alone, a query's state carries little of the clip: it is the sum of what each layer adds to the query
        itself. See LOG.md, 2026-11-25."""
        looks = self.with_offsets(queries)  # (B, T, Q) or (B, T, K, Q)
        found, attention = self.vision.look(looks, cache, return_attention=True)
        if self.config.read_attended:
            attended = cache.attended(attention[..., -1, :, :], self.config.read_final)
            found = torch.cat([found, attended], dim=-1)
        return found.flatten(2)

    def with_offsets(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries (B, T, Q) as they look: (B, T, K, Q), and themselves where there are no offsets."""
        return queries if self.query_offsets is None else queries.unsqueeze(2) + self.query_offsets

    def attention(self, queries: torch.Tensor, cache: FrameCache) -> torch.Tensor:
        """The attention weights (B, T, layers, H, N), CLS first, of queries (B, T, Q); with offsets the mean
        over them."""
        _, attention = self.vision.look(self.with_offsets(queries), cache, return_attention=True)
        return attention if self.query_offsets is None else attention.mean(2)

    def features(self, cache: FrameCache) -> torch.Tensor:
        return self.glimpse(self.static_queries(cache), cache)

    @classmethod
    def visual_token_flops(cls, count, prompt_tokens, mode):
        T, D, W = count.config.frames, count.vision_width, count.llm_width
        looks = T * count.config.architecture.tokens_per_frame
        return dict(
            vision=count.vision(T, final_states=count.config.read_final),
            static_look=count.look(looks),
            connector=count.linear(looks, (1 + count.config.read_attended) * D, W),
        )


class FoveatedVLM(StaticVLM):
    """The LLM's state after frame t, through `to_query` and added to a learned `first_query`, is the query
    for frame t + 1.

    mode parallel: as in the module's sketch; passes after the first open with `<fine>`. autoregressive: frame
    by frame, each query from the state that the fine sequence itself has reached. static: the fine sequence
    over tokens of the static query.

    The state after the last frame is never computed, as there is no frame left to look at. The first frame
    has no frame before it: its query is `first_query` alone or, with a prompt, so that a question steers this
    query too, `first_query` and the state at the mode token.

    `config.query_init_scale` is how far a state moves a query before any training, in norms of a query.
    Before it has learned, this steering is noise. Captions, which need little of it, did no better with 1
    than with 0.1, and their loss in parallel was less like that frame by frame (one seed: 0.867 and 0.872
    nats with 0.1, 0.882 and 0.896 with 1). A question learns to steer in half the steps with 1 (see
    `LOG.md`)."""

    modes_differ = True

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
            std = self.config.query_init_scale * module.to_query.in_features**-0.5
            init.normal_(module.to_query.weight, std=std)

    def visual_tokens(self, cache, mode, queries=None, given=NO_PROMPT):
        if queries is None and mode == "autoregressive":
            return self.look_frame_by_frame(cache, given)
        if queries is None and mode == "parallel":
            queries = self.look_ahead(cache, given)
        return super().visual_tokens(cache, mode, queries, given)

    def look_ahead(self, cache: FrameCache, given: PromptAndMasks = NO_PROMPT) -> torch.Tensor:
        """Queries of the last fine pass (B, T, Q), all frames at once: in each pass a frame's query comes
        from the pass before, from the state one frame back."""
        queries = self.static_queries(cache)  # (B, T, Q)
        for mode_token in [self.coarse_token] + [self.fine_token] * (self.config.fine_passes - 1):
            tokens = self.see(queries, cache)[:, :-1]  # (B, T - 1, K, W)
            prefix, mask = self.prefix(mode_token, tokens, cache.batch_size, given)  # (B, S, W), (B, S)
            # at the mode token and at each frame's last token
            states = self.read(prefix, mask)[:, -1 - self.looks * (len(cache) - 1) :: self.looks]  # (B, T, W)
            queries = self.queries_from(states, given.prompt_ids is not None)  # (B, T, Q)
        return queries

    def look_frame_by_frame(
        self, cache: FrameCache, given: PromptAndMasks = NO_PROMPT
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T, K, W) and queries (B, T, Q) as at inference: a frame is looked at when the LLM has
        read the tokens of those before it, and no other."""
        B, T = cache.batch_size, len(cache)
        seen = torch.ones(B, T, device=self.device) if given.frame_mask is None else given.frame_mask
        seen = seen.bool()  # (B, T)
        prefix, mask = self.prefix(self.fine_token, None, B, given)  # (B, S, W), (B, S)
        context = Context(DynamicCache(config=self.config.llm_config), mask[:, :0])
        state = self.read(prefix, mask, context)[:, -1:]  # (B, 1, W), at <fine>
        query = self.queries_from(state, given.prompt_ids is not None)  # (B, 1, Q)
        tokens, queries = [], []
        for t in range(T):
            token = self.see(query, cache[t : t + 1])  # (B, 1, K, W)
            tokens.append(token)
            queries.append(query)
            if t < T - 1:
                mask = seen[:, t : t + 1].expand(-1, token.size(2))  # (B, K)
                state = self.read(token.squeeze(1).to(prefix.dtype), mask, context)[:, -1:]  # (B, 1, W)
                query = self.to_queries(state)  # (B, 1, Q)
        return torch.cat(tokens, dim=1), torch.cat(queries, dim=1)

    def queries_from(self, states: torch.Tensor, prompted: bool) -> torch.Tensor:
        """States at the mode token and after each frame but the last (B, T, W) to queries (B, T, Q)."""
        queries = self.to_queries(states)
        if prompted:
            return queries
        return torch.cat([self.first_query.expand_as(queries[:, :1]), queries[:, 1:]], dim=1)

    def to_queries(self, states: torch.Tensor) -> torch.Tensor:
        """LLM states (..., W), whatever their norm, to queries (..., Q)."""
        return self.first_query + self.to_query(F.rms_norm(states, (states.size(-1),)))

    @classmethod
    def visual_token_flops(cls, count, prompt_tokens, mode):
        T, D, W, passes = count.config.frames, count.vision_width, count.llm_width, count.config.fine_passes
        K = count.config.architecture.tokens_per_frame
        vision, project, to_query = (
            count.vision(T, final_states=count.config.read_final),
            count.linear(T * K, (1 + count.config.read_attended) * D, W),
            count.linear(T, W, D),
        )
        if mode == "autoregressive":
            start = prompt_tokens + 1  # tokens that are read at once, before the first frame
            pairs = start**2 + sum(K * (start + K * t) for t in range(1, T))
            read = count.llm(start + K * (T - 1), pairs)
            return dict(
                vision=vision, fine_look=count.look(T * K), connector=project + to_query, fine_llm=read
            )
        read = count.llm(prompt_tokens + 1 + K * (T - 1))
        return dict(
            vision=vision,
            static_look=count.look(T * K),
            fine_look=passes * count.look(T * K),
            connector=(1 + passes) * project + passes * to_query,
            coarse_llm=read,
            fine_llm=(passes - 1) * read,
        )
