"""What is counted in answers, by hand."""

import pytest

from orpo_pipeline.evaluation.answers.measures import (
    distinct_2,
    is_refusal,
    measure_answer,
    repetition,
)


def test_distinct_2_by_hand() -> None:
    # Pairs: a b, b a, a b, b c: 3 different of 4.
    assert distinct_2("A b, a B c") == pytest.approx(3 / 4)
    assert distinct_2("word") is None
    assert distinct_2("") is None


def test_repetition_by_hand() -> None:
    # Runs of four in "a b c d a b c d": abcd, bcda, cdab, dabc, abcd: 4 different of 5.
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("to be or not") == 0
    assert repetition("to be or") is None


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m unable to say.", True),
        ("As an AI, I have no opinion.", True),
        ("Boil the eggs for six minutes.", False),
        ("I'm sorry you feel ill. Rest and drink water.", False),
        ("Paris. " * 40 + "I cannot say more.", False),  # only the beginning counts
    ],
)
def test_refusals(text: str, refused: bool) -> None:
    assert is_refusal(text) is refused


def test_quantities_that_do_not_apply_are_none() -> None:
    found = measure_answer("What is the capital of France?", "Paris", tokens=2, ended=True)
    assert found == {
        "tokens": 2.0,
        "ended": 1.0,
        "distinct_2": None,
        "repetition": None,
        "refused": 0.0,
        "format": None,
    }
