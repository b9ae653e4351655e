"""Mixing laws: what each domain's validation loss is as a function of the proportions that were trained on
and of how many samples; which proportions are best, how sure that is, and where the law fails.

The law of a domain is c + exp(t r) (D / D0)^-gamma: a floor, and an exponential of a linear form in the
weights r, whose sum is 1, which falls as a power law in the samples D (as the data-mixing-law papers have the
first part; D0 is the geometric mean of the runs' D). It is compared with simpler and richer forms by how well
each predicts mixtures that it was not fitted to.

n points, G runs, k domains, m mixtures, p fitted parameters, b bootstrap draws.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fvlm.scaling.intervals import widening

LAW = "exponential"
FORMS = {  # what is fitted, and what it says
    "mean": "the mixture does not matter",
    "linear": "a linear form in the weights",
    "no floor": "an exponential of a linear form",
    LAW: "a floor and an exponential of a linear form: the law",
    "pairs": "a floor and an exponential of a form in weights and their products",
    "effective": "a floor and a power law in samples, each domain's worth so many of the target's",
}
START, LARGEST = 0.6, 8.0  # of the least loss, where the floor begins; of an exponent's coefficients
MOST_STEPS = 1000  # of a fit; in the study on mixtures none takes more than 150
FLAT = 0.01  # mixtures within so much of the least loss count as nearly as good
FINE, COARSE = 24, 10  # steps of the lattices on which an optimum is looked for


class Form:
    """One of FORMS for k domains: its parameters, and the log loss (n,) that they give."""

    def __init__(self, name: str, domains: int, grows: bool):
        if name not in FORMS:
            raise ValueError(f"form = {name!r}: valid are {', '.join(FORMS)}")
        self.name, self.domains = name, domains
        self.floor = name in (LAW, "pairs", "effective")
        self.grows = grows and name != "effective"  # whether there is an exponent of its own for samples
        self.pairs = list(itertools.combinations(range(domains), 2)) if name == "pairs" else []
        terms = 1 if name == "mean" else domains + (1 if name == "effective" else 0) + len(self.pairs)
        self.parameters = self.floor + terms + self.grows

    def features(self, weights: np.ndarray) -> np.ndarray:
        """What the form is linear in (n, terms)."""
        if self.name == "mean":
            return np.ones((len(weights), 1))
        products = [weights[:, i] * weights[:, j] for i, j in self.pairs]
        return np.column_stack([weights, *products])

    def log_loss(self, theta: np.ndarray, weights: np.ndarray, more: np.ndarray) -> np.ndarray:
        """more: log D / D0 (n,)."""
        return self.with_gradient(theta, weights, more)[0]

    def with_gradient(self, theta, weights, more) -> tuple[np.ndarray, np.ndarray]:
        """`log_loss` (n,) and its derivatives by the parameters (n, p)."""
        x = self.features(weights)
        rest = theta[1:] if self.floor else theta
        terms = rest[: x.shape[1]]
        if self.name == "effective":
            worth, power = x * np.exp(terms), np.exp(rest[-1])
            total = np.maximum(worth.sum(1), 1e-30)
            reducible = -power * (np.log(total) + more)
            columns = [-power * worth / total[:, None], reducible[:, None]]
        else:
            linear = x @ terms
            if self.name == "linear":
                linear = np.maximum(linear, 1e-9)
                reducible, columns = np.log(linear), [x / linear[:, None]]
            else:
                reducible, columns = np.clip(linear, -50, 50), [x]
            if self.grows:
                reducible = reducible - rest[-1] * more
                columns.append(-more[:, None])
        gradient = np.column_stack(columns)
        if not self.floor:
            return reducible, gradient
        value = np.logaddexp(theta[0], reducible)
        share = np.exp(reducible - value)[:, None]
        return value, np.column_stack([1 - share, share * gradient])

    def start(self, weights: np.ndarray, more: np.ndarray, loss: np.ndarray) -> list[np.ndarray]:
        """Where fits begin: least squares on the log of what is above a floor, for several floors."""
        x, starts = self.features(weights), []
        for share in (0.05, START, 0.9) if self.floor else (0.0,):
            above = loss - share * loss.min()
            y = above if self.name == "linear" else np.log(above)
            if self.name == "effective":
                theta = np.r_[np.full(self.domains, -2 * np.log(above.mean())), np.log(0.5)]
            else:
                columns = np.column_stack([x, -more]) if self.grows else x
                theta = np.linalg.lstsq(columns, y, rcond=None)[0]
            starts.append(np.r_[np.log(share * loss.min()), theta] if self.floor else theta)
        return starts


@dataclass
class MixFit:
    """One domain's law.

    theta (p,): log floor where the form has one, then its terms, then the exponent of samples where runs
    differ in them. noise: standard deviation of the log loss about it. draws (b, p): bootstrap refits over
    runs. runs, points: how many. reference: D0."""

    form: Form
    domain: str
    theta: np.ndarray
    noise: float
    r2: float
    draws: np.ndarray
    runs: int
    points: int
    reference: float

    def predict(self, weights, samples=None) -> np.ndarray:
        """Loss (n,) at weights (n, k) or (k,), in nats per text token."""
        return self._losses(self.theta[None], weights, samples)[0]

    def predictions(self, weights, samples=None) -> np.ndarray:
        """Loss (b, n) of each bootstrap refit."""
        return self._losses(self.draws, weights, samples)

    def interval(self, weights, samples=None, seeds: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of the loss (n,) at weights: of the law's own, or of the mean of so many seeds there.

        Bootstrap and noise together, with Student's t of as many degrees of freedom as runs are more than
        parameters. What a seed does to all of its runs is not in it, where the fitted runs share one.
        ValueError if the fit was made without bootstrap."""
        from scipy.stats import t as student

        if not len(self.draws):
            raise ValueError("fitted with bootstrap=0: there is no interval")
        value = np.log(self.predict(weights, samples))
        spread = np.log(self.predictions(weights, samples)).var(0, ddof=1) + self.noise**2 / seeds
        half = student.ppf(0.975, max(1, self.runs - len(self.theta))) * np.sqrt(spread)
        return np.exp(value - half), np.exp(value + half)

    def _losses(self, thetas, weights, samples) -> np.ndarray:
        weights = np.atleast_2d(np.asarray(weights, float))
        samples = self.reference if samples is None else samples
        more = np.broadcast_to(np.log(np.asarray(samples, float) / self.reference), len(weights))
        return np.exp([self.form.log_loss(theta, weights, more) for theta in thetas])


def fit_mix(
    weights,
    loss,
    samples=None,
    runs=None,
    domain: str = "",
    form: str = LAW,
    bootstrap: int = 0,
    seed: int = 0,
    near: np.ndarray | None = None,
) -> MixFit:
    """Fit one domain's law to runs.

    weights: (n, k), rows that sum to 1. loss: (n,). samples: (n,) training samples of each point; None: all
    alike. runs: (n,) labels of the run that each point belongs to, resampled together; by default every point
    is a run of its own. near: (p,) a solution to begin at. Least squares on the log loss. ValueError on what
    is not positive and finite, and on fewer runs than parameters."""
    weights, loss = np.asarray(weights, float), np.asarray(loss, float)
    samples = np.ones(len(loss)) if samples is None else np.asarray(samples, float)
    if not (np.isfinite(loss).all() and (loss > 0).all() and (samples > 0).all() and (weights >= 0).all()):
        raise ValueError("losses and samples must be positive and finite, weights not negative")
    if not np.allclose(weights.sum(1), 1, atol=1e-6):
        raise ValueError("weights of a run must sum to 1")
    labels = np.arange(len(loss)) if runs is None else pd.factorize(np.asarray(runs))[0]
    reference = float(np.exp(np.log(samples).mean()))
    more = np.log(samples / reference)
    shape = Form(form, weights.shape[1], bool(np.ptp(more) > 1e-9))
    count = int(labels.max()) + 1
    if count <= shape.parameters:
        raise ValueError(f"{count} runs for the {shape.parameters} parameters of {form!r}")
    starts = shape.start(weights, more, loss) if near is None else [near]
    theta = _solve(shape, weights, more, loss, np.ones(len(loss)), starts)
    residuals = np.log(loss) - shape.log_loss(theta, weights, more)
    means = pd.Series(residuals).groupby(labels).mean().to_numpy()  # points of a run err together
    noise = float(np.sqrt((means**2).sum() / (count - shape.parameters)))
    spread = ((np.log(loss) - np.log(loss).mean()) ** 2).sum()
    draws = np.empty((0, shape.parameters))
    if bootstrap:
        rng = np.random.default_rng(seed)
        found = []
        while len(found) < bootstrap:
            times = np.bincount(rng.integers(0, count, count), minlength=count)
            if (times > 0).sum() > shape.parameters:  # fewer runs would leave it undetermined
                found.append(_solve(shape, weights, more, loss, times[labels], [theta]))
        draws = theta + (np.array(found) - theta) * widening(count - shape.parameters)
    r2 = float(1 - (residuals**2).sum() / spread) if spread > 0 else float("nan")
    return MixFit(shape, domain, theta, noise, r2, draws, count, len(loss), reference)


def _solve(form: Form, weights, more, loss, times, starts) -> np.ndarray:
    """The parameters of the least squared error, points counted `times`. A weak pull to 0 decides what the
    points do not."""
    from scipy.optimize import least_squares

    there = times > 0
    weights, more, y, root = weights[there], more[there], np.log(loss[there]), np.sqrt(times[there])

    def residuals(theta):
        return np.r_[root * (y - form.log_loss(theta, weights, more)), 1e-4 * theta]

    def slopes(theta):
        gradient = form.with_gradient(theta, weights, more)[1]
        return np.r_[-root[:, None] * gradient, 1e-4 * np.eye(form.parameters)]

    low = np.full(form.parameters, -np.inf)
    high = np.full(form.parameters, np.inf)
    if form.floor:  # no floor is above the least loss
        low[0], high[0] = np.log(loss.min()) - LARGEST, np.log(loss.min())
    found = [
        least_squares(
            residuals,
            np.clip(start, low + 1e-6, high - 1e-6),
            slopes,
            bounds=(low, high),
            x_scale="jac",
            max_nfev=MOST_STEPS,
        )
        for start in starts
    ]
    return min(found, key=lambda result: result.cost).x


def cross_validated(weights, loss, samples=None, runs=None, forms=tuple(FORMS)) -> pd.DataFrame:
    """How well each form predicts the mixtures that it is not fitted to: each mixture is left out in turn,
    with all its points and seeds.

    A row per form: `parameters`, `error` (root mean square of the log loss, over mixtures), `worse` (its
    square less that of the best form, mean), `p` (one-sided, paired over mixtures: that it is no worse than
    the best form), `p_mean` (that it is no better than the form "mean", where that is one of them). Forms
    with more parameters than runs are left out."""
    from scipy.stats import ttest_rel

    weights, loss = np.asarray(weights, float), np.asarray(loss, float)
    samples = np.ones(len(loss)) if samples is None else np.asarray(samples, float)
    runs = np.arange(len(loss)) if runs is None else np.asarray(runs)
    mixture = np.unique(np.round(weights, 6), axis=0, return_inverse=True)[1].ravel()
    errors, parameters = {}, {}
    for form in forms:
        squares = []
        try:
            whole = fit_mix(weights, loss, samples, runs, form=form).theta
            for left in range(mixture.max() + 1):
                out = mixture == left
                fit = fit_mix(weights[~out], loss[~out], samples[~out], runs[~out], form=form, near=whole)
                predicted = np.log(fit.predict(weights[out], samples[out]))
                squares.append(np.mean((np.log(loss[out]) - predicted) ** 2))
        except ValueError:
            continue
        errors[form], parameters[form] = np.array(squares), fit.form.parameters
    best = min(errors, key=lambda form: errors[form].mean())
    rows = []
    for form, squares in errors.items():
        p = 1.0 if form == best else float(ttest_rel(squares, errors[best], alternative="greater").pvalue)
        simple = errors.get("mean")
        beats = simple is not None and form != "mean"
        p_mean = float(ttest_rel(squares, simple, alternative="less").pvalue) if beats else float("nan")
        rows.append(
            dict(
                form=form,
                parameters=parameters[form],
                error=float(np.sqrt(squares.mean())),
                worse=float(squares.mean() - errors[best].mean()),
                p=p,
                p_mean=p_mean,
            )
        )
    return pd.DataFrame(rows)


def failure(fit: MixFit, validated: pd.DataFrame, spread: float | None = None) -> str:
    """Why a domain's law is not to be believed; "" if nothing speaks against it.

    validated: `cross_validated`'s. spread: standard deviation of the log loss between seeds of one mixture,
    where it is known: a law that errs by more than twice that misses something."""
    table = validated.set_index("form")
    if fit.form.name not in table.index:
        return "too few runs to leave mixtures out"
    mine = table.loc[fit.form.name]
    if mine["p"] < 0.05:
        best = table["error"].idxmin()
        return (
            f"{FORMS[best]} predicts mixtures that are left out better "
            f"({table.loc[best, 'error']:.3f} against {mine['error']:.3f}, p = {mine['p']:.3f})"
        )
    if mine["p_mean"] > 0.05:
        return "it predicts mixtures that are left out no better than their mean does"
    if spread and mine["error"] > 2 * spread:
        return f"it errs by {mine['error']:.3f} where seeds differ by {spread:.3f}"
    return ""


# ── Where is the least loss? ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Limits:
    """What a mixture may not exceed.

    samples: training samples in all; None: as many as `flops` pays for. most: of each domain, samples times
    epochs; infinity where there is no end. flops: training FLOPs in all; flops_per_sample: of each
    domain."""

    samples: float | None = None
    most: tuple[float, ...] | None = None
    flops: float | None = None
    flops_per_sample: tuple[float, ...] | None = None

    def total(self, weights: np.ndarray) -> np.ndarray:
        """Samples (n,) that mixtures (n, k) are trained on."""
        total = np.full(len(weights), np.inf if self.samples is None else float(self.samples))
        if self.flops is not None:
            total = np.minimum(total, self.flops / (weights @ np.asarray(self.flops_per_sample, float)))
        return total

    def allow(self, weights: np.ndarray) -> np.ndarray:
        """Which mixtures (n, k) repeat nothing too often."""
        if self.most is None:
            return np.ones(len(weights), bool)
        return (weights * self.total(weights)[:, None] <= np.asarray(self.most) * (1 + 1e-9)).all(1)


@dataclass
class Optimum:
    """The best mixture by several domains' laws.

    weights (k,), samples and loss (the weighted mean of the domains') there. low, high (k,): 95 % interval of
    each weight, from the laws' refits. least, most (k,): of all mixtures whose loss is within FLAT of the
    best one. flat: the share of allowed mixtures that are."""

    domains: list[str]
    weights: np.ndarray
    samples: float
    loss: float
    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    most: np.ndarray
    flat: float

    def table(self) -> pd.DataFrame:
        """A row per domain."""
        return pd.DataFrame(
            dict(
                domain=self.domains,
                weight=self.weights,
                low=self.low,
                high=self.high,
                least_within_1_percent=self.least,
                most_within_1_percent=self.most,
            )
        )


@dataclass
class MixLaws:
    """The laws of all domains for one kind of model, fitted to the same runs. targets (k,): how much each
    domain's loss counts; they sum to 1."""

    domains: list[str]
    fits: list[MixFit]
    targets: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self):
        given = np.ones(len(self.domains)) if not len(self.targets) else np.asarray(self.targets, float)
        self.targets = given / given.sum()

    def loss(self, weights, samples=None) -> np.ndarray:
        """The weighted mean of the domains' losses (n,)."""
        return sum(g * fit.predict(weights, samples) for g, fit in zip(self.targets, self.fits))

    def interval(self, weights, samples=None, seeds: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of `loss` (n,): the fits' refits share their runs, noise of domains adds up."""
        from scipy.stats import t as student

        value = self.loss(weights, samples)
        drawn = sum(g * fit.predictions(weights, samples) for g, fit in zip(self.targets, self.fits))
        noise = sum(
            g * fit.noise * fit.predict(weights, samples) for g, fit in zip(self.targets, self.fits)
        )  # as if domains erred together: no narrower than it is
        freedom = max(1, self.fits[0].runs - len(self.fits[0].theta))
        half = student.ppf(0.975, freedom) * np.sqrt(drawn.var(0, ddof=1) + noise**2 / seeds)
        return value - half, value + half

    def optimum(self, limits: Limits | None = None) -> Optimum:
        """The mixture of the least `loss` that the limits allow, on a lattice and then between its points.
        ValueError if they allow none."""
        limits = limits or Limits(samples=self.fits[0].reference)
        k = len(self.domains)
        grid = lattice(k, FINE)
        grid = grid[limits.allow(grid)]
        if not len(grid):
            raise ValueError("no mixture is within the limits")
        totals = limits.total(grid)
        losses = self.loss(grid, totals)
        best = _descended(self._objective(self.fits, None, limits), grid[np.argmin(losses)], limits)
        total = float(limits.total(best[None])[0])
        least = float(self.loss(best, total)[0])
        near = np.vstack([grid[losses <= (1 + FLAT) * least], best[None]])
        coarse = lattice(k, COARSE)
        coarse = coarse[limits.allow(coarse)] if limits.allow(coarse).any() else grid
        draws = []
        for number in range(min((len(fit.draws) for fit in self.fits), default=0)):
            objective = self._objective(self.fits, number, limits)
            start = np.vstack([coarse, best[None]])
            draws.append(_descended(objective, start[np.argmin(objective(start))], limits))
        low, high = (np.percentile(draws, q, axis=0) if draws else np.full(k, np.nan) for q in (2.5, 97.5))
        return Optimum(
            self.domains,
            best,
            total,
            least,
            low,
            high,
            near.min(0),
            near.max(0),
            float((losses <= (1 + FLAT) * least).mean()),
        )

    def _objective(self, fits, number: int | None, limits: Limits):
        """Loss (n,) at mixtures (n, k), of the fits or of one of their refits."""

        def objective(weights):
            totals = limits.total(weights)
            return sum(
                g
                * fit._losses((fit.theta if number is None else fit.draws[number])[None], weights, totals)[0]
                for g, fit in zip(self.targets, fits)
            )

        return objective


def _descended(objective, start: np.ndarray, limits: Limits) -> np.ndarray:
    """From a mixture (k,) downhill: weight is moved from one domain to another, in ever smaller amounts, as
    long as that lowers the objective and the limits allow it."""
    best, k = start.copy(), len(start)
    moves = np.array([np.eye(k)[i] - np.eye(k)[j] for i, j in itertools.permutations(range(k), 2)])
    value, step = objective(best[None])[0], 1 / COARSE
    while step > 1e-4:
        tried = best + step * moves
        tried = tried[(tried >= -1e-12).all(1)].clip(0)
        tried = tried[limits.allow(tried)] if len(tried) else tried
        values = objective(tried) if len(tried) else np.array([np.inf])
        if values.min() < value - 1e-12:
            best, value = tried[np.argmin(values)], values.min()
        else:
            step /= 2
    return best


# ── Which mixtures to run ────────────────────────────────────────────────────────────────────────


def lattice(domains: int, steps: int) -> np.ndarray:
    """All mixtures (m, k) whose weights are multiples of 1 / steps."""
    bars = itertools.combinations(range(steps + domains - 1), domains - 1)
    return (
        np.array([np.diff([-1, *bar, steps + domains - 1]) - 1 for bar in bars], float).reshape(-1, domains)
        / steps
    )


def designed(domains: int, mixtures: int, least: float = 0.0, steps: int = 6) -> np.ndarray:
    """So many mixtures (m, k) that tell forms with products of weights best apart: D-optimal for these among
    a lattice's, by exchange. Each domain has at least `least` in all.

    Weights are whole hundredths. Always the same for the same arguments. ValueError where the lattice has too
    few points, or `least` leaves no room."""
    if not 0 <= least < 1 / domains:
        raise ValueError(f"least = {least}: from 0 to under {1 / domains:g}")
    points = least + (1 - domains * least) * lattice(domains, steps)
    if mixtures > len(points):
        raise ValueError(f"{mixtures} mixtures of the {len(points)} that a lattice of {steps} steps has")
    x = Form("pairs", domains, False).features(points)
    ridge = 1e-6 * np.eye(x.shape[1])
    chosen = [int(np.argmin(((points - 1 / domains) ** 2).sum(1)))]  # the middle, then what adds most
    while len(chosen) < mixtures:
        inverse = np.linalg.inv(x[chosen].T @ x[chosen] + ridge)
        gain = np.einsum("np,pq,nq->n", x, inverse, x)
        gain[chosen] = -np.inf
        chosen.append(int(np.argmax(gain)))
    better = True
    while better:
        better = False
        for place in range(1, mixtures):
            rest = chosen[:place] + chosen[place + 1 :]
            inverse = np.linalg.inv(x[rest].T @ x[rest] + ridge)
            gain = np.einsum("np,pq,nq->n", x, inverse, x)
            gain[rest] = -np.inf
            if gain.max() > gain[chosen[place]] * (1 + 1e-9):
                chosen[place], better = int(np.argmax(gain)), True
    return np.array([hundredths(points[i]) for i in sorted(chosen)])


def hundredths(weights) -> np.ndarray:
    """Weights (k,) in whole hundredths that sum to 1, each as near as that allows."""
    share = 100 * np.asarray(weights, float) / np.sum(weights)
    whole = np.floor(share + 1e-9)
    missing = round(100 - float(whole.sum()))
    for i in np.argsort(-(share - whole), kind="stable")[:missing]:
        whole[i] += 1
    return whole / 100
