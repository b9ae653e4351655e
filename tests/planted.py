"""Results whose truth is known, because it was put there."""

import numpy as np
import pandas as pd

from fvlm import RunConfig
from fvlm.costs.flops import flops_per_sample, visual_tokens_per_clip
from fvlm.scaling import Results, Study, parameter_counts, runs_table

CLIPS, BUDGETS = 40, np.geomspace(200, 4000, 8)


def planted(cells, seeds=(0,), schedule="constant", slope=-0.01, noise=0.004) -> Results:
    """Results of a law in size and data, where the foveated gap is 5 % at a million parameters and changes by
    `slope` a decade; every clip has its own difficulty, every seed its luck."""
    rng = np.random.default_rng(0)
    hard, tokens = rng.normal(0, 0.2, CLIPS), rng.integers(8, 30, CLIPS)
    evaluations, samples, configs = [], [], {}
    for cell in cells:
        for seed in seeds:
            config = RunConfig.from_cell(cell, seed=seed, schedule=schedule, device="cpu")
            counts, each = parameter_counts(config), flops_per_sample(config, tokens.mean())["total"]
            name, N = f"{cell}_seed{seed}", counts["trainable"]
            who = dict(
                run=name,
                cell=cell,
                seed=seed,
                pair=cell.partition("_")[0],
                llm=config.llm,
                vision=config.vision,
                frames=config.frames,
                arch=config.arch,
                task="caption",
                schedule=schedule,
            )
            gap = {"foveated": 0.05 + slope * np.log10(N / 1e6), "baseline": 0, "blind": 0.3}.get(
                config.arch, 0.1
            )
            loss = (0.5 + 60 / N**0.35 + 8 / BUDGETS**0.45) * (1 + gap) * np.exp(rng.normal(0, noise))
            for step, (budget, value) in enumerate(zip(BUDGETS, loss), 1):
                evaluations.append(
                    who
                    | dict(
                        step=step,
                        samples_seen=budget,
                        flops=budget * each,
                        visual_tokens=visual_tokens_per_clip(config),
                        loss_parallel=value,
                        loss_autoregressive=value * 1.002,
                        loss_static=value * 1.1,
                        seconds=60.0,
                        params_total=counts["total"],
                        params_trainable=N,
                        params_embedding=counts["embedding"],
                        weights="planted",
                        device="planted",
                    )
                )
            last = loss[-1] * (1 + hard) + rng.normal(0, 0.01, CLIPS)
            samples += [
                who
                | dict(
                    clip_id=f"clip{i}",
                    text_tokens=tokens[i],
                    loss_parallel=v,
                    loss_autoregressive=v,
                    loss_static=v,
                )
                for i, v in enumerate(last)
            ]
            configs[name] = config
    study = Study(pd.DataFrame(evaluations), pd.DataFrame(samples))
    runs = runs_table(study, configs, "planted")
    return Results(runs, study.evaluations.assign(study="planted"), study.samples.assign(study="planted"))


SIZES = ("T1-T", "T2-T", "T3-T", "T4-T", "T5-T")
