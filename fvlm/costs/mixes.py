"""What training on a mix costs: samples, tokens, FLOPs, GPU hours; from its file and shapes alone."""

import pandas as pd

from fvlm.config import RunConfig
from fvlm.costs.flops import flops_per_sample, visual_tokens_per_clip
from fvlm.data.clips import MAX_TEXT_TOKENS
from fvlm.data.mix import Mix

PEAK = 989e12  # FLOP/s of an H100 SXM in bf16, dense, by its data sheet
REACHED = 0.4  # of it by a training step: assumed, as no GPU has measured one yet (fvlm bench gpu)
CAPTION_TOKENS = 65  # of a text whose mean its part does not say: nanoSmol's
SIZES = {"5k": 5_000, "500k": 500_000, "4.4m": 4_400_000}  # samples that the mixes of these names are for
CELLS = ("S-S_8f", "M-S_8f", "B-L_8f")
FROM = {  # what each column is: measured, counted from shapes, published, fitted or assumed
    "samples": "chosen",
    "weight": "published (SmolVLM's proportions)",
    "visual_tokens": "counted from shapes",
    "text_tokens": "assumed per text (65 of a caption, 128 where training cuts a text), times samples",
    "flops": "counted from shapes (fvlm/costs/flops.py), agrees with PyTorch's counter",
    "gpu_hours": f"assumed: {REACHED:.0%} of the {PEAK / 1e12:.0f} TFLOP/s of an H100's data sheet",
}


def domain_costs(mix: Mix, samples: float, config: RunConfig) -> pd.DataFrame:
    """A row per domain: `weight`, `samples`, `text_tokens` and `visual_tokens` in all, training `flops`."""
    rows = []
    for domain, weight in mix.domains.items():
        parts = [(p, w) for p, w in zip(mix.parts, mix.weights) if p.domain == domain and w > 0]
        text = flops = 0.0
        for part, share in parts:
            tokens = min(part.text_tokens or CAPTION_TOKENS, MAX_TEXT_TOKENS)
            text += share * samples * tokens
            flops += share * samples * flops_per_sample(config, tokens, visual=domain != "text")["total"]
        seen = 0 if domain == "text" else visual_tokens_per_clip(config)
        rows.append(
            dict(
                domain=domain,
                weight=weight,
                samples=weight * samples,
                text_tokens=text,
                visual_tokens=weight * samples * seen,
                flops=flops,
            )
        )
    return pd.DataFrame(rows)


def mix_costs(mix: Mix, samples: float, cells=CELLS) -> pd.DataFrame:
    """A row per cell, foveated and baseline: tokens, training FLOPs, GPU hours of an H100 (one epoch), and of
    the baseline how many times as much of each it takes (`times_foveated`, of the FLOPs)."""
    rows = []
    for cell in cells:
        counted = {}
        for short in ("fov", "bas"):
            config = RunConfig.from_cell(f"{cell}_{short}", device="cpu", precision="fp32")
            table = domain_costs(mix, samples, config)
            total = table[["text_tokens", "visual_tokens", "flops"]].sum()
            counted[short] = total["flops"]
            rows.append(
                dict(
                    cell=config.cell,
                    samples=samples,
                    text_tokens=total["text_tokens"],
                    visual_tokens=total["visual_tokens"],
                    flops=total["flops"],
                    gpu_hours=gpu_hours(total["flops"]),
                    times_foveated=total["flops"] / counted["fov"],
                )
            )
    return pd.DataFrame(rows)


def gpu_hours(flops: float, peak: float = PEAK, reached: float = REACHED) -> float:
    """Hours of one GPU that does so many FLOP/s at its best and reaches a share of that."""
    return flops / (peak * reached) / 3600
