"""TRL's forms, UltraFeedback and transcripts: where the prompt ends, and what the system is."""

from typing import Any

import pytest
from dialect_rows import ASKED, BAD, GOOD, SAID, SYSTEM, TURNS, USER, WRONG, parse_pair

from orpo_pipeline.data.dialects import dialect_named
from schemas.pairs import Conversation, Defect, DefectCode, Message, Origin, Pair

ORIGIN = Origin("pairs.jsonl", 7)
PROMPT = (Message("user", ASKED),)
CHOSEN = (Message("assistant", SAID),)
REJECTED = (Message("assistant", WRONG),)
EXPLICIT = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


def pair(**row: Any) -> Pair:
    parsed = parse_pair(row, ORIGIN)
    assert isinstance(parsed, Pair), parsed
    return parsed


def defect(**row: Any) -> Defect:
    parsed = parse_pair(row, ORIGIN)
    assert isinstance(parsed, Defect), parsed
    return parsed


def roles(turns: Conversation) -> list[str]:
    return [turn.role for turn in turns]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(EXPLICIT, id="explicit conversations"),
        pytest.param({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="implicit"),
        pytest.param({"prompt": None, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="null"),
        pytest.param({"prompt": "", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="blank"),
        pytest.param({"prompt": [], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="no turn"),
        pytest.param({"prompt": ASKED, "chosen": SAID, "rejected": WRONG}, id="text"),
        pytest.param(
            {"prompt": ASKED, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, id="ultrafeedback"
        ),
        pytest.param(
            {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            id="prompt and whole conversations",
        ),
        pytest.param({"prompt": ASKED, "chosen": [GOOD], "rejected": WRONG}, id="mixed"),
        pytest.param({"prompt": TURNS, "chosen": SAID, "rejected": WRONG}, id="transcript prompt"),
    ],
)
def test_every_form_gives_the_same_pair(row: dict[str, Any]) -> None:
    assert pair(**row) == Pair(PROMPT, CHOSEN, REJECTED, ORIGIN)


def test_other_columns_do_not_matter() -> None:
    assert pair(**EXPLICIT, messages=[USER, GOOD], id=3, chat_template_kwargs={"x": "y"}) == Pair(
        PROMPT, CHOSEN, REJECTED, ORIGIN
    )


def test_an_implicit_prompt_is_cut_at_the_last_turn_and_never_inside_an_answer() -> None:
    begins_alike = {"role": "assistant", "content": "Air scatters red light most."}
    parsed = pair(chosen=[SYSTEM, USER, GOOD], rejected=[SYSTEM, USER, begins_alike])
    assert roles(parsed.prompt) == ["system", "user"]
    assert parsed.chosen == CHOSEN
    assert parsed.rejected[0].content == "Air scatters red light most."


def test_a_text_prompt_may_stand_behind_a_system_turn() -> None:
    parsed = pair(prompt=ASKED, chosen=[SYSTEM, USER, GOOD], rejected=[SYSTEM, USER, BAD])
    assert roles(parsed.prompt) == ["system", "user"]


@pytest.mark.parametrize("prompt", [ASKED, "Really?"])
def test_a_text_prompt_names_the_first_or_the_last_question(prompt: str) -> None:
    turns = [SYSTEM, USER, GOOD, {"role": "user", "content": "Really?"}]
    parsed = pair(prompt=prompt, chosen=[*turns, GOOD], rejected=[*turns, BAD])
    assert roles(parsed.prompt) == ["system", "user", "assistant", "user"]


def test_earlier_answers_belong_to_the_prompt() -> None:
    again = {"role": "user", "content": "Really?"}
    parsed = pair(chosen=[USER, GOOD, again, GOOD], rejected=[USER, GOOD, again, BAD])
    assert roles(parsed.prompt) == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        (
            {"prompt": None, "chosen": [GOOD], "rejected": [BAD]},
            DefectCode.MISSING_FIELD,
            "no prompt, neither of its own nor in chosen",
        ),
        (
            {"prompt": None, "chosen": SAID, "rejected": WRONG},
            DefectCode.MISSING_FIELD,
            "no prompt, neither of its own nor in chosen",
        ),
        ({**EXPLICIT, "chosen": None}, DefectCode.MISSING_FIELD, "no chosen"),
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
            {"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Why?"}, BAD]},
            DefectCode.PROMPTS_DIFFER,
            "chosen and rejected differ before the last answer",
        ),
        (
            {"prompt": "Why?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            DefectCode.PROMPTS_DIFFER,
            "the prompt differs from the one in chosen",
        ),
        (
            {**EXPLICIT, "prompt": [SYSTEM, USER], "system": "Answer at length."},
            DefectCode.PROMPTS_DIFFER,
            "the system column differs from the prompt's system turn",
        ),
        ({**EXPLICIT, "system": 5}, DefectCode.WRONG_TYPE, "system is int, not text"),
    ],
)
def test_a_row_that_is_no_pair_says_why(row: dict[str, Any], code: DefectCode, reason: str) -> None:
    assert defect(**row) == Defect(code, reason)


def test_answers_of_the_wrong_shape_are_left_to_the_rules() -> None:
    # The prompt is there, so this is not a missing field.
    assert pair(prompt=[USER], chosen=[USER], rejected=[USER]).chosen == PROMPT
    assert pair(prompt=[USER], chosen=[], rejected=[BAD]).chosen == ()
    assert len(pair(prompt=[USER], chosen=[GOOD, USER], rejected=[BAD]).chosen) == 2


@pytest.mark.parametrize("prompt", [[USER], [SYSTEM, USER]])
def test_a_system_column_is_carried_once(prompt: list[dict[str, str]]) -> None:
    parsed = pair(**{**EXPLICIT, "prompt": prompt, "system": "Answer shortly."})
    assert parsed.prompt == (Message("system", "Answer shortly."), *PROMPT)


@pytest.mark.parametrize("system", [None, "", " \n"])
def test_a_blank_system_column_is_no_turn(system: str | None) -> None:
    assert pair(**EXPLICIT, system=system).prompt == PROMPT


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_rating", "rejected_rating"),
        ("rating_chosen", "rating_rejected"),
    ],
)
@pytest.mark.parametrize("values", [(8.5, 3), ("8.5", "3.0")])
def test_scores_are_read_under_all_their_names(names: tuple[str, str], values: Any) -> None:
    parsed = pair(**EXPLICIT, **dict(zip(names, values, strict=True)))
    assert (parsed.score_chosen, parsed.score_rejected) == (8.5, 3.0)


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_score_is_no_score(missing: Any) -> None:
    parsed = pair(**EXPLICIT, score_chosen=8, score_rejected=missing)
    assert (parsed.score_chosen, parsed.score_rejected) == (None, None)


@pytest.mark.parametrize(
    "value", ["good", True, float("nan"), float("inf"), "nan", 10**400, [1], b"1", {}]
)
def test_a_score_is_a_finite_number(value: Any) -> None:
    assert defect(**EXPLICIT, score_chosen=2, score_rejected=value) == Defect(
        DefectCode.WRONG_TYPE, "score_rejected is not a finite number"
    )


def test_text_is_held_in_nfc_and_the_source_too() -> None:
    one, other = (
        pair(**{**EXPLICIT, "prompt": text, "source": text}) for text in ("caf\u00e9", "cafe\u0301")
    )
    assert one == other
    assert one.source == "caf\u00e9"


@pytest.mark.parametrize(("source", "label"), [(5, ""), (None, ""), (["a", None, "b"], "a, b")])
def test_a_source_is_text_or_a_list_of_it(source: Any, label: str) -> None:
    assert pair(**EXPLICIT, source=source).source == label


def hh(chosen: Any, rejected: Any) -> Pair | Defect:
    return dialect_named("hh_rlhf").parse({"chosen": chosen, "rejected": rejected}, ORIGIN)


@pytest.mark.parametrize(
    "beginning", [TURNS, TURNS.lstrip(), TURNS.replace("\n", "\r\n"), f"\n{TURNS}"]
)
def test_a_transcript_may_have_lost_its_first_line_or_have_windows_line_ends(
    beginning: str,
) -> None:
    parsed = hh(f"{beginning} {SAID}\n", f"{beginning} {WRONG}")
    assert parsed == Pair(PROMPT, CHOSEN, REJECTED, ORIGIN)


def test_a_transcript_is_cut_at_its_last_assistant_turn() -> None:
    earlier = f"{TURNS} Well.\n\nHuman: Well?\n\nAssistant:"
    parsed = hh(f"{earlier} The sky is\n\nblue.", f"{earlier} The sky is not.")
    assert isinstance(parsed, Pair)
    assert roles(parsed.prompt) == ["user", "assistant", "user"]
    assert (parsed.chosen[0].content, parsed.rejected[0].content) == (
        "The sky is\n\nblue.",
        "The sky is not.",
    )


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        (f"\n\nHuman: Why?\n\nAssistant: {SAID}", DefectCode.PROMPTS_DIFFER),
        (f"{TURNS} {SAID}\n\nHuman: Thanks!", DefectCode.PROMPTS_DIFFER),
        (f"Context.{TURNS} {SAID}", DefectCode.WRONG_TYPE),
        ("The sky is blue.", DefectCode.MISSING_FIELD),
        ("", DefectCode.MISSING_FIELD),
        (None, DefectCode.MISSING_FIELD),
        (7, DefectCode.WRONG_TYPE),
    ],
)
def test_a_transcript_that_is_no_side_of_a_pair_says_why(chosen: Any, code: DefectCode) -> None:
    parsed = hh(chosen, f"{TURNS} {WRONG}")
    assert isinstance(parsed, Defect)
    assert parsed.code is code
