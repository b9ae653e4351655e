"""Floating-point operations of one clip, from shapes alone.

Convention: a multiply-accumulate counts 2. A matrix product's backward pass costs one forward for the
gradient of its input and one for that of its weights, and each is counted only where it is needed: so 2x
forward for trained parts, 1x where gradients only pass through frozen ones, 0 where none flow. Attention
counts all pairs, as `torch.utils.flop_counter` does, although a causal kernel may skip half. Norms,
activations, softmax, embedding look-ups and the resampling of positions are left out (together under 1 %, see
tests/costs/test_flops.py)."""

from collections.abc import Callable
from dataclasses import dataclass

from fvlm.config import RunConfig
from fvlm.models import model_class
from fvlm.weights import llm_config, vision_config

GROUPS = ("vision", "static_look", "fine_look", "connector", "coarse_llm", "fine_llm", "text_head")


def flops_per_sample(
    config: RunConfig,
    text_tokens: float = 32,
    prompt_tokens: float = 0,
    training: bool = True,
    mode: str = "parallel",
    visual: bool = True,
) -> dict[str, float]:
    """FLOPs of one clip by group, with their sum as "total".

    vision: DINOv2 on all frames. static_look, fine_look: the query passes through its layers. connector: the
    projection of what was seen, and of LLM states to queries. coarse_llm, fine_llm: the LLM without its text
    head. text_tokens, prompt_tokens: their number, end-of-text included. training=False: one forward pass, in
    either `mode`; autoregressive, the LLM reads frame by frame to steer, then all of it with the text.
    visual=False: of a text alone, without frames. ValueError for another mode, or for training frame by
    frame, which nobody does."""
    if mode not in ("parallel", "autoregressive") or (training and mode != "parallel"):
        raise ValueError(f"mode = {mode!r}: valid are parallel and, with training=False, autoregressive")
    groups = _by_group(FlopCounter(config, training), text_tokens, prompt_tokens, mode, visual)
    return groups | {"total": sum(groups.values())}


def recomputed_flops_per_sample(
    config: RunConfig, text_tokens: float = 32, prompt_tokens: float = 0
) -> float:
    """FLOPs that gradient checkpointing adds to a training step, per clip: the layers of both backbones
    forward once more, but for the last product of each, whose result the backward pass does not need. They
    buy memory, not training, so no total has them in it."""
    groups = _by_group(RecomputedFlops(config, training=False), text_tokens, prompt_tokens, "parallel")
    return groups["vision"] + groups["coarse_llm"] + groups["fine_llm"]


def _by_group(
    count: "FlopCounter", text_tokens: float, prompt_tokens: float, mode: str, visual: bool = True
) -> dict[str, float]:
    """A clip's FLOPs by group: of its visual tokens, by the architecture's class, then of reading these and
    the text."""
    config = count.config
    made = model_class(config.arch).visual_token_flops(count, prompt_tokens, mode) if visual else {}
    groups = dict.fromkeys(GROUPS, 0.0) | made
    seen = visual_tokens_per_clip(config) if visual else 0
    groups["fine_llm"] += count.llm(prompt_tokens + 1 + seen + text_tokens)
    groups["text_head"] = count.linear(
        text_tokens, count.llm_width, count.vocabulary, weight_grad=not config.freeze_llm
    )
    return groups


def visual_tokens_per_clip(config: RunConfig) -> int:
    """Visual tokens that the LLM reads before it writes."""
    return config.frames * config.architecture.tokens_per_frame


NANOSMOL_ENCODER = {"small": 5.5e9, "base": 21.6e9}  # FLOPs of a frame's forward pass, as it took them

NANOSMOL_TEXT_TOKENS = 65  # gives its ten published totals to 0.6 %


def nanosmol_flops_per_sample(
    config: RunConfig, text_tokens: float = NANOSMOL_TEXT_TOKENS
) -> dict[str, float]:
    """Training FLOPs of one clip as nanoSmol counted them: groups `vision`, `llm` and `total`.

    Three times a fixed cost of the encoder per frame, and three times 6 N for every token the LLM reads, N
    its parameters with embeddings. 6 N is a forward and a backward pass already; the query passes, connector
    and attention are left out. ValueError for an architecture or vision model that the study did not have."""
    if config.vision not in NANOSMOL_ENCODER or config.arch not in ("foveated", "baseline"):
        raise ValueError(
            f"{config.cell}: the study counted foveated and baseline cells with DINOv2 "
            f"{', '.join(NANOSMOL_ENCODER)}"
        )
    passes = 2 if config.arch == "foveated" else 1  # coarse and fine
    tokens = passes * (visual_tokens_per_clip(config) + text_tokens)
    groups = dict(
        vision=3 * config.frames * NANOSMOL_ENCODER[config.vision],
        llm=18 * FlopCounter(config).llm_parameters() * tokens,
    )
    return groups | {"total": sum(groups.values())}


def flops_without_vision(config: RunConfig, text_tokens: float = 32) -> dict[str, float]:
    """Training FLOPs of one clip as `flops_per_sample`, but without those of the frozen vision encoder: what
    is left when its features are computed once and kept. ValueError where it is not frozen."""
    if not config.freeze_vision:
        raise ValueError(f"{config.cell}: its vision encoder is trained, so no step can do without it")
    groups = {
        name: value for name, value in flops_per_sample(config, text_tokens).items() if name in GROUPS
    } | {"vision": 0.0}
    return groups | {"total": sum(groups.values())}


@dataclass(frozen=True)
class Convention:
    """A way to count a run's training FLOPs.

    column: in tables of runs. name: in menus. axis: what figures write. per_sample: of a clip with so many
    text tokens, by group and "total"; ValueError where it does not say. None: a run counts them itself, while
    it trains."""

    column: str
    name: str
    axis: str
    per_sample: Callable[[RunConfig, float], dict[str, float]] | None = None

    def flops(self, config: RunConfig, samples: float, text_tokens: float) -> float:
        """Of a run of so many samples; NaN where the convention does not say."""
        try:
            return (
                self.per_sample(config, text_tokens)["total"] * samples if self.per_sample else float("nan")
            )
        except ValueError:
            return float("nan")


CONVENTIONS = (
    Convention("flops", "counted (fvlm/costs/flops.py)", "training FLOPs (multiply-accumulate = 2)"),
    Convention(
        "flops_nanosmol",
        "as nanoSmol counted (6N)",
        "training FLOPs (nanoSmol's 6N)",
        lambda config, _: nanosmol_flops_per_sample(config),  # always with its own number of text tokens
    ),
    Convention(
        "flops_without_vision",
        "counted, without the frozen vision encoder",
        "training FLOPs without the frozen vision encoder",
        flops_without_vision,
    ),
)


class FlopCounter:
    """FLOPs of the parts that architectures are made of, with a run's sizes and with what it freezes.

    training: forward and backward pass; else the forward pass alone. Sizes: `vision_width`, `vision_layers`,
    `grid` (patches along a side of a frame), `llm_width`, `llm_layers`, `vocabulary`."""

    def __init__(self, config: RunConfig, training: bool = True):
        self.config, self.training = config, training
        vision, llm = vision_config(config), llm_config(config)
        self.vision_width, self.vision_layers = vision.hidden_size, vision.num_hidden_layers
        self.vision_mlp, self.patch = int(vision.hidden_size * vision.mlp_ratio), vision.patch_size
        self.grid, self.vision_heads = config.image_size // vision.patch_size, vision.num_attention_heads
        self.llm_width, self.llm_layers = llm.hidden_size, llm.num_hidden_layers
        self.vocabulary, self.tied = llm.vocab_size, llm.tie_word_embeddings
        self.llm_mlp = llm.intermediate_size
        head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
        self.llm_q, self.llm_kv = head * llm.num_attention_heads, head * llm.num_key_value_heads

    def linear(
        self, rows: float, inputs: int, outputs: int, input_grad: bool = True, weight_grad: bool = True
    ) -> float:
        """A product of (rows, inputs) and (inputs, outputs), with the gradients that training needs of
        either."""
        backward = input_grad + weight_grad if self.training else 0
        return 2 * rows * inputs * outputs * (1 + backward)

    def vision(self, frames: int, final_states: bool = True) -> float:
        """DINOv2 on frames. final_states=False: without what follows the last layer's keys and values, which
        are all that queries need of it."""
        D, N, trained = self.vision_width, self.grid**2 + 1, not self.config.freeze_vision
        grads = dict(input_grad=trained, weight_grad=trained)
        layer = self.linear(N, D, 4 * D + 2 * self.vision_mlp, **grads) + self.linear(N, D, 2 * N, **grads)
        total = self.patches(1) + self.vision_layers * layer
        if not final_states:  # of a frozen layer queries see the inputs themselves
            total -= layer - (self.linear(N, D, 2 * D, **grads) if trained else 0)
        return frames * total

    def patches(self, frames: int) -> float:
        """Pixels to patch embeddings; no gradient goes to the pixels."""
        trained = not self.config.freeze_vision
        return self.linear(
            frames * self.grid**2, 3 * self.patch**2, self.vision_width, input_grad=False, weight_grad=trained
        )

    def look(self, frames: int) -> float:
        """One query pass per frame, with `query_in` and `query_out`."""
        D, N, trained = self.vision_width, self.grid**2 + 1, not self.config.freeze_vision
        products = self.linear(1, D, 2 * D + 2 * self.vision_mlp, weight_grad=trained)
        attention = self.linear(1, D, 2 * N, weight_grad=trained)
        if not trained:  # back through the key projection, then all heads over the inputs' whole width
            products += self.linear(1, D, 2 * D, weight_grad=False)
            attention = self.linear(1, self.vision_heads * D, 2 * N, weight_grad=False)
        attended = self.linear(1, N, D, weight_grad=trained) if self.config.read_attended else 0
        return frames * (self.vision_layers * (products + attention) + 2 * self.linear(1, D, D) + attended)

    def llm(self, tokens: float, pairs: float | None = None) -> float:
        """The LLM without its text head. pairs: of tokens, in attention, where not all attend to all."""
        trained, W = not self.config.freeze_llm, self.llm_width
        outputs = 2 * self.llm_q + 2 * self.llm_kv + 3 * self.llm_mlp
        products = self.linear(tokens, W, outputs, weight_grad=trained)
        attention = 2 * self.linear(tokens**2 if pairs is None else pairs, self.llm_q, 1)
        return self.llm_layers * (products + attention)

    def llm_parameters(self) -> int:
        """Parameters of the LLM, embeddings included."""
        W = self.llm_width
        layer = W * (2 * self.llm_q + 2 * self.llm_kv + 3 * self.llm_mlp + 2)
        return self.llm_layers * layer + W + W * self.vocabulary * (1 if self.tied else 2)


class RecomputedFlops(FlopCounter):
    """What of a forward pass gradient checkpointing computes again: each backbone but for the last product of
    its layers; nothing of a vision encoder that is frozen, and no patch embeddings."""

    def vision(self, frames: int, final_states: bool = True) -> float:
        if self.config.freeze_vision:
            return 0.0
        D, N = self.vision_width, self.grid**2 + 1
        last = self.linear(frames * N, D, D)
        return super().vision(frames, final_states) - self.patches(frames) - last

    def llm(self, tokens: float, pairs: float | None = None) -> float:
        last = self.linear(tokens, self.llm_mlp, self.llm_width)
        return super().llm(tokens, pairs) - self.llm_layers * last
