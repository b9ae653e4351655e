"""Where a training step's time goes, by part."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from fvlm.config import RunConfig
from fvlm.costs.machine import autocast, synchronize
from fvlm.training.optimizer import make_optimizer

PARTS = (
    "vision encoder",
    "query pass",
    "LLM",
    "text head and loss",
    "other forward",
    "backward",
    "optimizer",
)


def parts_of_step(model, config: RunConfig, inputs: dict, repeats: int = 5) -> dict[str, float]:
    """Seconds of each of PARTS in a training step, medians of `repeats` after one to warm up.

    model: in training mode on the configuration's device. inputs: its keyword arguments, of one micro-batch;
    with features in place of frames the vision encoder takes no time. The LLM counts with all of its passes.
    Each part waits for the device, so that together they take a little longer than a step that does not."""
    optimizer = make_optimizer(model, config)
    found: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        seconds = dict.fromkeys(PARTS, 0.0)
        with _timed_methods(model, config, seconds):
            start = _now(config)
            with autocast(config):
                loss = model(**inputs, return_logits=False).loss
            forward = _now(config) - start
        seconds["other forward"] = forward - sum(seconds.values())
        start = _now(config)
        loss.backward()
        seconds["backward"] = _now(config) - start
        start = _now(config)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds["optimizer"] = _now(config) - start
        found.append(seconds)
    return {part: statistics.median(seconds[part] for seconds in found[1:]) for part in PARTS}


@contextmanager
def _timed_methods(model, config: RunConfig, seconds: dict[str, float]) -> Iterator[None]:
    """Inside, calls of the parts of `model` add to `seconds`. None of these parts is within another."""
    owners = [(model.llm.get_decoder(), "forward", "LLM"), (model, "token_losses", "text head and loss")]
    if model.vision is not None:
        owners.append((model.vision, "encode", "vision encoder"))
        if model.vision.foveal:
            owners.append((model.vision, "look", "query pass"))
    with ExitStack() as restore:
        for owner, name, part in owners:
            restore.callback(_put_back, owner, name, owner.__dict__.get(name))
            setattr(owner, name, _timed(getattr(owner, name), part, config, seconds))
        yield


def _timed(function: Callable, part: str, config: RunConfig, seconds: dict[str, float]) -> Callable:
    def call(*args, **kwargs):
        start = _now(config)
        result = function(*args, **kwargs)
        seconds[part] += _now(config) - start
        return result

    return call


def _put_back(owner, name: str, before):
    if before is None:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


def _now(config: RunConfig) -> float:
    synchronize(config.device)
    return time.perf_counter()
