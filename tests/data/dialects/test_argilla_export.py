"""Argilla's four layouts, and how people's answers become one preference."""

from typing import Any

import pytest
from dialect_rows import ASKED, SAID, WRONG

from orpo_pipeline.data.dialects import dialect_named, find_dialect
from schemas.pairs import Defect, DefectCode, Message, Origin, Pair

ORIGIN = Origin("records.json", 7)
FIELDS = {"prompt": ASKED, "response_1": WRONG, "response_2": SAID}
PAIR = Pair(
    (Message("user", ASKED),),
    (Message("assistant", SAID),),
    (Message("assistant", WRONG),),
    ORIGIN,
)
SECOND_FIRST = ["response_2", "response_1"]
FIRST_FIRST = ["response_1", "response_2"]
WITH_RANKS = [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]


def record(*values: Any, question: str = "preference", **more: Any) -> dict[str, Any]:
    answers = [{"value": value, "user_id": str(i)} for i, value in enumerate(values)]
    return {"fields": FIELDS, "responses": {question: answers}, **more}


def old_record(value: Any, status: str = "submitted") -> dict[str, Any]:
    response = {"user_id": "u", "values": {"preference": {"value": value}}, "status": status}
    return {"fields": FIELDS, "responses": [response], "external_id": None}


def new_columns(value: Any, status: str = "submitted") -> dict[str, Any]:
    return {
        "id": "1",
        "status": "completed",
        **FIELDS,
        "preference.responses": [value],
        "preference.responses.users": ["u"],
        "preference.responses.status": [status],
        "preference.suggestion": ["response_1", "response_2"],
    }


def old_columns(value: Any, status: str = "submitted") -> dict[str, Any]:
    return {
        **FIELDS,
        "preference": [{"user_id": "u", "value": value, "status": status}],
        "preference-suggestion": None,
        "external_id": None,
        "metadata": "{}",
    }


def old_sequences(value: Any, status: str = "submitted") -> dict[str, Any]:
    return {**FIELDS, "preference": {"user_id": ["u"], "value": [value], "status": [status]}}


LAYOUTS = [record, old_record, new_columns, old_columns, old_sequences]


def parse(row: dict[str, Any]) -> Pair | Defect:
    return dialect_named("argilla_export").parse(row, ORIGIN)


def code_of(row: dict[str, Any]) -> DefectCode:
    parsed = parse(row)
    assert isinstance(parsed, Defect), parsed
    return parsed.code


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "value",
    [
        SECOND_FIRST,
        WITH_RANKS,
        {"value": ["response-1", "response-2"], "rank": [2, 1]},
        "response_2",
        "Response 2",
        "2",
    ],
)
def test_rankings_and_labels_are_read_in_every_layout(layout: Any, value: Any) -> None:
    row = layout(value)
    found = find_dialect(row)
    assert found is not None
    assert found.name == "argilla_export"
    assert parse(row) == PAIR


@pytest.mark.parametrize("layout", [old_record, new_columns, old_columns, old_sequences])
@pytest.mark.parametrize("status", ["draft", "discarded", "pending"])
def test_answers_that_were_not_submitted_do_not_count(layout: Any, status: str) -> None:
    assert code_of(layout(SECOND_FIRST, status)) is DefectCode.MISSING_FIELD


def test_a_record_that_is_pending_has_no_submitted_answers() -> None:
    assert code_of(record(SECOND_FIRST, status="pending")) is DefectCode.MISSING_FIELD
    assert parse(record(SECOND_FIRST, status="completed")) == PAIR
    assert code_of({"fields": FIELDS, "responses": {}}) is DefectCode.MISSING_FIELD


def test_most_people_decide_and_as_many_on_both_sides_are_a_tie() -> None:
    assert parse(record(SECOND_FIRST, FIRST_FIRST, SECOND_FIRST)) == PAIR
    assert code_of(record(SECOND_FIRST, FIRST_FIRST)) is DefectCode.SCORE_TIE


@pytest.mark.parametrize(
    "value",
    ["tie", "Both", [{"value": "response_1", "rank": 1}, {"value": "response_2", "rank": 1}]],
)
def test_a_tie_is_said_to_be_one(value: Any) -> None:
    assert code_of(record(value)) is DefectCode.SCORE_TIE


@pytest.mark.parametrize(
    "value",
    [
        "response_3",
        "a sentence about both",
        5,
        None,
        [],
        ["response_2"],
        ["response_2", "response_9"],
        [1, 2],
        {"value": ["response_1"], "rank": [1, 2]},
    ],
)
def test_an_answer_that_names_no_two_responses_does_not_count(value: Any) -> None:
    assert code_of(record(value)) is DefectCode.MISSING_FIELD


def test_answers_to_other_questions_do_not_count() -> None:
    row = record(SECOND_FIRST)
    row["responses"]["why"] = [{"value": "1", "user_id": "0"}]
    row["responses"]["quality"] = [{"value": 4, "user_id": "0"}]
    assert parse(row) == PAIR


def test_the_ends_of_a_longer_ranking_are_the_pair() -> None:
    row = record(["response_2", "response_3", "response_1"])
    row["fields"] = {**FIELDS, "response_3": "Because."}
    assert parse(row) == PAIR


@pytest.mark.parametrize("label", ["B", "answer_b", "Answer B"])
def test_labels_may_be_letters(label: str) -> None:
    fields = {"instruction": ASKED, "answer_a": WRONG, "answer_b": SAID}
    assert parse({"fields": fields, "responses": {"better": [{"value": label}]}}) == PAIR


def test_a_label_may_overrule_the_order_of_a_pair() -> None:
    fields = {"prompt": ASKED, "chosen": WRONG, "rejected": SAID}
    assert parse({"fields": fields, "responses": {"better": [{"value": "rejected"}]}}) == PAIR


def test_chat_fields_and_a_system_field_are_carried() -> None:
    chat = [{"role": "user", "content": ASKED}]
    row = record(SECOND_FIRST)
    row["fields"] = {**FIELDS, "prompt": chat, "system": "Be kind."}
    parsed = parse(row)
    assert isinstance(parsed, Pair)
    assert parsed.prompt == (Message("system", "Be kind."), *PAIR.prompt)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (None, DefectCode.MISSING_FIELD),
        ("x", DefectCode.WRONG_TYPE),
        ({"response_1": WRONG, "response_2": SAID}, DefectCode.MISSING_FIELD),
        ({**FIELDS, "response_2": None}, DefectCode.MISSING_FIELD),
        ({**FIELDS, "response_2": 5}, DefectCode.WRONG_TYPE),
        ({**FIELDS, "image": "data:image/png"}, DefectCode.UNSUPPORTED_CONTENT),
    ],
)
def test_fields_that_are_no_pair_say_why(fields: Any, code: DefectCode) -> None:
    assert code_of({**record(SECOND_FIRST), "fields": fields}) is code
