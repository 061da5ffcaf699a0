"""Which dialect a row is of: by its keys and types, also where a value is null or wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dialect_rows import ASKED, BAD, EXAMPLES, GOOD, SAID, SYSTEM, USER, WRONG, parse_pair

from orpo_pipeline.data.dialects import (
    DIALECTS,
    dialect_named,
    find_dialect,
    mapped_dialect,
)
from orpo_pipeline.data.dialects.messages import UNSUPPORTED_COLUMNS
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode, Message, Origin, Pair

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
ORIGIN = Origin("pairs.jsonl", 7)
PROMPT = (Message("user", ASKED),)
CHOSEN = (Message("assistant", SAID),)
REJECTED = (Message("assistant", WRONG),)


def name_of(row: dict[str, Any]) -> str | None:
    found = find_dialect(row)
    return found.name if found else None


def test_every_dialect_has_an_example() -> None:
    assert set(EXAMPLES) == {dialect.name for dialect in DIALECTS}
    assert len(DIALECTS) == len(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_of_its_dialect_and_gives_the_pair(name: str) -> None:
    assert name_of(EXAMPLES[name]) == name
    parsed = dialect_named(name).parse(EXAMPLES[name], ORIGIN)
    assert isinstance(parsed, Pair), parsed
    assert (parsed.prompt, parsed.chosen, parsed.rejected) == (PROMPT, CHOSEN, REJECTED)
    assert parsed.origin == ORIGIN
    assert parse_pair(EXAMPLES[name], ORIGIN) == parsed


@pytest.mark.parametrize("value", [None, 5, True, {"a": 1}])
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_with_one_bad_value_stays_in_its_file(name: str, value: Any) -> None:
    # Else one such row would make the file one of two dialects.
    dialect = dialect_named(name)
    for key in EXAMPLES[name]:
        row = {**EXAMPLES[name], key: value}
        assert dialect.fits(row) or find_dialect(row) is None, key
        parsed = dialect.parse(row, ORIGIN)
        assert isinstance(parsed, Pair) or parsed.code in (
            DefectCode.MISSING_FIELD,
            DefectCode.WRONG_TYPE,
        )


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_row_of_nulls_is_of_no_other_dialect(name: str) -> None:
    row = dict.fromkeys(EXAMPLES[name])
    assert name_of(row) in (name, None)
    assert dialect_named(name).parse(row, ORIGIN) == parse_pair(row, ORIGIN) or not find_dialect(
        row
    )
    assert isinstance(parse_pair(row, ORIGIN), Defect)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": ASKED, "chosen": SAID, "rejected": WRONG}, "trl_explicit"),
        ({"prompt": ASKED, "chosen": [GOOD], "rejected": WRONG}, "trl_explicit"),
        ({"prompt": ASKED, "chosen": [USER, GOOD], "rejected": None}, "chatml.ultra"),
        ({"system": "", "prompt": ASKED, "chosen": SAID, "rejected": WRONG}, "chatml.argilla"),
        ({"system": "", "prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, "trl_explicit"),
        ({"question": ASKED, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "trl_implicit"),
        ({"messages": [USER], "chosen": GOOD, "rejected": BAD}, "llama_factory_sharegpt"),
        ({"messages": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "trl_implicit"),
        ({"chosen": SAID, "rejected": WRONG}, None),  # an explicit row that lost its prompt
        ({"chosen": [GOOD], "rejected": [BAD]}, None),
        ({"prompt": ASKED, "chosen": None, "rejected": None}, None),
        ({"text": SAID}, None),
        ({}, None),
    ],
)
def test_types_tell_dialects_of_the_same_keys_apart(row: dict[str, Any], name: str | None) -> None:
    assert name_of(row) == name


def test_a_list_of_messages_as_text_counts_as_a_list() -> None:
    whole = f'[{{"role": "user", "content": "{ASKED}"}}]'
    assert name_of({"chosen": whole, "rejected": whole}) == "trl_implicit"
    answer = '[{"id": 1}]'  # an answer may be JSON itself
    assert name_of({"prompt": ASKED, "chosen": answer, "rejected": WRONG}) == "trl_explicit"


def test_ultrafeedback_cleaned_is_ultrafeedback() -> None:
    row = {
        "source": "evol_instruct",
        "prompt": ASKED,
        "chosen": [USER, GOOD],
        "chosen-rating": 5.0,
        "chosen-model": "a",
        "rejected": [USER, BAD],
        "rejected-rating": 3.75,
        "rejected-model": "b",
    }
    assert name_of(row) == "ultrafeedback"
    assert parse_pair(row, ORIGIN) == Pair(
        PROMPT, CHOSEN, REJECTED, ORIGIN, 5.0, 3.75, "evol_instruct"
    )


def test_a_row_of_no_dialect_says_so() -> None:
    for keys, row in (
        ("prompt, rejected", {"prompt": ASKED, "rejected": WRONG}),
        ("chosen, rejected", {"chosen": SAID, "rejected": WRONG}),
        ("none", {}),
    ):
        advice = f"no known dialect has these fields: {keys}; name the columns with data.columns"
        assert parse_pair(row, ORIGIN) == Defect(DefectCode.MISSING_FIELD, advice)


def test_an_unknown_name_is_answered_with_all_names() -> None:
    with pytest.raises(UserError) as caught:
        dialect_named("trl")
    assert all(dialect.name in str(caught.value) for dialect in DIALECTS)


COLUMNS = {"prompt": "q", "chosen": "good", "rejected": "bad"}


def test_columns_are_mapped() -> None:
    dialect = mapped_dialect(
        {**COLUMNS, "system": "s", "score_chosen": "up", "score_rejected": "down", "source": "web"}
    )
    row = {
        "q": ASKED,
        "good": SAID,
        "bad": [BAD],
        "s": SYSTEM["content"],
        "up": 2,
        "down": "1",
        "web": "forum",
    }
    assert dialect.name == "columns"
    assert dialect.fits(row)
    assert not dialect.fits({"q": ASKED, "good": SAID})
    assert dialect.parse(row, ORIGIN) == Pair(
        (Message("system", "Answer shortly."), *PROMPT),
        CHOSEN,
        REJECTED,
        ORIGIN,
        2.0,
        1.0,
        "forum",
    )


def test_columns_that_are_not_mapped_are_not_read() -> None:
    row = {"q": ASKED, "good": SAID, "bad": WRONG, "score_chosen": True, "score_rejected": 1}
    assert mapped_dialect(COLUMNS).parse(row, ORIGIN) == Pair(PROMPT, CHOSEN, REJECTED, ORIGIN)
    assert mapped_dialect(COLUMNS).parse({**row, "tools": []}, ORIGIN) == Pair(
        PROMPT, CHOSEN, REJECTED, ORIGIN
    )


@pytest.mark.parametrize("name", ["hh_rlhf", "trl_implicit"])
def test_mapped_answers_may_hold_the_whole_conversation(name: str) -> None:
    row = {"good": EXAMPLES[name]["chosen"], "bad": EXAMPLES[name]["rejected"]}
    dialect = mapped_dialect({"chosen": "good", "rejected": "bad"})
    assert dialect.parse(row, ORIGIN) == Pair(PROMPT, CHOSEN, REJECTED, ORIGIN)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({**COLUMNS, "answer": "a"}, "names answer"),
        ({"prompt": "q", "chosen": "good"}, "has no rejected"),
        ({"prompt": "q"}, "has no chosen and no rejected"),
        ({"chosen": "a", "rejected": "a"}, "'a' to chosen and rejected"),
        ({**COLUMNS, "score_chosen": "up"}, "gives one score"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(columns: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        mapped_dialect(columns)
    assert said in caught.value.found


@pytest.mark.parametrize("name", sorted(UNSUPPORTED_COLUMNS))
def test_the_page_names_the_columns_that_are_refused_unnamed(name: str) -> None:
    row = {"q": ASKED, "good": SAID, "bad": WRONG, name: ["something"]}
    refused = mapped_dialect(COLUMNS).parse(row, ORIGIN)
    assert isinstance(refused, Defect)
    assert refused.code is DefectCode.UNSUPPORTED_CONTENT
    assert f"`{name}`" in PAGE.partition("Columns that are not named")[2].partition("##")[0]


def test_the_documented_examples_are_of_the_dialects_they_stand_for() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|.*?\| `(\{.*?\})` \|", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == [dialect.name for dialect in DIALECTS]
    for name, example in rows:
        row = json.loads(example)
        assert name_of(row) == name
        parsed = parse_pair(row, ORIGIN)
        assert isinstance(parsed, Pair), (name, parsed)
        assert (parsed.chosen[0].content, parsed.rejected[0].content) == ("Hello!", "No.")
        assert parsed.prompt[0].content.endswith("Hi")
