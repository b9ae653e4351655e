"""95 % intervals of what few runs gave: Student's t, by itself and on top of a bootstrap."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and the two-sided p value of its being 0."""

    value: float
    low: float
    high: float
    p: float


def t_half_width(std, count):
    """Half of Student's 95 % interval of a mean, from the standard deviation of `count` values; numbers or
    arrays. NaN for one value."""
    from scipy.stats import t as student

    return student.ppf(0.975, count - 1) * std / np.sqrt(count)


def t_interval(values) -> tuple[float, float]:
    """Student's 95 % interval of the mean of a Series."""
    half = t_half_width(values.std(), len(values))
    return values.mean() - half, values.mean() + half


def interval_of_difference(one, other):
    """The interval of `one` less `other`, each a value with its own interval (value, low, high), independent
    of each other (MOVER, Zou and Donner 2008): numbers or arrays; it may reach further one way than the
    other."""
    (a, a_low, a_high), (b, b_low, b_high) = one, other
    return a - b - np.hypot(a - a_low, b_high - b), a - b + np.hypot(a_high - a, b - b_low)


def widening(freedom: float, level: float = 0.95) -> float:
    """How much wider Student's interval is than the normal one. A bootstrap of few is too narrow by about
    that."""
    from scipy.stats import norm
    from scipy.stats import t as student

    return student.ppf(0.5 + level / 2, freedom) / norm.ppf(0.5 + level / 2)


Noise = tuple[float, float]  # a source's part of the variance of an estimate, and its degrees of freedom


def freedom(noise: list[Noise]) -> float:
    """The degrees of freedom of all sources together, by Welch and Satterthwaite."""
    spread = sum(v**2 / f for v, f in noise)
    return np.inf if spread == 0 else sum(v for v, _ in noise) ** 2 / spread


def student_estimate(value: float, seeds: list[Noise], clips: Noise) -> Estimate:
    """A number with Student's interval from the noise of seeds, size by size (none: one seed), and of clips.

    No narrower than over the seeds alone: clips, of which there are many, add degrees of freedom as well as
    noise, so that by Welch and Satterthwaite's rule more noise could mean a narrower interval."""
    from scipy.stats import t as student

    halves, ps = [0.0], [float(value == 0)]
    for noise in ([*seeds, clips], seeds):
        error, degrees = float(np.sqrt(sum(v for v, _ in noise))), freedom(noise)
        if error:  # NaN too
            halves.append(float(student.ppf(0.975, degrees)) * error)
            ps.append(float(2 * student.sf(abs(value) / error, degrees)))
    half, p = float(np.max(halves)), float(np.max(ps))  # NaN where any is, which max() would lose
    return Estimate(value, value - half, value + half, p)


def bootstrap_estimate(value: float, deviations: np.ndarray, noise: list[Noise]) -> Estimate:
    """A number with the percentile interval of its bootstrap's deviations (b,).

    noise: of each of its sources, such as clips and seeds. The draws are widened by Student's t with the
    degrees of freedom of all sources together, and so far that they are no narrower than of any one source
    alone, for the reason that `student_estimate` gives; not where none is given."""
    total = sum(v for v, _ in noise)
    factors = [widening(f) * np.sqrt(v / total) for v, f in noise if v > 0]
    draws = value + deviations * (max(widening(freedom(noise)), *factors) if total > 0 else 1)
    low, high = np.percentile(draws, [2.5, 97.5])
    p = min(1.0, 2 * (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / (len(draws) + 1))
    return Estimate(value, float(low), float(high), p)
