"""One-sided tests by hand, and what they say where nothing differs."""

import math

import pytest

from orpo_pipeline.evaluation.hypotheses import (
    groups_needed,
    holm_adjusted,
    p_greater,
    p_less,
)
from schemas.figures import Difference, Figure


def difference(value: float, error: float, groups: int = 10) -> Difference:
    return Difference(
        value=value, low=value, high=value, n=groups, groups=groups, standard_error=error
    )


def rate(won: int, lost: int, groups: int) -> Difference:
    """One answer a group: the textbook error, sqrt(sum (d - mean)^2 / (G (G - 1)))."""
    mean = (won - lost) / groups
    squares = won + lost - groups * mean**2
    return difference(mean, math.sqrt(squares / (groups * (groups - 1))), groups)


def test_the_t_test_by_hand() -> None:
    # t = (1 - (-1)) / 1.0914 = 1.8325; the 95 % quantile of t with 9 degrees of freedom is 1.8331.
    found = difference(1.0, 1.0914)
    assert p_greater(found, -1.0, rate=False) == pytest.approx(0.05, abs=1e-4)
    assert p_less(found, 3.0, rate=False) == pytest.approx(0.05, abs=1e-4)
    assert p_greater(found, 1.0, rate=False) == pytest.approx(0.5)


def test_one_group_tells_nothing() -> None:
    assert p_greater(difference(5.0, 0.1, groups=1), 0.0, rate=False) == 1.0


def test_two_copies_of_one_model_are_not_told_apart() -> None:
    same = difference(0.0, 0.0)
    assert p_greater(same, -0.1, rate=False) == p_less(same, 0.1, rate=False) == 1.0


def test_a_rate_that_never_differs_is_the_rule_of_three() -> None:
    # 0.95^58 = 0.0510, 0.95^59 = 0.0485: 59 unchanged answers exclude a loss of 5 %.
    assert p_greater(rate(0, 0, 58), -0.05, rate=True) == pytest.approx(0.0510, abs=1e-4)
    assert p_greater(rate(0, 0, 59), -0.05, rate=True) == pytest.approx(0.0485, abs=1e-4)
    assert p_greater(rate(0, 0, 1000), 0.0, rate=True) == 1.0


def test_a_rate_against_no_change_is_mcnemar() -> None:
    # 15 won, 5 lost: z = 10 / sqrt(20) = 2.2361, one-sided 0.01267. The t test, with the observed
    # mean taken out of the spread, would say less.
    assert p_greater(rate(15, 5, 1000), 0.0, rate=True) == pytest.approx(0.01267, abs=1e-4)


def test_a_rate_with_one_loss_is_less_sure_than_with_none() -> None:
    p_values = [p_greater(rate(0, lost, 100), -0.05, rate=True) for lost in (0, 1, 2, 3)]
    assert p_values == sorted(p_values)
    # The t test alone: -0.01 with error 0.01 is 4 errors above -0.05. Exactly, at most one loss of
    # 100 at 5 % has probability 0.95^100 + 100 * 0.05 * 0.95^99 = 0.037.
    assert p_values[1] == pytest.approx(0.037, abs=0.02)


def test_the_score_test_takes_the_likeliest_loss_rate() -> None:
    # n = 50, b = 8, c = 3, bound -0.1. By search: with q losses and q - 0.1 wins a pair,
    # 8 log(q - 0.1) + 3 log q + 39 log(1.1 - 2q) is largest at q; z from it as in the docstring.
    grid = [0.1 + i * 1e-6 for i in range(1, 400_000)]
    q = max(
        grid, key=lambda x: 8 * math.log(x - 0.1) + 3 * math.log(x) + 39 * math.log(1.1 - 2 * x)
    )
    z = (8 - 3 + 50 * 0.1) / math.sqrt(50 * (2 * q - 0.1 * 1.1))
    expected = 0.5 * math.erfc(z / math.sqrt(2))
    t_test = p_greater(rate(8, 3, 50), -0.1, rate=False)
    assert p_greater(rate(8, 3, 50), -0.1, rate=True) == pytest.approx(
        max(expected, t_test), rel=1e-3
    )


def test_holm_by_hand() -> None:
    # 0.01 * 3 = 0.03; 0.02 * 2 = 0.04; 0.03 * 1 = 0.03, but at least the one before: 0.04.
    first, second, third = list(Figure)[:3]
    adjusted = holm_adjusted({first: 0.03, second: 0.01, third: 0.02})
    assert adjusted == pytest.approx({second: 0.03, third: 0.04, first: 0.04})
    assert holm_adjusted({first: 0.9, second: 0.8}) == {first: 1.0, second: 1.0}


def test_how_many_groups_would_tell() -> None:
    # (1.6449 + 0.8416)^2 = 6.1826; error 0.1 of distance 0.05 is 2 squared: 10 * 4 * 6.18 = 247.3.
    assert groups_needed(difference(0.0, 0.1), 0.05, 0.05) == 248
    assert groups_needed(difference(0.0, 0.0), 0.05, 0.05) is None
