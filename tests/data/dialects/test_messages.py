"""What messages may hold: text is carried, everything else is refused by name."""

import json
from typing import Any

import pytest
from dialect_rows import ASKED, BAD, EXAMPLES, GOOD, SAID, SYSTEM, USER, WRONG, parse_pair

from orpo_pipeline.data.dialects import dialect_named
from orpo_pipeline.data.dialects.messages import ROLES, TOOL_ROLES
from schemas.pairs import Defect, DefectCode, Message, Origin, Pair

ORIGIN = Origin("pairs.jsonl", 7)
EXPLICIT = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
PAIR = Pair(
    (Message("user", ASKED),),
    (Message("assistant", SAID),),
    (Message("assistant", WRONG),),
    ORIGIN,
)


def with_chosen(**changes: Any) -> Pair | Defect:
    return parse_pair({**EXPLICIT, "chosen": [{**GOOD, **changes}]}, ORIGIN)


def text_part(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


@pytest.mark.parametrize(
    "key", ["tool_calls", "tool_call_id", "function_call", "reasoning_content", "thinking", "audio"]
)
def test_content_that_is_no_text_is_refused_by_its_key(key: str) -> None:
    expected = Defect(
        DefectCode.UNSUPPORTED_CONTENT,
        f"a message of chosen has {key}, which is not supported: only text is",
    )
    assert with_chosen(**{key: [{"id": 1}]}) == expected
    assert with_chosen(**{key: "x", "content": None}) == expected


@pytest.mark.parametrize("nothing", [None, [], {}, "", "[]"])
def test_an_unset_message_key_is_no_extra(nothing: Any) -> None:
    # Parquet gives every message every key that any of them has.
    assert with_chosen(tool_calls=nothing, name=None) == PAIR


@pytest.mark.parametrize("role", sorted(TOOL_ROLES))
def test_tool_turns_are_refused(role: str) -> None:
    parsed = with_chosen(role=role)
    assert isinstance(parsed, Defect)
    assert parsed.code is DefectCode.UNSUPPORTED_CONTENT
    assert role in parsed.reason


@pytest.mark.parametrize("column", ["tools", "images", "audio"])
@pytest.mark.parametrize("name", ["trl_explicit", "hh_rlhf", "chatml.intel", "shp"])
def test_columns_of_other_media_are_refused_unless_they_are_empty(name: str, column: str) -> None:
    dialect = dialect_named(name)
    refused = dialect.parse({**EXAMPLES[name], column: [{"name": "x"}]}, ORIGIN)
    assert refused == Defect(
        DefectCode.UNSUPPORTED_CONTENT,
        f"the row has {column}, which is not supported: only text is",
    )
    for nothing in (None, [], "[]"):
        assert isinstance(dialect.parse({**EXAMPLES[name], column: nothing}, ORIGIN), Pair)


def test_tools_of_openai_are_refused_beside_the_messages() -> None:
    dialect = dialect_named("openai_preference")
    row = {**EXAMPLES["openai_preference"], "input": {"messages": [USER], "tools": [{"a": 1}]}}
    assert dialect.parse(row, ORIGIN) == Defect(
        DefectCode.UNSUPPORTED_CONTENT, "the row has tools, which is not supported: only text is"
    )


def test_text_parts_are_joined() -> None:
    parts = [text_part("Air scatters "), text_part("blue light most.", image_url=None)]
    assert with_chosen(content=parts) == PAIR
    split_accent = with_chosen(content=[text_part("cafe"), text_part("\u0301")])
    assert isinstance(split_accent, Pair)
    assert split_accent.chosen[0].content == "caf\u00e9"


@pytest.mark.parametrize(
    ("part", "code", "reason"),
    [
        (
            {"type": "image_url", "image_url": {"url": "x"}},
            DefectCode.UNSUPPORTED_CONTENT,
            "a message of chosen has a part with image_url, which is not supported: only text is",
        ),
        (
            text_part("x", annotations=[1]),
            DefectCode.UNSUPPORTED_CONTENT,
            "a message of chosen has a part with annotations, which is not supported: only text is",
        ),
        ({"type": "text"}, DefectCode.MISSING_FIELD, "a part of a message of chosen has no text"),
        ({"text": "x"}, DefectCode.WRONG_TYPE, "a part of a message of chosen has no type"),
        (
            {"type": "text", "text": 5},
            DefectCode.WRONG_TYPE,
            "the text of a part of chosen is int, not text",
        ),
        ("x", DefectCode.WRONG_TYPE, "a part of a message of chosen is str, not type and text"),
    ],
)
def test_other_parts_are_refused(part: Any, code: DefectCode, reason: str) -> None:
    assert with_chosen(content=[text_part("See: "), part]) == Defect(code, reason)


@pytest.mark.parametrize(("given", "role"), ROLES.items())
def test_roles_have_many_names(given: str, role: str) -> None:
    row = {**EXPLICIT, "prompt": [{"role": given.title(), "content": "Hi"}]}
    parsed = parse_pair(row, ORIGIN)
    assert isinstance(parsed, Pair)
    assert parsed.prompt == (Message(role, "Hi"),)


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        (
            {"role": "critic\ud83d"},
            DefectCode.WRONG_ROLES,
            "chosen has a turn of the role 'critic\\\\ud83d', which is neither system, user nor "
            "assistant",
        ),
        ({"role": None}, DefectCode.MISSING_FIELD, "a message of chosen has no role"),
        ({"content": None}, DefectCode.MISSING_FIELD, "a message of chosen has no content"),
        (
            {"role": 3},
            DefectCode.WRONG_TYPE,
            "the role of a message of chosen is int, not text",
        ),
        (
            {"content": {"text": "x"}},
            DefectCode.WRONG_TYPE,
            "the content of a message of chosen is dict, not text",
        ),
    ],
)
def test_a_message_that_cannot_be_read_says_why(
    changes: dict[str, Any], code: DefectCode, reason: str
) -> None:
    assert with_chosen(**changes) == Defect(code, reason)


@pytest.mark.parametrize(
    ("item", "code", "reason"),
    [
        ("yes", DefectCode.WRONG_TYPE, "a message of chosen is str, not role and content"),
        ({"a": 1}, DefectCode.MISSING_FIELD, "a message of chosen has no role and no content"),
        ({"role": "user"}, DefectCode.MISSING_FIELD, "a message of chosen has no content"),
    ],
)
def test_what_is_no_message_says_why(item: Any, code: DefectCode, reason: str) -> None:
    assert parse_pair({**EXPLICIT, "chosen": [item]}, ORIGIN) == Defect(code, reason)


def test_messages_may_be_named_from_and_value() -> None:
    row = {**EXPLICIT, "rejected": [{"from": "gpt", "value": WRONG}]}
    assert parse_pair(row, ORIGIN) == PAIR


@pytest.mark.parametrize("indent", [None, 2])
def test_a_csv_cell_may_hold_the_messages_as_json(indent: int | None) -> None:
    row = {key: json.dumps(value, indent=indent) for key, value in EXPLICIT.items()}
    assert parse_pair(row, ORIGIN) == PAIR
    whole = {"chosen": json.dumps([USER, GOOD]), "rejected": json.dumps([USER, BAD])}
    assert parse_pair(whole, ORIGIN) == PAIR


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1}]',
        "[1, 2]",
        '[{"role": "admin"}]',
        '[{"role": "user", "content": "cut off',
        '[{"role": "user", "content": "a"}, 5]',
        '[{"content": ' + "[" * 100_000,
    ],
)
def test_an_answer_that_is_other_json_stays_text(text: str) -> None:
    parsed = parse_pair({"prompt": ASKED, "chosen": text, "rejected": WRONG}, ORIGIN)
    assert isinstance(parsed, Pair)
    assert parsed.chosen == (Message("assistant", text),)


def test_messages_as_python_prints_them_are_refused() -> None:
    row = {"chosen": str([USER, GOOD]), "rejected": str([USER, BAD])}
    assert parse_pair(row, ORIGIN) == Defect(
        DefectCode.WRONG_TYPE,
        "chosen holds a list of messages as Python prints it; it must be written as JSON",
    )


def test_a_system_turn_is_carried_by_the_conversational_dialects() -> None:
    expected = (Message("system", "Answer shortly."), Message("user", ASKED))
    rows = [
        {**EXPLICIT, "prompt": [SYSTEM, USER]},
        {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
        {**EXAMPLES["openai_preference"], "input": {"messages": [SYSTEM, USER]}},
        {
            **EXAMPLES["llama_factory_sharegpt"],
            "conversations": [
                {"from": "system", "value": "Answer shortly."},
                {"from": "human", "value": ASKED},
            ],
        },
    ]
    columns = ("llama_factory_sharegpt", "llama_factory_alpaca", "chatml.icr", "chatml.intel")
    rows += [{**EXAMPLES[name], "system": "Answer shortly."} for name in columns]
    for row in rows:
        parsed = parse_pair(row, ORIGIN)
        assert isinstance(parsed, Pair), (row, parsed)
        assert parsed.prompt == expected
