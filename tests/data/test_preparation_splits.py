"""Sides of prompts over time: growth moves none, and what was held out is never trained on."""

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
from prepared import GOOD, blocks_in, check_account, frame, prompts, quarantined, question
from rows import pair_row, write_rows

from orpo_pipeline.data.inputs import HELD_OUT
from orpo_pipeline.data.preparation import record_evaluated
from orpo_pipeline.data.relations.splits import HELD_OUT_BEFORE
from schemas.pairs import DefectCode
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]
BEFORE = DefectCode.HELD_OUT_BEFORE.value


def test_prompts_keep_their_side_when_the_data_grows(prepare_rows: Prepare) -> None:
    small = prepare_rows(GOOD)
    rows = [pair_row(number) for number in range(100)]
    large = prepare_rows(random.Random(1).sample(rows, 100), name="another.jsonl")
    assert prompts(small, "eval") <= prompts(large, "eval")
    assert prompts(small, "train") <= prompts(large, "train")
    assert large.rows_quarantined == 0


def test_data_that_no_run_uses_bars_nothing(prepare_rows: Prepare, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = prepare_rows(GOOD)
    assert not (home / HELD_OUT).exists()
    assert prepare_rows(GOOD, eval_fraction=0.1).rows_quarantined == 0
    record_evaluated(prepare_rows(GOOD), home)  # also of data that was prepared before
    (path,) = (home / HELD_OUT).glob("*.parquet")
    recorded = pl.read_parquet(path)
    assert set(recorded["prompt_id"]) == set(frame(first, "eval")["prompt_id"])
    assert recorded["dataset_id"].unique().to_list() == [first.dataset_id]


def test_a_prompt_near_one_that_was_held_out_is_barred(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    long = "Tell me a long story of a cat and a dog who meet a bird in the tall old tree by the sea"
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", GOOD[5:])
    write_rows(folder / "test.jsonl", [pair_row(60, prompt=question(long))])
    record_evaluated(prepare_rows(None, source=str(folder), eval_split="test"), tmp_path / "home")
    near = [pair_row(61 + n, prompt=question(long + end)) for n, end in enumerate(("", " now"))]
    write_rows(folder / "train.jsonl", [*GOOD[5:], *near])
    write_rows(folder / "test.jsonl", GOOD[:5])
    second = prepare_rows(None, source=str(folder), eval_split="test")
    assert {row: code for row, (code, _) in quarantined(second).items()} == {36: BEFORE, 37: BEFORE}


def test_a_smaller_share_does_not_release_what_was_held_out(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    first = prepare_rows(GOOD)
    record_evaluated(first, tmp_path / "home")
    blocks = blocks_in(tmp_path / "home")
    assert prepare_rows(GOOD).reused

    smaller = prepare_rows(GOOD, eval_fraction=0.1)
    check_account(smaller)
    assert prompts(smaller, "eval") < prompts(first, "eval")
    assert prompts(smaller, "train") == prompts(first, "train")
    released = prompts(first, "eval") - prompts(smaller, "eval")
    assert smaller.quarantined == {BEFORE: len(released)}
    assert set(quarantined(smaller).values()) == {(BEFORE, HELD_OUT_BEFORE)}
    assert blocks_in(tmp_path / "home") == blocks  # no row was checked again

    # Either configuration finds its own result again.
    assert prepare_rows(GOOD, eval_fraction=0.1) == smaller.model_copy(update={"reused": True})
    assert prepare_rows(GOOD) == first.model_copy(update={"reused": True})
    fresh = prepare_rows(GOOD, eval_fraction=0.1, home="elsewhere")
    assert fresh.rows_quarantined == 0
    assert fresh.prepared_id != smaller.prepared_id


def test_prompts_of_a_replaced_evaluation_file_stay_barred(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", GOOD[10:])
    write_rows(folder / "test.jsonl", GOOD[:10])
    first = prepare_rows(None, source=str(folder), eval_split="test")
    assert (first.train_pairs, first.eval_pairs) == (30, 10)
    record_evaluated(first, tmp_path / "home")

    # The old evaluation rows come back as training data.
    write_rows(folder / "train.jsonl", GOOD[:30])
    write_rows(folder / "test.jsonl", GOOD[30:])
    second = prepare_rows(None, source=str(folder), eval_split="test")
    check_account(second)
    assert (second.train_pairs, second.eval_pairs) == (20, 10)
    record_evaluated(second, tmp_path / "home")
    assert {row: code for row, (code, _) in quarantined(second).items()} == dict.fromkeys(
        range(1, 11), BEFORE
    )
    assert prepare_rows(None, source=str(folder), eval_split="test").reused

    # Nor may they be trained on without evaluation files; what is held out anew is free to be.
    (folder / "test.jsonl").unlink()
    third = prepare_rows(None, source=str(folder))
    asked = {row["prompt"][0]["content"] for row in GOOD[:10]}
    assert not prompts(third, "train") & asked
    assert prompts(third, "eval")
    assert frame(third, "quarantine")["severity"].unique().to_list() == ["drop"]


def test_prompts_that_share_a_long_system_turn_are_not_near_equal(prepare_rows: Prepare) -> None:
    system = {"role": "system", "content": " ".join(f"rule-{n} says so" for n in range(90))}
    rows = [pair_row(n, prompt=[system, *pair_row(n)["prompt"]]) for n in range(40)]
    prepared = prepare_rows(rows, chat={"max_length": 1024})
    check_account(prepared)
    assert prepared.rows_quarantined == 0
    assert min(prepared.train_pairs, prepared.eval_pairs) > 0


def test_an_empty_system_turn_is_none(prepare_rows: Prepare) -> None:
    turn = {"role": "system", "content": " "}
    rows = [pair_row(n, prompt=[turn, *pair_row(n)["prompt"]]) for n in range(40)]
    prepared = prepare_rows(rows)
    assert prepared.rows_quarantined == 0
    assert prompts(prepared, "train") == prompts(prepare_rows(GOOD, name="plain.jsonl"), "train")


def test_a_short_benchmark_prompt_is_found_behind_a_system_turn(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    (tmp_path / "benchmarks.txt").write_text("What is 7 plus 7?\n")
    system = {"role": "system", "content": "You are a helpful assistant."}
    rows = [pair_row(n, prompt=[system, *pair_row(n)["prompt"]]) for n in range(40)]
    prepared = prepare_rows(rows, benchmarks=str(tmp_path / "benchmarks.txt"))
    assert {row: code for row, (code, _) in quarantined(prepared).items()} == {
        8: "benchmark_prompt"
    }


def test_a_folder_s_name_is_no_pattern(prepare_rows: Prepare) -> None:
    again = prepare_rows(GOOD, home="work [2026]?")
    assert again.train_pairs + again.eval_pairs == len(GOOD)
