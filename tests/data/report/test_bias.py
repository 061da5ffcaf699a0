"""Bias of a count: the figure by hand, the interval against an explicit bootstrap and the truth."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from orpo_pipeline.data.report import bias
from orpo_pipeline.data.report.bias import measure_bias
from schemas.data_report import Bias


def measure(chosen: Sequence[int], rejected: Sequence[int], groups: Sequence[int]) -> Bias:
    pairs = pl.DataFrame({"group": groups, "chosen": chosen, "rejected": rejected})
    return measure_bias("length", pairs)


def test_auc_by_hand() -> None:
    # 5 > 3: 1; 2 < 4: 0; 3 = 3: 0.5; 9 > 1: 1; together 2.5 of 4.
    found = measure([5, 2, 3, 9], [3, 4, 3, 1], [0, 1, 2, 3])
    assert found.auc.value == 0.625
    assert found.pairs == 3


def test_unsigned_counts_do_not_wrap() -> None:
    pairs = pl.DataFrame(
        {"group": [0, 1], "chosen": [1, 65_535], "rejected": [2, 65_534]},
        schema_overrides={"chosen": pl.UInt16, "rejected": pl.UInt16},
    )
    assert measure_bias("code", pairs).auc.value == 0.5


def test_two_groups_give_all_that_two_draws_can() -> None:
    # Drawn twice from {1, 0}: 0 and 1 with chance 1/4 each, so both ends are beyond 2.5 %.
    found = measure([2, 1], [1, 2], [0, 1]).auc
    assert (found.low, found.value, found.high) == (0, 0.5, 1)


def test_one_group_or_one_outcome_has_no_spread() -> None:
    one_group = measure([2, 1, 1], [1, 2, 2], [7, 7, 7]).auc
    assert one_group.low == one_group.value == one_group.high == pytest.approx(1 / 3)
    all_longer = measure([2] * 9, [1] * 9, range(9)).auc
    assert (all_longer.low, all_longer.value, all_longer.high) == (1, 1, 1)


def test_width_follows_the_groups_not_the_pairs() -> None:
    # 100 groups of ten equal pairs, half in favour: sd 0.5 / sqrt(100) = 0.05, 1.96 sd = 0.098.
    groups = np.repeat(np.arange(100), 10)
    found = interval_of(groups % 2, groups).auc
    assert found.value == 0.5
    assert found.low == pytest.approx(0.402, abs=0.011)
    assert found.high == pytest.approx(0.598, abs=0.011)


def clustered(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes 0 or 1 of 120 groups of 1 to 8 pairs; the groups' rates are Beta(1.1, 0.9)."""
    sizes = generator.integers(1, 9, 120)
    rates = np.repeat(generator.beta(1.1, 0.9, 120), sizes)
    outcomes = (generator.random(len(rates)) < rates).astype(int)
    return outcomes, np.repeat(np.arange(120), sizes)


def interval_of(outcomes: np.ndarray, groups: np.ndarray) -> Bias:
    return measure(outcomes.tolist(), (1 - outcomes).tolist(), groups.tolist())


def test_interval_is_that_of_drawing_groups_one_by_one() -> None:
    outcomes, groups = clustered(np.random.default_rng(5))
    found = interval_of(outcomes, groups).auc
    sums = np.bincount(groups, outcomes)
    sizes = np.bincount(groups)
    drawn = np.random.default_rng(6).integers(0, len(sums), (20_000, len(sums)))
    explicit = sums[drawn].sum(1) / sizes[drawn].sum(1)
    # The Monte Carlo error of a 2.5 % quantile of 2,000 draws is about 0.06 standard deviations.
    tolerance = 0.2 * explicit.std()
    assert found.low == pytest.approx(np.quantile(explicit, 0.025), abs=tolerance)
    assert found.high == pytest.approx(np.quantile(explicit, 0.975), abs=tolerance)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = 1.1 / 2.0
    generator = np.random.default_rng(11)
    held = held_without_groups = 0
    for _ in range(200):
        outcomes, groups = clustered(generator)
        auc = interval_of(outcomes, groups).auc
        held += auc.low <= truth <= auc.high
        alone = interval_of(outcomes, np.arange(len(outcomes))).auc
        held_without_groups += alone.low <= truth <= alone.high
    # 95 % of 200 is 190, give or take 3; pairs taken as independent hold far less.
    assert 181 <= held <= 198
    assert held_without_groups < 170


def test_interval_depends_on_neither_order_nor_group_numbers() -> None:
    outcomes, groups = clustered(np.random.default_rng(3))
    order = np.random.default_rng(4).permutation(len(groups))
    assert interval_of(outcomes, groups) == interval_of(outcomes[order], 9_999 - groups[order])


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, groups = clustered(np.random.default_rng(3))
    whole = interval_of(outcomes, groups)
    monkeypatch.setattr(bias, "DRAWN_AT_ONCE", 1_000)
    assert interval_of(outcomes, groups) == whole
