"""Bootstrap and jackknife by group against closed forms and numbers by hand."""

import numpy as np
import pytest

from orpo_pipeline.evaluation.statistics.resampling import (
    MOST_DRAWN,
    Array,
    Sample,
    Sums,
    difference,
    estimate,
    ratio,
    resample,
)


def mean(sums: Sums) -> Array:
    return ratio(sums["x"], sums["n"])


def sample_of(values: Array, groups: Array | None = None) -> Sample:
    where = np.arange(len(values)) if groups is None else groups
    return resample({"x": values, "n": np.ones(len(values))}, where)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = estimate(sample_of(values), mean, "n")
    assert found is not None and found.n == 400
    # mean +- 1.96 s / sqrt(n); 2,000 replicates know a percentile to about 4 % of the half width.
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.value - found.low == pytest.approx(half, rel=0.12)
    assert found.high - found.value == pytest.approx(half, rel=0.12)


def test_the_clustered_error_of_three_groups_by_hand() -> None:
    # Candidate - reference by pair: group A 1, 0; B 1, 1; C 0, 0. Group means 0.5, 1, 0; mean 0.5.
    # SE^2 = sum (m_g - 0.5)^2 / (G (G - 1)) = (0 + 0.25 + 0.25) / 6 = 1/12.
    columns = {
        "candidate/x": np.array([1.0, 1, 1, 1, 0, 1]),
        "base/x": np.array([0.0, 1, 0, 0, 0, 1]),
        "n": np.ones(6),
    }
    sample = resample(columns, np.array([7, 7, 2, 2, 9, 9]))
    found = difference(sample.view("candidate/"), sample.view("base/"), mean, "n")
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert found.standard_error == pytest.approx((1 / 12) ** 0.5)
    assert (found.groups, found.n) == (3, 6)


def test_a_difference_is_paired() -> None:
    """Two noisy models that differ by exactly 1 on every pair: the difference has no error."""
    noise = np.random.default_rng(1).normal(0, 50, 60)
    sample = resample({"candidate/x": noise + 1, "base/x": noise, "n": np.ones(60)}, np.arange(60))
    found = difference(sample.view("candidate/"), sample.view("base/"), mean, "n")
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(1))
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_repeated_rows_of_a_group_add_no_certainty() -> None:
    values = np.random.default_rng(2).normal(0, 1, 100)
    once = estimate(sample_of(values), mean, "n")
    groups = np.repeat(np.arange(100), 7)
    often = estimate(sample_of(np.repeat(values, 7), groups), mean, "n")
    assert once is not None and often is not None
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert often.n == 700


def test_a_ratio_is_resampled_as_a_ratio_of_sums() -> None:
    # 10 nats over 10 tokens and 2 nats over 1 token: 12 / 11. The mean of ratios would be 1.5.
    columns = {"x": np.array([10.0, 2.0]), "n": np.array([10.0, 1.0])}
    found = estimate(resample(columns, np.array([0, 1])), mean, "n")
    assert found is not None
    assert found.value == pytest.approx(12 / 11)
    # A replicate is one of the two alone or both: 1, 2 or 12/11.
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(2))


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=50)
    assert estimate(sample_of(values), mean, "n") == estimate(sample_of(values), mean, "n")


def test_nothing_can_be_said_of_one_group_or_none() -> None:
    assert estimate(sample_of(np.array([1.0, 2.0]), np.array([5, 5])), mean, "n") is None
    assert estimate(sample_of(np.array([])), mean, "n") is None


def test_a_figure_that_hangs_on_one_group_is_not_estimated() -> None:
    columns = {"x": np.array([1.0, 0, 0]), "n": np.array([1.0, 0, 0])}
    assert estimate(resample(columns, np.arange(3)), mean, "n") is None


def test_an_interval_holds_its_value() -> None:
    """|mean| of numbers that cancel is 0, and larger in nearly every replicate."""
    sample = sample_of(np.tile([1.0, -1.0], 50))
    found = estimate(sample, lambda sums: np.abs(mean(sums)), "n")
    assert found is not None
    assert found.low == found.value == 0 < found.high


def test_many_groups_put_together_give_the_same_error() -> None:
    """Ten times as many groups as are drawn: against s / sqrt(n)."""
    values = np.random.default_rng(4).normal(0, 1, 10 * MOST_DRAWN)
    columns = {"candidate/x": values, "base/x": np.zeros_like(values), "n": np.ones_like(values)}
    sample = resample(columns, np.arange(len(values)))
    found = difference(sample.view("candidate/"), sample.view("base/"), mean, "n")
    assert found is not None and found.groups == len(values)
    expected = values.std(ddof=1) / np.sqrt(len(values))
    assert found.standard_error == pytest.approx(expected, rel=0.04)
    assert found.high - found.low == pytest.approx(2 * 1.96 * expected, rel=0.08)
