"""Measurements of this machine, each against its own ceiling in the same run."""

import statistics
import time

import torch

from fvlm.config import RunConfig
from fvlm.data import Batch
from fvlm.flops import flops_per_sample
from fvlm.memory import peak_memory, reset_peak_memory
from fvlm.models import build_model
from fvlm.training import accumulate_gradient

TEXT_TOKENS = 32


def bench_train(config: RunConfig, samples: int = 4, repeats: int = 5) -> dict:
    """A training step, forward and backward, against the machine's matrix product, alternating.

    Prints and returns seconds, the share of the matrix rate (median of `repeats` after two steps to warm up, with
    the lowest and highest) and the peak memory in bytes. Random weights: they cost the same."""
    model = build_model(config, pretrained=False).to(config.device).train()
    size = (samples, config.frames, 3, config.image_size, config.image_size)
    labels = torch.randint(3, 400, (samples, TEXT_TOKENS))
    batch = Batch(torch.randint(0, 256, size, dtype=torch.uint8), labels, None, None, None, [str(i) for i in range(samples)])
    flops = samples * flops_per_sample(config, TEXT_TOKENS)["total"]
    reset_peak_memory(config.device)
    seconds, shares = [], []
    for repeat in range(-2, repeats):
        ceiling = matmul_rate(config)
        _synchronize(config.device)
        start = time.perf_counter()
        accumulate_gradient(model, batch, config, samples)
        _synchronize(config.device)
        elapsed = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
        if repeat >= 0:
            seconds.append(elapsed)
            shares.append(flops / elapsed / ceiling)
    peak = peak_memory(config.device)
    print(
        f"{config.cell}, {samples} clips x {config.frames} frames, {TEXT_TOKENS} text tokens, {config.precision}, {config.device}: "
        f"{statistics.median(seconds):.2f} s a step, {flops / 1e9:.0f} GFLOP, {statistics.median(shares):.2f} of the matrix rate "
        f"({min(shares):.2f} to {max(shares):.2f}, last {ceiling / 1e9:.0f} GFLOP/s), peak {peak / 1e9:.2f} GB"
    )
    return dict(seconds=statistics.median(seconds), share=statistics.median(shares), peak_memory_bytes=peak)


def matmul_rate(config: RunConfig, side: int = 4096) -> float:
    """FLOP/s of the machine's own product of two large matrices in the run's precision: the best of three."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=config.device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        _synchronize(config.device)
        start = time.perf_counter()
        a @ b
        _synchronize(config.device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _synchronize(device: str):
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
