"""Two things measured in turns, so that whatever else the machine does meanwhile slows both."""

import statistics
import time
from collections.abc import Callable

from fvlm.costs.machine import synchronize
from fvlm.text import with_interval


def in_turns(first: Callable, second: Callable, repeats: int, device: str) -> dict[str, float]:
    """Seconds of two functions, medians of `repeats` turns after one to warm up, as `first_seconds` and
    `second_seconds`; and `ratio`, the median of the turns' own first over second, with `ratio_low` and
    `ratio_high`, the lowest and highest. Every other turn begins with the second."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            elapsed = timed((first, second)[which], device)
            if turn:
                seconds[which].append(elapsed)
    ratios = [a / b for a, b in zip(*seconds)]
    return dict(
        first_seconds=statistics.median(seconds[0]),
        second_seconds=statistics.median(seconds[1]),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
    )


def ratio_of(turns: dict) -> dict[str, float]:
    """The ratio among what `in_turns` found, with its lowest and highest."""
    return {name: turns[name] for name in ("ratio", "ratio_low", "ratio_high")}


def times(found: dict) -> str:
    """A ratio as text, with the lowest and highest turn's."""
    return with_interval(*ratio_of(found).values(), signed=False)


def timed(function: Callable, device: str) -> float:
    """Seconds that a function takes on a device, from when that is idle until it is again."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start
