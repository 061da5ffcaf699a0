"""Rows of every supported form become pairs; the others say what is wrong with them."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.dialects import folded, parse_pair, prompt_id, row_id
from schemas.pairs import Defect, DefectCode, Message, Origin, Pair

ORIGIN = Origin("pairs.jsonl", 7)
USER = {"role": "user", "content": "Why is the sky blue?"}
GOOD = {"role": "assistant", "content": "Air scatters blue light most."}
BAD = {"role": "assistant", "content": "It mirrors the sea."}
SYSTEM = {"role": "system", "content": "Answer shortly."}

PROMPT = (Message("user", "Why is the sky blue?"),)
CHOSEN = (Message("assistant", "Air scatters blue light most."),)
REJECTED = (Message("assistant", "It mirrors the sea."),)


def parse(**row: Any) -> Pair | Defect:
    return parse_pair(row, ORIGIN)


def pair(**row: Any) -> Pair:
    parsed = parse(**row)
    assert isinstance(parsed, Pair), parsed
    return parsed


def defect(**row: Any) -> Defect:
    parsed = parse(**row)
    assert isinstance(parsed, Defect), parsed
    return parsed


EXPLICIT = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(EXPLICIT, id="explicit conversations"),
        pytest.param({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="implicit"),
        pytest.param({"prompt": None, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="null"),
        pytest.param({"prompt": [], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="no turn"),
        pytest.param(
            {"prompt": USER["content"], "chosen": GOOD["content"], "rejected": BAD["content"]},
            id="text",
        ),
        pytest.param(
            {"prompt": USER["content"], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            id="ultrafeedback",
        ),
        pytest.param(
            {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            id="prompt and whole conversations",
        ),
        pytest.param(
            {"prompt": USER["content"], "chosen": [GOOD], "rejected": BAD["content"]}, id="mixed"
        ),
    ],
)
def test_every_dialect_gives_the_same_pair(row: dict[str, Any]) -> None:
    assert pair(**row) == Pair(PROMPT, CHOSEN, REJECTED, ORIGIN)


def test_other_columns_do_not_matter() -> None:
    assert pair(**EXPLICIT, messages=[USER, GOOD], id=3, chat_template_kwargs={"x": "y"}) == Pair(
        PROMPT, CHOSEN, REJECTED, ORIGIN
    )


def test_an_implicit_prompt_is_cut_at_the_last_turn_and_never_inside_an_answer() -> None:
    begins_alike = {"role": "assistant", "content": "Air scatters red light most."}
    parsed = pair(chosen=[SYSTEM, USER, GOOD], rejected=[SYSTEM, USER, begins_alike])
    assert [message.role for message in parsed.prompt] == ["system", "user"]
    assert parsed.chosen == CHOSEN
    assert parsed.rejected[0].content == "Air scatters red light most."


def test_a_text_prompt_may_stand_behind_a_system_turn() -> None:
    parsed = pair(prompt=USER["content"], chosen=[SYSTEM, USER, GOOD], rejected=[SYSTEM, USER, BAD])
    assert [message.role for message in parsed.prompt] == ["system", "user"]


def test_earlier_answers_belong_to_the_prompt() -> None:
    again = {"role": "user", "content": "Really?"}
    parsed = pair(chosen=[USER, GOOD, again, GOOD], rejected=[USER, GOOD, again, BAD])
    assert [message.role for message in parsed.prompt] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ({"prompt": [USER], "rejected": [BAD]}, DefectCode.MISSING_FIELD, "no chosen"),
        (
            {"prompt": [USER], "chosen": None, "rejected": None},
            DefectCode.MISSING_FIELD,
            "no chosen and no rejected",
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            DefectCode.MISSING_FIELD,
            "no prompt, neither of its own nor in chosen",
        ),
        (
            {"chosen": [GOOD], "rejected": [BAD]},
            DefectCode.MISSING_FIELD,
            "no prompt, neither of its own nor in chosen",
        ),
        (
            {"prompt": 5, "chosen": [GOOD], "rejected": [BAD]},
            DefectCode.WRONG_TYPE,
            "prompt is int, not text or a list of messages",
        ),
        (
            {"prompt": [USER], "chosen": {"role": "assistant"}, "rejected": [BAD]},
            DefectCode.WRONG_TYPE,
            "chosen is dict, not text or a list of messages",
        ),
        (
            {"prompt": [USER], "chosen": ["yes"], "rejected": [BAD]},
            DefectCode.WRONG_TYPE,
            "a message of chosen is str, not role and content",
        ),
        (
            {"prompt": [USER], "chosen": [{"role": "assistant", "content": None}], "rejected": "x"},
            DefectCode.WRONG_TYPE,
            "a message of chosen has no text in role or content",
        ),
        (
            {"prompt": [USER], "chosen": [GOOD], "rejected": [{"from": "gpt", "value": "x"}]},
            DefectCode.WRONG_TYPE,
            "a message of rejected has no text in role or content",
        ),
        (
            {"prompt": [USER], "chosen": [{**GOOD, "tool_calls": [1]}], "rejected": [BAD]},
            DefectCode.WRONG_TYPE,
            "a message of chosen has tool_calls, which is not supported yet",
        ),
        (
            {**EXPLICIT, "score_chosen": "good", "score_rejected": 1},
            DefectCode.WRONG_TYPE,
            "score_chosen or score_rejected is not a number",
        ),
        (
            {**EXPLICIT, "score_chosen": 10**400, "score_rejected": 1},
            DefectCode.WRONG_TYPE,
            "score_chosen or score_rejected is not a number",
        ),
        (
            {"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Why?"}, BAD]},
            DefectCode.PROMPTS_DIFFER,
            "chosen and rejected differ before the last answer",
        ),
        (
            {"prompt": "Why?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            DefectCode.PROMPTS_DIFFER,
            "the prompt differs from the one in chosen",
        ),
    ],
)
def test_a_row_that_is_no_pair_says_why(row: dict[str, Any], code: DefectCode, reason: str) -> None:
    assert defect(**row) == Defect(code, reason)


def test_an_unset_message_key_is_no_extra() -> None:
    # Parquet gives every message every key that any of them has.
    assert isinstance(parse(**{**EXPLICIT, "chosen": [{**GOOD, "tool_calls": None}]}), Pair)


def test_answers_of_the_wrong_shape_are_left_to_the_rules() -> None:
    # The prompt is there, so this is not a missing field.
    assert pair(prompt=[USER], chosen=[USER], rejected=[USER]).chosen == PROMPT
    assert pair(prompt=[USER], chosen=[], rejected=[BAD]).chosen == ()
    assert len(pair(prompt=[USER], chosen=[GOOD, USER], rejected=[BAD]).chosen) == 2


@pytest.mark.parametrize(
    "names", [("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")]
)
@pytest.mark.parametrize("values", [(8.5, 3), ("8.5", "3.0")])
def test_scores_are_read_under_both_names(names: tuple[str, str], values: tuple[Any, Any]) -> None:
    parsed = pair(**EXPLICIT, **dict(zip(names, values, strict=True)))
    assert (parsed.score_chosen, parsed.score_rejected) == (8.5, 3.0)


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_score_is_no_score(missing: Any) -> None:
    parsed = pair(**EXPLICIT, score_chosen=8, score_rejected=missing)
    assert (parsed.score_chosen, parsed.score_rejected) == (None, None)


def test_row_id_changes_with_a_character_and_with_a_flipped_label() -> None:
    ids = {
        row_id(pair(**EXPLICIT)),
        row_id(pair(prompt=[USER], chosen=[BAD], rejected=[GOOD])),
        row_id(pair(**{**EXPLICIT, "rejected": [{**BAD, "content": "It mirrors the sea!"}]})),
        row_id(pair(**{**EXPLICIT, "prompt": [{**USER, "content": "why is the sky blue?"}]})),
        row_id(pair(**{**EXPLICIT, "prompt": [{**USER, "role": "system"}]})),
    }
    assert len(ids) == 5


def test_row_id_is_of_the_content_alone() -> None:
    elsewhere = parse_pair({**EXPLICIT, "score_chosen": 9, "score_rejected": 1}, Origin("b", 1))
    assert isinstance(elsewhere, Pair)
    assert row_id(elsewhere) == row_id(pair(**EXPLICIT))


def test_rows_of_one_identity_hold_the_same_text() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    one, other = (pair(**{**EXPLICIT, "prompt": text}) for text in (composed, decomposed))
    assert row_id(one) == row_id(other)
    assert one == other


def test_prompt_id_ignores_case_white_space_and_compatibility_forms_only() -> None:
    def prompt(text: str) -> str:
        return prompt_id(pair(**{**EXPLICIT, "prompt": [{"role": "user", "content": text}]}))

    same = ["Why is the sky blue?", " why  is\nthe SKY blue? ", "\uff37hy is the sky blue?"]
    assert len({prompt(text) for text in same}) == 1
    assert prompt("Why is the sky blue") != prompt(same[0])
    with_system = pair(prompt=[SYSTEM, USER], chosen=[GOOD], rejected=[BAD])
    assert prompt_id(with_system) != prompt(same[0])


def test_ids_are_sha256_even_of_what_cannot_be_encoded() -> None:
    lone = pair(**{**EXPLICIT, "prompt": [{"role": "user", "content": "half \ud83d"}]})
    assert len(row_id(lone)) == len(prompt_id(lone)) == 64


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_folding_is_stable_under_normal_forms_and_spacing(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert folded(unicodedata.normalize(form, text)) == folded(text)
    assert folded(f" \n{text}\t") == folded(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected", "other"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_row_gives_a_pair_or_a_reason(row: dict[str, Any]) -> None:
    parsed = parse_pair(row, ORIGIN)
    assert isinstance(parsed, Pair) or parsed.reason
