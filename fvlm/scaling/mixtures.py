"""What runs of many mixtures found, from their folders to laws, predictions and what came of these.

`fvlm mix` keeps all runs of a study in `runs.parquet`, a row per run and evaluation, which stays when their
folders are gone.

k domains.
"""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from fvlm.config import DOMAINS, ConfigError
from fvlm.files import commit, read_json_object, read_table, update_table, write_json
from fvlm.scaling.intervals import t_half_width, t_interval
from fvlm.scaling.mix import (
    FORMS,
    LAW,
    Limits,
    MixLaws,
    Optimum,
    cross_validated,
    failure,
    fit_mix,
    hundredths,
)
from fvlm.training.results import load_run

RUNS, PREDICTION = "runs.parquet", "prediction.json"
KEY = ("mixture", "cell", "seed", "step")
LOSS = "loss_autoregressive"  # how a model is used
DRAWS = 200  # bootstrap refits of a law
SETTLED = 0.5  # of a run's steps, from where its evaluations are points of a law


def found(folder: Path) -> list[dict]:
    """A row per finished run and evaluation of a study of mixtures: mixture (its folder's name), cell, arch,
    pair, seed, step, steps (of the run), samples, and of each domain weight_, loss_ and share_ (of the
    samples seen)."""
    rows = []
    for path in sorted(folder.glob("*/*/domains.parquet")):
        run = load_run(path.parent)
        table, config = run.domains, run.config
        if table["step"].max() < config.steps:
            continue
        for step, mine in table.groupby("step"):
            row = dict(
                mixture=path.parent.parent.name,
                cell=config.cell,
                arch=config.arch,
                pair=config.pair,
                seed=config.seed,
                step=int(step),
                steps=config.steps,
                samples=int(mine["samples_seen"].sum()),
            )
            for domain in mine.itertuples():
                row[f"weight_{domain.domain}"] = domain.weight
                row[f"share_{domain.domain}"] = domain.share
                row[f"loss_{domain.domain}"] = getattr(domain, LOSS)
            rows.append(row)
    return rows


def keep(folder: Path) -> pd.DataFrame:
    """Write what was found to `runs.parquet`, over what stood there of the same runs. Returns the table."""
    return pd.DataFrame(update_table(folder / RUNS, found(folder), KEY))


def mixture_runs(folder: Path) -> pd.DataFrame:
    """The kept runs of a study; empty if there are none yet."""
    path = folder / RUNS
    return read_table(path) if path.exists() else pd.DataFrame()


def domains_of(runs: pd.DataFrame) -> list[str]:
    """The domains that runs have losses of, in the order of DOMAINS."""
    return [domain for domain in DOMAINS if f"loss_{domain}" in runs]


def points(runs: pd.DataFrame, arch: str) -> pd.DataFrame:
    """The rows of one architecture that laws are fitted to: evaluations from half of a run's steps on."""
    return runs[(runs["arch"] == arch) & (runs["step"] >= SETTLED * runs["steps"])].reset_index(drop=True)


def _columns(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (n, k), samples (n,) and run labels (n,) of rows."""
    weights = rows[[f"weight_{domain}" for domain in domains_of(rows)]].to_numpy(float)
    labels = rows["mixture"] + " " + rows["cell"] + " " + rows["seed"].astype(str)
    return weights, rows["samples"].to_numpy(float), labels.to_numpy()


def mixing_laws(runs: pd.DataFrame, arch: str, form: str = LAW, bootstrap: int = DRAWS) -> MixLaws:
    """The laws of all domains for one architecture. ValueError if there are too few runs."""
    rows = points(runs, arch)
    weights, samples, labels = _columns(rows)
    fits = [
        fit_mix(weights, rows[f"loss_{domain}"], samples, labels, domain, form, bootstrap)
        for domain in domains_of(rows)
    ]
    return MixLaws(domains_of(rows), fits)


def seed_spread(rows: pd.DataFrame, domain: str) -> float | None:
    """Standard deviation of the log loss between seeds of one mixture, pooled; None where each has one."""
    last = rows[rows["step"] == rows["steps"]]
    groups = [
        np.log(mine) for _, mine in last.groupby(["mixture", "cell"])[f"loss_{domain}"] if len(mine) > 1
    ]
    if not groups:
        return None
    freedom = sum(len(group) - 1 for group in groups)
    return float(np.sqrt(sum((len(group) - 1) * group.var() for group in groups) / freedom))


def forms_compared(runs: pd.DataFrame, arch: str, forms=tuple(FORMS)) -> pd.DataFrame:
    """`cross_validated` of each domain, with `domain` before it and, of the law itself, why it is not to be
    believed (`fails`, "" if nothing speaks against it)."""
    rows = points(runs, arch)
    weights, samples, labels = _columns(rows)
    tables = []
    for domain in domains_of(rows):
        loss = rows[f"loss_{domain}"].to_numpy(float)
        table = cross_validated(weights, loss, samples, labels, forms)
        law = fit_mix(weights, loss, samples, labels, domain)
        why = failure(law, table, seed_spread(rows, domain))
        table.insert(0, "domain", domain)
        table["fails"] = np.where(table["form"] == LAW, why, "")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def best_mixture(runs: pd.DataFrame, arch: str, limits: Limits | None = None) -> Optimum:
    """The best mixture by the laws of one architecture, at the samples of its longest runs if no limits are
    given."""
    limits = limits or Limits(samples=float(runs["samples"].max()))
    return mixing_laws(runs, arch).optimum(limits)


# ── First the prediction, then the runs ──────────────────────────────────────────────────────────


def predict(runs: pd.DataFrame, mixtures: dict[str, dict[str, float]], seeds: int, folder: Path) -> dict:
    """Write `prediction.json`: the best mixture of each architecture, and what each domain's loss, the mean
    of `seeds` runs, will be there and at other mixtures. What stands there stays, ConfigError says so.

    mixtures: weights of domains, by name."""
    path = folder / PREDICTION
    if path.exists():
        raise ConfigError(f"{path} is there: a prediction is made once, before its runs")
    if runs.empty:
        raise ConfigError("no run of the design is there: run it first")
    domains, samples = domains_of(runs), float(runs["samples"].max())
    archs = list(dict.fromkeys(runs["arch"]))
    laws = {arch: mixing_laws(runs, arch) for arch in archs}
    optima, rows = {}, []
    for arch in archs:
        best = laws[arch].optimum(Limits(samples=samples))
        weights = hundredths(best.weights)
        optima[arch] = dict(zip(domains, map(float, weights)))
        optima[arch] |= dict(low=best.low.tolist(), high=best.high.tolist(), loss=best.loss, flat=best.flat)
    named = mixtures | {f"optimum of {a}": {d: optima[a][d] for d in domains} for a in archs}
    for arch in archs:
        for name, weights in named.items():
            at = np.array([weights.get(domain, 0.0) for domain in domains])
            at = at[None] / at.sum()
            losses = [
                (fit.predict(at, samples), *fit.interval(at, samples, seeds)) for fit in laws[arch].fits
            ]
            losses.append((laws[arch].loss(at, samples), *laws[arch].interval(at, samples, seeds)))
            for domain, (value, low, high) in zip([*domains, "all"], losses):
                rows.append(
                    dict(
                        arch=arch,
                        mixture=name,
                        domain=domain,
                        predicted=float(value[0]),
                        low=float(low[0]),
                        high=float(high[0]),
                    )
                )
    content = dict(
        date=date.today().isoformat(),
        commit=commit(),
        samples=samples,
        seeds=seeds,
        runs=len(runs[list(KEY[:3])].drop_duplicates()),
        mixtures=named,
        optima=optima,
        predicted=rows,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return content


def read_prediction(folder: Path) -> dict | None:
    """What was predicted; None if nothing was yet."""
    path = folder / PREDICTION
    return read_json_object(path) if path.exists() else None


def outcomes(prediction: dict, runs: pd.DataFrame) -> pd.DataFrame:
    """Predicted and come: a row per architecture, mixture and domain ("all" is the mean of them): `predicted`
    with `low` and `high`, `came` (mean of the seeds) with Student's `came_low` and `came_high`, `seeds`,
    `error_percent`, and `inside`: whether what came is in the interval. Mixtures without a run are not in
    it."""
    if runs.empty:
        return pd.DataFrame()
    domains, rows = domains_of(runs), []
    for row in prediction["predicted"]:
        mine = _last_at(prediction, runs, row["arch"], row["mixture"])
        if mine.empty:
            continue
        names = domains if row["domain"] == "all" else [row["domain"]]
        losses = mine[[f"loss_{name}" for name in names]].mean(axis=1)
        half = t_half_width(losses.std(), len(losses)) if len(losses) > 1 else float("nan")
        came = float(losses.mean())
        rows.append(
            row
            | dict(
                came=came,
                came_low=came - half,
                came_high=came + half,
                seeds=len(losses),
                error_percent=100 * (came / row["predicted"] - 1),
                inside=bool(row["low"] <= came <= row["high"]),
            )
        )
    return pd.DataFrame(rows)


def _last_at(prediction: dict, runs: pd.DataFrame, arch: str, mixture: str) -> pd.DataFrame:
    """The last evaluations of an architecture's runs on one of a prediction's mixtures."""
    domains = domains_of(runs)
    at = np.array([prediction["mixtures"][mixture].get(domain, 0.0) for domain in domains])
    weights = runs[[f"weight_{domain}" for domain in domains]].to_numpy(float)
    there = np.abs(weights - at / at.sum()).max(1) < 0.005
    return runs[there & (runs["arch"] == arch) & (runs["step"] == runs["steps"])]


def beside(prediction: dict, runs: pd.DataFrame, arch: str, mixture: str, other: str):
    """The mean loss of all domains after training on one of a prediction's mixtures, beside another, in
    percent of that: value, low and high, Student's 95 % interval over seeds that both have. None where fewer
    than two do."""
    if runs.empty:
        return None
    columns = [f"loss_{domain}" for domain in domains_of(runs)]
    one, two = (
        _last_at(prediction, runs, arch, name).set_index("seed")[columns].mean(axis=1)
        for name in (mixture, other)
    )
    percent = (100 * (one / two - 1)).dropna()
    return (percent.mean(), *t_interval(percent)) if len(percent) > 1 else None
