"""How time and memory of a training step grow with frames, with the LLM and with the batch."""

import contextlib
import ctypes
import dataclasses
import gc
import statistics
import time
from collections.abc import Iterable

import numpy as np
import torch

from fvlm.bench.inputs import TEXT_TOKENS, random_batch, random_model
from fvlm.bench.report import table
from fvlm.bench.turns import timed
from fvlm.config import LLMS, RunConfig
from fvlm.costs.flops import flops_per_sample, visual_tokens_per_clip
from fvlm.costs.machine import autocast
from fvlm.costs.memory import HEADROOM, PeakGrowth, available_memory, is_out_of_memory
from fvlm.costs.plan import parameter_counts
from fvlm.models import FrameCache
from fvlm.training.loop import accumulate_gradient, frozen_weights

ARCHS = ("foveated", "baseline")
FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCHES = (1, 2, 4, 8, 16)
SCRATCH, PRETRAINED = LLMS[1:6], LLMS[6:]  # LLMs are compared among those of the cell's own kind

FIT = ("fixed", "slope", "quadratic", "worst")

MEASURES = {"seconds": "seconds", "memory": "peak_memory_bytes"}


def bench_scaling(
    config: RunConfig,
    repeats: int = 3,
    minutes: float = 8.0,
    frames: Iterable[int] = FRAMES,
    llms: Iterable[str] | None = None,
    batches: Iterable[int] = BATCHES,
) -> dict:
    """Training steps, forward and backward, of the foveated model and the baseline: along `frames` (one
    clip), along `llms` (one clip in the cell's frames; by default all LLMs of the cell's kind) and along
    `batches`.

    Returns `points`, a row each: `axis`, cell, `x` on that axis (frames; clips; the LLM's parameters without
    embeddings), `seconds` (median of `repeats` after one to warm up), `encode_seconds` (the vision model
    forward, with nothing kept for a gradient), `peak_memory_bytes` (by how much more was held at most than
    before the model was there), the FLOPs and the `vision_share` of them; `fits`, see `fit_cost`;
    `saved_per_frame`, by how much each of the cell's frames costs the baseline more, in seconds and bytes, as
    fitted (what does not grow with frames left out);
    `left_out`, the points that do not fit in memory or would not end within `minutes`, and why. Random
    weights."""
    if llms is None:
        llms = SCRATCH if config.tiny else PRETRAINED
    started, points, left_out, rate = time.perf_counter(), [], [], float("inf")
    for axis, point, batch in _points(config, frames, llms, batches):
        name = f"{point.cell} x {batch}"
        flops = batch * flops_per_sample(point, TEXT_TOKENS)["total"]
        expected = (repeats + 1) * flops / rate
        if time.perf_counter() - started + expected > 60 * minutes:
            left_out.append(f"{name}: {minutes:g} minutes would be up")
            continue
        bytes_per_flop = [
            p["peak_memory_bytes"] / p["gflop"] / 1e9 for p in points if p["arch"] == point.arch
        ]
        # weights and gradients at least; activations grow no faster than FLOPs do
        needed = max(8 * parameter_counts(point)["total"], flops * (bytes_per_flop or [0.0])[-1])
        if needed > HEADROOM * available_memory(point.device):
            left_out.append(f"{name}: needs {needed / 1e9:.1f} GB")
            continue
        try:
            measured = _measure(point, batch, repeats)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            left_out.append(f"{name}: out of memory")
            continue
        finally:
            _give_back_memory()
        rate = flops / measured["seconds"]
        x = dict(frames=point.frames, batch=batch, llm=parameter_counts(point)["llm"])[axis]
        points.append(dict(axis=axis, arch=point.arch, cell=point.cell, batch=batch, x=x) | measured)
    fits = [
        fit | dict(axis=axis, arch=arch, measure=measure)
        for axis in ("frames", "llm", "batch")
        for arch in ARCHS
        for measure, column in MEASURES.items()
        if (fit := fit_cost([(p["x"], p[column]) for p in points if (p["axis"], p["arch"]) == (axis, arch)]))
    ]
    print(table(points))
    print(table([{name: fit[name] for name in ("axis", "arch", "measure", *FIT)} for fit in fits]))
    slopes = {
        (f["arch"], f["measure"]): f["slope"] + f["quadratic"] * config.frames
        for f in fits
        if f["axis"] == "frames"
    }
    saved = {
        measure: slopes["baseline", measure] - slopes["foveated", measure]
        for measure in MEASURES
        if ("baseline", measure) in slopes and ("foveated", measure) in slopes
    }
    if saved:
        print(
            f"one visual token a frame, not 16, saves {1000 * saved['seconds']:.1f} ms and "
            f"{saved['memory'] / 1e6:.1f} MB for each of {config.frames} frames"
        )
    if left_out:
        print("left out: " + "; ".join(left_out))
    return dict(points=points, fits=fits, saved_per_frame=saved, left_out=left_out)


def fit_cost(points: list[tuple[float, float]]) -> dict[str, float] | None:
    """What costs y at x are made of: `fixed` + `slope` x + `quadratic` x^2, none below zero, by least squares
    of relative deviations; `worst` is the largest of these. The square is fitted from four points on, three
    are needed at all, else None; a point of no cost was too small to be measured and does not count."""
    from scipy.optimize import nnls

    points = [(x, y) for x, y in points if y > 0]
    if len(points) < 3:
        return None
    x, y = np.array(points, dtype=float).T
    top = x.max()  # so that all columns are of a size
    powers = np.arange(3 if len(points) > 3 else 2)
    terms = (x[:, None] / top) ** powers / y[:, None]
    found, _ = nnls(terms, np.ones(len(y)))
    parts = np.zeros(3)
    parts[: len(powers)] = found / top**powers
    return dict(zip(FIT, map(float, (*parts, np.abs(terms @ found - 1).max()))))


def _give_back_memory():
    """So that the next point's peak is its own: freed memory goes back, where the C library can be asked."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _points(config: RunConfig, frames, llms, batches) -> Iterable[tuple[str, RunConfig, int]]:
    """Axis, configuration and clips of each point, along each axis from small to large."""
    along = (
        ("frames", [(dict(frames=count), 1) for count in frames]),
        ("llm", [(dict(llm=llm), 1) for llm in llms]),
        ("batch", [({}, count) for count in batches]),
    )
    for axis, changes in along:
        for change, batch in changes:
            for arch in ARCHS:
                yield axis, dataclasses.replace(config, arch=arch, effective_batch=batch, **change), batch


def _measure(config: RunConfig, samples: int, repeats: int) -> dict:
    """One point's time and memory."""
    with PeakGrowth(config.device) as growth:
        times = _times(config, samples, repeats)
    flops = flops_per_sample(config, TEXT_TOKENS)
    return times | dict(
        visual_tokens=visual_tokens_per_clip(config),
        peak_memory_bytes=growth.bytes,
        gflop=samples * flops["total"] / 1e9,
        vision_share=flops["vision"] / flops["total"],
    )


def _times(config: RunConfig, samples: int, repeats: int) -> dict[str, float]:
    model = random_model(config)
    batch = random_batch(config, samples)
    frames = batch.inputs(config.device)["frames"]

    @torch.no_grad()
    def encode():
        cache = model.encode(frames)
        if isinstance(cache, FrameCache) and not config.architecture.has_queries:
            _ = cache.last_hidden_state  # made when it is asked for

    seconds, encoding = [], []
    with frozen_weights(model.train(), config):
        for turn in range(repeats + 1):
            step = timed(lambda: accumulate_gradient(model, batch, config, samples), config.device)
            model.zero_grad(set_to_none=True)
            with autocast(config):
                encoded = timed(encode, config.device)
            if turn:
                seconds.append(step)
                encoding.append(encoded)
    return dict(seconds=statistics.median(seconds), encode_seconds=statistics.median(encoding))
