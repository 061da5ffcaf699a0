"""Which pairs share a step, a rank and a forward pass: by hand, and for any lengths."""

import itertools
import math
from typing import Any

import pytest
from accelerate import skip_first_batches
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from orpo_pipeline.training.order import StepSampler, count_steps, epoch_order
from orpo_pipeline.training.packed.packing import balance, pack_pairs

LENGTHS = st.lists(st.integers(3, 40), max_size=40)
SIZES = st.integers(1, 30)


def test_first_fit_decreasing_by_hand() -> None:
    # Longest first into packs of 10: 8 opens the first (room 2), 4 and 4 the second (room 2),
    # 2 fits the first (room 0), 1 and 1 the second (room 0).
    assert pack_pairs([4, 8, 1, 4, 2, 1], budget=10) == [[1, 4], [0, 2, 3, 5]]


def test_a_pair_longer_than_the_budget_is_alone() -> None:
    # 12 exceeds 10 and leaves no room; 10 fills a pack; 3 needs a third. The fullest comes first.
    assert pack_pairs([3, 12, 10], budget=10) == [[1], [2], [0]]
    assert pack_pairs([5, 5], budget=1) == [[0], [1]]
    assert pack_pairs([], budget=10) == []


@given(LENGTHS, st.integers(1, 60))
def test_every_pair_once_and_the_budget_held(tokens: list[int], budget: int) -> None:
    packs = pack_pairs(tokens, budget)
    assert sorted(itertools.chain(*packs)) == list(range(len(tokens)))
    for pack in packs:
        assert pack == sorted(pack)
        assert len(pack) == 1 or sum(tokens[index] for index in pack) <= budget
    sums = [sum(tokens[index] for index in pack) for pack in packs]
    assert sums == sorted(sums, reverse=True)
    assert pack_pairs(tokens, budget) == packs


@given(LENGTHS, st.integers(1, 60))
def test_no_two_packs_would_fit_in_one(tokens: list[int], budget: int) -> None:
    sums = [sum(tokens[index] for index in pack) for pack in pack_pairs(tokens, budget)]
    assert all(one + other > budget for one, other in itertools.combinations(sums, 2))


def test_balance_by_hand() -> None:
    # 7 to the first rank, 5 to the second, 4 to the second (9), 3 to the first (10), 1 to the
    # second (10).
    assert balance([7, 5, 4, 3, 1], ranks=2) == [[0, 3], [1, 2, 4]]
    assert balance([7, 5], ranks=3) == [[0], [1], []]
    assert balance([5, 9, 5], ranks=1) == [[0, 1, 2]]


@given(LENGTHS, st.integers(1, 5))
def test_ranks_share_every_pair_once(tokens: list[int], ranks: int) -> None:
    shares = balance(tokens, ranks)
    assert len(shares) == ranks
    assert sorted(itertools.chain(*shares)) == list(range(len(tokens)))
    assert balance(tokens, ranks) == shares


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(2, 3))
def test_the_fullest_rank_holds_at_most_four_thirds_of_the_best(
    tokens: list[int], ranks: int
) -> None:
    def fullest(ranks_of_pairs: tuple[int, ...]) -> int:
        held = [0] * ranks
        for rank, length in zip(ranks_of_pairs, tokens, strict=True):
            held[rank] += length
        return max(held)

    best = min(map(fullest, itertools.product(range(ranks), repeat=len(tokens))))
    found = max(sum(tokens[index] for index in share) for share in balance(tokens, ranks))
    assert 3 * found <= 4 * best


@given(SIZES, st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_a_permutation_of_its_own(pairs: int, seed: int, epoch: int) -> None:
    order = epoch_order(pairs, seed, epoch).tolist()
    assert sorted(order) == list(range(pairs))
    assert epoch_order(pairs, seed, epoch).tolist() == order


def test_seed_and_epoch_decide_the_order() -> None:
    orders = {tuple(epoch_order(50, *asked)) for asked in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(orders) == 4


@given(SIZES, st.integers(1, 12), st.integers(1, 3))
def test_each_epoch_has_every_pair_once_and_a_partial_last_step(
    pairs: int, batch_size: int, epochs: int
) -> None:
    an_epoch = math.ceil(pairs / batch_size)
    sampler = StepSampler(pairs, batch_size, seed=3, steps=epochs * an_epoch)
    steps = list(sampler)
    assert len(steps) == len(sampler) == epochs * an_epoch
    for epoch in range(epochs):
        of_epoch = steps[epoch * an_epoch : (epoch + 1) * an_epoch]
        assert list(itertools.chain(*of_epoch)) == epoch_order(pairs, 3, epoch).tolist()
        assert {len(step) for step in of_epoch[:-1]} <= {batch_size}
        assert len(of_epoch[-1]) == (pairs % batch_size or batch_size)


@given(SIZES, st.integers(1, 12), st.integers(1, 20), st.data())
def test_skipped_steps_change_none_behind_them(
    pairs: int, batch_size: int, steps: int, data: st.DataObject
) -> None:
    """As the Trainer skips them when it resumes."""
    sampler = StepSampler(pairs, batch_size, seed=1, steps=steps)
    skipped = data.draw(st.integers(0, steps))
    numbers: Any = range(pairs)  # a sequence is a map-style dataset
    loader: DataLoader[int] = DataLoader(numbers, batch_sampler=sampler, collate_fn=list)
    assert list(skip_first_batches(loader, skipped)) == list(sampler)[skipped:]


def test_more_steps_change_none_before_them() -> None:
    few, many = (list(StepSampler(10, 4, seed=1, steps=steps)) for steps in (4, 9))
    assert many[:4] == few


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [
        (1, None, 3),  # 10 pairs by 4: 4 + 4 + 2
        (2, None, 6),  # each epoch has its own partial step
        (0.5, None, 2),  # 1.5 steps, rounded up
        (2, 5, 5),
        (1, 100, 100),
    ],
)
def test_count_steps(epochs: float, max_steps: int | None, expected: int) -> None:
    assert count_steps(10, 4, epochs, max_steps) == expected
