"""One-sided tests of a paired difference, and Holm's correction for several of them."""

import math
from collections.abc import Mapping

from scipy import stats

from schemas.figures import Difference, Figure

POWER = 0.8


def p_greater(difference: Difference, bound: float, rate: bool) -> float:
    """The p-value of "the true difference is at most `bound`"; small: it is greater.

    t test with groups - 1 degrees of freedom. A rate's is the larger of that and the score test's,
    which is right where few or no answers differ and the standard error is near 0 or 0. Any other
    figure without spread tells nothing (1.0): so do two copies of one model.
    """
    if difference.groups < 2:
        return 1.0
    t_test = 0.0 if rate else 1.0
    if difference.standard_error > 0:
        t = (difference.value - bound) / difference.standard_error
        t_test = float(stats.t.sf(t, difference.groups - 1))
    return max(t_test, _score_test(difference, bound)) if rate else t_test


def p_less(difference: Difference, bound: float, rate: bool) -> float:
    """The p-value of "the true difference is at least `bound`"; small: it is less."""
    return p_greater(turned(difference), -bound, rate)


def turned(difference: Difference) -> Difference:
    """The same difference with the other sign."""
    ends = {"value": -difference.value, "low": -difference.high, "high": -difference.low}
    return difference.model_copy(update=ends)


def _score_test(difference: Difference, bound: float) -> float:
    """Tango's score test of a difference of paired rates (Statistics in Medicine 17, 1998, p. 891).

    With b groups won and c lost of n: z = (b - c - n*bound) / sqrt(n*(2q + bound*(1 - bound))),
    where q is the loss rate's maximum-likelihood estimate under a difference of `bound`. b and c
    are those that give the mean and the standard error found, so clustered pairs count as their
    groups.

    With b = c = 0 the exact answer is known: a loss of m leaves n groups unchanged with
    probability (1 - m)^n at most. 59 such groups exclude a loss of 5 % (the rule of three).
    """
    n = difference.groups
    balance = n * difference.value  # b - c
    changed = difference.standard_error**2 * n * (n - 1) + n * difference.value**2  # b + c
    changed = min(max(changed, abs(balance)), n)
    if changed == 0:
        return (1 + bound) ** n if -1 < bound < 0 else 1.0
    lost = (changed - balance) / 2
    linear = (2 * n - balance) * bound - changed
    constant = -lost * bound * (1 - bound)
    root = math.sqrt(max(linear**2 - 8 * n * constant, 0.0))
    variance = n * (2 * (root - linear) / (4 * n) + bound * (1 - bound))
    if variance <= 0:
        return 1.0
    return float(stats.norm.sf((balance - n * bound) / math.sqrt(variance)))


def holm_adjusted(p_values: Mapping[Figure, float]) -> dict[Figure, float]:
    """Holm's adjusted p-values (1979): any of those up to alpha errs at most that often.

    The smallest of m is multiplied by m, the next by m - 1 and so on; each is at least the one
    before it, and at most 1.
    """
    adjusted: dict[Figure, float] = {}
    highest = 0.0
    for place, figure in enumerate(sorted(p_values, key=lambda figure: p_values[figure])):
        highest = max(highest, min((len(p_values) - place) * p_values[figure], 1.0))
        adjusted[figure] = highest
    return adjusted


def groups_needed(difference: Difference, distance: float, level: float) -> int | None:
    """Prompt groups that would tell a difference from one `distance` away, 4 times in 5.

    With the spread found here: n * ((z_level + z_power) * error / distance)^2. None where no spread
    was found.
    """
    if difference.standard_error <= 0 or distance <= 0:
        return None
    z = stats.norm.isf(level) + stats.norm.ppf(POWER)
    return math.ceil(difference.groups * (z * difference.standard_error / distance) ** 2)
