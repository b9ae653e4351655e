"""How long a gaze takes, and how quickly the explorer reacts."""

import dataclasses
import tempfile
import time

from fvlm.config import RunConfig


def bench_gaze(config: RunConfig, repeats: int = 5) -> dict:
    """How long a gaze takes, and how quickly the explorer reacts from a cached one, by a run of a single
    step.

    Prints and returns milliseconds in the kernel, each the median of `repeats`, with the highest: a new clip
    (vision model, gaze, text, drawing), a new frame, another map, a patch hidden; and seconds for the causal
    gaze of a clip."""
    import numpy as np

    from fvlm.gaze.attention import causal_gaze
    from fvlm.training.launch import train
    from fvlm.widgets.gaze import Explorer

    with tempfile.TemporaryDirectory() as folder:
        short = dict(steps=1, eval_every=1, eval_samples=1, effective_batch=1, dataset="shapes", out=folder)
        run = train(dataclasses.replace(config, **short))
        explorer = Explorer(run, clips=repeats + 1)
        frames = [1 + t % 2 for t in range(1, repeats + 1)]
        layers = [i % 2 for i in range(repeats)]
        actions = dict(
            new_clip=[lambda i=i: setattr(explorer.clip, "value", i + 1) for i in range(repeats)],
            frame=[lambda t=t: setattr(explorer.frame, "value", t) for t in frames],
            map=[lambda i=i: setattr(explorer.map, "value", i) for i in layers],
            hide_patch=[lambda i=i: explorer.toggle(i % 8, 0) for i in range(repeats)],
        )
        times = {name: [1000 * _seconds(act) for act in acts] for name, acts in actions.items()}
        explorer.wait()  # what the model does without the hidden patches comes later, from a thread
        clip = run.validation_clips(1)[0]
        causal = [
            _seconds(lambda: causal_gaze(run.model, clip, run.tokenizer, config.task)) for _ in range(repeats)
        ]
    shown = ", ".join(
        f"{name.replace('_', ' ')} {np.median(ms):.0f} ms (at most {max(ms):.0f})"
        for name, ms in times.items()
    )
    print(
        f"{config.cell}, {config.device}: {shown}; causal gaze of a clip {np.median(causal):.1f} s (at most "
        f"{max(causal):.1f})"
    )
    return {name: float(np.median(ms)) for name, ms in times.items()} | dict(
        causal_seconds=float(np.median(causal))
    )


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
