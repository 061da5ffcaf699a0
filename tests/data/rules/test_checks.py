"""A pair's way through all of the rules."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rule_pairs import make, turns

from orpo_pipeline.data.rules.checks import Checked, check_pair
from schemas.config import DataConfig
from schemas.pairs import Conversation, Defect, DefectCode, Message, Origin, Pair, Severity

DATA = DataConfig(min_score_margin=0.5)
TOKEN = "ghp_" + "q7Zt2LmX9vBc4NdK8sWp1RfY6hJg3TaE5uCo"
KEPT = DataConfig(personal_data="keep", secrets="keep")


def verdict(pair: Pair, data: DataConfig = DATA) -> DefectCode | None:
    defect = check_pair(pair, data).defect
    return defect.code if defect else None


def test_a_good_pair_stays_as_it_is() -> None:
    pair = make(scores=(8, 3))
    checked = check_pair(pair, DATA)
    assert checked == Checked(pair, None, ())
    assert checked.pair is pair


@pytest.mark.parametrize(
    ("code", "pair"),
    [
        (DefectCode.EMPTY_TEXT, make(chosen=" ")),
        (DefectCode.EMPTY_TEXT, make(chosen="\u200b")),
        (DefectCode.IDENTICAL_ANSWERS, make(chosen="Yes", rejected="yes ")),
        (DefectCode.DAMAGED_CHARACTERS, make(prompt="\ufffd")),
        (DefectCode.LEAKED_ROLE_MARKER, make(chosen="Fine.\r\nHuman: And?")),
        (DefectCode.WRONG_ROLES, make(turns("uu"))),
        (DefectCode.ANSWER_NOT_ASSISTANT, make(rejected=turns("u"))),
        (DefectCode.SCORE_TIE, make(scores=(1, 1))),
        (DefectCode.SCORE_INVERTED, make(scores=(1, 2))),
        (DefectCode.SECRET, make(prompt=f"Is {TOKEN} mine?")),
    ],
)
def test_each_rule_is_applied(code: DefectCode, pair: Pair) -> None:
    assert verdict(pair) == code
    assert code.severity in (Severity.DROP, Severity.QUARANTINE)


def test_the_first_broken_rule_is_named() -> None:
    roles, score = turns("uu"), (1, 2)
    assert verdict(make(roles, TOKEN, "", score)) == DefectCode.SECRET
    assert verdict(make(roles, "\x00Yes", "\x00yes", score)) == DefectCode.DAMAGED_CHARACTERS
    assert verdict(make(roles, "Yes", "yes", score)) == DefectCode.IDENTICAL_ANSWERS
    assert verdict(make(roles, scores=score)) == DefectCode.WRONG_ROLES
    assert verdict(make(scores=score)) == DefectCode.SCORE_INVERTED


def test_repairs_are_noted_and_named() -> None:
    checked = check_pair(make("Hi\r\nthere\r\n", "He\u200bllo", "Go\r\naway"), DATA)
    assert checked == Checked(
        make("Hi\nthere\n", "Hello", "Go\naway"),
        None,
        (
            Defect(
                DefectCode.CHARACTERS_REPAIRED,
                "removed: carriage return in prompt (2), zero-width space in chosen, "
                "carriage return in rejected",
            ),
        ),
    )


def test_reports_leave_the_pair_alone() -> None:
    pair = make(chosen="Yes, it is.", rejected="Yes", scores=(3, 2.75))
    assert check_pair(pair, DATA) == Checked(
        pair,
        None,
        (
            Defect(DefectCode.ANSWER_IS_PREFIX, "rejected is the beginning of chosen"),
            Defect(
                DefectCode.SMALL_SCORE_MARGIN,
                "chosen scores 3, rejected 2.75: 0.25 apart, less than 0.5",
            ),
        ),
    )
    assert [note.code for note in check_pair(pair, DataConfig()).notes] == ["answer_is_prefix"]


def test_nothing_is_reported_of_a_pair_that_is_not_kept() -> None:
    assert check_pair(make(turns("uu"), "Yes.", "Yes"), DATA).notes == ()


LEAK = make(
    "I am jo@example.com", f"Use {TOKEN} or call 415-555-0132.", "Ask jo@example.com, jo@x.org"
)


def test_personal_data_is_redacted_on_both_sides_alike() -> None:
    data = DataConfig(secrets="redact")
    assert check_pair(LEAK, data) == Checked(
        make("I am [EMAIL]", "Use [SECRET] or call [PHONE].", "Ask [EMAIL], [EMAIL]"),
        None,
        (
            Defect(DefectCode.SECRET_REDACTED, "replaced: GitHub token in chosen"),
            Defect(
                DefectCode.PERSONAL_DATA_REDACTED,
                "replaced: e-mail address in prompt, phone number in chosen, "
                "e-mail address in rejected (2)",
            ),
        ),
    )


def test_a_secret_is_neither_quoted_nor_kept_in_what_is_set_aside() -> None:
    checked = check_pair(LEAK, DataConfig())
    assert checked.defect == Defect(DefectCode.SECRET, "found: GitHub token in chosen")
    assert [note.code for note in checked.notes] == [DefectCode.PERSONAL_DATA_REDACTED]
    assert TOKEN not in repr(checked)


def test_personal_data_may_set_a_pair_aside() -> None:
    checked = check_pair(LEAK, DataConfig(secrets="keep", personal_data="quarantine"))
    assert checked.defect == Defect(
        DefectCode.PERSONAL_DATA,
        "found: e-mail address in prompt, phone number in chosen, e-mail address in rejected (2)",
    )
    assert "jo@" not in repr(checked)


def test_what_is_to_be_kept_is_kept() -> None:
    assert check_pair(LEAK, KEPT) == Checked(LEAK, None, ())


def test_answers_that_redaction_makes_equal_are_identical() -> None:
    pair = make(chosen="It is jo@example.com.", rejected="It is al@example.org.")
    assert verdict(pair) == DefectCode.IDENTICAL_ANSWERS
    assert verdict(pair, KEPT) is None


# Anything at all, with what the rules look for in it, whole and broken, and side by side.
PIECES = st.sampled_from(
    [
        TOKEN, TOKEN[:20], "AKIA", "Q7ZT2LMX5VBC4NDK", "sk-", "eyJ", "-----BEGIN PRIVATE KEY-----",
        "jo@example.com", "@", "a.", ".de", "+44 ", "20 7946 0958", "415-555-0132", "(415) ", "-",
        "4111 1111 1111 1111", "41111111", "GB82 WEST 1234 5698 7654 32", "GB82", "5698 7654 ",
        "\r", "\n", " ", "\t", "\u200b", "\u200c", "\u200d", "\ufeff", "\u2060", "\xad", "\u0301",
        "e", "=", "\u0338", "\u1793", "\u0645", "\U0001f469", "\ufe0f", "\U0001f3f4", "\U000e0067",
        "\ud800", "\udc00", "\x00", "Human:", "### Response", "[EMAIL]", "_", "0", "1",
    ]
)  # fmt: skip
CHARACTERS = st.characters(exclude_categories=())
TEXTS = st.lists(st.one_of(PIECES, CHARACTERS), max_size=12).map("".join)
MESSAGES = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool", ""]), TEXTS)
CONVERSATIONS = st.lists(MESSAGES, max_size=3).map(tuple)
ANSWERS = st.one_of(CONVERSATIONS, TEXTS.map(lambda text: (Message("assistant", text),)))
SCORES = st.one_of(st.none(), st.floats(), st.integers(-3, 3))
PAIRS = st.builds(Pair, CONVERSATIONS, ANSWERS, ANSWERS, st.just(Origin("f", 1)), SCORES, SCORES)
CONFIGS = st.builds(
    DataConfig,
    personal_data=st.sampled_from(["redact", "quarantine", "keep"]),
    secrets=st.sampled_from(["redact", "quarantine", "keep"]),
    min_score_margin=st.floats(0, 10),
)


@settings(max_examples=200, deadline=None)
@given(PAIRS, CONFIGS)
def test_any_pair_gets_a_verdict(pair: Pair, data: DataConfig) -> None:
    checked = check_pair(pair, data)
    if checked.defect is not None:
        assert checked.defect.code.severity in (Severity.DROP, Severity.QUARANTINE)
    assert {note.code.severity for note in checked.notes} <= {Severity.REPAIR, Severity.REPORT}
    assert [len(part) for part in _parts(checked.pair)] == [len(part) for part in _parts(pair)]


@settings(max_examples=200, deadline=None)
@given(PAIRS, CONFIGS)
@example(make("\u200d\u0645jo@example.com"), DATA)
@example(make("jo@example.com\u0301"), DATA)
def test_a_cleaned_pair_needs_no_more_cleaning(pair: Pair, data: DataConfig) -> None:
    once = check_pair(pair, data)
    twice = check_pair(once.pair, data)
    assert twice.pair == once.pair
    assert not [note for note in twice.notes if note.code.severity is Severity.REPAIR]


EMAIL = st.emails(domains=st.just("example.com"))
PHONE = st.integers(0, 9999).map("415-555-{:04}".format)


@settings(max_examples=200, deadline=None)
@given(st.one_of(EMAIL, PHONE, st.just("4111 1111 1111 1111")), TEXTS)
def test_the_same_data_become_the_same_on_every_side(value: str, other: str) -> None:
    text = f"{value} and {other}"
    pair = check_pair(make(text, text, text), DATA).pair
    assert len({part[0].content for part in _parts(pair)}) == 1


def _parts(pair: Pair) -> tuple[Conversation, ...]:
    return pair.prompt, pair.chosen, pair.rejected
