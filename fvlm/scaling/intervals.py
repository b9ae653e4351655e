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


def widening(freedom: float, level: float = 0.95) -> float:
    """How much wider Student's interval is than the normal one. A bootstrap of few is too narrow by about
    that."""
    from scipy.stats import norm
    from scipy.stats import t as student

    return student.ppf(0.5 + level / 2, freedom) / norm.ppf(0.5 + level / 2)


def bootstrap_estimate(value: float, deviations: np.ndarray, noise: list[tuple[float, float]]) -> Estimate:
    """A number with the percentile interval of its bootstrap's deviations (b,).

    noise: the variance and the degrees of freedom of each of its sources, such as clips and seeds. The draws
    are widened by Student's t with the degrees of freedom of all sources together (Welch and Satterthwaite);
    not where none is given."""
    total, spread = sum(v for v, _ in noise), sum(v**2 / freedom for v, freedom in noise)
    draws = value + deviations * (widening(total**2 / spread) if total > 0 else 1)
    low, high = np.percentile(draws, [2.5, 97.5])
    p = min(1.0, 2 * (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / (len(draws) + 1))
    return Estimate(value, float(low), float(high), p)
