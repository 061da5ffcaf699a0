"""Which of several rows stay: near-duplicates, circles, too many pairs, benchmarks, both sides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prepared import GOOD, answer, check_account, frame, kept, prompts, quarantined, question
from rows import pair_row, write_rows

from orpo_pipeline.data.identity import prompt_id
from orpo_pipeline.data.relations import selection, splits
from orpo_pipeline.data.relations.near_duplicates import verify
from orpo_pipeline.data.relations.words import Indices
from schemas.pairs import Message, Origin, Pair
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]
LONG = "Tell me a long story of a cat and a dog who meet a bird in the tall old tree by the river"


def held_out(text: str, fraction: float = 0.3) -> bool:
    pair = Pair((Message("user", text),), (), (), Origin("f", 1))
    return bool(splits.held_out(pl.Series([prompt_id(pair)]), fraction)[0])


def texts(marks: str, side: bool) -> list[str]:
    """Near-equal prompts whose own hashes put them on one side."""
    return [LONG + mark for mark in marks.split() if held_out(LONG + mark) == side]


def test_of_near_equal_rows_the_smallest_id_stays(prepare_rows: Prepare) -> None:
    near = [pair_row(50, chosen=answer(f"{LONG}{mark}")) for mark in (".", "!", " now.")]
    far = [pair_row(50, chosen=answer("Something else, that is not like the others at all."))]
    other_side = [pair_row(50, chosen=answer(LONG), rejected=answer("Not like the others."))]
    prepared = prepare_rows([*GOOD, *near, *far, *other_side])
    check_account(prepared)
    removed = frame(prepared, "quarantine")
    assert removed["code"].to_list() == ["near_duplicate"] * 2
    assert removed["severity"].unique().to_list() == ["drop"]
    stays = {row["origin_row"]: row["row_id"] for row in kept(prepared)}
    (keeper,) = stays.keys() & {41, 42, 43}
    assert stays[keeper] < removed["row_id"].min()
    assert set(removed["reason"]) == {f"nearly the same as row {stays[keeper][:12]}, which stays"}
    assert stays.keys() >= {44, 45}
    assert prepare_rows([*GOOD, *near], near_duplicates=1.0).quarantined == {
        "near_duplicate": 1  # "." and "!" are no words: these two say the same
    }


def test_circles_of_preferences_go_as_a_whole(prepare_rows: Prepare) -> None:
    def over(better: str, worse: str) -> dict[str, object]:
        return pair_row(50, chosen=answer(better), rejected=answer(worse))

    two = [over("Yes", "No"), over("no ", "YES")]  # folded, they are the same two answers
    three = [over("A", "B"), over("B", "C"), over("C", "A")]
    beside = [over("A", "X"), over("D", "B")]
    removed = quarantined(prepare_rows([*GOOD, *two, *three, *beside], max_pairs_per_prompt=9))
    assert {number: code for number, (code, _) in removed.items()} == dict.fromkeys(
        range(41, 46), "contradiction"
    )
    assert removed[41][1] == "another row prefers these two answers the other way round"
    assert removed[43][1] == "the prompt's rows prefer 3 answers in a circle"


def test_of_a_prompt_s_many_pairs_a_sample_is_kept(prepare_rows: Prepare) -> None:
    many = [pair_row(50, chosen=answer(f"Answer {n} of {n * n}.")) for n in range(30)]
    prepared = prepare_rows([*GOOD, *many], max_pairs_per_prompt=7)
    check_account(prepared)
    assert prepared.quarantined == {"overrepresented_prompt": 23}  # and the budget does not mind
    ids = sorted(frame(prepared, "quarantine")["row_id"])
    stay = sorted(row["row_id"] for row in kept(prepared) if row["origin_row"] > 40)
    assert len(stay) == 7
    assert stay[-1] < ids[0]
    assert frame(prepared, "quarantine")["reason"][0] == (
        "the prompt has 30 pairs, of which 7 are kept (data.max_pairs_per_prompt)"
    )


def test_ten_thousand_rows_with_one_prompt(prepare_rows: Prepare) -> None:
    one = [pair_row(50, chosen=answer(f"It is {n}.")) for n in range(10_000)]
    prepared = prepare_rows([*GOOD, *one])
    check_account(prepared)
    assert prepared.rows_in == 10_040
    assert prepared.quarantined == {"overrepresented_prompt": 9_995}
    assert prepared.train_pairs + prepared.eval_pairs == 45


def test_benchmark_prompts_are_never_trained_on(prepare_rows: Prepare, tmp_path: Path) -> None:
    (tmp_path / "benchmarks.txt").write_text(f"{LONG}\nName a prime number.\n")
    rows = [
        *GOOD,
        pair_row(50, prompt=question(f"Please: {LONG.upper()} -- thank you")),
        pair_row(51, chosen=answer(f"You asked: {LONG}")),
        pair_row(52, prompt=question("name a PRIME number.")),
        pair_row(53, prompt=question("Name a prime number above ten.")),
    ]
    prepared = prepare_rows(rows, benchmarks=str(tmp_path / "benchmarks.txt"))
    check_account(prepared)
    removed = quarantined(prepared)
    assert {number: code for number, (code, _) in removed.items()} == dict.fromkeys(
        (41, 42, 43), "benchmark_prompt"
    )
    assert removed[41][1].startswith("prompt holds the benchmark prompt 'Tell me a long story")
    assert removed[42][1].startswith("chosen holds the benchmark prompt")
    assert prepare_rows(rows).rows_quarantined == 0
    (tmp_path / "benchmarks.txt").write_text("Name a prime number above ten.\n")
    other = prepare_rows(rows, benchmarks=str(tmp_path / "benchmarks.txt"))
    assert set(quarantined(other)) == {44}


@pytest.mark.parametrize("trained_on", [1, 3])
def test_training_rows_near_an_evaluation_prompt_go(trained_on: int, prepare_rows: Prepare) -> None:
    """However many they are: an evaluation prompt is not trained on as soon as it has company."""
    marks = ". ! ? , ; : -- ... !! ?? .. ;; :: ,, --- ** ++ == // %% && (( )) [[ ]] __"
    chosen = texts(marks, True)[:1] + texts(marks, False)[:trained_on]
    rows = [pair_row(50 + n, prompt=question(text)) for n, text in enumerate(chosen)]
    prepared = prepare_rows([*GOOD, *rows])
    check_account(prepared)
    removed = frame(prepared, "quarantine")
    assert (
        removed.select("code", "severity", "split").rows()
        == [("eval_prompt_in_train", "drop", "train")] * trained_on
    )
    assert {row["split"] for row in kept(prepared) if row["origin_row"] > 40} == {"eval"}
    groups = [set(frame(prepared, split)["group"]) for split in ("train", "eval")]
    assert not groups[0] & groups[1]


def test_a_long_prompt_does_not_outweigh_answers_that_differ(prepare_rows: Prepare) -> None:
    prompt = question(" ".join(f"word{n}" for n in range(90)))
    rows = [
        pair_row(50, prompt=prompt, chosen=answer(good), rejected=answer(bad))
        for good, bad in (("It is red.", "I like tea."), ("We saw a whale.", "Never on Sundays."))
    ]
    assert prepare_rows([*GOOD, *rows], chat={"max_length": 512}).rows_quarantined == 0


def test_an_evaluation_prompt_that_is_too_long_is_not_trained_on(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", GOOD)
    write_rows(folder / "test.jsonl", [pair_row(0, chosen=answer("word " * 200)), pair_row(60)])
    prepared = prepare_rows(None, source=str(folder), eval_split="test")
    check_account(prepared)
    found = frame(prepared, "quarantine").sort("split").select("split", "origin_row", "code")
    assert found.rows() == [("eval", 1, "too_long"), ("train", 1, "eval_prompt_in_train")]


def test_a_training_row_takes_no_evaluation_row_with_it(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    flipped = pair_row(0, chosen=GOOD[0]["rejected"], rejected=GOOD[0]["chosen"])
    many = [pair_row(1, chosen=answer(f"Answer {n} of {n * n}.")) for n in range(9)]
    write_rows(folder / "train.jsonl", [flipped, *many, *GOOD[2:]])
    write_rows(folder / "test.jsonl", GOOD[:2])
    prepared = prepare_rows(None, source=str(folder), eval_split="test")
    check_account(prepared)
    assert prepared.eval_pairs == 2
    assert prepared.quarantined == {"eval_prompt_in_train": 10}


def test_an_evaluation_prompt_is_barred_from_training(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shouted = question("WHAT  is 3 plus 3?")
    train = [
        *GOOD[10:30],
        pair_row(3, prompt=shouted),
        GOOD[4],
        pair_row(60, prompt=question(LONG)),
    ]
    write_rows(folder / "train.jsonl", train)
    near = pair_row(61, prompt=question(f"{LONG} now"))
    write_rows(folder / "test.jsonl", [*GOOD[:6], GOOD[5], near])
    prepared = prepare_rows(None, source=str(folder), eval_split="test")
    check_account(prepared)
    assert (prepared.train_pairs, prepared.eval_pairs, prepared.duplicates) == (20, 7, 1)
    barred = frame(prepared, "quarantine").sort("origin_row")
    assert barred.select("origin_file", "origin_row", "split", "code").rows() == [
        ("train.jsonl", number, "train", "eval_prompt_in_train") for number in (21, 22, 23)
    ]
    asked = {row["prompt"][0]["content"] for row in [*GOOD[:6], near]}
    assert prompts(prepared, "eval") == asked


def test_a_row_on_both_sides_is_evaluated_on(prepare_rows: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", GOOD)
    write_rows(folder / "test.jsonl", GOOD[:5])
    prepared = prepare_rows(None, source=str(folder), eval_split="test")
    check_account(prepared)
    # Not copies of each other: leakage, and said so.
    assert prepared.quarantined == {"eval_prompt_in_train": 5}
    ids = [frame(prepared, split)["row_id"] for split in ("train", "eval")]
    assert pl.concat(ids).is_unique().all()


def test_pairs_that_were_compared_once_are_not_read_again(
    prepare_rows: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(pairs: Indices, *given: Any, **named: Any) -> Any:
        asked.append(len(pairs))
        return verify(pairs, *given, **named)

    monkeypatch.setattr(selection, "verify", counted)
    near = [pair_row(50, prompt=question(LONG), chosen=answer(f"{LONG}{m}")) for m in (".", "!")]
    other = pair_row(50, prompt=question(f"{LONG}?"), chosen=answer("Something else."))
    first = prepare_rows([*GOOD, *near, other])
    assert sum(asked) > 0
    asked.clear()
    again = prepare_rows([*GOOD, *near, other], max_pairs_per_prompt=7)
    assert sum(asked) == 0
    assert again.quarantined == first.quarantined
    prepare_rows([*GOOD, *near, other, {**other, "chosen": answer("Something else!")}])
    assert sum(asked) > 0
