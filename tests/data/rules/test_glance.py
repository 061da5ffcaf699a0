"""What a glance calls clean is clean."""

import pytest

from orpo_pipeline.data.rules.characters import INVISIBLE
from orpo_pipeline.data.rules.glance import Glance, glance
from orpo_pipeline.data.rules.text import DAMAGED

EVERY_CHARACTER = [chr(code) for code in range(0x110000)]


def test_every_character_that_a_rule_minds_is_odd() -> None:
    minded = {c for c in EVERY_CHARACTER if DAMAGED.match(c) or INVISIBLE.match(c)} | {"\r"}
    assert len(minded) > 130_000  # the private-use planes alone have so many
    assert [c for c in minded if not glance([f"a{c}b"]).odd_characters] == []


def test_ordinary_text_is_clean() -> None:
    texts = [
        "# Plan\n\n1. Read 12 pages\n\t- \u201cslowly\u201d, na\u00efvely \u2014",
        "It's 5 + 6 = 11.",
    ]
    assert glance(texts) == Glance(False, False, False)
    assert glance([]) == Glance(False, False, False)


@pytest.mark.parametrize(
    "text", ["caf\u00e9 \U0001f600", "\u4f60\u597d", "\u0645\u0631\u062d\u0628\u0627"]
)
def test_other_scripts_are_clean(text: str) -> None:
    assert glance([text]) == Glance(False, False, False)


def test_any_text_of_a_pair_counts() -> None:
    assert glance(["Hi", "Hello", "to a@b.c"]).personal_data
    assert glance(["Hi", "a\rb", ""]).odd_characters
    assert glance(["x" * 20, "Hello"]).secrets


def test_an_odd_character_may_hide_the_others() -> None:
    assert glance(["AKIA\u200bQ7ZT2LMX5VBC4NDK"]) == Glance(True, True, True)
