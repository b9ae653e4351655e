"""A GPU put to the test on a bare machine: first whether it computes what a CPU does, then how fast it is.

Needs torch, transformers, numpy, pandas and pyarrow, no network and no data."""

import dataclasses
import gc
import time
from collections.abc import Callable

import torch

from fvlm.bench.correctness import checks
from fvlm.bench.inputs import TEXT_TOKENS, random_batch, random_model
from fvlm.bench.report import table
from fvlm.bench.turns import in_turns, ratio_of
from fvlm.config import RunConfig
from fvlm.costs.flops import flops_per_sample
from fvlm.costs.machine import autocast, matmul_rate, synchronize
from fvlm.costs.memory import (
    CPU_LARGEST,
    MicroBatch,
    evaluation_sizes,
    is_out_of_memory,
    peak_memory,
    reset_peak_memory,
)
from fvlm.models import FrameCache, model_class
from fvlm.training.distributed import Processes
from fvlm.training.loop import choose_micro_batch, frozen_weights, training_step
from fvlm.training.optimizer import make_optimizer
from fvlm.training.recorded import RecordedLooks, compute_again, recorder

ENOUGH = 10.0  # seconds of training steps, after which no more are timed
RATE_SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices that the machine's own rate is measured by


def bench_gpu(
    checked: list[RunConfig],
    cells: list[RunConfig],
    repeats: int = 5,
    minutes: float = 8.0,
    on_part: Callable[[dict], None] = lambda found: None,
) -> dict:
    """Check a device, then time whole training steps of `cells` at their largest micro-batch, random weights.

    checked: one configuration per pair and number of frames that all architectures are compared with the CPU
    at. A part that fails is told and does not end the others; one that is not begun after `minutes`, or
    would not end by then if it took as long as the one before, is left out and told too. `on_part` is given
    what is known so far after each part. Looks frame by frame are timed at the first cell that has them.
    Returns `checks`, `looks`, `cells`, `failed`, `left_out` and `minutes`."""
    started = time.perf_counter()
    found: dict = dict(checks=[], looks=[], cells=[], failed=[], left_out=[], minutes=0.0)
    longest = {"check": 0.0, "looks": 0.0, "cell": 0.0}

    def part(kind: str, name: str, work: Callable[[], list[dict]], into: list[dict]):
        begun = time.perf_counter()
        if begun - started + longest[kind] > 60 * minutes:
            found["left_out"].append(name)
            return
        try:
            rows = work()
            into += rows
            print(table(rows), flush=True)
            found["failed"] += [f"{name}: {row['check']}" for row in rows if not row.get("passed", True)]
        except Exception as error:  # an unknown device: whatever it is, the other parts are worth having
            if is_out_of_memory(error):
                torch.cuda.empty_cache()
            found["failed"].append(f"{name}: {type(error).__name__}: {error}")
            print(found["failed"][-1], flush=True)
        gc.collect()
        now = time.perf_counter()
        longest[kind] = max(longest[kind], now - begun)
        found["minutes"] = (now - started) / 60
        on_part(found)

    for name, check in checks(checked):
        part("check", name, check, found["checks"])
    for config in [config for config in cells if model_class(config.arch).modes_differ][:1]:
        part(
            "looks",
            f"looks of {config.cell}",
            lambda config=config: [bench_looks(config, repeats)],
            found["looks"],
        )
    for config in cells:
        part("cell", config.cell, lambda config=config: [bench_cell(config, repeats)], found["cells"])
    passed = sum(row["passed"] for row in found["checks"])
    print(f"{passed} of {len(found['checks'])} checks passed, {len(found['cells'])} cells measured")
    if found["failed"]:
        print("failed: " + "; ".join(found["failed"]))
    if found["left_out"]:
        print(f"left out, for {minutes:g} minutes were up: " + ", ".join(found["left_out"]))
    on_part(found)
    return found


@torch.no_grad()
def bench_looks(config: RunConfig, repeats: int) -> dict:
    """Looks frame by frame at as many clips as an evaluation takes together, recorded as it records them and
    not, in turns: seconds of either, and how many times as long those take that are not (`ratio`)."""
    model = random_model(config).eval()
    micro = MicroBatch(CPU_LARGEST, False)  # whatever it trained with
    size, clips = evaluation_sizes(config, model.config.vision_config, micro)
    frames = random_batch(config, clips).frames
    with frozen_weights(model, config), autocast(config):
        caches = [model.encode(part.to(config.device)) for part in frames.split(size)]
        whole = FrameCache.cat(caches)
        looks = RecordedLooks(model, recorder(config.device) or compute_again)
        for _ in range(2):
            looks.together(caches)

        def replayed():
            together, queries = looks.together(caches)
            if queries is None:
                raise RuntimeError("not recorded, as the warning above says")
            model.see(queries, together)

        turns = in_turns(
            lambda: model.visual_tokens(whole, "autoregressive"), replayed, repeats, config.device
        )
    return dict(
        cell=config.cell,
        precision=config.precision,
        clips=clips,
        seconds=turns["first_seconds"],
        recorded_seconds=turns["second_seconds"],
        **ratio_of(turns),
    )


def bench_cell(config: RunConfig, repeats: int) -> dict:
    """Training steps of a cell, optimizer included, at the largest micro-batch that its device holds: samples
    a second, the share of the machine's matrix rate, peak memory. Data is there already."""
    kind = config.device.partition(":")[0]
    rate = matmul_rate(config, RATE_SIDE[kind])
    model = random_model(config)
    batch, processes = random_batch(config, config.effective_batch), Processes(config)
    if kind == "cuda":
        batch = dataclasses.replace(batch, frames=batch.frames.pin_memory(), labels=batch.labels.pin_memory())
    with frozen_weights(model, config):
        micro = choose_micro_batch(model, batch, config, processes)
        optimizer = make_optimizer(model, config)
        seconds: list[float] = []
        reset_peak_memory(config.device)
        for step in range(-1, repeats):  # the first is to warm up
            synchronize(config.device)
            start = time.perf_counter()
            _, micro = training_step(model, optimizer, batch, config, max(step, 0), micro, processes)
            synchronize(config.device)
            if step >= 0:
                seconds.append(time.perf_counter() - start)
            if sum(seconds) > ENOUGH:
                break
    per_second = len(seconds) * len(batch) / sum(seconds)
    return dict(
        cell=config.cell,
        precision=config.precision,
        samples_per_second=per_second,
        matmul_share=per_second * flops_per_sample(config, TEXT_TOKENS)["total"] / rate,
        matmul_flops_per_second=rate,
        peak_memory_bytes=peak_memory(config.device),
        micro_batch=micro.size,
        recomputed=micro.checkpointing,
        effective_batch=len(batch),
        steps=len(seconds),
    )
