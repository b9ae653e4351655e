"""Two architectures of one study, compared along three axes, with Student's t over seeds.

At equal clips, both are read at their end. At equal FLOPs and at equal loss they are read before their end,
on their own learning curves, so only from evaluations made while the learning rate was still what it was:
after that, a curve says where the rate was let down and not what its clips were worth.

K sizes, A architectures, S seeds, R validation clips.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fvlm.config import ConfigError, RunConfig
from fvlm.scaling.intervals import Estimate, student_estimate
from fvlm.scaling.runs import Results

LOSS = "loss_autoregressive"
AXES = {  # by which a gap can be equal, and how that is said
    "clips": "at equal clips",
    "flops": "at equal training FLOPs",
    "flops_without_vision": "at equal training FLOPs with those of the frozen vision encoder left out",
    "loss": "at equal loss of the baseline",
}


@dataclass(frozen=True)
class Parts:
    """A number from runs of several seeds, and where its uncertainty comes from: the variance of the estimate
    that is the seeds' and that is the validation clips'. `seeds`: the fewest of any size that is in it."""

    estimate: Estimate
    seeds: int
    from_seeds: float
    from_clips: float

    @property
    def share_of_seeds(self) -> float:
        """The seeds' share of its variance; NaN with one seed, where nothing is known of it."""
        return self.from_seeds / (self.from_seeds + self.from_clips) if self.seeds > 1 else float("nan")


@dataclass(frozen=True)
class Levels:
    """Losses of A architectures at K sizes, and how seeds and clips move them.

    by_seed: of each size (A, S), each run's loss; architectures of a column share its seed. by_clip: of each
    size (A, R), how far each clip's loss is from the mean over clips, weighted so that their mean is what
    resampling the clips would add."""

    by_seed: Sequence[np.ndarray]
    by_clip: Sequence[np.ndarray]

    @property
    def means(self) -> np.ndarray:
        """Losses (K, A), means over seeds."""
        return np.array([losses.mean(1) for losses in self.by_seed])

    def estimate(self, statistic: Callable[[np.ndarray], float]) -> Parts:
        """A statistic of losses (K, A) with Student's 95 % interval.

        The statistic is taken to be straight where the runs scatter (delta method). Seeds scatter it by what
        each moves all architectures of its size together, sizes independently of each other; clips, the same
        for every run, by what they move all of it at once (`student_estimate`). With one seed at any size the
        interval is for these very weights."""
        means = self.means
        slopes = _gradient(statistic, means)  # (K, A)
        moved = sum(slope @ each for slope, each in zip(slopes, self.by_clip))  # (R,)
        clips = (float(np.var(moved, ddof=1)) / len(moved), len(moved) - 1)
        used = [(slope, losses) for slope, losses in zip(slopes, self.by_seed) if np.any(slope)]
        seeds = min(losses.shape[1] for losses in [losses for _, losses in used] or self.by_seed)
        scatter = []
        if seeds > 1:
            for slope, losses in used:
                S = losses.shape[1]
                scatter.append((float(np.var(slope @ losses, ddof=1)) / S, S - 1))
        estimate = student_estimate(float(statistic(means)), scatter, clips)
        return Parts(estimate, seeds, sum(v for v, _ in scatter), clips[0])


def _gradient(statistic: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """By central differences, of the same shape as `at`."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-5 * max(abs(at[place]), 1e-9)
        found[place] = (statistic(at + step) - statistic(at - step)) / (2 * step[place])
    return found


def percent(means: np.ndarray) -> np.ndarray:
    """The first architecture's loss over the second's (..., A), in percent."""
    return 100 * (means[..., 0] / means[..., 1] - 1)


def _nats(means: np.ndarray) -> np.ndarray:
    """The first architecture's loss less the second's (..., A)."""
    return means[..., 0] - means[..., 1]


@dataclass(frozen=True)
class Contrast:
    """One architecture's gap to another along one of AXES. Made by `contrast`.

    table: a row per size, smallest first: `pair`, `params` (trained, of the first architecture), `loss_a`,
    `loss_b`, `clips_a`, `clips_b` (where they were read), `percent` with `low`, `high`, `p`, `seeds`,
    `share_of_seeds`, `nats` with `nats_low`, `nats_high` (the same gap as a difference), and `curved`, the
    percentage where curves are read as bent between evaluations, not as straight (the same where they are
    read at their end). trend, nats_trend: percentage points and nats per tenfold `params`, None below three
    sizes. level: of axis "loss" the loss at which the sizes were compared. left_out: sizes that
    have both architectures, but no point of that axis at which both were seen."""

    axis: str
    table: pd.DataFrame
    trend: Parts | None
    left_out: tuple[str, ...] = ()
    level: float = float("nan")
    levels: Levels | None = field(default=None, repr=False, compare=False)  # that the rows rest on
    nats_trend: Parts | None = None

    def predict(self, params: float) -> Estimate:
        """The gap in percent on the trend's straight line at a size with so many trained parameters. Its 95 %
        interval holds the noise of runs and clips, not the line's being wrong. ConfigError below three
        sizes."""
        if self.trend is None or self.levels is None:
            raise ConfigError("a trend with size needs three sizes")
        x = np.log10(self.table["params"].to_numpy(float))
        weights = 1 / len(x) + _per_tenfold(x) * (np.log10(params) - x.mean())
        return self.levels.estimate(lambda means: float(weights @ percent(means))).estimate


def _per_tenfold(x: np.ndarray) -> np.ndarray:
    """The weights of points at log10 of sizes `x` (K,) in the slope of their least-squares line."""
    return (x - x.mean()) / ((x - x.mean()) ** 2).sum()


def contrast(
    results: Results, a: str = "foveated", b: str = "baseline", axis: str = "clips", seeds: int = 1
) -> Contrast:
    """The gap between architectures `a` and `b` at every size that has so many `seeds` of both, along an axis
    of AXES.

    results: finished runs of one study, task and number of frames. Equal FLOPs: both are read at what the
    cheaper one had spent at its last evaluation at the full rate. Equal loss: `b`'s mean curve passes the
    lowest loss that it reaches at every size at the full rate, and both are read there. Between evaluations a
    curve is straight in the logarithms of both; `curved`, by a monotone cubic in them (PCHIP), says how much
    hangs on that, which the intervals do not hold. ConfigError for an unknown axis, and if no size has so
    many seeds of both."""
    if axis not in AXES:
        raise ConfigError(f"axis = {axis!r}: valid are {', '.join(AXES)}")
    sizes = _sizes(results, (a, b), seeds)
    if not sizes:
        raise ConfigError(f"no size has {'a seed' if seeds == 1 else f'{seeds} seeds'} of both {a} and {b}")
    level = np.nan
    if axis == "loss":
        ends = [size.curves["clips"][b].loss.mean(0)[-1:] for size in sizes]  # none on a cosine
        level = max((float(end[0]) for end in ends if len(end)), default=np.nan)
    read = [(size, size.read(axis, level)) for size in sizes]
    bent = [size.read(axis, level, curved=True) for size, reading in read if reading is not None]
    found = [(size, reading) for size, reading in read if reading is not None]
    left_out = tuple(size.pair for size, reading in read if reading is None)
    if not found:
        return Contrast(axis, pd.DataFrame(columns=COLUMNS), None, left_out, float(level))
    levels = Levels([reading[0] for _, reading in found], [size.by_clip for size, _ in found])
    rows = []
    for k, (size, (losses, clips)) in enumerate(found):
        parts = levels.estimate(lambda means, k=k: float(percent(means)[k]))
        nats = levels.estimate(lambda means, k=k: float(_nats(means)[k])).estimate
        rows.append(
            dict(
                pair=size.pair,
                params=size.params,
                loss_a=losses[0].mean(),
                loss_b=losses[1].mean(),
                clips_a=clips[0],
                clips_b=clips[1],
                percent=parts.estimate.value,
                low=parts.estimate.low,
                high=parts.estimate.high,
                p=parts.estimate.p,
                seeds=parts.seeds,
                share_of_seeds=parts.share_of_seeds,
                nats=nats.value,
                nats_low=nats.low,
                nats_high=nats.high,
                curved=float(percent(bent[k][0].mean(1))),
            )
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    trend = nats_trend = None
    if len(table) > 2:
        line = _per_tenfold(np.log10(table["params"].to_numpy(float)))
        trend = levels.estimate(lambda means: float(line @ percent(means)))
        nats_trend = levels.estimate(lambda means: float(line @ _nats(means)))
    return Contrast(axis, table, trend, left_out, float(level), levels, nats_trend)


COLUMNS = [
    *("pair", "params", "loss_a", "loss_b", "clips_a", "clips_b"),
    *("percent", "low", "high", "p", "seeds", "share_of_seeds", "nats", "nats_low", "nats_high", "curved"),
]


def reading_error(results: Results, a: str = "foveated", b: str = "baseline", seeds: int = 1) -> float:
    """How far evaluations at the full rate are from what their neighbours would have them by, when they are
    left out in turn and read as `contrast` reads between evaluations: the root mean square over seeds, sizes
    and both architectures, in percent of the loss. NaN where there are no three evaluations in a row."""
    missed = []
    for size in _sizes(results, (a, b), seeds):
        for curve in size.curves["clips"].values():
            for i in range(1, len(curve.at) - 1):
                beside = _Curve(np.delete(curve.at, i), np.delete(curve.loss, i, axis=1))
                missed.extend(100 * (beside.read(curve.at[i]) / curve.loss[:, i] - 1))
    return float(np.sqrt(np.mean(np.square(missed)))) if missed else float("nan")


def clips_needed(results: Results, a: str = "foveated", b: str = "baseline", seeds: int = 1) -> pd.DataFrame:
    """How many times the clips `a` needs for the loss that `b` has: a row per size with `pair`, `times`,
    `low`, `high`, `p` (of as many), `seeds`, and `level`, the mean loss at which they are compared.

    Of each seed it is the loss that both reach at the full rate, the last one of the worse of the two; curves
    are read as in `contrast`. Student's t over the seeds' logarithms, NaN with one seed; the clips' noise is
    not in it, as only those of the end are kept. Left out are sizes with fewer `seeds` of both, those without
    an evaluation at the full rate, and those where some seed's curve is below that loss from its first
    evaluation on, as it does not say since when."""
    rows = []
    for pair in _pairs(results, (a, b)):
        size = _Size(results, pair, (a, b))
        curves = [size.curves["clips"][arch] for arch in (a, b)] if size.seeds else []
        if any(not len(curve.at) for curve in curves):
            continue
        logs, levels = [], []
        for losses in zip(*(curve.loss for curve in curves)):
            level = max(loss[-1] for loss in losses)
            at = [_crossing(_Curve(c.at, loss[None]), level) for c, loss in zip(curves, losses)]
            logs.append(np.log(at[0] / at[1]) if None not in at else np.nan)
            levels.append(level)
        if len(logs) < max(seeds, 1) or not np.isfinite(logs).all():
            continue
        parts = Levels([np.array([logs])], [np.zeros((1, 2))]).estimate(lambda means: float(means[0, 0]))
        found = parts.estimate
        low, high = (found.low, found.high) if len(logs) > 1 else (np.nan, np.nan)
        rows.append(
            dict(
                pair=pair,
                times=np.exp(found.value),
                low=np.exp(low),
                high=np.exp(high),
                p=found.p if len(logs) > 1 else np.nan,
                seeds=len(logs),
                level=float(np.mean(levels)),
            )
        )
    return pd.DataFrame(rows, columns=["pair", "times", "low", "high", "p", "seeds", "level"])


def gaps_by_clips(results: Results, a: str = "foveated", b: str = "baseline", seeds: int = 1) -> pd.DataFrame:
    """The gap at equal clips at every evaluation of `a` at the full rate that lies on both learning curves: a
    row per size and evaluation with `pair`, `clips`, `percent`, `low`, `high`, `nats`, `seeds`.

    The clips' share of the noise is that of the last evaluation, the only one whose clips are kept."""
    rows = []
    for size in _sizes(results, (a, b), seeds):
        for at, losses in size.on_both_curves():
            parts = Levels([losses], [size.by_clip]).estimate(lambda means: float(percent(means)[0]))
            found = parts.estimate
            rows.append(
                dict(
                    pair=size.pair,
                    clips=at,
                    percent=found.value,
                    low=found.low,
                    high=found.high,
                    nats=float(losses[0].mean() - losses[1].mean()),
                    seeds=parts.seeds,
                )
            )
    return pd.DataFrame(rows, columns=["pair", "clips", "percent", "low", "high", "nats", "seeds"])


def gap_growth(
    results: Results, a: str = "foveated", b: str = "baseline", seeds: int = 1
) -> dict[str, Estimate]:
    """By size: how many percentage points the gap at equal clips has grown from the first to the last of
    `gaps_by_clips`, with Student's t over seeds; the clips' noise is not in it, as those of the first are not
    kept. Sizes with fewer than two such evaluations or seeds are left out."""
    grown = {}
    for size in _sizes(results, (a, b), max(seeds, 2)):
        read = [losses for _, losses in size.on_both_curves()]
        if len(read) < 2:
            continue
        ends = np.concatenate([read[0], read[-1]])  # (4, S)
        levels = Levels([ends], [np.zeros((4, 2))])
        grown[size.pair] = levels.estimate(
            lambda means: float(percent(means[:, 2:])[0] - percent(means[:, :2])[0])
        ).estimate
    return grown


def share_kept(
    results: Results, arch: str = "foveated", best: str = "baseline", seeds: int = 1
) -> pd.DataFrame:
    """Of what `best` gains on a model that sees nothing, the share that `arch` keeps, in percent, at every
    size that has so many `seeds` of all three: a row with `pair`, `percent`, `low`, `high`, `p` (of none
    kept), `seeds`."""
    rows = []
    for pair in _pairs(results, (arch, best, "blind")):
        size = _Size(results, pair, (arch, best, "blind"))
        if len(size.seeds) < seeds:
            continue
        parts = Levels([size.ends], [size.by_clip]).estimate(
            lambda means: float(100 * (means[0, 2] - means[0, 0]) / (means[0, 2] - means[0, 1]))
        )
        found = parts.estimate
        rows.append(
            dict(pair=pair, percent=found.value, low=found.low, high=found.high, p=found.p, seeds=parts.seeds)
        )
    return pd.DataFrame(rows, columns=["pair", "percent", "low", "high", "p", "seeds"])


def parted(results: Results, pair: str, archs: Sequence[str], groups: Sequence[Collection[str]]) -> Levels:
    """The losses of architectures at one size on several groups of validation clips, as one size of (groups x
    architectures) columns, a group's side by side: runs move all of them together, a clip those of its
    groups. ConfigError as `contrast`, and if no seed has all the architectures."""
    sizes = []
    for group in groups:
        samples = results.samples[results.samples["clip_id"].isin(set(group))]
        sizes.append(_Size(Results(results.runs, results.evaluations, samples), pair, archs))
    if not sizes or not sizes[0].seeds:
        raise ConfigError(f"{pair}: no seed of all of {', '.join(archs)}")
    clips = sorted(set().union(*(size.clips for size in sizes)))
    moved = pd.DataFrame(0.0, index=clips, columns=range(len(archs) * len(sizes)))
    for k, size in enumerate(sizes):
        mine = slice(k * len(archs), (k + 1) * len(archs) - 1)
        moved.loc[size.clips, mine] = size.by_clip.T * (len(clips) / len(size.clips))
    return Levels([np.concatenate([size.ends for size in sizes])], [moved.to_numpy().T])


def holm(p: Sequence[float]) -> np.ndarray:
    """P values adjusted for there being several (Holm's step-down): below 0.05 are those that stand with a
    chance of 5 % that any of them is none."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


# ── Reading learning curves ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Curve:
    """An architecture's losses (S, E) at its E evaluations at the full learning rate, and where on an axis
    they lie (E,)."""

    at: np.ndarray
    loss: np.ndarray

    def read(self, at: float, curved: bool = False) -> np.ndarray:
        """Each seed's loss (S,): between evaluations straight in the logarithms of loss and axis, or by a
        monotone cubic in them. `at` a rounding error beyond an end is that end."""
        x, y = np.log(self.at), np.log(self.loss)
        at = np.clip(np.log(at), x[0], x[-1])
        if curved and len(x) > 1:
            from scipy.interpolate import PchipInterpolator

            return np.exp(PchipInterpolator(x, y, axis=1)(at))
        return np.exp([np.interp(at, x, losses) for losses in y])


class _Size:
    """The runs of one size that several architectures share the seeds of."""

    def __init__(self, results: Results, pair: str, archs: Sequence[str]):
        """ConfigError if they were not scored on the same validation clips."""
        self.pair, self.archs = pair, archs
        runs = results.runs[results.runs["pair"] == pair]
        of = [runs[runs["arch"] == arch].set_index("seed") for arch in archs]
        if any(table.index.has_duplicates for table in of):
            raise ConfigError(f"{pair}: several runs of a seed: choose one study, task and number of frames")
        self.seeds = sorted(set.intersection(*(set(table.index) for table in of)))
        if not self.seeds:
            return
        self.params = float(of[0]["params_trainable"].mean())
        clips = [self._by_clip(results.samples, table.loc[self.seeds, "run"]) for table in of]
        alike = all(table.columns.equals(clips[0].columns) for table in clips)
        if not alike or any(table.isna().to_numpy().any() for table in clips):
            raise ConfigError(f"{pair}: the architectures were scored on different validation clips")
        tokens = self._tokens(results.samples, of[0]["run"].loc[self.seeds[0]], clips[0].columns)
        weights = tokens / tokens.mean()
        self.clips = list(clips[0].columns)
        losses = np.stack([table.to_numpy() for table in clips])  # (A, S, R)
        self.ends = (losses * weights).mean(2)  # (A, S)
        self.by_clip = weights * (losses.mean(1) - self.ends.mean(1, keepdims=True))  # (A, R)
        self.clips_seen = [float(table.loc[self.seeds, "samples_seen"].mean()) for table in of]
        self._evaluations, self._runs = results.evaluations, dict(zip(archs, of))

    @functools.cached_property
    def curves(self) -> dict[str, dict[str, _Curve]]:
        """By axis and architecture."""
        return {
            axis: {arch: self._curve(table, axis) for arch, table in self._runs.items()}
            for axis in ("clips", "flops", "flops_without_vision")
        }

    @staticmethod
    def _by_clip(samples: pd.DataFrame, runs: pd.Series) -> pd.DataFrame:
        """Losses of runs (a row each) on clips (a column each)."""
        mine = samples[samples["run"].isin(runs)]
        return mine.pivot(index="run", columns="clip_id", values=LOSS).loc[list(runs)]

    @staticmethod
    def _tokens(samples: pd.DataFrame, run: str, clips: pd.Index) -> np.ndarray:
        mine = samples[samples["run"] == run].set_index("clip_id")
        return mine["text_tokens"].loc[clips].to_numpy(float)

    def _curve(self, runs: pd.DataFrame, axis: str) -> _Curve:
        losses, at = [], np.array([])
        for run in runs.loc[self.seeds].itertuples():
            rows = self._evaluations[self._evaluations["run"] == run.run].sort_values("step")
            rows = rows[rows["step"] <= full_rate_until(run.config)]
            losses.append(rows[LOSS].to_numpy(float))
            at = rows["samples_seen"].to_numpy(float)
            if axis != "clips":
                at = at * getattr(run, axis) / run.samples_seen
        if len({len(row) for row in losses}) > 1:
            raise ConfigError(f"{self.pair}: seeds were evaluated at different steps")
        return _Curve(at, np.array(losses))

    def on_both_curves(self) -> list[tuple[float, np.ndarray]]:
        """At each evaluation of the first architecture at the full rate that the second one's curve reaches:
        the clips seen, and both losses there (2, S)."""
        curves = [self.curves["clips"][arch] for arch in self.archs]
        if not all(len(curve.at) for curve in curves):
            return []
        return [(float(at), _both(curves, at)) for at in curves[0].at if _inside(curves, at)]

    def read(
        self, axis: str, level: float, curved: bool = False
    ) -> tuple[np.ndarray, tuple[float, float]] | None:
        """Losses (2, S) of both architectures where the axis has them equal, and the clips that each had seen
        there; None where their curves have no such place. curved: how they are read (`_Curve.read`)."""
        if axis == "clips":
            return self.ends, (self.clips_seen[0], self.clips_seen[1])
        if axis == "loss":
            curves = [self.curves["clips"][arch] for arch in self.archs]
            at = _crossing(curves[1], level) if all(len(curve.at) for curve in curves) else None
            return None if at is None or not _inside(curves, at) else (_both(curves, at, curved), (at, at))
        curves = [self.curves[axis][arch] for arch in self.archs]
        if any(not len(curve.at) or not np.isfinite(curve.at).all() for curve in curves):
            return None
        at = min(curve.at[-1] for curve in curves)
        if not _inside(curves, at):
            return None
        clips = [self.curves["clips"][arch].at[-1] * at / c.at[-1] for arch, c in zip(self.archs, curves)]
        return _both(curves, at, curved), (clips[0], clips[1])


def full_rate_until(config: RunConfig) -> int:
    """The last step before a run's learning rate is let down; its steps where it never is. 0 on a cosine."""
    if config.schedule == "wsd":
        return round((1 - config.decay) * config.steps)
    return config.steps if config.schedule == "constant" else 0


def _both(curves: Sequence[_Curve], at: float, curved: bool = False) -> np.ndarray:
    return np.stack([curve.read(at, curved) for curve in curves])


def _inside(curves: Sequence[_Curve], at: float) -> bool:
    return all(curve.at[0] <= at * (1 + 1e-9) and at <= curve.at[-1] * (1 + 1e-9) for curve in curves)


def _crossing(curve: _Curve, level: float) -> float | None:
    """Where the mean over seeds first comes down to a level, straight between evaluations in logarithms; None
    where it never does, or was below it from the first evaluation on."""
    mean, x = curve.loss.mean(0), np.log(curve.at)
    if not len(mean) or mean[0] < level * (1 - 1e-12):
        return None
    for i, (before, after) in enumerate(itertools.pairwise(mean)):
        if after <= level * (1 + 1e-12) < before + 1e-12:
            share = np.log(before / level) / np.log(before / after) if before > after else 0.0
            return float(np.exp(x[i] + min(share, 1.0) * (x[i + 1] - x[i])))
    return float(curve.at[0]) if np.isclose(mean[0], level) else None


def _sizes(results: Results, archs: tuple[str, str], seeds: int) -> list[_Size]:
    """Sizes that have so many seeds of both architectures, smallest first."""
    sizes = [_Size(results, pair, archs) for pair in _pairs(results, archs)]
    return [size for size in sizes if len(size.seeds) >= max(seeds, 1)]


def _pairs(results: Results, archs: Sequence[str]) -> list[str]:
    """Sizes that have all of these architectures, smallest first."""
    runs = results.runs
    sizes = runs[runs["arch"] == archs[0]].groupby("pair")["params_trainable"].mean()
    return [
        pair
        for pair in sizes.sort_values().index
        if set(archs) <= set(runs.loc[runs["pair"] == pair, "arch"])
    ]
