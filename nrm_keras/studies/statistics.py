"""What the differences of a few seeds say: one-sided tests, an interval, a correction for several claims, and power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import stdev

# differences of float32 numbers that agree this well, relative to the numbers, are the same
ROUNDING = 5e-7


@dataclass(frozen=True)
class Differences:
    """Paired differences of n seeds, taken as a sample of normally distributed ones.

    Differences that are all the same say nothing of how much they would vary, and a t test would be sure of anything.
    They are judged by signs instead: the probability that n seeds lie on the same side of a bound by chance is 2^-n.

    Args:
        values: one a seed, finite.
        rounding: differences that lie within this are all the same.

    Example:

        >>> found = Differences((1.0, 2.0, 3.0))
        >>> round(found.p_above(0.0), 4), [round(end, 3) for end in found.interval(0.025)]
        (0.0371, [-0.484, 4.484])
        >>> Differences((1.0, 1.0, 1.0)).p_above(0.0)
        0.125
    """

    values: tuple[float, ...]
    rounding: float = 0.0

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / self.n

    @cached_property
    def identical(self) -> bool:
        return self.n > 1 and max(self.values) - min(self.values) <= self.rounding

    @cached_property
    def deviation(self) -> float | None:
        """The sample standard deviation; None where the seeds say nothing about it."""
        return stdev(self.values) if self.n > 1 and not self.identical else None

    def p_above(self, bound: float) -> float:
        """P value of "the mean is at most `bound`" against "it is above". 1 with a single seed."""
        return self._p(self.mean - bound)

    def p_below(self, bound: float) -> float:
        """P value of "the mean is at least `bound`" against "it is below". 1 with a single seed."""
        return self._p(bound - self.mean)

    def _p(self, distance: float) -> float:
        if self.n == 1:
            return 1.0
        if self.identical:
            return 0.5**self.n if distance > 0 else 1.0
        from scipy.special import stdtr  # of scipy.stats.t, without its checks of shapes, which take most of the time

        return float(stdtr(self.n - 1, -distance / self._error))

    @property
    def _error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.n)

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """What both one-sided tests at level `alpha` don't reject; None where they could not reject anything."""
        if self.n == 1 or (self.identical and 0.5**self.n > alpha):
            return None
        if self.identical:
            return self.mean, self.mean
        from scipy.special import stdtrit

        half = -float(stdtrit(self.n - 1, alpha)) * self._error
        return self.mean - half, self.mean + half


def holm(p_values: Sequence[float], alpha: float) -> list[tuple[float, float]]:
    """Holm's step-down correction: p values that are adjusted, and the level of the step at which each one was tested.

    In the order of their size, the k-th of m p values is compared with alpha / (m - k + 1), until one is larger: it and
    those behind it are not rejected, and all have the level of that step. So an interval at this level holds what the
    test doesn't reject exactly where the adjusted p value is above alpha.

    Args:
        p_values: of a family of claims.
        alpha: the most that the probability of one false rejection or more may be.

    Returns:
        (adjusted p value, level) of each, in the order of `p_values`.

    Example:

        >>> holm([0.02, 0.001], 0.025)
        [(0.02, 0.025), (0.002, 0.0125)]

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    found: list[tuple[float, float]] = [(1.0, alpha)] * len(p_values)
    adjusted, level, open_ = 0.0, alpha, True
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        rest = len(p_values) - step
        adjusted = max(adjusted, min(1.0, rest * p_values[index]))
        level = alpha / rest if open_ else level
        open_ = open_ and adjusted <= alpha
        found[index] = (adjusted, level)
    return found


def power_of_direction(effect: float, deviation: float, n: int, alpha: float) -> float:
    """Probability that a one-sided paired t test rejects at level `alpha` where the mean lies `effect` beyond its bound.

    Example:

        >>> round(power_of_direction(2.0, 1.0, 5, 0.025), 3)
        0.909
    """
    from statsmodels.stats.power import TTestPower  # slow to import

    return float(TTestPower().power(effect / deviation, n, alpha, alternative="larger"))


def detectable_effect(n: int, alpha: float, power: float = 0.8) -> float:
    """The mean, in standard deviations of the paired difference, that a one-sided test at level `alpha` finds this often.

    Infinite with one seed, which no test can be made of.

    Example:

        >>> round(detectable_effect(5, 0.025), 2)
        1.68
    """
    if n < 2:
        return math.inf
    from statsmodels.stats.power import TTestPower  # slow to import

    return float(TTestPower().solve_power(nobs=n, alpha=alpha, power=power, alternative="larger"))


def detectable_margin(n: int, alpha: float, power: float = 0.8) -> float:
    """The margin of equality, in standard deviations of the paired difference, within which two one-sided tests at level
    `alpha` find means this often where there is no difference. Infinite with one seed.

    Example:

        >>> round(detectable_margin(5, 0.025), 2)
        1.94
    """
    if n < 2:
        return math.inf
    from scipy.optimize import brentq

    highest = 2 * detectable_effect(n, alpha, (1 + power) / 2)
    return float(brentq(lambda margin: power_of_equality(margin, 1.0, n, alpha) - power, 1e-3, highest))


def power_of_equality(margin: float, deviation: float, n: int, alpha: float) -> float:
    """Probability that two one-sided tests find the mean within `margin` of 0 where it is 0.

    Given the sample standard deviation s, which has a chi distribution, the mean must lie within margin - t s / sqrt(n).

    Example:

        >>> round(power_of_equality(2.0, 1.0, 5, 0.025), 3)
        0.829
    """
    from scipy import stats
    from scipy.integrate import fixed_quad

    t, root = stats.t.isf(alpha, n - 1), math.sqrt(n - 1)
    scaled = math.sqrt(n) * margin / deviation

    def given(s):
        return stats.chi.pdf(s * root, n - 1) * root * (2 * stats.norm.cdf(scaled - t * s) - 1)

    most = min(scaled / t, stats.chi.isf(1e-12, n - 1) / root)
    return float(fixed_quad(given, 0, most, n=100)[0])
