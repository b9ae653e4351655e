"""Floating-point operations of one clip, from shapes alone.

Convention: a multiply-accumulate counts 2. A matrix product's backward pass costs one forward for the
gradient of its input and one for that of its weights, and each is counted only where it is needed: so 2x
forward for trained parts, 1x where gradients only pass through frozen ones, 0 where none flow. Attention
counts all pairs, as `torch.utils.flop_counter` does, although a causal kernel may skip half. Norms,
activations, softmax, embedding look-ups and the resampling of positions are left out (together under 1 %, see
tests/costs/test_flops.py)."""

from dataclasses import dataclass

from fvlm.config import RunConfig
from fvlm.models.baseline import TOKENS_PER_SIDE
from fvlm.weights import llm_config, vision_config

GROUPS = ("vision", "static_look", "fine_look", "connector", "coarse_llm", "fine_llm", "text_head")


def flops_per_sample(
    config: RunConfig,
    text_tokens: float = 32,
    prompt_tokens: float = 0,
    training: bool = True,
    mode: str = "parallel",
) -> dict[str, float]:
    """FLOPs of one clip by group, with their sum as "total".

    vision: DINOv2 on all frames. static_look, fine_look: the queries' walks through its layers. connector:
    the projection of what was seen, and of LLM states to queries. coarse_llm, fine_llm: the LLM without its
    text head. text_tokens, prompt_tokens: their number, end-of-text included. training=False: one forward
    pass, in either `mode`; autoregressive, the LLM reads frame by frame to steer, then all of it with the
    text. ValueError for another mode, or for training frame by frame, which nobody does."""
    if mode not in ("parallel", "autoregressive") or (training and mode != "parallel"):
        raise ValueError(f"mode = {mode!r}: valid are parallel and, with training=False, autoregressive")
    count = _Counter(config, training)
    T, arch = config.frames, config.arch
    if arch == "foveated" and mode == "autoregressive":
        return _frame_by_frame(count, config, text_tokens, prompt_tokens)
    groups = dict.fromkeys(GROUPS, 0.0)
    if arch != "blind":
        groups["vision"] = count.vision(T)
    if arch in ("foveated", "static"):
        looks = {"static_look": T} | ({"fine_look": T * config.fine_passes} if arch == "foveated" else {})
        for group, frames in looks.items():
            groups[group] = count.look(frames)
        seen = sum(looks.values())
        groups["connector"] = count.linear(seen, count.vision_width, count.llm_width)
    if arch == "foveated":
        groups["connector"] += config.fine_passes * count.linear(T, count.llm_width, count.vision_width)
        groups["coarse_llm"] = count.llm(prompt_tokens + T)
        groups["fine_llm"] = (config.fine_passes - 1) * count.llm(prompt_tokens + T)
    if arch == "baseline":
        hidden, factor = 4 * count.llm_width, count.grid // TOKENS_PER_SIDE
        blocks = T * TOKENS_PER_SIDE**2
        groups["connector"] = count.linear(
            blocks, factor**2 * count.vision_width, hidden, input_grad=not config.freeze_vision
        )
        groups["connector"] += count.linear(blocks, hidden, count.llm_width)
    if arch == "meanpool":
        groups["connector"] = count.linear(
            T, count.vision_width, count.llm_width, input_grad=not config.freeze_vision
        )
    groups["fine_llm"] += count.llm(prompt_tokens + 1 + visual_tokens_per_clip(config) + text_tokens)
    groups["text_head"] = count.linear(
        text_tokens, count.llm_width, count.vocabulary, weight_grad=not config.freeze_llm
    )
    return groups | {"total": sum(groups.values())}


def _frame_by_frame(
    count: "_Counter", config: RunConfig, text_tokens: float, prompt_tokens: float
) -> dict[str, float]:
    T, start = config.frames, prompt_tokens + 1
    groups = dict.fromkeys(GROUPS, 0.0)
    groups["vision"], groups["fine_look"] = count.vision(T), count.look(T)
    groups["connector"] = count.linear(T, count.vision_width, count.llm_width)
    groups["connector"] += count.linear(T, count.llm_width, count.vision_width)
    pairs = start**2 + sum(start + t for t in range(1, T))
    groups["fine_llm"] = count.llm(prompt_tokens + T, pairs) + count.llm(prompt_tokens + 1 + T + text_tokens)
    groups["text_head"] = count.linear(text_tokens, count.llm_width, count.vocabulary)
    return groups | {"total": sum(groups.values())}


def recomputed_flops_per_sample(
    config: RunConfig, text_tokens: float = 32, prompt_tokens: float = 0
) -> float:
    """FLOPs that gradient checkpointing adds to a training step, per clip: the layers of both backbones
    forward once more, but for the last product of each, whose result the backward pass does not need. They
    buy memory, not training, so no total has them in it."""
    count, T = _Counter(config, training=False), config.frames
    groups = flops_per_sample(config, text_tokens, prompt_tokens, training=False)
    tokens = prompt_tokens + 1 + visual_tokens_per_clip(config) + text_tokens
    if config.arch == "foveated":
        tokens += config.fine_passes * (prompt_tokens + T)
    last = count.llm_layers * count.linear(tokens, count.llm_mlp, count.llm_width)
    vision = 0.0
    if not config.freeze_vision and config.arch != "blind":
        vision = (
            groups["vision"]
            - count.patches(T)
            - count.linear(T * (count.grid**2 + 1), count.vision_width, count.vision_width)
        )
    return groups["coarse_llm"] + groups["fine_llm"] - last + vision


NANOSMOL_ENCODER = {"small": 5.5e9, "base": 21.6e9}  # FLOPs of a frame's forward pass, as it took them

NANOSMOL_TEXT_TOKENS = 65  # gives its ten published totals to 0.6 %


def nanosmol_flops_per_sample(
    config: RunConfig, text_tokens: float = NANOSMOL_TEXT_TOKENS
) -> dict[str, float]:
    """Training FLOPs of one clip as nanoSmol counted them: groups `vision`, `llm` and `total`.

    Three times a fixed cost of the encoder per frame, and three times 6 N for every token the LLM reads, N
    its parameters with embeddings. 6 N is a forward and a backward pass already; the query's walks, connector
    and attention are left out. ValueError for an architecture or vision model that the study did not have."""
    if config.vision not in NANOSMOL_ENCODER or config.arch not in ("foveated", "baseline"):
        raise ValueError(
            f"{config.cell}: the study counted foveated and baseline cells with DINOv2 "
            f"{', '.join(NANOSMOL_ENCODER)}"
        )
    T = config.frames
    tokens = (
        2 * (T + text_tokens) if config.arch == "foveated" else visual_tokens_per_clip(config) + text_tokens
    )
    groups = dict(
        vision=3 * T * NANOSMOL_ENCODER[config.vision],
        llm=18 * _Counter(config, True).llm_parameters() * tokens,
    )
    return groups | {"total": sum(groups.values())}


def visual_tokens_per_clip(config: RunConfig) -> int:
    """Visual tokens that the LLM reads before it writes: T, 16 T for the baseline, none for blind."""
    return config.frames * {"baseline": TOKENS_PER_SIDE**2, "blind": 0}.get(config.arch, 1)


@dataclass
class _Counter:
    config: RunConfig
    training: bool

    def __post_init__(self):
        vision = vision_config(self.config)
        llm = llm_config(self.config)
        self.vision_width, self.vision_layers = vision.hidden_size, vision.num_hidden_layers
        self.mlp_width, self.patch = int(vision.hidden_size * vision.mlp_ratio), vision.patch_size
        self.grid = self.config.image_size // vision.patch_size
        self.llm_width, self.llm_layers, self.vocabulary = (
            llm.hidden_size,
            llm.num_hidden_layers,
            llm.vocab_size,
        )
        self.llm_mlp = llm.intermediate_size
        self.tied = llm.tie_word_embeddings
        head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
        self.llm_q, self.llm_kv = head * llm.num_attention_heads, head * llm.num_key_value_heads

    def times(self, input_grad=True, weight_grad=True):
        return 1 + (input_grad + weight_grad if self.training else 0)

    def linear(self, rows, inputs, outputs, **grads):
        return 2 * rows * inputs * outputs * self.times(**grads)

    def vision(self, frames):
        D, N, trained = self.vision_width, self.grid**2 + 1, not self.config.freeze_vision
        grads = dict(input_grad=trained, weight_grad=trained)
        layer = self.linear(N, D, 4 * D + 2 * self.mlp_width, **grads) + self.linear(N, D, 2 * N, **grads)
        # no gradient reaches the pixels; queries need no more of the last layer than its keys and values
        total = self.patches(1) + self.vision_layers * layer
        if self.config.arch in ("foveated", "static"):
            total -= layer - self.linear(N, D, 2 * D, **grads)
        return frames * total

    def patches(self, frames):
        trained = not self.config.freeze_vision
        return self.linear(
            frames * self.grid**2, 3 * self.patch**2, self.vision_width, input_grad=False, weight_grad=trained
        )

    def look(self, frames):
        D, N, trained = self.vision_width, self.grid**2 + 1, not self.config.freeze_vision
        walk = self.linear(1, D, 2 * D + 2 * self.mlp_width, weight_grad=trained) + self.linear(
            1, D, 2 * N, weight_grad=trained
        )
        return frames * (self.vision_layers * walk + 2 * self.linear(1, D, D))

    def llm(self, tokens, pairs=None):
        """`pairs`: of tokens, in attention, where it is not all of them."""
        trained, W = not self.config.freeze_llm, self.llm_width
        linear = self.linear(
            tokens, W, 2 * self.llm_q + 2 * self.llm_kv + 3 * self.llm_mlp, weight_grad=trained
        )
        attention = 2 * self.linear(tokens**2 if pairs is None else pairs, self.llm_q, 1)
        return self.llm_layers * (linear + attention)

    def llm_parameters(self):
        W = self.llm_width
        layer = W * (2 * self.llm_q + 2 * self.llm_kv + 3 * self.llm_mlp + 2)
        return self.llm_layers * layer + W + W * self.vocabulary * (1 if self.tied else 2)
