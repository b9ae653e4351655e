"""A training step beside SmolVLM's, transformers' own implementation, in one run."""

import torch

from fvlm.bench.inputs import TEXT_TOKENS, random_batch
from fvlm.bench.report import table
from fvlm.bench.train import training_step_of
from fvlm.bench.turns import in_turns, ratio_of, times
from fvlm.config import PATCH, RunConfig
from fvlm.costs.machine import autocast
from fvlm.weights import llm_config, vision_config

FACTOR = 4  # patches that pixel shuffle joins along each side

SIGLIP = dict(  # the vision encoder that SmolVLM2-256M and -500M are published with; 64 tokens a frame
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=512,
    patch_size=16,
)


def bench_peers(config: RunConfig, samples: int = 4, repeats: int = 5) -> dict:
    """Training steps, forward and backward, of the cell and of SmolVLM with the same LLM, in turns: once with
    a vision encoder of the cell's own sizes (a 4 x 4 pixel shuffle), once with the one it is published with
    (SigLIP-base at 512 pixels). Everything is trained that the cell trains, the weights are random.

    Returns a row per peer under `peers`: tokens a frame, seconds of the peer and of the cell (medians of
    `repeats` after one to warm up), `ratio`, the peer's over the cell's, and the lowest and highest of it."""
    ours, rows = training_step_of(config, samples), []
    vision = vision_config(config)
    own = dict(
        hidden_size=vision.hidden_size,
        intermediate_size=int(vision.hidden_size * vision.mlp_ratio),
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=vision.num_attention_heads,
        image_size=config.image_size,
        patch_size=PATCH,
    )
    for name, sizes in (("the cell's vision sizes", own), ("SigLIP-base, 512 px", SIGLIP)):
        theirs, tokens = _smolvlm_step(config, sizes, samples)
        turns = in_turns(theirs, ours, repeats, config.device)
        rows.append(
            dict(
                peer=f"SmolVLM, {name}",
                tokens_per_frame=tokens,
                peer_seconds=turns["first_seconds"],
                cell_seconds=turns["second_seconds"],
                **ratio_of(turns),
            )
        )
    print(table(rows))
    for row in rows:
        print(f"{config.cell} is {times(row)} times as fast as {row['peer']}")
    return dict(cell=config.cell, samples=samples, frames=config.frames, peers=rows)


def smolvlm(config: RunConfig, sizes: dict, factor: int = FACTOR):
    """SmolVLM with the cell's LLM and a vision encoder of these sizes, random weights, what the cell trains
    trainable; and its visual tokens per frame, of which pixel shuffle makes one of `factor` squared."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    text = llm_config(config)
    text.vocab_size += 1  # its placeholder of visual tokens
    shape = SmolVLMConfig(
        text_config=text,
        vision_config=sizes,
        scale_factor=factor,
        image_token_id=text.vocab_size - 1,
        pad_token_id=0,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    with torch.device(config.device):
        model = SmolVLMForConditionalGeneration(shape)
    model.model.vision_model.requires_grad_(not config.freeze_vision)
    model.model.text_model.requires_grad_(not config.freeze_llm)
    return model, (sizes["image_size"] // sizes["patch_size"] // factor) ** 2


def _smolvlm_step(config: RunConfig, sizes: dict, samples: int):
    """A function that does a training step of SmolVLM, and its visual tokens per frame."""
    model, tokens = smolvlm(config, sizes)
    model.train()
    image, side = model.config.image_token_id, sizes["image_size"]
    batch = random_batch(config, samples)
    pixels = torch.randn(samples, config.frames, 3, side, side, device=config.device)
    text_ids = batch.labels.to(config.device)
    ids = torch.cat([text_ids.new_full((samples, config.frames * tokens), image), text_ids], 1)
    labels = torch.cat([torch.full_like(ids[:, :-TEXT_TOKENS], -100), text_ids], 1)

    def step():
        with autocast(config):
            model(input_ids=ids, pixel_values=pixels, labels=labels).loss.backward()
        model.zero_grad(set_to_none=True)

    return step, tokens
