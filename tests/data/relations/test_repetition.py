"""Equal rows and prompts with too many pairs: which stay is decided by content and name."""

import random

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations.repetition import find_duplicates, overrepresented_reasons

ORIGIN = ("row_id", "split", "origin_file", "origin_row")


def duplicates(*rows: tuple[str, str, str, int]) -> list[bool]:
    return find_duplicates(pl.DataFrame(rows, schema=ORIGIN, orient="row")).to_list()


def pairs(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"row_id": pl.String, "prompt_id": pl.String}, orient="row")


def test_the_first_origin_stays() -> None:
    assert duplicates(
        ("a", "train", "y.jsonl", 1),
        ("a", "train", "x.jsonl", 10),
        ("a", "train", "x.jsonl", 9),
        ("b", "train", "x.jsonl", 2),
    ) == [True, True, False, False]


def test_an_equal_row_of_the_other_split_is_no_duplicate() -> None:
    assert duplicates(("a", "train", "x", 1), ("a", "eval", "y", 1)) == [False, False]


def test_no_rows_hold_no_duplicates() -> None:
    schema = dict.fromkeys(ORIGIN[:3], pl.String) | {"origin_row": pl.Int64}
    assert find_duplicates(pl.DataFrame(schema=schema)).to_list() == []


def test_the_pairs_with_the_smallest_ids_stay() -> None:
    rows = [("c", "p"), ("a", "p"), ("e", "q"), ("b", "p"), ("d", "p")]
    reason = "the prompt has 4 pairs, of which 2 are kept (data.max_pairs_per_prompt)"
    assert overrepresented_reasons(pairs(rows), 2).to_list() == [reason, None, None, None, reason]


def test_as_many_pairs_as_allowed_all_stay() -> None:
    assert overrepresented_reasons(pairs([("a", "p"), ("b", "p")]), 2).to_list() == [None, None]
    assert overrepresented_reasons(pairs([]), 2).to_list() == []


def test_a_hundred_thousand_rows_of_one_prompt() -> None:
    rows = [(f"{number:06}", "p") for number in reversed(range(100_000))]
    reasons = overrepresented_reasons(pairs(rows), 5)
    assert reasons.is_null().arg_true().to_list() == list(range(99_995, 100_000))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from("pqr")), unique_by=lambda row: row[0]),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_order_changes_nothing(
    numbered: list[tuple[int, str]], limit: int, shuffler: random.Random
) -> None:
    rows = [(f"{number:02}", prompt) for number, prompt in numbered]
    shuffled = list(rows)
    shuffler.shuffle(shuffled)

    def kept(some: list[tuple[str, str]]) -> set[str]:
        return set(
            pairs(some).filter(overrepresented_reasons(pairs(some), limit).is_null())["row_id"]
        )

    assert kept(shuffled) == kept(rows)
    for prompt in "pqr":
        ids = sorted(row for row, of in rows if of == prompt)
        assert kept(rows) & set(ids) == set(ids[:limit])
