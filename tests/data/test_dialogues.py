"""Dialogues of which several turns were rated: no leak between the splits, one group."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prepared import GOOD, check_account, frame, kept, quarantined, question
from rows import pair_row, write_rows

from orpo_pipeline.data.preparation import record_evaluated
from orpo_pipeline.data.relations.splits import EVALUATED, EVALUATED_TURN, HELD_OUT_TURN
from schemas.pairs import DefectCode
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]
EVAL_PROMPT = DefectCode.EVAL_PROMPT_IN_TRAIN.value


def turns(*texts: str) -> list[dict[str, str]]:
    """A dialogue: the user asks, is answered, asks again."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def rated(number: int, *texts: str) -> dict[str, Any]:
    return pair_row(number, prompt=turns(*texts))


def two_sides(
    prepare_rows: Prepare, folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]]
) -> PreparedData:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "train.jsonl", [*train, *GOOD[:10]])
    write_rows(folder / "test.jsonl", [*test, *GOOD[10:20]])
    prepared = prepare_rows(None, source=str(folder), eval_split="test")
    check_account(prepared)
    return prepared


def test_the_kept_turns_of_a_dialogue_are_on_one_side_and_in_one_group(
    prepare_rows: Prepare,
) -> None:
    rows = [
        rated(100 + 3 * n + extra, *(f"Turn {turn} of talk {n}" for turn in range(1 + 2 * extra)))
        for n in range(20)
        for extra in range(3)
    ]
    prepared = prepare_rows([*rows, *GOOD])
    check_account(prepared)
    withheld = quarantined(prepared)
    assert withheld and set(withheld.values()) == {(EVAL_PROMPT, EVALUATED_TURN)}
    talks: dict[int, set[tuple[str, int]]] = {}
    for row in kept(prepared):
        if row["origin_row"] <= len(rows):
            talk = (row["origin_row"] - 1) // 3
            talks.setdefault(talk, set()).add((row["split"], row["group"]))
    assert [len(found) for found in talks.values()] == [1] * 20
    assert {split for found in talks.values() for split, _ in found} == {"train", "eval"}
    assert len({group for found in talks.values() for _, group in found}) == 20


@pytest.mark.parametrize("evaluated_has", [1, 3])
def test_no_other_turn_of_an_evaluated_dialogue_is_trained_on(
    prepare_rows: Prepare, tmp_path: Path, evaluated_has: int
) -> None:
    """Whether the training row goes on where the evaluated one ends, or is its beginning."""
    said = (
        "HOW do I  boil an egg?",
        "In water.",
        "And how long?",
        "Ten minutes.",
        "And an ostrich's?",
    )
    again = ("How do I boil an egg?", "In water.", "And how long?")
    long = "word " * 200
    test = [pair_row(60, prompt=turns(*again[:evaluated_has]))]
    train = [
        rated(70, *said),
        rated(71, *again[: 4 - evaluated_has]),
        rated(72, "Hello", "Hi", "A"),
    ]
    prepared = two_sides(prepare_rows, tmp_path / "data", train, test)
    assert quarantined(prepared) == dict.fromkeys((1, 2), (EVAL_PROMPT, EVALUATED_TURN))
    # Nor where the evaluated row itself is set aside.
    test = [pair_row(60, prompt=test[0]["prompt"], chosen=turns("", long)[1:])]
    prepared = two_sides(prepare_rows, tmp_path / "data", train, test)
    found = frame(prepared, "quarantine").filter(split="train")
    assert sorted(found["origin_row"]) == [1, 2] and set(found["code"]) == {EVAL_PROMPT}


def test_what_goes_on_from_a_nearly_equal_prompt_is_not_trained_on(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    long = "Tell me a long story of a cat and a dog who meet a bird in the tall old tree by the sea"
    test = [rated(60, long)]
    train = [rated(70, f"{long} now"), rated(71, f"{long} now", "There was a cat.", "And then?")]
    prepared = two_sides(prepare_rows, tmp_path / "data", train, test)
    assert quarantined(prepared) == {1: (EVAL_PROMPT, EVALUATED), 2: (EVAL_PROMPT, EVALUATED_TURN)}


def test_dialogues_that_only_begin_alike_are_two(prepare_rows: Prepare, tmp_path: Path) -> None:
    train = [rated(70, "Hello", "Hi!", "What is a quark?")]
    test = [rated(71, "Hello", "Good day.", "Who wrote Emma?")]
    assert two_sides(prepare_rows, tmp_path / "data", train, test).rows_quarantined == 0


def test_what_goes_on_from_a_prompt_that_was_held_out_is_barred(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    asked = "Which way is it to the castle?"
    first = two_sides(prepare_rows, tmp_path / "data", [], [pair_row(60, prompt=question(asked))])
    record_evaluated(first, tmp_path / "home")
    second = two_sides(
        prepare_rows, tmp_path / "data", [rated(70, asked, "Left.", "And then?")], [GOOD[30]]
    )
    assert quarantined(second) == {1: (DefectCode.HELD_OUT_BEFORE.value, HELD_OUT_TURN)}
