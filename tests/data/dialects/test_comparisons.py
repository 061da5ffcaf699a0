"""Data that compares answers: who is chosen, and what is a tie."""

from typing import Any

import pytest
from dialect_rows import ASKED, EXAMPLES, SAID, WRONG

from orpo_pipeline.data.dialects import dialect_named
from schemas.pairs import Defect, DefectCode, Message, Origin, Pair

ORIGIN = Origin("pairs.jsonl", 7)
PROMPT = (Message("user", ASKED),)
CHOSEN = (Message("assistant", SAID),)
REJECTED = (Message("assistant", WRONG),)


def parse(name: str, **changes: Any) -> Pair | Defect:
    return dialect_named(name).parse({**EXAMPLES[name], **changes}, ORIGIN)


def code_of(parsed: Pair | Defect) -> DefectCode:
    assert isinstance(parsed, Defect), parsed
    return parsed.code


def ranked(*ranks: Any) -> list[dict[str, Any]]:
    return [{"answer": f"answer {i}", "rank": rank} for i, rank in enumerate(ranks)]


@pytest.mark.parametrize(
    ("ranks", "chosen", "rejected"),
    [
        ((3, 1, 2), "answer 1", "answer 0"),
        ((1.0, 7.0, 1.0, 7.0), "answer 0", "answer 1"),
        (("2", "1"), "answer 1", "answer 0"),
    ],
)
def test_nectar_sets_the_best_rank_against_the_worst(
    ranks: tuple[Any, ...], chosen: str, rejected: str
) -> None:
    parsed = parse("zephyr.nectar", answers=ranked(*ranks), source=["sharegpt", "anthropic-hh"])
    assert isinstance(parsed, Pair)
    assert parsed.prompt == PROMPT
    assert (parsed.chosen[0].content, parsed.rejected[0].content) == (chosen, rejected)
    assert (parsed.score_chosen, parsed.score_rejected) == (None, None)
    assert parsed.source == "sharegpt, anthropic-hh"


def test_a_nectar_prompt_may_have_many_turns_or_be_plain_text() -> None:
    earlier = "\n\nHuman: Hi \n\nAssistant: Hello! \n\nHuman: Why? \n\nAssistant: "
    parsed = parse("zephyr.nectar", prompt=earlier)
    assert isinstance(parsed, Pair)
    assert [(m.role, m.content) for m in parsed.prompt] == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Why?"),
    ]
    assert parse("zephyr.nectar", prompt=ASKED) == parse("zephyr.nectar")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (ranked(1, 1), DefectCode.SCORE_TIE),
        (ranked(1), DefectCode.MISSING_FIELD),
        (None, DefectCode.MISSING_FIELD),
        (ranked(1, None), DefectCode.MISSING_FIELD),
        ([{"rank": 1}, {"rank": 2}], DefectCode.MISSING_FIELD),
        (ranked(1, True), DefectCode.WRONG_TYPE),
        (ranked(1, "second"), DefectCode.WRONG_TYPE),
        (["first", "second"], DefectCode.WRONG_TYPE),
        ("first", DefectCode.WRONG_TYPE),
    ],
)
def test_nectar_answers_that_are_no_ranking_say_why(answers: Any, code: DefectCode) -> None:
    assert code_of(parse("zephyr.nectar", answers=answers)) is code


@pytest.mark.parametrize("label", [1, 1.0, "1"])
def test_shp_label_1_prefers_a(label: Any) -> None:
    # In the example 0 prefers B.
    parsed = parse("shp", labels=label)
    assert isinstance(parsed, Pair)
    assert (parsed.chosen, parsed.rejected) == (REJECTED, CHOSEN)
    assert (parsed.score_chosen, parsed.score_rejected) == (3.0, 21.0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"labels": None}, DefectCode.MISSING_FIELD),
        ({"labels": 2}, DefectCode.WRONG_TYPE),
        ({"labels": True}, DefectCode.WRONG_TYPE),
        ({"score_A": 10**400}, DefectCode.WRONG_TYPE),
        ({"history": None}, DefectCode.MISSING_FIELD),
        ({"human_ref_A": ["x"]}, DefectCode.WRONG_TYPE),
    ],
)
def test_an_shp_row_that_is_no_pair_says_why(changes: dict[str, Any], code: DefectCode) -> None:
    assert code_of(parse("shp", **changes)) is code


def test_shp_without_votes_has_no_scores() -> None:
    parsed = parse("shp", score_A=None, domain=None)
    assert parsed == Pair(PROMPT, CHOSEN, REJECTED, ORIGIN)


@pytest.mark.parametrize(("strength", "first"), [(-3, True), (-1, True), (1, False), ("2", False)])
def test_helpsteer2_prefers_the_first_response_where_negative(strength: Any, first: bool) -> None:
    parsed = parse("helpsteer2_preference", preference_strength=strength)
    assert isinstance(parsed, Pair)
    assert parsed.chosen == (CHOSEN if first else REJECTED)
    assert (parsed.score_chosen, parsed.score_rejected) == (None, None)


@pytest.mark.parametrize(
    ("strength", "code"),
    [
        (0, DefectCode.SCORE_TIE),
        (None, DefectCode.MISSING_FIELD),
        (True, DefectCode.WRONG_TYPE),
        ("none", DefectCode.WRONG_TYPE),
        (float("nan"), DefectCode.WRONG_TYPE),
    ],
)
def test_helpsteer2_strength_decides_or_says_why(strength: Any, code: DefectCode) -> None:
    assert code_of(parse("helpsteer2_preference", preference_strength=strength)) is code


def test_helpsteer2_prompts_of_many_turns_are_read() -> None:
    prompt = "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nWhy is\nthat?"
    parsed = parse("helpsteer2_preference", prompt=prompt)
    assert isinstance(parsed, Pair)
    assert [(m.role, m.content) for m in parsed.prompt] == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Why is\nthat?"),
    ]


def test_icr_rows_that_were_judged_a_tie_are_no_pairs() -> None:
    assert code_of(parse("chatml.icr", status="tie")) is DefectCode.SCORE_TIE
    assert isinstance(parse("chatml.icr", status="swapped"), Pair)


@pytest.mark.parametrize("column", ["prompt", "input", "question", "instruction"])
def test_chatml_argilla_takes_the_first_of_four_prompt_columns(column: str) -> None:
    row = {"chosen_response": SAID, "rejected_response": WRONG, column: ASKED, "system": "Be kind."}
    parsed = dialect_named("chatml.argilla").parse(row, ORIGIN)
    assert isinstance(parsed, Pair)
    assert parsed.prompt == (Message("system", "Be kind."), *PROMPT)


def test_alpaca_joins_instruction_and_input_behind_the_history() -> None:
    parsed = parse(
        "llama_factory_alpaca",
        instruction="Translate:",
        input="Himmel",
        history=[["Hi", "Hello!"], ["Ready?", "Yes."]],
        system="Be kind.",
    )
    assert isinstance(parsed, Pair)
    assert [m.role for m in parsed.prompt] == ["system", *["user", "assistant"] * 2, "user"]
    assert parsed.prompt[-1].content == "Translate:\nHimmel"
    assert parsed.prompt[1].content == "Hi"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"instruction": None, "input": None}, DefectCode.MISSING_FIELD),
        ({"instruction": 5}, DefectCode.WRONG_TYPE),
        ({"history": "earlier"}, DefectCode.WRONG_TYPE),
        ({"history": [["only a question"]]}, DefectCode.WRONG_TYPE),
        ({"history": [["Hi", None]]}, DefectCode.WRONG_TYPE),
        ({"chosen": None}, DefectCode.MISSING_FIELD),
    ],
)
def test_an_alpaca_row_that_is_no_pair_says_why(changes: dict[str, Any], code: DefectCode) -> None:
    assert code_of(parse("llama_factory_alpaca", **changes)) is code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"conversations": []}, DefectCode.MISSING_FIELD),
        ({"conversations": None}, DefectCode.MISSING_FIELD),
        (
            {"conversations": [{"from": "observation", "value": "3"}]},
            DefectCode.UNSUPPORTED_CONTENT,
        ),
        ({"rejected": {"from": "function_call", "value": "f"}}, DefectCode.UNSUPPORTED_CONTENT),
        ({"tools": '[{"name": "search"}]'}, DefectCode.UNSUPPORTED_CONTENT),
        ({"chosen": 5}, DefectCode.WRONG_TYPE),
    ],
)
def test_a_sharegpt_row_that_is_no_pair_says_why(changes: dict[str, Any], code: DefectCode) -> None:
    assert code_of(parse("llama_factory_sharegpt", **changes)) is code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, DefectCode.MISSING_FIELD),
        ("Why?", DefectCode.WRONG_TYPE),
        ({}, DefectCode.MISSING_FIELD),
        ({"messages": []}, DefectCode.MISSING_FIELD),
        ({"messages": 5}, DefectCode.WRONG_TYPE),
    ],
)
def test_an_openai_row_without_messages_says_why(given: Any, code: DefectCode) -> None:
    assert code_of(parse("openai_preference", input=given)) is code
