"""Whatever stands in a row, it becomes a pair or a defect; and what a dialect says is kept."""

import json
import unicodedata
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from dialect_rows import EXAMPLES, parse_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.dialects import (
    DIALECTS,
    dialect_named,
    find_dialect,
    mapped_dialect,
)
from schemas.pairs import Conversation, Defect, Message, Origin, Pair

ORIGIN = Origin("pairs.jsonl", 7)
COLUMNS = mapped_dialect({"prompt": "input", "chosen": "chosen", "rejected": "answers"})

INNER_KEYS = ["role", "content", "from", "value", "type", "text", "messages", "rank", "status"]
KEYS = sorted({key for row in EXAMPLES.values() for key in row})
ODD = [10**400, float("nan"), float("-inf"), "\ud83d", "\x00", b"x", date(2024, 1, 1)]
ODD += [Decimal("sNaN"), (1,), {2: 3}, '[{"role": "user", "content": []}]', "\n\nHuman:"]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(ODD)
    | st.sampled_from(["user", "assistant", "text", "submitted", "response_1", "response_2"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*INNER_KEYS, "x\ud83d"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def answer_is_well_formed(parsed: Pair | Defect) -> None:
    if isinstance(parsed, Defect):
        assert parsed.reason
        parsed.reason.encode()  # reasons are stored
        return
    for turns in (parsed.prompt, parsed.chosen, parsed.rejected):
        for turn in turns:
            assert turn.role in ("system", "user", "assistant")
            assert unicodedata.is_normalized("NFC", turn.content)
    for score in (parsed.score_chosen, parsed.score_rejected):
        assert score is None or (type(score) is float and abs(score) < float("inf"))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_any_row_gives_a_pair_or_a_reason(row: dict[str, Any]) -> None:
    answer_is_well_formed(parse_pair(row, ORIGIN))
    for dialect in (*DIALECTS, COLUMNS):
        assert dialect.fits(row) in (True, False)
        answer_is_well_formed(dialect.parse(row, ORIGIN))


@pytest.mark.parametrize("name", EXAMPLES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_example_with_something_replaced_gives_a_pair_or_a_reason(
    name: str, data: st.DataObject
) -> None:
    row = json.loads(json.dumps(EXAMPLES[name]))
    place: Any = row
    while True:  # some way down, then something else stands there
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(place[key], dict | list) and place[key]
        if not deeper or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    answer_is_well_formed(dialect_named(name).parse(row, ORIGIN))
    answer_is_well_formed(parse_pair(row, ORIGIN))


@pytest.mark.parametrize("name", EXAMPLES)
def test_deep_nesting_gives_a_reason(name: str) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep] if isinstance(deep, dict) else {"content": deep}
    for key in EXAMPLES[name]:
        row = {**EXAMPLES[name], key: deep}
        answer_is_well_formed(dialect_named(name).parse(row, ORIGIN))
        find_dialect(row)


# Text that no dialect reads as its own notation, and that has no blank at its ends.
WORD = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=8)
TEXT = (
    st.lists(WORD, min_size=1, max_size=4)
    .map(" ".join)
    .filter(lambda text: text.strip() == text and text[0] not in "[{")
    .map(lambda text: unicodedata.normalize("NFC", text))
)
ASSISTANT = TEXT.map(lambda text: (Message("assistant", text),))


@st.composite
def prompts(draw: st.DrawFn, system: bool = True, turns: int = 3) -> Conversation:
    said = draw(st.lists(TEXT, min_size=1, max_size=turns).filter(lambda texts: len(texts) % 2))
    messages = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said)]
    if system and draw(st.booleans()):
        messages.insert(0, Message("system", draw(TEXT)))
    return tuple(messages)


def as_messages(turns: Conversation, role: str = "role", content: str = "content") -> list[Any]:
    return [{role: turn.role, content: turn.content} for turn in turns]


def as_transcript(turns: Conversation) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[turn.role]}: {turn.content}" for turn in turns)


def as_sharegpt(turns: Conversation) -> list[Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn.role], "value": turn.content} for turn in turns]


def system_and_rest(turns: Conversation) -> tuple[str | None, Conversation]:
    return (turns[0].content, turns[1:]) if turns[0].role == "system" else (None, turns)


def explicit(pair: Pair) -> dict[str, Any]:
    return {
        "prompt": as_messages(pair.prompt),
        "chosen": as_messages(pair.chosen),
        "rejected": as_messages(pair.rejected),
    }


def implicit(pair: Pair) -> dict[str, Any]:
    return {
        "chosen": as_messages(pair.prompt + pair.chosen),
        "rejected": as_messages(pair.prompt + pair.rejected),
    }


def alpaca(pair: Pair) -> dict[str, Any]:
    system, turns = system_and_rest(pair.prompt)
    earlier = [turn.content for turn in turns[:-1]]
    return {
        "instruction": turns[-1].content,
        "input": None,
        "chosen": pair.chosen[0].content,
        "rejected": pair.rejected[0].content,
        "system": system,
        "history": [list(two) for two in zip(earlier[::2], earlier[1::2], strict=True)],
    }


def single_turn(column: str, ending: str = "") -> Callable[[Pair], dict[str, Any]]:
    def write(pair: Pair) -> dict[str, Any]:
        system, turns = system_and_rest(pair.prompt)
        return {
            "system": system,
            column: turns[-1].content,
            f"chosen{ending}": pair.chosen[0].content,
            f"rejected{ending}": pair.rejected[0].content,
        }

    return write


def sharegpt(pair: Pair) -> dict[str, Any]:
    return {
        "conversations": as_sharegpt(pair.prompt),
        "chosen": as_sharegpt(pair.chosen)[0],
        "rejected": as_sharegpt(pair.rejected)[0],
    }


def hh_rlhf(pair: Pair) -> dict[str, Any]:
    return {
        "chosen": as_transcript(pair.prompt + pair.chosen),
        "rejected": as_transcript(pair.prompt + pair.rejected),
    }


def nectar(pair: Pair) -> dict[str, Any]:
    answers = [
        {"answer": pair.rejected[0].content, "rank": 2},
        {"answer": pair.chosen[0].content, "rank": 1},
    ]
    return {"prompt": f"{as_transcript(pair.prompt)} \n\nAssistant: ", "answers": answers}


def shp(pair: Pair) -> dict[str, Any]:
    return {
        "history": pair.prompt[0].content,
        "human_ref_A": pair.chosen[0].content,
        "human_ref_B": pair.rejected[0].content,
        "labels": 1,
    }


def helpsteer2(pair: Pair) -> dict[str, Any]:
    first, *later = pair.prompt
    turns = "".join(f"\n<extra_id_1>{m.role.title()}\n{m.content}" for m in later)
    return {
        "prompt": first.content + turns,
        "response_1": pair.rejected[0].content,
        "response_2": pair.chosen[0].content,
        "preference_strength": 1,
    }


def openai(pair: Pair) -> dict[str, Any]:
    return {
        "input": {"messages": as_messages(pair.prompt)},
        "preferred_output": as_messages(pair.chosen),
        "non_preferred_output": as_messages(pair.rejected),
    }


def argilla(pair: Pair) -> dict[str, Any]:
    fields = {
        "prompt": as_messages(pair.prompt),
        "response_1": pair.chosen[0].content,
        "response_2": pair.rejected[0].content,
    }
    return {"fields": fields, "responses": {"q": [{"value": "response_1"}]}}


def text_prompt(pair: Pair) -> dict[str, Any]:
    return {**implicit(pair), "prompt": system_and_rest(pair.prompt)[1][0].content}


ANY = prompts()
NO_SYSTEM = prompts(system=False)
WRITERS: dict[str, tuple[Callable[[Pair], dict[str, Any]], st.SearchStrategy[Conversation]]] = {
    "trl_explicit": (explicit, ANY),
    "trl_implicit": (implicit, ANY),
    "ultrafeedback": (lambda p: {**text_prompt(p), "chosen-rating": 2, "rejected-rating": 1}, ANY),
    "chatml.ultra": (text_prompt, ANY),
    "hh_rlhf": (hh_rlhf, NO_SYSTEM),
    "openai_preference": (openai, ANY),
    "llama_factory_alpaca": (alpaca, ANY),
    "llama_factory_sharegpt": (sharegpt, ANY),
    "chatml.argilla": (single_turn("input", "_response"), prompts(turns=1)),
    "chatml.icr": (single_turn("input"), prompts(turns=1)),
    "chatml.intel": (single_turn("question"), prompts(turns=1)),
    "zephyr.nectar": (nectar, NO_SYSTEM),
    "shp": (shp, prompts(system=False, turns=1)),
    "helpsteer2_preference": (helpsteer2, NO_SYSTEM),
    "argilla_export": (argilla, ANY),
}


def test_every_dialect_has_a_writer() -> None:
    assert set(WRITERS) == set(EXAMPLES)


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=40, deadline=None)
@given(st.data(), ASSISTANT, ASSISTANT)
def test_a_pair_survives_every_dialect_that_can_say_it(
    name: str, data: st.DataObject, chosen: Conversation, rejected: Conversation
) -> None:
    write, strategy = WRITERS[name]
    pair = Pair(data.draw(strategy), chosen, rejected, ORIGIN)
    row = write(pair)
    dialect = find_dialect(row)
    assert dialect is not None
    assert dialect.name == name
    parsed = dialect.parse(row, ORIGIN)
    assert isinstance(parsed, Pair), parsed
    assert (parsed.prompt, parsed.chosen, parsed.rejected) == (pair.prompt, chosen, rejected)
