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
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput  # pyright: ignore[reportPrivateImportUsage]

from fvlm.architectures import ARCHITECTURES
from fvlm.config import ConfigError
from fvlm.data.clips import IGNORE
from fvlm.files import readable
from fvlm.huggingface.configuration import VideoLanguageConfig
from fvlm.models.asking import Asking
from fvlm.models.inputs import NO_PROMPT, Context, PromptAndMasks, as_pixels, is_recorded
from fvlm.models.streaming import Streaming
from fvlm.models.vision import FoveatedEncoder, FrameCache

MODES = ("parallel", "autoregressive", "static")
MAX_NEW_TOKENS = 64  # of a text, where `generate` is not told how long it may be
LOGITS = 1 << 24  # numbers that logits may be at once in training and evaluation: 64 MiB in fp32


class Standardise(nn.Module):
    """Shift and scale features (..., D) to zero mean and unit variance per channel.

    Mean and deviation are measured once, by `fit`, before the first training step, and are then part of the
    model, so no statistic of a batch, of another clip or of a later frame enters. They are needed because
    most of what the vision encoder gives is the same for all clips: 99.7 % of the energy of what a query
    brings back (the CLS query, DINOv2-small, 4 layers; tests/models/test_models.py), and an LLM takes long to
    find the rest."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std

    def fit(self, x: torch.Tensor):
        """Measure mean and deviation on features (..., D); a single row has no deviation, it stays 1."""
        x = x.flatten(0, -2).float()
        self.mean.copy_(x.mean(0))
        if len(x) > 1:
            self.std.copy_(x.std(0).clamp(min=1e-6 * x.std()))


@dataclass
class VideoTextOutput(ModelOutput):
    """What a forward pass gives.

    loss: mean cross-entropy in nats per text token, None without labels.
    logits: (B, L, V), predicting each label; without labels (B, 1, V), predicting the first text token; None
    if they were not asked for.
    past_key_values, hidden_states, attentions: the LLM's, where it goes on with a text.
    queries: (B, T, Q), the query that each frame was looked at with; None for models without queries.
    token_losses: (B, L) nats, 0 where there is no text. text_mask: (B, L), True where there is.
    token_right: (B, L), True where the label is the likeliest token; None while training."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    queries: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None
    token_right: torch.Tensor | None = None


class VideoLanguageModel(Asking, Streaming, PreTrainedModel, GenerationMixin):
    """A causal LLM that reads visual tokens.

    A subclass says how a clip becomes visual tokens (`build_vision`, `build_connector`, `features`,
    `visual_tokens`) and how many FLOPs that takes (`visual_token_flops`). Its record is in
    `fvlm/architectures.py`.

    Inputs of `forward` and `generate`: frames (B, T, 3, S, S), uint8 or normalised floats, or what `encode`
    made of them; T = 0 for texts alone, which have no visual token; labels (B, L), -100 after the end of a
    shorter text; prompt_ids, prompt_mask and frame_mask as in `PromptAndMasks`."""

    config_class = VideoLanguageConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["LlamaDecoderLayer", "GraniteDecoderLayer", "FoveatedEncoder"]
    modes_differ = False  # True where visual tokens depend on the `mode`
    llm: Any  # a causal LLM of transformers, which types what it may lack as None
    vision: FoveatedEncoder | None
    embedding_norm: torch.Tensor

    def __init__(self, config: VideoLanguageConfig):
        super().__init__(config)
        self.architecture = ARCHITECTURES[config.arch]
        self.llm = AutoModelForCausalLM.from_config(config.llm_config)
        self.vision = self.build_vision(config)
        width = config.llm_config.hidden_size
        self.fine_token = nn.Parameter(torch.empty(width))  # opens the visual tokens that text follows
        self.end_token = nn.Parameter(torch.empty(width))  # closes them
        self.register_buffer("embedding_norm", torch.ones(()))
        if self.vision is not None:
            self.standardise = Standardise(self.feature_width(config))
        self.build_connector(config)
        self.post_init()
        if self.generation_config.pad_token_id is None:  # what stands after the end of a shorter text
            stop = self.generation_config.eos_token_id
            self.generation_config.pad_token_id = stop[0] if isinstance(stop, list) else stop

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """A saved model, from a folder or a hub id, with the arguments of
        `transformers.PreTrainedModel.from_pretrained`. `ConfigError` where weights are missing, foreign or of
        other shapes."""
        want_info = kwargs.pop("output_loading_info", False)
        kinds = ["missing_keys", "unexpected_keys"]
        kinds += [] if kwargs.pop("ignore_mismatched_sizes", False) else ["mismatched_keys"]
        kwargs.pop("use_safetensors", None)
        with readable(f"{pretrained_model_name_or_path}: no {cls.__name__} that can be read"):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to be named below
                use_safetensors=True,  # never a pickle
                **kwargs,
            )
        model, info = loaded
        wrong = {kind.partition("_")[0]: sorted(map(str, info[kind])) for kind in kinds if info[kind]}
        if wrong:
            told = "; ".join(
                f"{kind}: {', '.join(names[:5])} ({len(names)})" for kind, names in wrong.items()
            )
            raise ConfigError(f"{pretrained_model_name_or_path}: not the weights of a {cls.__name__}: {told}")
        return (model, info) if want_info else model

    def build_vision(self, config) -> FoveatedEncoder | None:
        """Make the vision encoder; None for a model that sees nothing."""
        return None

    def feature_width(self, config) -> int:
        """Width of `features`."""
        return config.vision_config.hidden_size

    def build_connector(self, config):
        """Make the modules between vision encoder and LLM."""

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
        """Measure the mean norm of the LLM's embeddings, which visual tokens get, and give it to the learned
        tokens. Call it when the backbones have their weights."""
        norm = self.llm.get_input_embeddings().weight.float().norm(dim=-1).mean()
        self.embedding_norm.copy_(norm)
        for name, token in self.named_parameters(recurse=False):
            if name.endswith("_token"):
                token.mul_(norm / token.norm())

    @torch.no_grad()
    def calibrate(self, frames: torch.Tensor):
        """Fit `standardise` on training clips (B, T, 3, S, S). Training does so before its first step."""
        if self.vision is not None:
            parts = frames.split(4)  # so that many long clips do not need more memory than a training step
            self.standardise.fit(torch.cat([self.features(self.encode(part)) for part in parts]))

    def features(self, cache) -> torch.Tensor:
        """What the connector reads (..., D), before it is standardised; with queries, what the static one
        brings back."""
        raise NotImplementedError

    def get_input_embeddings(self):
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings):
        self.llm.set_output_embeddings(new_embeddings)

    # ── From clip to text ────────────────────────────────────────────────────────────────────────

    def encode(self, frames: torch.Tensor):
        """What the vision encoder makes of frames (B, T, 3, S, S). `forward` and `generate` take it in place
        of the frames, so that a clip seen again is not encoded again. Of no frames, T = 0, there is nothing
        to make: they come back."""
        return frames if self.vision is None or frames.size(1) == 0 else self.vision.encode(frames)

    def visual_tokens(
        self, cache, mode: str, queries: torch.Tensor | None = None, given: PromptAndMasks = NO_PROMPT
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The clip's visual tokens (B, T, K, W) and the queries (B, T, Q) that made them, from what `encode`
        gave; None for either that the model does not have."""
        raise NotImplementedError

    @classmethod
    def visual_token_flops(cls, count, prompt_tokens: float, mode: str) -> dict[str, float]:
        """FLOPs of making one clip's visual tokens, by the groups of `fvlm.costs.flops.GROUPS` that it takes.

        count: a `fvlm.costs.flops.FlopCounter`, which has the run's configuration as `count.config`. Reading
        the visual tokens and the text, the same for all architectures, is counted there. NotImplementedError
        for a class that does not say."""
        raise NotImplementedError(f"{cls.__name__} does not say its FLOPs: it needs visual_token_flops")

    def forward(
        self,
        frames=None,
        labels=None,
        prompt_ids=None,
        mode="parallel",
        queries=None,
        frame_mask=None,
        prompt_mask=None,
        return_logits=True,
        num_items_in_batch=None,
        input_ids=None,
        inputs_embeds=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        logits_to_keep=0,
        return_dict=None,
        **llm_arguments,
    ) -> VideoTextOutput:
        """Look at a clip and score its text; the shapes are in the class's docstring.

        mode: parallel (as in training), autoregressive (frame by frame, as at inference) or static (the
        static query for every frame); the same in all three unless `modes_differ`. queries: (B, T, Q), used
        instead of the model's own. return_logits=False: no logits of all positions at once, but the losses
        from a few at a time, which takes less memory where the vocabulary is large. num_items_in_batch: text
        tokens that the loss is divided by, those of these clips if it is None; `transformers.Trainer` gives
        those of all it accumulates.

        Without frames the LLM alone goes on: input_ids or inputs_embeds and its own arguments, as `generate`
        gives them. ValueError on shapes that do not fit or an unknown mode."""
        if frames is None:
            if labels is not None or (input_ids is None) == (inputs_embeds is None):
                raise ValueError("a model reads frames, or goes on with one of input_ids and inputs_embeds")
            found = self.llm(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **llm_arguments,
            )
            names = ("logits", "past_key_values", "hidden_states", "attentions")
            out = VideoTextOutput(**{name: found.get(name) for name in names})
            return out.to_tuple() if return_dict is False else out  # pyright: ignore[reportReturnType]
        given = PromptAndMasks(prompt_ids, prompt_mask, frame_mask)
        prefix, mask, queries = self._before_text(frames, labels, mode, queries, given)  # (B, S, W), (B, S)
        if labels is None:
            hidden = self.read(prefix, mask)[:, -1:]  # (B, 1, W)
            out = VideoTextOutput(logits=self.llm.get_output_embeddings()(hidden), queries=queries)
            return out.to_tuple() if return_dict is False else out  # pyright: ignore[reportReturnType]

        text_mask = labels != IGNORE  # (B, L)
        text = self.embed(labels[:, :-1].clamp(min=0))  # (B, L - 1, W): the last label is only predicted
        x, mask = torch.cat([prefix, text], dim=1), torch.cat([mask, text_mask[:, :-1]], dim=1)
        hidden = self.read(x, mask)  # (B, S + L - 1, W)
        hidden = hidden[:, -labels.size(1) :]  # (B, L, W)
        logits = None
        if return_logits:
            logits = self.llm.get_output_embeddings()(hidden)  # (B, L, V)
            losses = F.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="none"
            ).view_as(labels)  # (B, L), nats
            right = None if self.training else logits.argmax(-1) == labels  # (B, L)
        else:
            losses, right = self.token_losses(hidden, labels)  # (B, L), nats
        tokens = text_mask.sum() if num_items_in_batch is None else num_items_in_batch
        out = VideoTextOutput(
            loss=losses.sum() / tokens,
            logits=logits,
            queries=queries,
            token_losses=losses,
            text_mask=text_mask,
            token_right=right,
        )
        return out.to_tuple() if return_dict is False else out  # pyright: ignore[reportReturnType]

    def token_losses(
        self, hidden: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Losses (B, L) in nats of labels (B, L) from the LLM's states (B, L, W), zero where there is none,
        and whether each label is the likeliest token (B, L), None while training.

        Logits are made of labelled positions alone, at most LOGITS numbers at once, and if that takes several
        parts they are made again in the backward pass."""
        where = (labels != IGNORE).flatten().nonzero().squeeze(1)  # (N,)
        states, ids = hidden.flatten(0, 1)[where], labels.flatten()[where]  # (N, W), (N,)
        rows = max(1, LOGITS // self.config.llm_config.vocab_size)
        parts = list(zip(states.split(rows), ids.split(rows)))
        loss = self._recomputed_losses if len(parts) > 1 and torch.is_grad_enabled() else self._losses
        found, likeliest = zip(*(loss(*part) for part in parts))
        losses = torch.zeros(labels.numel(), device=labels.device)
        losses = losses.index_copy(0, where, torch.cat(found)).view_as(labels)
        if self.training:
            return losses, None
        right = torch.zeros(labels.numel(), dtype=torch.bool, device=labels.device)
        return losses, right.index_copy(0, where, torch.cat(likeliest) == ids).view_as(labels)

    def _losses(self, states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States (N, W) and the ids (N,) that should follow to losses (N,), and to the likeliest ids (N,)
        unless it is trained."""
        logits = self.llm.get_output_embeddings()(states)  # (N, V)
        loss = F.cross_entropy(logits.float(), ids, reduction="none")
        return loss, None if self.training else logits.argmax(-1)

    def _recomputed_losses(self, states: torch.Tensor, ids: torch.Tensor):
        return _checkpoint(self._losses, states, ids)

    @torch.no_grad()
    def generate(
        self,
        frames=None,
        prompt_ids=None,
        mode="autoregressive",
        queries=None,
        frame_mask=None,
        prompt_mask=None,
        **kwargs,
    ):
        """Write a text about each clip: transformers' own `generate`, with all of its arguments.

        The clip is looked at once, frame by frame unless `mode` says otherwise, and the LLM goes on with a
        cache. Returns ids (B, at most max_new_tokens), padded after the end of a shorter text, or what
        `return_dict_in_generate` asks for. Without a word on it, the most likely text (greedy) of at most
        MAX_NEW_TOKENS."""
        if frames is None:
            return super().generate(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        given = PromptAndMasks(prompt_ids, prompt_mask, frame_mask)
        prefix, mask, _ = self._before_text(frames, None, mode, queries, given)
        if not {"max_new_tokens", "max_length", "generation_config"} & kwargs.keys():
            kwargs["max_new_tokens"] = MAX_NEW_TOKENS
        kwargs |= dict(inputs_embeds=prefix, attention_mask=mask.long())
        return super().generate(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def _before_text(self, frames, labels, mode, queries, given: PromptAndMasks):
        """`[prompt] <fine> visual tokens <end>`, all that stands before the text: embeddings (B, S, W), their
        mask (B, S) and the queries (B, T, Q) that were used."""
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: valid are {', '.join(MODES)}")
        if isinstance(frames, torch.Tensor):
            if frames.dim() != 5 or frames.size(2) != 3:
                raise ValueError(
                    f"frames of shape {tuple(frames.shape)}: expected (batch, frames, 3, height, width)"
                )
            given.check_frames(*frames.shape[:2])
            frames = self.encode(as_pixels(frames))
        B = frames.batch_size if isinstance(frames, FrameCache) else len(frames)
        text_alone = isinstance(frames, torch.Tensor) and frames.size(1) == 0
        for name, ids in (("labels", labels), ("prompt_ids", given.prompt_ids)):
            if ids is not None and (ids.dim() != 2 or ids.size(0) != B or ids.size(1) == 0):
                raise ValueError(f"{name} of shape {tuple(ids.shape)}: expected ({B}, at least 1)")
        given.check_prompt()
        if text_alone:
            prefix, mask = self.prefix(self.fine_token, None, B, given)
            return *self._append(prefix, mask, self.end_token), None
        tokens, queries = self.visual_tokens(frames, mode, queries, given)  # (B, T, K, W), (B, T, Q)
        made, expected = 0 if tokens is None else tokens.size(2), self.architecture.tokens_per_frame
        if made != expected:
            raise ValueError(
                f"{type(self).__name__} made {made} visual tokens per frame; the record of "
                f"{self.architecture.name} in fvlm/architectures.py says {expected}"
            )
        prefix, mask = self.prefix(self.fine_token, tokens, B, given)
        return *self._append(prefix, mask, self.end_token), queries

    # ── The LLM's input ──────────────────────────────────────────────────────────────────────────

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.llm.get_input_embeddings()(ids)

    def prefix(self, mode_token, tokens, batch: int, given: PromptAndMasks = NO_PROMPT):
        """`[prompt] <mode> visual tokens` as embeddings (B, S, W), and which positions count (B, S).

        mode_token: (W,), `fine_token` or a model's own. tokens: (B, T, K, W); None for no visual token."""
        x = mode_token.new_zeros(batch, 0, mode_token.size(0))
        mask = torch.ones(batch, 0, dtype=torch.bool, device=mode_token.device)
        if given.prompt_ids is not None:
            x = self.embed(given.prompt_ids.clamp(min=0))  # (B, M, W)
            mask = torch.ones_like(given.prompt_ids) if given.prompt_mask is None else given.prompt_mask
            mask = mask.bool()  # (B, M)
        x, mask = self._append(x, mask, mode_token)
        if tokens is not None:
            B, T, K, _ = tokens.shape
            seen = mask.new_ones(B, T) if given.frame_mask is None else given.frame_mask[:, :T].bool()
            x = torch.cat([x, tokens.flatten(1, 2).to(x.dtype)], dim=1)  # (B, S, W)
            mask = torch.cat([mask, seen.repeat_interleave(K, dim=1)], dim=1)  # (B, S)
        return x, mask

    def _append(self, x, mask, token):
        """One more token (W,) after embeddings (B, S, W) and their mask (B, S)."""
        x = torch.cat([x, token.expand(x.size(0), 1, -1).to(x.dtype)], dim=1)
        return x, F.pad(mask, (0, 1), value=True)

    def read(self, x: torch.Tensor, mask: torch.Tensor, context: Context | None = None) -> torch.Tensor:
        """The LLM's last hidden states (B, S, W) for embeddings (B, S, W).

        mask: (B, S), False for padding, which is not attended to and takes no position. With a `context` the
        LLM goes on after what it has read before, and the context then holds the new positions too."""
        past = 0
        if context is not None:
            past = context.mask.size(1)
            mask = context.mask = torch.cat([context.mask, mask], dim=1)
        # without padding the LLM can use its fast causal path; a graph can't ask
        padded = is_recorded() or not bool(mask.all())
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, past:] if padded else None
        attended = mask.long() if padded else None  # (B, S)
        if is_recorded() and not torch.compiler.is_compiling():  # of (B, S) the LLM would ask
            causal = torch.ones(x.size(1), mask.size(1), dtype=torch.bool, device=x.device).tril(past)
            attended = causal & mask[:, None, None]  # (B, 1, S of x, S)
        return self.llm.get_decoder()(
            inputs_embeds=x,
            attention_mask=attended,
            position_ids=positions,
            past_key_values=context.cache if context else None,
            use_cache=context is not None,
        ).last_hidden_state

    def scale(self, tokens: torch.Tensor) -> torch.Tensor:
        """Visual tokens (..., W), each scaled by itself to the norm of the LLM's embeddings. A statistic over
        batch or time would let other clips and later frames in."""
        return F.normalize(tokens.float(), dim=-1).to(tokens.dtype) * self.embedding_norm.to(tokens.dtype)

    def set_gradient_checkpointing(self, on: bool):
        """Recompute activations of vision encoder and LLM in the backward pass instead of keeping them."""
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = on  # pyright: ignore[reportArgumentType]
                module._gradient_checkpointing_func = _checkpoint  # pyright: ignore[reportArgumentType]


def _checkpoint(function, *args, **kwargs):
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)
