"""Tables that notebooks show: what will run, and what a model says."""

import html
from pathlib import Path

import pandas as pd

from fvlm.config import REPOSITORY, ConfigError, RunConfig
from fvlm.data import Clip
from fvlm.flops import flops_per_sample, visual_tokens_per_clip
from fvlm.models import build_model, parameter_groups
from fvlm.results import Run, load_run

EXPECTED_SHARE = 0.5  # of the matrix rate that a training step reaches, evaluations included


def plan(config: RunConfig) -> pd.DataFrame:
    """What a configuration will run: parameters by group, tokens, FLOPs, and the time they take at half this
    machine's own matrix rate, measured here."""
    import torch

    from fvlm.bench import matmul_rate

    with torch.device("meta"):
        groups = parameter_groups(build_model(config, pretrained=False))
    flops = flops_per_sample(config)
    samples = config.steps * config.effective_batch
    evaluated = -(-config.steps // config.eval_every) * config.eval_samples
    total = samples * flops["total"] + 2 * evaluated * flops_per_sample(config, training=False)["total"]
    minutes = total / (EXPECTED_SHARE * matmul_rate(config, side=1024)) / 60
    rows = {
        "cell": config.cell,
        "trains on": f"{config.dataset}, {config.task}, {config.frames} frames of {config.image_size} px",
        **{f"parameters, {name}": f"{count / 1e6:.2f} M" for name, count in groups.items()},
        "visual tokens a clip": visual_tokens_per_clip(config),
        **{f"FLOPs a sample, {name}": f"{count / 1e9:.2f} G" for name, count in flops.items() if count},
        "samples": f"{config.steps} steps x {config.effective_batch} = {samples}",
        "device": f"{config.device}, {config.precision}",
        "time expected": f"about {minutes:.0f} min" if minutes >= 1.5 else f"about {60 * minutes:.0f} s",
        "results": where(config.folder),
    }
    return pd.DataFrame({"": rows})


def where(folder: Path) -> str:
    """A folder as seen from the repository, if it is inside."""
    return str(folder.relative_to(REPOSITORY)) if folder.is_relative_to(REPOSITORY) else str(folder)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 1:02:03, 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def said(run: Run, clips: list[Clip]) -> pd.DataFrame:
    """What a run's model says of clips, beside what is true."""
    truth = [clip.text(run.config.task) for clip in clips]
    table = {"clip": [clip.clip_id for clip in clips]}
    if run.config.task == "question":
        table["question"] = [clip.question for clip in clips]
    return pd.DataFrame(table | {"true": truth, "model": run.write(clips)})


def run_table(runs: list[Run]) -> pd.DataFrame:
    """What runs are and how far they came: cell, seed, clips seen, last losses, where weights came from."""
    rows = []
    for run in runs:
        last = run.evaluations.iloc[-1]
        rows.append(
            dict(run=where(run.folder), cell=run.config.cell, seed=run.config.seed, clips_seen=int(last.samples_seen),
                 loss_parallel=round(last.loss_parallel, 3), loss_autoregressive=round(last.loss_autoregressive, 3),
                 weights=last.weights)
        )  # fmt: skip
    return pd.DataFrame(rows)


def truth_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`fvlm.gaze_truth.summarise` as it is read: means with their intervals, a row per run and question asked."""
    from fvlm.gaze_truth import SCORES

    table = summary[["run", "asked", "clips"]].copy()
    for name in SCORES:
        table[name] = [f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})" for _, row in summary.iterrows()]
    return table


def swapped_table(rows: list[dict]) -> pd.DataFrame:
    """`fvlm.attention.swapped_frames`' rows of runs, as they are read: mean losses over text tokens with a clip's own frames
    and with another's, and the `difference` (nats per token) with its bootstrap 95 % interval over clips (`low`, `high`).
    Above zero the frames are used."""
    from fvlm.scaling import paired_gap

    table = []
    for run, mine in pd.DataFrame(rows).assign(seed=0).groupby("run", sort=False):
        gap = paired_gap(mine.assign(loss=mine["loss_swapped"]), mine, loss="loss")
        own = float((mine["loss"] * mine["text_tokens"]).sum() / mine["text_tokens"].sum())
        low, high = gap.interval
        table.append(dict(run=run, clips=gap.samples, own=own, swapped=own + gap.nats, difference=gap.nats, low=low, high=high))
    return pd.DataFrame(table)


def command(config: RunConfig) -> str:
    """The command that trains a cell again, with every setting in which it differs from the cell's defaults: into
    `outputs/runs`, and if the results are kept in another study, compared with those."""
    plain = RunConfig.from_cell(config.cell, device=config.device).to_dict()
    elsewhere = ("out", "study", "overwrite")
    changed = {name: value for name, value in config.to_dict().items() if plain[name] != value and name not in elsewhere}
    settings = "".join(f" --set {name}={value}" for name, value in changed.items())
    compare = f" --compare {where(config.folder)}" if config.study != plain["study"] else ""
    return f"python -m fvlm train --cell {config.cell}{settings}{compare}"


LOSSES = ("loss_parallel", "loss_autoregressive", "loss_static")


def require_same_run(kept: Run, config: RunConfig):
    """ConfigError, naming what differs, if `kept` was trained with another configuration."""
    if changed := config.changes_from(kept.config):
        raise ConfigError(f"{where(kept.folder)} is not the same run ({'; '.join(changed)})")


def compare_runs(kept: Run, again: Run) -> pd.DataFrame:
    """A cell that was trained twice with one configuration, a row per loss: the `kept` one and the one found `again` (last
    evaluation, nats per text token), their `difference`, and by how much the kept study's seeds of that cell differ
    (`seeds`, highest less lowest; NaN with one seed). The same seed on another machine, or with another number of threads,
    rounds otherwise and in the end differs too: by about as much as another seed, at the worst.

    ConfigError if the configurations differ."""
    require_same_run(kept, again.config)
    seeds = [load_run(path.parent) for path in kept.folder.parent.glob(f"{kept.config.cell}_seed*/config.json")]
    ends = pd.DataFrame([run.evaluations.iloc[-1] for run in seeds])
    rows = []
    for name in LOSSES:
        then, now = kept.evaluations[name].iloc[-1], again.evaluations[name].iloc[-1]
        spread = float(ends[name].max() - ends[name].min()) if len(ends) > 1 else float("nan")
        rows.append(dict(loss=name.removeprefix("loss_"), kept=then, again=now, difference=now - then, seeds=spread))
    return pd.DataFrame(rows)


def cells_table(cells: pd.DataFrame) -> pd.DataFrame:
    """`fvlm.grid.list_cells` as it is read."""
    table = cells[["cell", "priority", "state"]].copy()
    table["FLOPs"] = [f"{flops:.1e}" for flops in cells["flops"]]
    table["memory"] = [f"{size / 1e9:.1f} GB" for size in cells["memory_bytes"]]
    table["time"] = [clock(seconds) for seconds in cells["seconds"]]
    return table.assign(note=cells["note"])


def study_page(folder: Path) -> Path:
    """Write `index.html` of a study's folder: every run with its last losses, a link to its executed notebook, and the
    validation curves. Runs that are on their way are there too."""
    from fvlm.plots import training_curves
    from fvlm.results import load_study, write_text

    study = load_study(folder, unfinished=True)
    last = study.evaluations.groupby("run").tail(1)
    rows = []
    for row in last.itertuples():
        name = html.escape(row.run)
        page = folder / row.run / "train.html"
        rows.append(
            {
                "run": f'<a href="{name}/train.html">{name}</a>' if page.exists() else name,
                "step": row.step, "samples": row.samples_seen, "parallel": f"{row.loss_parallel:.3f}",
                "autoregressive": f"{row.loss_autoregressive:.3f}", "visual tokens": row.visual_tokens,
                "parameters": f"{row.params_total / 1e6:.1f} M", "training FLOPs": f"{row.flops:.2e}",
                "minutes": f"{row.seconds / 60:.1f}", "memory": f"{row.peak_memory_bytes / 1e9:.1f} GB",
                "weights": html.escape(row.weights),
            }
        )  # fmt: skip
    curves = training_curves(study.evaluations).to_html(full_html=False, include_plotlyjs="cdn")
    page = _PAGE.format(title=html.escape(folder.name), table=pd.DataFrame(rows).to_html(index=False, escape=False), curves=curves)
    return write_text(folder / "index.html", page)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px sans-serif; margin: 2em auto; max-width: 1300px }}
table {{ border-collapse: collapse }}
th, td {{ padding: 0.3em 0.7em; border: 0; border-bottom: 1px solid #ddd; text-align: right }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Losses are nats per text token on validation clips, at each run's last evaluation.</p>
{table}
{curves}
</body>
</html>
"""
