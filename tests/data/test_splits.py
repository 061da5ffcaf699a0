"""Held-out prompts: the right share of them, and always the same ones."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.splits import is_held_out

PROMPTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_the_share_is_near_the_fraction(fraction: float) -> None:
    held_out = sum(is_held_out(prompt, fraction) for prompt in PROMPTS)
    # Binomial: n = 4,000, so five standard deviations are at most 5 * sqrt(4,000 / 4) = 158.
    deviations = (held_out - 4000 * fraction) / (4000 * fraction * (1 - fraction)) ** 0.5
    assert abs(deviations) < 5


def test_the_verdict_never_changes() -> None:
    # Written down once: a change here moves evaluation prompts of existing users into training.
    assert [n for n in range(40) if is_held_out(PROMPTS[n], 0.1)] == [1, 19, 27, 28, 33, 36]


@settings(max_examples=100, deadline=None)
@given(st.text(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_larger_fraction_only_adds(prompt: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    assert is_held_out(prompt, larger) or not is_held_out(prompt, smaller)
