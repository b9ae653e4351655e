"""What all models share: the LLM, the order of its input, the text loss and generation.

Every model reads `[prompt] <fine> visual tokens <end> text`; they differ only in the visual tokens.
B batch, T frames, K visual tokens per frame, L text tokens, W LLM width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import DynamicCache

from fvlm.data.clips import IGNORE
from fvlm.models.vision import FoveatedEncoder, FrameCache

MODES = ("parallel", "autoregressive", "static")


class VideoLanguageConfig(PreTrainedConfig):
    """Configuration of a saved model: its two backbones, its architecture and where its weights came from."""

    model_type = "fvlm"
    sub_configs = {  # pyright: ignore[reportAssignmentType]
        "llm_config": AutoConfig,
        "vision_config": AutoConfig,
    }

    def __init__(
        self,
        llm_config=None,
        vision_config=None,
        arch="foveated",
        fine_passes=1,
        query_init_scale=0.1,
        image_size=224,
        sources=(),
        **kwargs,
    ):
        self.llm_config = _as_config(llm_config)
        self.vision_config = _as_config(vision_config)
        self.arch = arch
        self.fine_passes = fine_passes
        self.query_init_scale = kwargs.pop("steer", query_init_scale)  # its name in models saved before
        self.image_size = image_size
        self.sources = list(sources)
        super().__init__(**kwargs)


def _as_config(config) -> Any:
    if isinstance(config, dict):
        config = dict(config)
        return AutoConfig.for_model(config.pop("model_type"), **config)
    return config


class Standardise(nn.Module):
    """Features (..., D) to zero mean and unit variance, by constants measured once, before the first training
    step.

    Most of what a vision model gives is the same for all clips: of the foveal states' energy 99.7 % (CLS
    query, DINOv2-small, 4 layers; tests/models/test_models.py). An LLM takes long to find the rest. The
    constants are part of the model: nothing about a batch, another clip or a later frame enters."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std

    def fit(self, x: torch.Tensor):
        x = x.flatten(0, -2).float()
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0).clamp(min=1e-6 * x.std()))


@dataclass
class VideoTextOutput:
    """What a forward pass gives.

    loss: mean cross-entropy in nats per text token, None without labels.
    logits: (B, L, V), predicting each label; without labels (B, 1, V), predicting the first text token.
    queries: (B, T, Q), the query each frame was looked at with; None for models without queries.
    token_losses: (B, L) nats, 0 where there is no text. text_mask: (B, L), True where there is."""

    loss: torch.Tensor | None
    logits: torch.Tensor
    queries: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None


@dataclass
class Context:
    """How far the LLM has read: its KV cache and which positions hold something (B, S)."""

    cache: DynamicCache
    mask: torch.Tensor


class VideoLanguageModel(PreTrainedModel):
    """A causal LLM that reads visual tokens. Subclasses say how a clip becomes visual tokens.

    Inputs of `forward` and `generate`: frames (B, T, 3, S, S), uint8 or normalised floats, or what `encode`
    made of them; frame_mask (B, T), False for padding after a shorter clip; prompt_ids (B, M) with
    prompt_mask (B, M), False for padding after a shorter prompt, each prompt at least one token; labels (B,
    L), -100 after the end of a shorter text. Masks may be None: nothing is padding."""

    config_class = VideoLanguageConfig
    main_input_name = "frames"
    supports_gradient_checkpointing = True
    has_queries = False  # True where there is a choice of `mode`
    llm: Any  # a causal LLM of transformers, which types what it may lack as None
    vision: FoveatedEncoder | None
    embedding_norm: torch.Tensor

    def __init__(self, config: VideoLanguageConfig):
        super().__init__(config)
        self.llm = AutoModelForCausalLM.from_config(config.llm_config)
        self.vision = self.build_vision(config)
        width = config.llm_config.hidden_size
        self.fine_token = nn.Parameter(torch.empty(width))  # opens the visual tokens that text follows
        self.end_token = nn.Parameter(torch.empty(width))  # closes them
        self.register_buffer("embedding_norm", torch.ones(()))
        if self.vision is not None:
            self.standardise = Standardise(config.vision_config.hidden_size)
        self.build_connector(config)
        self.post_init()

    def build_vision(self, config) -> FoveatedEncoder | None:
        return None

    def build_connector(self, config):
        """Make the modules between vision model and LLM."""

    def _init_weights(self, module):
        if isinstance(module, VideoLanguageModel):
            for token in (module.fine_token, module.end_token):
                init.normal_(token, std=0.02)
            init.ones_(module.embedding_norm)
        elif isinstance(module, Standardise):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)

    @torch.no_grad()
    def init_from_backbones(self):
        """Give visual and mode tokens the mean norm of the LLM's embeddings. Call once the backbones have
        their weights."""
        norm = self.llm.get_input_embeddings().weight.float().norm(dim=-1).mean()
        self.embedding_norm.copy_(norm)
        for name, token in self.named_parameters(recurse=False):
            if name.endswith("_token"):
                token.mul_(norm / token.norm())

    @torch.no_grad()
    def calibrate(self, frames: torch.Tensor):
        """Measure what `standardise` needs on training clips (B, T, 3, S, S). Training does it before its
        first step."""
        if self.vision is not None:
            parts = frames.split(4)  # so that many long clips do not need more memory than a training step
            self.standardise.fit(torch.cat([self.features(self.encode(part)) for part in parts]))

    def features(self, cache) -> torch.Tensor:
        """What the connector reads (..., D), before it is standardised; for models with queries, under the
        static one."""
        raise NotImplementedError

    def get_input_embeddings(self):
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self):
        return self.llm.get_output_embeddings()

    # ── From clip to text ────────────────────────────────────────────────────────────────────────

    def encode(self, frames: torch.Tensor):
        """What the vision model makes of frames, to be given to `forward` in their place when they are seen
        again."""
        return frames if self.vision is None else self.vision.encode(frames)

    def visual_tokens(
        self, cache, mode, queries=None, **prompt_and_masks
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The clip's visual tokens (B, T, K, W), None if it gets none, and the queries (B, T, Q) that made
        them."""
        raise NotImplementedError

    def forward(
        self,
        frames,
        labels=None,
        prompt_ids=None,
        mode="parallel",
        queries=None,
        frame_mask=None,
        prompt_mask=None,
    ) -> VideoTextOutput:
        """Look at a clip and score its text; the shapes are in the class's docstring.

        mode: parallel (as in training), autoregressive (truly frame by frame) or static (the static query for
        every frame); models without queries give the same in all three. Given `queries` (B, T, Q) are used
        instead of the model's own. ValueError on shapes that do not fit or an unknown mode."""
        prefix, mask, queries = self._see(frames, labels, prompt_ids, mode, queries, frame_mask, prompt_mask)
        if labels is None:
            hidden = self.read(prefix, mask)[:, -1:]
            return VideoTextOutput(None, self.llm.get_output_embeddings()(hidden), queries)

        text_mask = labels != IGNORE  # (B, L)
        text = self.embed(labels[:, :-1].clamp(min=0))  # the last label is only predicted
        hidden = self.read(torch.cat([prefix, text], dim=1), torch.cat([mask, text_mask[:, :-1]], dim=1))
        logits = self.llm.get_output_embeddings()(hidden[:, -labels.size(1) :])  # (B, L, V)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
        )
        losses = losses.view_as(labels)  # (B, L)
        return VideoTextOutput(losses.sum() / text_mask.sum(), logits, queries, losses, text_mask)

    @torch.no_grad()
    def generate(
        self,
        frames,
        prompt_ids=None,
        max_new_tokens=64,
        mode="autoregressive",
        queries=None,
        frame_mask=None,
        prompt_mask=None,
    ) -> list[list[int]]:
        """Write the most likely text, token by token (greedy), until the end-of-text token or
        `max_new_tokens`.

        Returns one list of token ids per clip, without the end-of-text token."""
        prefix, mask, _ = self._see(frames, None, prompt_ids, mode, queries, frame_mask, prompt_mask)
        context = Context(DynamicCache(config=self.config.llm_config), mask[:, :0])
        hidden = self.read(prefix, mask, context)
        stop = self.config.llm_config.eos_token_id
        stop = set(stop) if isinstance(stop, list) else {stop}
        texts, done = [[] for _ in range(len(mask))], [False] * len(mask)
        for _ in range(max_new_tokens):
            ids = self.llm.get_output_embeddings()(hidden[:, -1]).argmax(-1)  # (B,)
            for i, token in enumerate(ids.tolist()):
                done[i] = done[i] or token in stop
                if not done[i]:
                    texts[i].append(token)
            if all(done):
                break
            hidden = self.read(
                self.embed(ids[:, None]), torch.ones_like(ids[:, None], dtype=torch.bool), context
            )
        return texts

    # ── The LLM's input ──────────────────────────────────────────────────────────────────────────

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.llm.get_input_embeddings()(ids)

    def prefix(self, mode_token, tokens, batch, prompt_ids=None, prompt_mask=None, frame_mask=None):
        """`[prompt] <mode> visual tokens` as embeddings (B, S, W), and which positions count (B, S).

        tokens: (B, T, K, W), or None for no visual tokens."""
        x = mode_token.new_zeros(batch, 0, mode_token.size(0))
        mask = torch.ones(batch, 0, dtype=torch.bool, device=mode_token.device)
        if prompt_ids is not None:
            x = self.embed(prompt_ids.clamp(min=0))
            mask = (
                torch.ones_like(prompt_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
            )
        x, mask = self._append(x, mask, mode_token)
        if tokens is not None:
            B, T, K, _ = tokens.shape
            seen = mask.new_ones(B, T) if frame_mask is None else frame_mask[:, :T].bool()
            x = torch.cat([x, tokens.flatten(1, 2).to(x.dtype)], dim=1)
            mask = torch.cat([mask, seen.repeat_interleave(K, dim=1)], dim=1)
        return x, mask

    def _append(self, x, mask, token):
        return torch.cat([x, token.expand(x.size(0), 1, -1).to(x.dtype)], dim=1), F.pad(
            mask, (0, 1), value=True
        )

    def read(self, x: torch.Tensor, mask: torch.Tensor, context: Context | None = None) -> torch.Tensor:
        """The LLM's last hidden states (B, S, W) for embeddings (B, S, W); positions outside `mask` are not
        there.

        With a `context` the LLM goes on from where it was, and the context moves on."""
        past = 0
        if context is not None:
            past = context.mask.size(1)
            mask = context.mask = torch.cat([context.mask, mask], dim=1)
        padded = not bool(mask.all())  # without padding the LLM can use its fast causal path
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, past:] if padded else None
        return self.llm.get_decoder()(
            inputs_embeds=x,
            attention_mask=mask.long() if padded else None,
            position_ids=positions,
            past_key_values=context.cache if context else None,
            use_cache=context is not None,
        ).last_hidden_state

    def scale(self, tokens: torch.Tensor) -> torch.Tensor:
        """Every visual token (..., W) at the LLM's embedding norm, each by itself: no statistic over batch or
        time."""
        return F.normalize(tokens.float(), dim=-1).to(tokens.dtype) * self.embedding_norm.to(tokens.dtype)

    def _see(self, frames, labels, prompt_ids, mode, queries, frame_mask, prompt_mask):
        """All that comes before the text (B, S, W), its mask (B, S) and the queries that were used."""
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: valid are {', '.join(MODES)}")
        if isinstance(frames, torch.Tensor):
            if frames.dim() != 5 or frames.size(2) != 3:
                raise ValueError(
                    f"frames of shape {tuple(frames.shape)}: expected (batch, frames, 3, height, width)"
                )
            frames = self.encode(frames)
        B = frames.batch_size if isinstance(frames, FrameCache) else len(frames)
        for name, ids in (("labels", labels), ("prompt_ids", prompt_ids)):
            if ids is not None and (ids.dim() != 2 or ids.size(0) != B or ids.size(1) == 0):
                raise ValueError(f"{name} of shape {tuple(ids.shape)}: expected ({B}, at least 1)")
        prompt = dict(prompt_ids=prompt_ids, prompt_mask=prompt_mask, frame_mask=frame_mask)
        tokens, queries = self.visual_tokens(frames, mode, queries, **prompt)
        prefix, mask = self.prefix(self.fine_token, tokens, batch=B, **prompt)
        return *self._append(prefix, mask, self.end_token), queries

    def set_gradient_checkpointing(self, on: bool):
        """Recompute activations of vision model and LLM in the backward pass instead of keeping them."""
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = on  # pyright: ignore[reportArgumentType]
                module._gradient_checkpointing_func = _checkpoint  # pyright: ignore[reportArgumentType]


def _checkpoint(function, *args, **kwargs):
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)
