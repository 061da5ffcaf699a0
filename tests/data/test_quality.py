"""Each rule: a pair that breaks it, and one that nearly does."""

import time
from collections.abc import Sequence

import pytest

from orpo_pipeline.data.quality import RULES, find_contradictions, first_defect
from schemas.pairs import Conversation, Defect, DefectCode, Message, Origin, Pair


def turns(roles: str, *texts: str) -> Conversation:
    """`turns("su", "Be brief.", "Hi")`: system, then user. Without texts, each has its own."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    contents = texts or [f"turn {number}" for number in range(len(roles))]
    return tuple(Message(names[r], text) for r, text in zip(roles, contents, strict=True))


def make(
    prompt: Conversation | str = "Hi",
    chosen: Conversation | str = "Hello, friend.",
    rejected: Conversation | str = "Go away.",
    scores: tuple[float | None, float | None] = (None, None),
) -> Pair:
    prompt = turns("u", prompt) if isinstance(prompt, str) else prompt
    chosen = turns("a", chosen) if isinstance(chosen, str) else chosen
    rejected = turns("a", rejected) if isinstance(rejected, str) else rejected
    return Pair(prompt, chosen, rejected, Origin("f", 1), *scores)


def verdict(pair: Pair) -> DefectCode | None:
    defect = first_defect(pair)
    return defect.code if defect else None


def test_a_good_pair_breaks_no_rule() -> None:
    assert [rule(make()) for rule in RULES] == [None] * len(RULES)


@pytest.mark.parametrize("roles", ["u", "su", "uau", "suau", "uauau"])
def test_alternating_roles_pass(roles: str) -> None:
    assert verdict(make(turns(roles))) is None


@pytest.mark.parametrize("roles", ["", "s", "a", "ua", "sua", "uu", "us", "usu", "ssu", "au", "ut"])
def test_wrong_roles(roles: str) -> None:
    assert verdict(make(turns(roles))) == DefectCode.WRONG_ROLES


def test_wrong_roles_names_the_turns() -> None:
    assert first_defect(make(turns("usu"))) == Defect(
        DefectCode.WRONG_ROLES,
        "the prompt's turns are user, system, user; it must alternate and end with the user",
    )


@pytest.mark.parametrize("roles", ["", "u", "s", "aa", "au", "ua"])
def test_answer_not_assistant(roles: str) -> None:
    assert verdict(make(chosen=turns(roles))) == DefectCode.ANSWER_NOT_ASSISTANT
    assert verdict(make(rejected=turns(roles))) == DefectCode.ANSWER_NOT_ASSISTANT


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b", "\u00a0\u200d\ufeff", "\u2028"])
def test_empty_text(text: str) -> None:
    assert verdict(make(chosen=text)) == DefectCode.EMPTY_TEXT
    assert verdict(make(rejected=text)) == DefectCode.EMPTY_TEXT
    assert verdict(make(turns("uau", "Hi", text, "And?"))) == DefectCode.EMPTY_TEXT


@pytest.mark.parametrize("text", [".", "0", " x", "\u200bx", "\U0001f44d", "\u00e9", "\u4f60"])
def test_little_text_is_text(text: str) -> None:
    assert verdict(make(chosen=text)) is None


@pytest.mark.parametrize(
    "other", ["Yes, it is.", "yes, IT is.", " Yes,\n\nit  is. ", "\uff39es, it is."]
)
def test_identical_answers(other: str) -> None:
    assert verdict(make(chosen="Yes, it is.", rejected=other)) == DefectCode.IDENTICAL_ANSWERS


@pytest.mark.parametrize("other", ["Yes, it is", "Yes it is.", "Yes, it is. It is.", "Yes, itis."])
def test_nearly_identical_answers_differ(other: str) -> None:
    assert verdict(make(chosen="Yes, it is.", rejected=other)) is None


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\ufffd", "U+FFFD"),
        ("\x00", "U+0000"),
        ("\x08", "U+0008"),
        ("\x1b", "U+001B"),
        ("\x7f", "U+007F"),
        ("\x92", "U+0092"),
        ("\u202e", "U+202E"),
        ("\u2066", "U+2066"),
        ("\ud83d", "U+D83D"),
    ],
)
def test_damaged_characters(character: str, shown: str) -> None:
    damaged = f"Hello{character} there."
    for side, pair in (
        ("prompt", make(turns("su", damaged, "Hi"))),
        ("chosen", make(chosen=damaged)),
        ("rejected", make(rejected=damaged)),
    ):
        assert first_defect(pair) == Defect(
            DefectCode.DAMAGED_CHARACTERS, f"{side} contains {shown}"
        )


@pytest.mark.parametrize(
    "text",
    [
        "tab\there",
        "two\nlines",
        "two\r\nlines",
        "caf\u00e9",
        "\u05e9\u05dc\u05d5\u05dd",
        "\U0001f469\u200d\U0001f680",
        "na\u00a0ja",
    ],
)
def test_unusual_characters_are_not_damage(text: str) -> None:
    assert verdict(make(chosen=text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "Sure.\n\nHuman: And then?",
        "Human: hello",
        "Assistant: hello",
        "Fine.\n  Assistant: more",
        "Fine.\n### Response\nmore",
        "###Instruction: do it",
        "Fine.\r\n### Human: x",
    ],
)
def test_leaked_role_marker(text: str) -> None:
    assert verdict(make(chosen=text)) == DefectCode.LEAKED_ROLE_MARKER
    # In rejected it is one more thing to learn not to say.
    assert verdict(make(rejected=text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "To be Human: a novel.",
        "Human rights matter.",
        "human: a mammal.",
        "### Responses of the cell",
        "### Summary\nUser stories",
        "# Response",
        "The Assistant: hello",
    ],
)
def test_words_like_role_markers_pass(text: str) -> None:
    assert verdict(make(chosen=text)) is None


def test_role_markers_are_sought_in_linear_time() -> None:
    started = time.process_time()
    assert verdict(make(chosen="a" + "\n" * 500_000 + "b" + "### " * 100_000)) is None
    assert time.process_time() - started < 10  # seconds; a quadratic search takes an hour


@pytest.mark.parametrize("scores", [(5, 5), (4, 5), (float("nan"), 1), (1, float("nan"))])
def test_score_not_higher(scores: tuple[float, float]) -> None:
    assert verdict(make(scores=scores)) == DefectCode.SCORE_NOT_HIGHER


@pytest.mark.parametrize("scores", [(5.1, 5), (0, -1), (None, 5), (5, None), (None, None)])
def test_a_higher_or_unknown_score_passes(scores: tuple[float | None, float | None]) -> None:
    assert verdict(make(scores=scores)) is None


def test_the_first_broken_rule_is_named() -> None:
    both = make(turns("uu"), chosen="", rejected="", scores=(1, 2))
    assert verdict(both) == DefectCode.WRONG_ROLES


def contradictions(*rows: Sequence[str]) -> set[int]:
    return find_contradictions((prompt, make(prompt, a, b)) for prompt, a, b in rows)


def test_both_sides_of_a_contradiction_are_found() -> None:
    assert contradictions(
        ("p", "A", "B"), ("p", "C", "B"), ("p", "b", " A "), ("q", "B", "A"), ("p", "A", "B")
    ) == {0, 2, 4}


def test_agreeing_pairs_and_chains_do_not_contradict() -> None:
    assert (
        contradictions(("p", "A", "B"), ("p", "B", "C"), ("p", "A", "C"), ("q", "B", "A")) == set()
    )
