"""Scaling laws, fitted with intervals, or refused with a reason.

G runs, n points, k axes, p fitted parameters, b bootstrap draws.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fvlm.config import ConfigError
from fvlm.scaling.intervals import widening

HUBER = 1e-3  # the least log-loss residual from which errors count linearly; that of Hoffmann et al. 2022
STEEPEST = 3.0  # an exponent above this is no power law but a step
EXPONENTS = (0.03, 0.1, 0.3, 1.0)  # where searches begin
DEGENERATE = 0.05  # share of bootstrap refits that may run away before a fit counts as not identified


@dataclass
class Fit:
    """A fitted scaling law. Parameters are attributes (`fit.alpha`), NaN where the data do not identify them.

    r2: share of the log loss's variance explained. residuals (n,): log loss observed minus fitted.
    identified: whether the design and the data pin the parameters down; if not, `reason` says why and every
    parameter is NaN. draws (b, p): the parameters' bootstrap refits. disagreement: largest difference in
    fitted loss, relative, between L-BFGS's solution and variable projection's."""

    values: dict[str, float]
    r2: float
    residuals: np.ndarray
    identified: bool
    reason: str
    draws: np.ndarray
    disagreement: float
    runs: int
    points: int

    def value(self, name: str) -> float:
        """A parameter; NaN where the runs do not identify it. AttributeError for one that this law does not
        have."""
        if name not in self.values:
            raise AttributeError(f"{name!r}: this law's parameters are {', '.join(self.values)}")
        return self.values[name] if self.identified else float("nan")

    A = property(lambda self: self.value("A"))
    B = property(lambda self: self.value("B"))
    E = property(lambda self: self.value("E"))
    G = property(lambda self: self.value("G"))
    alpha = property(lambda self: self.value("alpha"))
    beta = property(lambda self: self.value("beta"))
    gamma = property(lambda self: self.value("gamma"))
    floor = property(lambda self: self.value("floor"))

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap percentile interval of a parameter, resampling runs; NaN where it is not identified.

        Runs are few, and a bootstrap of few is too narrow: the draws are widened by Student's t with as many
        degrees of freedom as there are runs, less one. ValueError for a name that is none, or if the fit was
        made without bootstrap."""
        if name not in self.values:
            raise ValueError(f"{name!r}: parameters are {', '.join(self.values)}")
        if not self.identified:
            return float("nan"), float("nan")
        if not len(self.draws):
            raise ValueError("fitted with bootstrap=0: there is no interval")
        column = self.draws[:, list(self.values).index(name)]
        low, high = self._percentiles(column, self.values[name], level)
        return float(low), float(high)

    def predict(self, *x) -> np.ndarray:
        """The fitted loss at one value or array per axis, also where the parameters alone are not
        identified."""
        floor, *rest = self.values.values()
        half = len(rest) // 2
        return floor + sum(
            a * np.asarray(v, float) ** -alpha
            for v, a, alpha in zip(x, rest[:half], rest[half:], strict=True)
        )

    def band(self, *x, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Bootstrap percentile interval of the fitted loss at each point, widened as in `interval`."""
        k = (self.draws.shape[1] - 1) // 2
        terms = [
            self.draws[:, 1 + i, None] * np.asarray(v, float)[None] ** -self.draws[:, 1 + k + i, None]
            for i, v in enumerate(x)
        ]
        return self._percentiles(self.draws[:, :1] + sum(terms), self.predict(*x), level)

    def _percentiles(self, draws, value, level):
        wider = widening(self.runs - 1, level)
        low, high = np.nanpercentile(draws, [50 * (1 - level), 50 * (1 + level)], axis=0)
        return value + wider * (low - value), value + wider * (high - value)


def fit_power_law(c, loss, runs=None, bootstrap: int = 1000, huber: float | None = None) -> Fit:
    """L = A C^-alpha + floor: `.A .alpha .floor`. c, loss: (n,) arrays.

    runs: (n,) labels of the run each point belongs to, resampled together; by default every point is a run of
    its own. Huber loss on the log, L-BFGS from a grid of starts; `huber` as in `fit_parametric`. ValueError
    on values that are not positive and finite."""
    return _fit([c], loss, ["floor", "A", "alpha"], runs, bootstrap, huber)


def fit_parametric(n, d, loss, tokens=None, runs=None, bootstrap: int = 0, huber: float | None = None) -> Fit:
    """L = E + A / N^alpha + B / D^beta: `.E .A .B .alpha .beta` (Hoffmann et al. 2022, approach 3).

    n, d, loss: (m,) arrays. With `tokens` (m,) a third axis, visual tokens: + G / V^gamma. Huber loss on the
    log, summed; L-BFGS with an analytic gradient from a grid of starts, checked by variable projection.
    `runs` and errors as `fit_power_law`.

    huber: the residual from which errors count linearly. None: 1.345 robust standard deviations of the
    residuals (Huber's own choice), at least Hoffmann's 1e-3. With their 1e-3 and noise above it the fit is
    one of least absolute deviations: in 150 simulated studies with noise of 0.005 beta's error was 1.6 times
    as large, and its 95 % intervals covered 99 %."""
    if tokens is None:
        return _fit([n, d], loss, ["E", "A", "B", "alpha", "beta"], runs, bootstrap, huber)
    return _fit([n, d, tokens], loss, ["E", "A", "B", "G", "alpha", "beta", "gamma"], runs, bootstrap, huber)


def _fit(axes, loss, names, runs, bootstrap, huber) -> Fit:
    x = np.stack([np.asarray(axis, float).ravel() for axis in axes], axis=1)  # (n, k)
    y = np.asarray(loss, float).ravel()
    if x.shape[0] != y.size:
        raise ValueError(f"{x.shape[0]} points and {y.size} losses")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("sizes and losses must be positive and finite")
    labels = np.arange(y.size) if runs is None else pd.factorize(np.asarray(runs))[0]
    count = int(labels.max()) + 1
    centre = np.exp(np.log(x).mean(0))  # fits are made in units in which every axis is around 1
    logx, logy = np.log(x / centre), np.log(y)
    k = x.shape[1]
    reason = _design_fault(x, names, count)
    if reason:
        return Fit(
            dict.fromkeys(names, np.nan),
            np.nan,
            np.full(y.size, np.nan),
            False,
            reason,
            np.empty((0, len(names))),
            np.nan,
            count,
            y.size,
        )
    delta, everything = huber or HUBER, np.ones((1, y.size))
    nearby = np.array(list(itertools.product(EXPONENTS, repeat=k)))
    rough = _best(logx, logy, delta, nearby)
    if huber is None:
        spread = 1.4826 * np.median(np.abs(logy - _log_loss(rough, logx)))
        delta = max(HUBER, 1.345 * spread)
    rough = _best(logx, logy, delta, rough[None, 1 + k :])
    (theta,), arrived = _projected(np.r_[nearby, rough[None, 1 + k :]], logx, logy, everything, delta)
    fitted = _log_loss(theta, logx)
    disagreement = float(np.abs(np.expm1(_log_loss(rough, logx) - fitted)).max())
    residuals = logy - fitted
    draws, reason = np.empty((0, len(names))), _runaway(theta[None], arrived, k)
    if bootstrap and not reason:
        weights = _resampled(count, bootstrap)[:, labels]
        own = theta[None, 1 + k :]
        thetas, arrived = _projected(np.r_[nearby, own] if k == 1 else own, logx, logy, weights, delta)
        reason = _runaway(thetas, arrived, k)
        draws = _natural(thetas, centre)
    values = dict(zip(names, map(float, _natural(theta[None], centre)[0])))
    r2 = float(1 - (residuals**2).sum() / ((logy - logy.mean()) ** 2).sum())
    return Fit(values, r2, residuals, not reason, reason, draws, disagreement, count, y.size)


def _design_fault(x, names, runs) -> str:
    """Why no data at these points could identify the parameters; "" if they could."""
    k = x.shape[1]
    for axis, exponent in zip(x.T, names[1 + k :]):
        distinct = len(np.unique(np.round(np.log(axis), 6)))
        if distinct < 3:
            return f"{exponent} needs three different values on its axis, here are {distinct}"
    if len(x) <= len(names):
        return f"{len(x)} points for {len(names)} parameters"
    if k > 1 and np.linalg.matrix_rank(np.c_[np.ones(len(x)), np.log(x)], tol=1e-6 * len(x)) <= k:
        return "the axes grow together: their effects can't be told apart"
    return ""


def _runaway(thetas, arrived, k) -> str:
    """Whether too many solutions (b, p) ran off to where a term is no power law, or did not arrive (b,) at a
    minimum, as a reason; "" if not."""
    exponents, scales = thetas[:, 1 + k :], thetas[:, 1 : 1 + k]
    bad = (
        (exponents < 0.01).any(1)
        | (exponents > STEEPEST).any(1)
        | (thetas[:, 0] < scales.max(1) - 12)
        | ~np.isfinite(thetas).all(1)
        | ~arrived
    )
    if bad.mean() <= DEGENERATE:
        return ""
    return (
        f"{bad.mean():.0%} of the fits run off to an exponent of 0 or above {STEEPEST:g}, or to no floor, or "
        "find no minimum"
    )


def _log_model(theta, logx):
    """log L (..., n) and its gradient (..., n, p) at parameters (..., p): log floor, log scales,
    exponents."""
    predicted, shares = _log_loss_and_shares(theta, logx)
    gradient = np.concatenate([shares, -shares[..., 1:, :] * logx.T], axis=-2)
    return predicted, gradient.swapaxes(-1, -2)


def _log_loss(theta, logx):
    """log L (..., n) at parameters (..., p)."""
    return _log_loss_and_shares(theta, logx)[0]


def _log_loss_and_shares(theta, logx):
    """log L (..., n), and what share of L each term is: (..., 1 + k, n), the points last, as numpy is slow
    along an axis of three."""
    k = logx.shape[1]
    shares = np.empty((*theta.shape[:-1], 1 + k, len(logx)))
    shares[..., 0, :] = theta[..., :1]
    shares[..., 1:, :] = theta[..., 1 : 1 + k, None] - theta[..., 1 + k :, None] * logx.T
    top = shares.max(-2)
    np.exp(shares - top[..., None, :], out=shares)
    total = shares.sum(-2)
    shares /= total[..., None, :]
    return top + np.log(total), shares


def _huber(residuals, delta):
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * residuals**2, delta * (size - 0.5 * delta))


def _huber_weights(residuals, delta):
    """With which squared errors have the slope that `_huber` has."""
    return np.minimum(1, delta / np.maximum(np.abs(residuals), 1e-300))


def _best(logx, logy, delta, nearby, starts: int = 2):
    """The best solution (p,) of L-BFGS from the most promising of some exponents (s, k)."""
    from scipy.optimize import minimize

    def objective(theta):
        predicted, gradient = _log_model(theta, logx)
        residuals = logy - predicted
        return _huber(residuals, delta).sum(), -(np.clip(residuals, -delta, delta) @ gradient)

    scales, costs = _scales(nearby, None, logx, logy, np.ones((1, len(logy))), delta, 6)
    thetas = np.c_[np.log(np.maximum(scales, 1e-6 * scales.max(1, keepdims=True))), nearby]
    found = [minimize(objective, thetas[i], jac=True, method="L-BFGS-B") for i in np.argsort(costs)[:starts]]
    return min(found, key=lambda result: result.fun).x


def _scales(exponents, scales, logx, logy, weights, delta, iterations: int = 4):
    """For given exponents (b, k) the floor and the scales (b, 1 + k) that fit best, none of them negative,
    and their cost (b,): by iteratively reweighted least squares from the scales before, or from the data."""
    columns = _columns(exponents, logx)
    predicted = np.exp(logy)[None] if scales is None else np.einsum("bj,bjn->bn", scales, columns)
    for _ in range(iterations):
        residuals = logy - np.log(predicted)
        w = weights * _huber_weights(residuals, delta) / predicted**2
        weighted = columns * w[:, None]
        target = weighted @ (predicted * np.maximum(1 + residuals, 0.1))[..., None]
        scales = _not_negative(weighted @ columns.swapaxes(1, 2), target[..., 0])
        predicted = np.einsum("bj,bjn->bn", scales, columns)
    return scales, (weights * _huber(logy - np.log(predicted), delta)).sum(1)


def _columns(exponents, logx):
    """What one unit of the floor and of each scale adds to the loss at every point: (b, 1 + k, n)."""
    powers = np.exp(-exponents[:, :, None] * logx.T)
    return np.concatenate([np.ones_like(powers[:, :1]), powers], axis=1)


def _not_negative(gram, target):
    """The minimum of x G x / 2 - t x over x >= 0 for many small problems: grams (b, j, j), targets (b, j).
    Where the free minimum is none, the best of those in which some unknowns are 0 and none is negative."""
    ridge = 1e-13 * np.einsum("bjj->b", gram)[:, None, None] * np.eye(gram.shape[1])
    best = np.linalg.solve(gram + ridge, target[..., None])[..., 0]
    infeasible = np.flatnonzero((best <= 0).any(1))
    if not len(infeasible):
        return best
    gram, target = (gram + ridge)[infeasible], np.maximum(target[infeasible], 0)
    alone = target / np.einsum("bjj->bj", gram)  # all others 0
    value = -alone * target / 2
    found = np.where(value == value.min(1, keepdims=True), alone, 0)
    lowest = value.min(1)
    for size in range(2, gram.shape[1]):
        for at in map(list, itertools.combinations(range(gram.shape[1]), size)):
            part = np.linalg.solve(gram[:, np.array(at)[:, None], at], target[:, at, None])[..., 0]
            value = -(part * target[:, at]).sum(1) / 2
            better = (part > 0).all(1) & (value < lowest)
            lowest[better], found[better] = value[better], 0
            found[np.ix_(better, at)] = part[better]
    best[infeasible] = found
    return best


def _projected(nearby, logx, logy, weights, delta, iterations: int = 50):
    """Fits of the Huber loss for many sets of weights (b, n) at once by variable projection: for given
    exponents floor and scales follow by linear least squares, so only the exponents are searched, by
    Levenberg-Marquardt from the best of some (s, k).

    Solutions (b, p), and which of them arrived at a minimum (b,). Floor and scales are no unknowns of the
    search as the loss is a bent valley in them where the data hardly tell a floor from a small exponent:
    there a search over all parameters took hundreds of steps, and fifty left refits where they began."""
    b, k = len(weights), logx.shape[1]
    costs = [_scales(np.tile(e, (b, 1)), None, logx, logy, weights, delta, 2)[1] for e in nearby]
    exponents = nearby[np.argmin(costs, axis=0)]
    scales, cost = _scales(exponents, None, logx, logy, weights, delta, 8)
    solved, arrived = np.c_[scales, exponents], np.zeros(b, bool)
    going, damping = np.arange(b), np.full(b, 1e-3)
    for _ in range(iterations):  # the state of those that still move
        step, follow = _step(exponents, scales, logx, logy, weights, delta, damping)
        trial = exponents + step
        trial_scales, trial_cost = _scales(trial, follow, logx, logy, weights, delta)
        better = trial_cost < cost
        done = (np.abs(cost - trial_cost) < 1e-8 * cost) | (~better & (damping > 1e3))
        exponents = np.where(better[:, None], trial, exponents)
        scales = np.where(better[:, None], trial_scales, scales)
        cost = np.where(better, trial_cost, cost)
        damping = np.where(better, np.maximum(damping / 5, 1e-9), damping * 5)
        done |= (exponents < 0).any(1) | (exponents > 2 * STEEPEST).any(1)
        solved[going] = np.c_[scales, exponents]
        arrived[going[done]], left = True, ~done
        if not left.any():
            break
        going, exponents, scales, cost, damping, weights = (
            v[left] for v in (going, exponents, scales, cost, damping, weights)
        )
    with np.errstate(divide="ignore"):
        solved[:, : 1 + k] = np.log(solved[:, : 1 + k])
    return solved, arrived


def _step(exponents, scales, logx, logy, weights, delta, damping):
    """The Gauss-Newton step of exponents (b, k), damped (b,), and the scales that follow (b, 1 + k)."""
    columns = _columns(exponents, logx)
    terms = scales[..., None] * columns
    predicted = terms.sum(1)
    residuals = logy - np.log(predicted)
    linear = columns / predicted[:, None] * (scales > 0)[..., None]
    slopes = -terms[:, 1:] * logx.T / predicted[:, None]
    w = (weights * _huber_weights(residuals, delta))[:, None]
    within = (linear * w) @ linear.swapaxes(1, 2)
    within += np.eye(within.shape[1]) * (1e-12 + (scales <= 0)[:, None, :])
    across = (linear * w) @ slopes.swapaxes(1, 2)
    held = np.linalg.solve(within, np.concatenate([across, (linear * w) @ residuals[..., None]], axis=2))
    curvature = (slopes * w) @ slopes.swapaxes(1, 2) - across.swapaxes(1, 2) @ held[..., :-1]
    slope = (slopes * w) @ residuals[..., None] - across.swapaxes(1, 2) @ held[..., -1:]
    diagonal = np.einsum("bkk->bk", curvature)
    curvature = curvature + np.eye(curvature.shape[1]) * (damping[:, None] * diagonal + 1e-12)[:, None, :]
    step = np.clip(np.linalg.solve(curvature, slope), -0.5, 0.5)
    follow = (held[..., -1:] - held[..., :-1] @ step)[..., 0]
    return step[..., 0], np.maximum(scales + follow, 0.1 * scales)


def _resampled(count: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each of `count` units is in each of `draws` resamples (draws, count)."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def _natural(thetas, centre):
    """Solutions (b, p) in the data's own units: floor, scales, exponents."""
    k = len(centre)
    exponents = thetas[:, 1 + k :]
    with np.errstate(over="ignore"):
        return np.concatenate(
            [np.exp(thetas[:, :1]), np.exp(thetas[:, 1 : 1 + k] + exponents * np.log(centre)), exponents],
            axis=1,
        )


def fit_points(evaluations: pd.DataFrame, every: bool = False, mid_schedule: bool = False) -> pd.DataFrame:
    """The rows of `load_study(...).evaluations` that a law may be fitted to: each run's last, or `every`
    evaluation.

    Before the end of a decaying schedule a loss is higher than that of a run which had ended there, so such
    rows are refused with a ConfigError unless `mid_schedule` asks for them; under a constant rate they are
    runs of their own length."""
    if not every:
        return evaluations.loc[evaluations.groupby("run")["step"].idxmax()].reset_index(drop=True)
    decaying = sorted(set(evaluations.loc[evaluations["schedule"] != "constant", "schedule"]))
    if decaying and not mid_schedule:
        raise ConfigError(
            f"evaluations in the middle of a decaying schedule ({', '.join(decaying)}) are no points of a "
            "scaling law: "
            "use each run's last one (every=False), or say mid_schedule=True"
        )
    return evaluations.reset_index(drop=True)


def iso_flop_optima(c, n, loss, budgets) -> pd.DataFrame:
    """The best size at each compute budget: a parabola in log N through the sizes' losses at that budget.

    c, n, loss: (m,) arrays, several points per size; each size's loss at a budget is interpolated in log C,
    never extrapolated. A row per budget: `flops, params, loss, sizes, identified`; params and loss are NaN,
    and identified False, where fewer than three sizes reach the budget or the parabola's bottom is not among
    them."""
    table = pd.DataFrame(
        dict(c=np.log(np.asarray(c, float)), n=np.log(np.asarray(n, float)), loss=np.asarray(loss, float))
    )
    curves = [
        (size, curve["c"].to_numpy(), curve["loss"].to_numpy())
        for size, curve in table.sort_values("c").groupby("n")
    ]
    rows = []
    for budget in budgets:
        sizes = [
            (size, np.interp(np.log(budget), c, losses))
            for size, c, losses in curves
            if c[0] - 1e-9 <= np.log(budget) <= c[-1] + 1e-9
        ]
        row = dict(flops=float(budget), params=np.nan, loss=np.nan, sizes=len(sizes), identified=False)
        if len(sizes) >= 3:
            x, y = np.array(sizes).T
            a, b, c0 = np.polyfit(x - x.mean(), y, 2)
            bottom = -b / (2 * a) if a > 0 else np.nan
            if a > 0 and x.min() <= bottom + x.mean() <= x.max():
                row |= dict(
                    params=float(np.exp(bottom + x.mean())), loss=float(c0 - b * b / (4 * a)), identified=True
                )
        rows.append(row)
    return pd.DataFrame(rows)
