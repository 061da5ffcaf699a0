"""Held-out prompts: the right share of them, always the same ones, and no group on both sides."""

import hashlib
import math
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations.splits import EVALUATED, held_out, leaking_reasons

PROMPTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]

ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20)


def hashed(prompt_id: str) -> int:
    """64 bits of the salted hash."""
    digest = hashlib.sha256(f"orpo-pipeline split v1\n{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_the_share_is_near_the_fraction(fraction: float) -> None:
    count = held_out(pl.Series(PROMPTS), fraction).sum()
    # Binomial: n = 4,000, so five standard deviations are at most 5 * sqrt(4,000 / 4) = 158.
    deviations = (count - 4000 * fraction) / (4000 * fraction * (1 - fraction)) ** 0.5
    assert abs(deviations) < 5


def test_the_verdict_never_changes() -> None:
    # Written down once: a change here moves evaluation prompts of existing users into training.
    assert held_out(pl.Series(PROMPTS[:40]), 0.1).arg_true().to_list() == [1, 19, 27, 28, 33, 36]


@settings(max_examples=100, deadline=None)
@given(st.text(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_larger_fraction_only_adds(prompt: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    one_prompt = pl.Series([prompt])
    assert held_out(one_prompt, larger)[0] or not held_out(one_prompt, smaller)[0]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_the_number_of_the_hash_decides(fraction: float) -> None:
    some = PROMPTS[:50]
    numbers = [Fraction(hashed(prompt), 2**64) for prompt in some]
    assert held_out(pl.Series(some), fraction).to_list() == [n < fraction for n in numbers]


def test_the_limit_itself_is_not_held_out() -> None:
    number = Fraction(hashed(PROMPTS[0]), 2**64)
    at = float(number)  # rounded
    for fraction in (math.nextafter(at, 0), at, math.nextafter(at, 1)):
        assert held_out(pl.Series(PROMPTS[:1]), fraction)[0] == (number < fraction)
    assert held_out(pl.Series([], dtype=pl.String), 0.5).to_list() == []


def reasons(rows: list[tuple[int, bool]]) -> list[str | None]:
    columns = pl.DataFrame(rows, schema={"group": pl.Int64, "eval": pl.Boolean}, orient="row")
    held = columns["eval"]
    return leaking_reasons(columns["group"], ~held, held, EVALUATED).to_list()


def test_the_training_rows_go_however_many_they_are() -> None:
    more_train = [(1, False), (1, False), (1, True), (2, True), (3, False)]
    assert reasons(more_train) == [EVALUATED, EVALUATED, None, None, None]
    assert reasons([(1, False), (1, True), (1, True)]) == [EVALUATED, None, None]


def test_a_withheld_training_row_takes_its_group_with_it() -> None:
    found = leaking_reasons(
        pl.Series([1, 1, 2, 3]),
        training=pl.Series([True, True, True, False]),
        withheld=pl.Series([False, True, False, True]),
        reason="held out",
    )
    assert found.to_list() == ["held out", "held out", None, None]


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_afterwards_no_group_is_on_both_sides(rows: list[tuple[int, bool]]) -> None:
    kept = {row for row, reason in zip(rows, reasons(rows), strict=True) if reason is None}
    assert not {g for g, held in kept if held} & {g for g, held in kept if not held}
    assert {row for row in rows if row[1]} <= kept
    assert {group for group, _ in kept} == {group for group, _ in rows}  # never both sides


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20),
)
def test_new_rows_never_move_a_prompt_to_the_other_side(
    old: list[tuple[int, int]], new: list[tuple[int, int]]
) -> None:
    def sides(rows: list[tuple[int, int]]) -> dict[int, bool]:
        ids = pl.Series([PROMPTS[prompt] for prompt, _ in rows], dtype=pl.String)
        side = held_out(ids, 0.5).to_list()
        marked = [(group, held) for (_, group), held in zip(rows, side, strict=True)]
        kept = zip(rows, side, reasons(marked), strict=True)
        return {prompt: held for (prompt, _), held, reason in kept if reason is None}

    before, after = sides(old), sides(old + new)
    assert all(after[prompt] == held for prompt, held in before.items() if prompt in after)
