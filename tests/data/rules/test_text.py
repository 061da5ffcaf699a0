"""What messages say, and what they nearly say."""

import pytest
from rule_pairs import make, turns

from orpo_pipeline.data.rules.text import (
    answer_is_prefix,
    damaged_characters,
    empty_text,
    folded_answers,
    identical_answers,
    leaked_role_marker,
)
from schemas.pairs import Defect, DefectCode, Pair

LONG = "The same words again and again, and nobody has counted them so far. " * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\t ",
        "\u200b",
        "\u00a0\u200d\ufeff",
        "\u2028",
        "\u3164",  # Hangul filler
        "\u2800 \u2800",  # Braille blank
        "\ufe0f",  # variation selector
    ],
)
def test_empty_text(text: str) -> None:
    for side, pair in (
        ("chosen", make(chosen=text)),
        ("rejected", make(rejected=text)),
        ("prompt", make(turns("uau", "Hi", text, "And?"))),
    ):
        assert empty_text(pair) == Defect(
            DefectCode.EMPTY_TEXT, f"{side} has a message without text"
        )


@pytest.mark.parametrize("text", [".", "0", " x", "\u200bx", "\U0001f44d", "\u00e9", "\u4f60"])
def test_little_text_is_text(text: str) -> None:
    assert empty_text(make(chosen=text)) is None


def identical(chosen: str, rejected: str) -> Defect | None:
    return identical_answers(folded_answers(make(chosen=chosen, rejected=rejected)))


@pytest.mark.parametrize(
    "other", ["Yes, it is.", "yes, IT is.", " Yes,\n\nit  is. ", "\uff39es, it is."]
)
def test_identical_answers(other: str) -> None:
    expected = Defect(DefectCode.IDENTICAL_ANSWERS, "chosen and rejected say the same")
    assert identical("Yes, it is.", other) == expected
    assert identical(LONG + "Yes, it is.", LONG.upper() + other) == expected


@pytest.mark.parametrize("other", ["Yes, it is", "Yes it is.", "Yes, it is. It is.", "Yes, itis."])
def test_nearly_identical_answers_differ(other: str) -> None:
    assert identical("Yes, it is.", other) is None
    assert identical(LONG + "Yes, it is.", LONG + other) is None


def prefix(chosen: str, rejected: str) -> Defect | None:
    return answer_is_prefix(folded_answers(make(chosen=chosen, rejected=rejected)))


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("Yes", "Yes."),
        ("yes ", "YES,  it is."),
        ("Ye", "Yes"),
        (LONG, LONG + "x"),
        ("Caf\u00e9", "CAFE\u0301 au lait"),
        ("x" * 300, "x" * 301),
    ],
)
def test_answer_is_prefix(short: str, whole: str) -> None:
    assert prefix(whole, short) == Defect(
        DefectCode.ANSWER_IS_PREFIX, "rejected is the beginning of chosen"
    )
    assert prefix(short, whole) == Defect(
        DefectCode.ANSWER_IS_PREFIX, "chosen is the beginning of rejected"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes.", "Yes, it is."),
        ("yes", "Yes"),  # identical
        ("es", "Yes"),
        ("Hello there", "Hell a there"),
        (LONG + "a", LONG + "b"),
    ],
)
def test_no_prefix(one: str, other: str) -> None:
    assert prefix(one, other) is None
    assert prefix(other, one) is None


@pytest.mark.parametrize("roles", ["", "ua"])
def test_answers_of_another_structure_are_not_compared(roles: str) -> None:
    pair = make(chosen=turns(roles), rejected=turns(roles))
    assert folded_answers(pair) is None
    assert leaked_role_marker(pair) is None


def sides(text: str) -> list[tuple[str, Pair]]:
    return [
        ("prompt", make(turns("su", text, "Hi"))),
        ("chosen", make(chosen=text)),
        ("rejected", make(rejected=text)),
    ]


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\ufffd", "U+FFFD, the sign of bytes lost in decoding"),
        ("\x00", "U+0000, a control character"),
        ("\x08", "U+0008, a control character"),
        ("\x0c", "U+000C, a control character"),
        ("\x1b", "U+001B, a control character"),
        ("\x7f", "U+007F, a control character"),
        ("\x92", "U+0092, a control character"),
        ("\u202e", "U+202E, which reorders what a reader sees"),
        ("\u2066", "U+2066, which reorders what a reader sees"),
        ("\ud83d", "U+D83D, half a surrogate pair"),
        ("\uf0b7", "U+F0B7, private: no two fonts agree on it"),
        ("\U0010fffd", "U+10FFFD, private: no two fonts agree on it"),
        ("\ufffc", "U+FFFC, the place of something that is lost"),
        ("\U000e0041", "U+E0041, hidden text"),
        ("\ufdd0", "U+FDD0, not a character"),
    ],
)
def test_damaged_characters(character: str, shown: str) -> None:
    for side, pair in sides(f"Hello{character} there."):
        assert damaged_characters(pair) == Defect(
            DefectCode.DAMAGED_CHARACTERS, f"{side} contains {shown}"
        )


@pytest.mark.parametrize(
    "text",
    [
        "tab\there",
        "two\nlines",
        "caf\u00e9",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u200e\u05d0\u200f",  # marks of direction that override nothing
        "\U0001f469\u200d\U0001f680",
        "na\u00a0ja",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland
        "one\u2028two",
        "\u1f600 \u20ac \u2713 \u0301",
    ],
)
def test_unusual_characters_are_not_damage(text: str) -> None:
    assert damaged_characters(make(chosen=text)) is None


def test_hidden_text_after_a_flag_is_found() -> None:
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    assert damaged_characters(make(chosen=flag)) is None
    assert damaged_characters(make(chosen=flag + "\U000e0041")) is not None


@pytest.mark.parametrize(
    ("text", "marker"),
    [
        ("Sure.\n\nHuman: And then?", "Human:"),
        ("Human: hello", "Human:"),
        ("Assistant: hello", "Assistant:"),
        ("Fine.\n  Assistant: more", "Assistant:"),
        ("Fine.\n### Response\nmore", "### Response"),
        ("###Instruction: do it", "###Instruction"),
        ("Fine.\n### Human : And then?", "### Human"),
    ],
)
def test_leaked_role_marker(text: str, marker: str) -> None:
    assert leaked_role_marker(make(chosen=text)) == Defect(
        DefectCode.LEAKED_ROLE_MARKER, f"chosen contains the turn marker {marker!r}"
    )
    # In rejected it is one more thing to learn not to say.
    assert leaked_role_marker(make(rejected=text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "To be Human: a novel.",
        "He said: Human: what next?",
        "Human rights matter.",
        "human: a mammal.",
        "### Responses of the cell",
        "Plan:\n\n### User Interface\nDraw it.",
        "### Instruction Set Architecture",
        "### Summary\nUser stories",
        "# Response",
        "The Assistant: hello",
    ],
)
def test_words_like_role_markers_pass(text: str) -> None:
    assert leaked_role_marker(make(chosen=text)) is None
