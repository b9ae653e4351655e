"""Gaps between two architectures, on the same clips and seeds, with intervals.

K sizes, S seeds, R validation samples, b bootstrap draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fvlm.config import ConfigError
from fvlm.scaling.intervals import Estimate, bootstrap_estimate


@dataclass(frozen=True)
class Gap:
    """How much more loss a has than b, on the same validation samples and seeds: `nats` per text token,
    `percent` of b's (NaN where b has none).

    `interval` and `percent_interval` are hierarchical bootstrap 95 % intervals, `p` the two-sided p value of
    no gap. With one seed (`seeds` 1) they hold for these very weights: how much another seed would differ is
    not in them."""

    nats: float
    percent: float
    interval: tuple[float, float]
    percent_interval: tuple[float, float]
    p: float
    seeds: int
    samples: int


def paired_gap(
    samples_a: pd.DataFrame, samples_b: pd.DataFrame, loss: str = "loss_autoregressive", bootstrap: int = 4000
) -> Gap:
    """The gap between two architectures from their samples (`load_study(...).samples`, one cell each).

    Samples count by their text tokens. Seeds and samples are resampled. Seeds are few, and a bootstrap of few
    is too narrow: the draws are widened by Student's t with the degrees of freedom of both together (Welch
    and Satterthwaite). ConfigError unless both have the same seeds and samples, each once."""
    tables = [_by_seed_and_clip(samples, loss) for samples in (samples_a, samples_b)]
    if not tables[0].index.equals(tables[1].index) or not tables[0].columns.equals(tables[1].columns):
        raise ConfigError(
            "a paired gap needs the same seeds and validation samples on both sides: compare one cell with "
            "another"
        )
    a, b = (table.to_numpy() for table in tables)  # (S, R)
    weights = _text_tokens(samples_a, tables[0].columns)
    S, R = a.shape
    losses, noise = _Losses([(a, b)], weights, bootstrap), []
    if S > 1:  # with one the interval is for these weights, and there is nothing to widen for
        by_seed = (a - b) @ weights / weights.sum()  # (S,)
        noise = [
            (losses.draws(_difference, seeds=0).var(), R - 1),
            (by_seed.var(ddof=1) / S, S - 1),
        ]
    found, level = losses.estimate(_difference, noise), float(losses.bas[0])
    percent = 100 / level if level else float("nan")
    return Gap(
        found.value,
        found.value * percent,
        (found.low, found.high),
        (found.low * percent, found.high * percent),
        found.p,
        S,
        R,
    )


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The gap in nats (b,) of one size's losses (b, 1)."""
    return (a - b)[:, 0]


def _by_seed_and_clip(samples: pd.DataFrame, loss: str) -> pd.DataFrame:
    if samples.duplicated(["seed", "clip_id"]).any():
        raise ConfigError("samples of several runs with the same seed: choose one cell on each side")
    return samples.pivot(index="seed", columns="clip_id", values=loss)


def _text_tokens(samples: pd.DataFrame, clips: pd.Index) -> np.ndarray:
    """The text tokens (R,) of these clips: what each counts by."""
    return samples.drop_duplicates("clip_id").set_index("clip_id")["text_tokens"].loc[clips].to_numpy(float)


class _Losses:
    """Two architectures' mean losses at every size, and how far resampled clips and seeds move them.

    Clips are resampled for all sizes at once, seeds for each, both architectures of a seed together.
    fov, bas: (K,) nats per text token."""

    def __init__(self, losses: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray, bootstrap: int):
        """losses: of each size both architectures', (S, R). weights (R,): what each clip counts by."""
        rng = np.random.default_rng(0)
        self.seeds, self.samples = [len(fov) for fov, _ in losses], len(weights)
        self.fov, self.bas = (
            np.array([pair[i].mean(0) @ weights / weights.sum() for pair in losses]) for i in (0, 1)
        )
        clips = (
            rng.multinomial(self.samples, np.full(self.samples, 1 / self.samples), size=bootstrap) * weights
        )
        clips = clips / clips.sum(1, keepdims=True)  # (b, R)
        means = [np.stack([pair[i].mean(0) for pair in losses]) for i in (0, 1)]  # (K, R)
        self._by_clips = clips @ means[0].T - self.fov, clips @ means[1].T - self.bas  # (b, K)
        self._by_seeds = np.zeros((bootstrap, len(losses))), np.zeros((bootstrap, len(losses)))
        for k, (pair, S) in enumerate(zip(losses, self.seeds)):
            if S > 1:
                drawn = rng.multinomial(S, np.full(S, 1 / S), size=bootstrap) / S - 1 / S  # (b, S)
                for i in (0, 1):
                    of_seed = pair[i] @ weights / weights.sum()  # (S,)
                    self._by_seeds[i][:, k] = drawn @ of_seed * np.sqrt(S / (S - 1))

    def draws(
        self, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], clips=1, seeds=1
    ) -> np.ndarray:
        """A statistic of resampled losses (b,). statistic: losses (b, K) of both architectures to numbers
        (b,). clips, seeds: 0 where these stay as they are; seeds also for each size (K,)."""
        return statistic(
            *(
                level + clips * by_clips + seeds * by_seeds
                for level, by_clips, by_seeds in zip((self.fov, self.bas), self._by_clips, self._by_seeds)
            )
        )

    def estimate(self, statistic: Callable, noise: list[tuple[float, float]] | None = None) -> Estimate:
        """The statistic with its interval. noise: as of `bootstrap_estimate`; measured by default."""
        value = float(statistic(self.fov[None], self.bas[None])[0])
        if noise is None:
            noise = [(self.draws(statistic, seeds=0).var(), self.samples - 1)]
            for k, S in enumerate(self.seeds):
                if S > 1:
                    only = np.arange(len(self.fov)) == k
                    noise.append((self.draws(statistic, clips=0, seeds=only).var(), S - 1))
        return bootstrap_estimate(value, self.draws(statistic) - value, noise)


def parameter_corrected_gap(n_fov, loss_fov, n_bas, loss_bas, interpolation: str = "linear") -> pd.DataFrame:
    """The gap in percent, corrected for the baseline's being larger: each architecture's own
    loss-against-parameters curve is read at the other's size.

    n_fov, loss_fov, n_bas, loss_bas: (m,) arrays, the i-th foveated size beside the i-th of the baseline, at
    least two. interpolation: "linear" or "log" in parameters. A row per foveated size: `params`,
    `raw_percent` (foveated over baseline as they are), `via_baseline_percent` (over the baseline's curve at
    the foveated size), `via_foveated_percent` (foveated curve at the baseline's size, over the baseline),
    `corrected_percent`, their mean, `disagreement_percent` between them, and `extrapolated`, with
    `via_baseline_extrapolated` and `via_foveated_extrapolated`: True where a curve was read outside its
    points. ValueError on fewer than two sizes or an unknown interpolation."""
    return _corrected(n_fov, loss_fov, n_bas, loss_bas, interpolation, "params")


def flops_corrected_gap(c_fov, loss_fov, c_bas, loss_bas, interpolation: str = "log") -> pd.DataFrame:
    """`parameter_corrected_gap` against training FLOPs: what the gap is at equal compute."""
    return _corrected(c_fov, loss_fov, c_bas, loss_bas, interpolation, "flops")


def _corrected(x_fov, loss_fov, x_bas, loss_bas, interpolation, name) -> pd.DataFrame:
    x_fov, loss_fov, x_bas, loss_bas = (
        np.asarray(v, float).ravel() for v in (x_fov, loss_fov, x_bas, loss_bas)
    )
    if not len(x_fov) == len(loss_fov) == len(x_bas) == len(loss_bas) >= 2:
        raise ValueError("a correction needs at least two sizes, and each of them in both architectures")
    if interpolation not in ("linear", "log"):
        raise ValueError(f"interpolation = {interpolation!r}: valid are linear, log")
    scale = np.log if interpolation == "log" else np.asarray
    rows = []
    for xf, lf, xb, lb in zip(x_fov, loss_fov, x_bas, loss_bas):
        at_fov, outside_bas = _read(scale(x_bas), loss_bas, scale(xf))
        at_bas, outside_fov = _read(scale(x_fov), loss_fov, scale(xb))
        raw, via_bas, via_fov = (100 * (ratio - 1) for ratio in (lf / lb, lf / at_fov, at_bas / lb))
        rows.append(
            {
                name: xf,
                "raw_percent": raw,
                "via_baseline_percent": via_bas,
                "via_foveated_percent": via_fov,
                "corrected_percent": (via_bas + via_fov) / 2,
                "disagreement_percent": abs(via_bas - via_fov),
                "extrapolated": outside_bas or outside_fov,
                "via_baseline_extrapolated": outside_bas,
                "via_foveated_extrapolated": outside_fov,
            }
        )
    return pd.DataFrame(rows)


def _read(x: np.ndarray, y: np.ndarray, at: float) -> tuple[float, bool]:
    """A curve through points, straight between neighbours and on beyond the outermost two; and whether `at`
    is beyond."""
    order = np.argsort(x)
    x, y = x[order], y[order]
    i = int(np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2))
    return float(y[i] + (at - x[i]) * (y[i + 1] - y[i]) / (x[i + 1] - x[i])), bool(at < x[0] or at > x[-1])


def pairs_of(table: pd.DataFrame, by: Sequence[str] = ("llm", "vision", "frames")) -> pd.DataFrame:
    """Foveated and baseline rows of the same cell side by side: columns of both with `_fov` and `_bas`; rows
    without a counterpart are left out."""
    by = list(by)
    halves = [table[table["arch"] == arch] for arch in ("foveated", "baseline")]
    return halves[0].merge(halves[1], on=by, suffixes=("_fov", "_bas")).drop(columns=["arch_fov", "arch_bas"])


# ── The gap at every size, corrected, and its trend ──────────────────────────────────────────────


KINDS = ("raw", "parameter_corrected", "flops_corrected")


@dataclass(frozen=True)
class GapScaling:
    """How the foveated model's gap to the baseline goes with size. Made by `gap_scaling`.

    table: a row per size: `pair`, `params_fov`, `params_bas`, `flops_fov`, `flops_bas`, `loss_fov`,
    `loss_bas`, `seeds`, `samples`; for each of KINDS `<kind>_percent` with `_low`, `_high` and `_p`;
    `<kind>_extrapolated` for the corrected two. trend: a row per kind: `slope`, percentage points per tenfold
    N, with `low`, `high` and `p`; NaN below three sizes."""

    table: pd.DataFrame
    trend: pd.DataFrame
    _losses: "_Losses" = field(repr=False)
    _readings: dict = field(repr=False)

    def predict(self, params: float, kind: str = "raw", sizes: Sequence[float] | None = None) -> Estimate:
        """The gap in percent at a size that was not run, on the straight line in log N through those that
        were; sizes: through these of `params_fov` alone.

        The interval holds the runs' and samples' noise, not the line's being wrong. All NaN below three
        sizes."""
        there = self.table["params_fov"]
        used = there.isin(there if sizes is None else sizes).to_numpy()
        if used.sum() < 3:
            return Estimate(*[float("nan")] * 4)
        weights = np.zeros(len(there))
        weights[used] = _line(there[used], params)
        return self._losses.estimate(lambda fov, bas: _gaps(kind, fov, bas, self._readings) @ weights)


def gap_scaling(
    samples: pd.DataFrame,
    runs: pd.DataFrame,
    loss: str = "loss_autoregressive",
    params: str = "params_trainable",
    flops: str = "flops",
    interpolation: str = "log",
    bootstrap: int = 2000,
) -> GapScaling:
    """The gap at every size: raw, at equal parameters, at equal compute, each with a hierarchical bootstrap
    interval over validation samples (the same for all sizes) and seeds (of each size; both architectures of a
    seed together).

    samples, runs: `open_results(...)`'s, of one frame count and task. params, flops: the columns of `runs` to
    correct by. Pairs without both architectures are left out. Intervals of few seeds are widened as in
    `paired_gap`. ConfigError if no pair has both, or if their validation samples differ."""
    runs = runs[runs["run"].isin(samples["run"].unique())]
    samples = samples[["pair", "arch", "seed", "clip_id", "text_tokens", loss]]
    pairs = [pair for pair, table in runs.groupby("pair") if {"foveated", "baseline"} <= set(table["arch"])]
    sizes = runs[runs["arch"] == "foveated"].groupby("pair")[params].mean()
    pairs = sorted(pairs, key=lambda pair: sizes[pair])
    if not pairs:
        raise ConfigError("no size has runs of both architectures")
    losses = _losses_of(samples, pairs, loss, bootstrap)
    at = {
        name: [runs[(runs["pair"] == p) & (runs["arch"] == a)][column].mean() for p in pairs]
        for name, column, a in (
            ("params_fov", params, "foveated"),
            ("params_bas", params, "baseline"),
            ("flops_fov", flops, "foveated"),
            ("flops_bas", flops, "baseline"),
        )
    }
    table = pd.DataFrame(
        dict(
            pair=pairs,
            **at,
            loss_fov=losses.fov,
            loss_bas=losses.bas,
            seeds=losses.seeds,
            samples=losses.samples,
        )
    )
    readings = {}
    for kind, name in (("parameter_corrected", "params"), ("flops_corrected", "flops")):
        if len(pairs) > 1 and np.isfinite(table[[f"{name}_fov", f"{name}_bas"]].to_numpy()).all():
            scale = np.log if interpolation == "log" else np.asarray
            fov, bas = (scale(table[f"{name}_{arch}"].to_numpy(float)) for arch in ("fov", "bas"))
            readings[kind] = _reading(bas, fov), _reading(fov, bas)
            table[f"{kind}_extrapolated"] = readings[kind][0][1] | readings[kind][1][1]
    trend, columns = [], {}
    for kind in KINDS:
        names = [f"{kind}_percent{part}" for part in ("", "_low", "_high", "_p")]
        if kind != "raw" and kind not in readings:
            columns |= dict.fromkeys(names, np.nan)
            trend.append(dict(kind=kind, slope=np.nan, low=np.nan, high=np.nan, p=np.nan))
            continue
        found = [
            losses.estimate(lambda fov, bas, kind=kind, k=k: _gaps(kind, fov, bas, readings)[:, k])
            for k in range(len(pairs))
        ]
        columns |= zip(names, zip(*((each.value, each.low, each.high, each.p) for each in found)))
        slope = Estimate(*[np.nan] * 4)
        if len(pairs) > 2:
            line = _line(table["params_fov"], None)
            slope = losses.estimate(
                lambda fov, bas, kind=kind, line=line: _gaps(kind, fov, bas, readings) @ line
            )
        trend.append(dict(kind=kind, slope=slope.value, low=slope.low, high=slope.high, p=slope.p))
    return GapScaling(table.assign(**columns), pd.DataFrame(trend), losses, readings)


def all_gaps(results, **settings) -> dict[str, GapScaling]:
    """`gap_scaling` of every study, task and number of frames in `open_results(...)` that has samples of both
    architectures, by a name such as "micro, 8 frames". settings: `gap_scaling`'s. While a study is running
    only the runs that have seen most samples count, so that all sizes were trained as long."""
    found = {}
    if not len(results.samples):
        return found
    names = ["study", "run", "pair", "arch", "seed", "clip_id", "text_tokens"]  # the rest takes time to copy
    of_run = dict(
        list(results.samples[[*names, settings.get("loss", "loss_autoregressive")]].groupby(["study", "run"]))
    )
    for (study, task, frames), runs in results.runs.groupby(["study", "task", "frames"]):
        runs = runs[[(study, run) in of_run for run in runs["run"]]]
        alike = [
            part
            for _, part in runs[runs["samples_seen"] == runs["samples_seen"].max()].groupby(
                ["pair", "seed"], sort=False
            )
        ]
        pairs = [part for part in alike if {"foveated", "baseline"} <= set(part["arch"])]
        if pairs:
            runs = pd.concat(pairs)
            samples = pd.concat([of_run[study, run] for run in runs["run"].unique()])
            name = f"{study}, {frames} frames" + (", questions" if task == "question" else "")
            found[name] = gap_scaling(samples, runs, **settings)
    return found


def _losses_of(samples: pd.DataFrame, pairs: list[str], loss: str, bootstrap: int) -> _Losses:
    """The losses of these sizes. ConfigError if one has no seed in both architectures or other samples."""
    halves, weights = [], None
    of_pair = dict(list(samples.groupby("pair")))
    for pair in pairs:
        mine = of_pair[pair]
        a, b = (_by_seed_and_clip(mine[mine["arch"] == arch], loss) for arch in ("foveated", "baseline"))
        seeds = a.index.intersection(b.index)
        a, b = a.loc[seeds], b.loc[seeds]
        if not len(seeds):
            raise ConfigError(f"{pair}: no seed was run in both architectures")
        if not a.columns.equals(b.columns) or (halves and not a.columns.equals(halves[0][0].columns)):
            raise ConfigError(
                f"{pair}: its validation samples are not those of the others; a gap needs the same ones"
            )
        if weights is None:
            weights = _text_tokens(mine, a.columns)
        halves.append((a, b))
    return _Losses([(a.to_numpy(), b.to_numpy()) for a, b in halves], weights, bootstrap)


def _gaps(kind: str, fov: np.ndarray, bas: np.ndarray, readings: dict) -> np.ndarray:
    """Gaps in percent (b, K) from losses (b, K)."""
    if kind == "raw":
        return 100 * (fov / bas - 1)
    if kind not in readings:
        raise ConfigError(f"kind = {kind!r}: this table has {', '.join(['raw', *readings])}")
    (to_fov, _), (to_bas, _) = readings[kind]
    return 50 * (fov / (bas @ to_fov.T) - 1) + 50 * ((fov @ to_bas.T) / bas - 1)


def _reading(x: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (K, K) that reads a curve through points x at `at`, as `_read` does, and which of them lie
    outside."""
    rows = [[_read(x, unit, where) for unit in np.eye(len(x))] for where in at]
    return np.array([[value for value, _ in row] for row in rows]), np.array([row[0][1] for row in rows])


def _line(params, at: float | None) -> np.ndarray:
    """Weights (K,) that turn gaps at sizes into their least-squares line's value at a size, or its slope per
    tenfold."""
    x = np.log10(np.asarray(params, float))
    centred = x - x.mean()
    slope = centred / (centred**2).sum()
    return slope if at is None else 1 / len(x) + (np.log10(at) - x.mean()) * slope


def line_prediction(params, gaps, at: float) -> Estimate:
    """The gap at a size that was not run, from single gaps (m,) at sizes (m,) whose own errors are not known:
    least squares in log N, with the 95 % prediction interval of one more such gap by the scatter about the
    line. All NaN below three sizes, where nothing is known of the scatter."""
    from scipy.stats import t as student

    x, y = np.log10(np.asarray(params, float)), np.asarray(gaps, float)
    if len(np.unique(x)) < 3:
        return Estimate(*[float("nan")] * 4)
    weights = _line(params, at)
    slope, freedom = _line(params, None), len(x) - 2
    value = float(y @ weights)
    residuals = y - y.mean() - (y @ slope) * (x - x.mean())
    error = float(np.sqrt((residuals @ residuals) / freedom * (1 + weights @ weights)))
    half = float(student.ppf(0.975, freedom)) * error
    return Estimate(value, value - half, value + half, float(2 * student.sf(abs(value) / error, freedom)))


def next_cells(sizes: pd.DataFrame, at: float, new: dict | None = None) -> pd.DataFrame:
    """Which next cell would shrink the gap's interval at a size most, and what it costs.

    sizes: a row per size that has runs: `pair`, `params`, `seeds`, `flops` (training FLOPs of one seed, both
    architectures). at: the parameters that the answer is wanted for, which may not have been run. new: sizes
    on offer that have no run yet, name to (parameters, FLOPs). The answer is the least-squares line in log N.
    Noise is taken to be that of seeds alone, and `sd` counts in units of one seed's: `shrinks_percent` is
    right whatever that is.

    Candidates: one more seed of a size that is there, the first of a new one. A row each: `cell`, `sd` after
    it, `sd_before`, `shrinks_percent`, `flops`; best first. ConfigError below two sizes."""
    x, seeds = sizes["params"].to_numpy(float), sizes["seeds"].to_numpy(float)
    if len(np.unique(x)) < 2:
        raise ConfigError("a trend with size needs two sizes")

    def spread(x, variances):
        X, target = np.c_[np.ones(len(x)), np.log10(x)], np.array([1, np.log10(at)])
        return float(np.sqrt(target @ np.linalg.solve(X.T @ (X / np.asarray(variances)[:, None]), target)))

    before = spread(x, 1 / seeds)
    rows = []
    for k, row in enumerate(sizes.itertuples()):
        more = seeds + (np.arange(len(x)) == k)
        rows.append(
            dict(
                cell=f"{row.pair}, seed {int(row.seeds) + 1}",
                sd=spread(x, 1 / more),
                flops=float(row.flops),
            )
        )
    for name, (params, flops) in (new or {}).items():
        after = spread(np.append(x, params), 1 / np.append(seeds, 1))
        rows.append(dict(cell=f"{name}, seed 1", sd=after, flops=float(flops)))
    found = pd.DataFrame(rows).assign(sd_before=before)
    found["shrinks_percent"] = 100 * (1 - found["sd"] / before)
    return found.sort_values("shrinks_percent", ascending=False, ignore_index=True)
