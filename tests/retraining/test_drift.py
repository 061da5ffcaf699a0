"""The three drift figures, worked by hand."""

import math

import polars as pl
import pytest
from seen import frame, seen

from orpo_pipeline.retraining.drift import (
    drift_figures,
    length_distance,
    rate_difference,
    stability_index,
)
from schemas.retraining_config import RetrainingConfig


def test_length_distance_is_the_largest_gap_of_the_two_distribution_functions() -> None:
    # At 2: F_new = 2/4, F_known = 0. At 3: 3/4 and 1/4. At 4: 4/4 and 2/4. The largest gap is 1/2.
    value, p_value = length_distance(pl.Series([1, 2, 3, 4]), pl.Series([3, 4, 5, 6]))
    assert value == 0.5
    # P(D >= k/n) for n = m = 4, k = 2: 2 (C(8, 2) - C(8, 0)) / C(8, 4) = 2 (28 - 1) / 70.
    assert p_value == pytest.approx(54 / 70)


def test_stability_index_of_two_counts() -> None:
    # With 1/2 added: 1.5 and 2.5 of 4 against 2.5 and 1.5 of 4, so p = 3/8, 5/8 and q = 5/8, 3/8.
    # (3/8 - 5/8) ln(3/5) + (5/8 - 3/8) ln(5/3) = 2/4 ln(5/3) = 0.2554
    value, p_value = stability_index({"a": 1, "b": 2}, {"a": 2, "b": 1})
    assert value == pytest.approx(math.log(5 / 3) / 2)
    # 0.2554 / (1/3 + 1/3) = 0.3831 = z^2 with z = 0.6190; 2 (1 - Phi(0.6190)) = 0.536
    assert p_value == pytest.approx(0.536, abs=5e-4)


def test_a_category_that_one_side_lacks_stays_finite_and_one_alone_is_no_mix() -> None:
    value, p_value = stability_index({"a": 50, "b": 50}, {"a": 100})
    assert 1 < value < math.inf and p_value < 1e-6
    assert stability_index({"a": 3}, {"a": 500}) == (0.0, 1.0)


def test_rate_difference_is_the_pooled_z_test() -> None:
    # 8 of 10 against 60 of 100: pooled 68/110 = 0.6182,
    # error sqrt(0.6182 * 0.3818 * (1/10 + 1/100)) = 0.1611, z = 0.2 / 0.1611 = 1.2412,
    # 2 (1 - Phi(1.2412)) = 0.2145
    value, p_value = rate_difference((8, 10), (60, 100))
    assert value == pytest.approx(0.2)
    assert p_value == pytest.approx(0.2145, abs=1e-4)


def test_equal_certain_rates_have_no_error_and_no_drift() -> None:
    assert rate_difference((10, 10), (90, 90)) == (0.0, 1.0)


def test_a_few_rows_that_differ_by_chance_are_no_drift() -> None:
    # The same figure twice: one gap of 1/2 between 4 and 4 rows, and between 400 and 400.
    config = RetrainingConfig()

    def length(times: int) -> bool:
        new = frame(seen(f"n{i}", prompt_tokens=1 + i % 4) for i in range(4 * times))
        known = frame(seen(f"k{i}", prompt_tokens=3 + i % 4) for i in range(4 * times))
        figure = drift_figures(new, known, config)[0]
        assert (figure.name, figure.value) == ("prompt length", 0.5)
        return figure.exceeded

    assert not length(1)
    assert length(100)


def test_rows_that_are_all_refused_are_a_drift_of_acceptance_alone() -> None:
    new = frame(seen(f"n{i}", accepted=False, prompt_tokens=None) for i in range(20))
    known = frame(seen(f"k{i}") for i in range(20))
    (figure,) = drift_figures(new, known, RetrainingConfig())
    assert (figure.name, figure.value, figure.exceeded) == ("acceptance", 1.0, True)


def test_nothing_new_has_no_figure() -> None:
    assert drift_figures(frame([]), frame([seen("a")]), RetrainingConfig()) == ()
