"""Properties of the whole stage: every row is accounted for, and identity is of content alone."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dialect_rows import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepared import EMPTY, GOOD, answer, check_account, frame, kept, prompts, question
from rows import pair_row, write_rows

from orpo_pipeline.data import publication
from orpo_pipeline.data.publication import dataset_id
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]

POOL = [
    *[pair_row(number) for number in range(5)],
    *[
        pair_row(n, chosen=pair_row(n)["rejected"], rejected=pair_row(n)["chosen"])
        for n in range(3)
    ],
    pair_row(5, score_chosen=1, score_rejected=2),
    pair_row(6, chosen=answer("<|im_end|>")),
    pair_row(7, chosen=answer("word " * 200)),
    *[pair_row(8, chosen=answer(f"It is {word}.")) for word in ["one", "two", "three", "four"]],
    *[
        pair_row(n, prompt=question("Tell me a story of a cat and a dog " + "!" * n))
        for n in (1, 2)
    ],
    EMPTY,
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": "A ", "chosen": "b", "rejected": "d"},
]
TEXT = st.text(st.characters(codec=None), max_size=12)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]) | TEXT, "content": TEXT}
    ),
    max_size=3,
)
SCORES = {
    "score_chosen": st.none() | st.floats() | st.integers() | TEXT,
    "score_rejected": st.none() | st.floats() | st.integers(),
}
# Texts and messages in one row are a dialect of their own.
RANDOM_ROW = st.sampled_from([TEXT, MESSAGES]).flatmap(
    lambda side: st.fixed_dictionaries(
        dict.fromkeys(("prompt", "chosen", "rejected"), side | st.none() | st.integers()),
        optional=SCORES,
    )
)
TORN = st.sampled_from(POOL).flatmap(
    lambda row: st.integers(1, 60).map(lambda length: json.dumps(row)[:length])
)
# A short row's first sixty characters may be all of it: then it is a row of its dialect.
BROKEN_LINES = TORN.filter(lambda line: not line.endswith("}"))
OTHER_JSON = st.sampled_from(["[]", "null", "1", '"text"', "[[1]]", "NaN", "{}", "\x00", "{" * 500])


@st.composite
def rows_of_a_dialect(draw: st.DrawFn) -> list[Any]:
    """Rows of one dialect: sound ones, some with a value that belongs elsewhere, broken lines."""
    example = EXAMPLES[draw(st.sampled_from(sorted(EXAMPLES)))]
    rows: list[Any] = []
    for number in range(draw(st.integers(1, 6))):
        row = json.loads(json.dumps(example).replace("sky", f"sky of day {number}"))
        if draw(st.integers(0, 3)) == 0:
            row[draw(st.sampled_from(sorted(row)))] = None
        rows.append(row)
    return [*rows, *draw(st.lists(BROKEN_LINES | OTHER_JSON, max_size=3))]


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    train=st.lists(st.sampled_from(POOL) | RANDOM_ROW | TORN | OTHER_JSON, max_size=25),
    held_out=st.none() | st.lists(st.sampled_from(POOL) | RANDOM_ROW | TORN, max_size=8),
    other=rows_of_a_dialect(),
)
def test_whatever_goes_in_is_accounted_for(
    train: list[Any],
    held_out: list[Any] | None,
    other: list[Any],
    prepare_rows: Prepare,
    tmp_path: Path,
) -> None:
    for folder in ("data", "home"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    (tmp_path / "data").mkdir()
    # Enough good rows that each side has one.
    write_rows(tmp_path / "data" / "train-a.jsonl", [*GOOD[10:25], *train])
    write_rows(tmp_path / "data" / "train-b.jsonl", other)
    data: dict[str, Any] = {"max_quarantined_share": 1.0, "max_rule_share": {}}
    if held_out is not None:
        write_rows(tmp_path / "data" / "test.jsonl", [*GOOD[25:30], *held_out])
        data["eval_split"] = "test"
    prepared = prepare_rows(None, source=str(tmp_path / "data"), **data)
    empty = sum(isinstance(row, str) and not row.strip() for row in [*train, *(held_out or ())])
    given_rows = len(train) + 15 + len(other) + (0 if held_out is None else len(held_out) + 5)
    assert prepared.rows_in == given_rows - empty
    check_account(prepared)
    assert prepared.train_pairs
    assert prepared.eval_pairs
    sides = [frame(prepared, split) for split in ("train", "eval")]
    for column in ("prompt_id", "group"):
        assert not set(sides[0][column]) & set(sides[1][column])


def test_every_dialect_says_the_same(prepare_rows: Prepare, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, row in EXAMPLES.items():
        write_rows(tmp_path / "data" / f"{name}.jsonl", [row])
    write_rows(tmp_path / "data" / "more.jsonl", GOOD)
    prepared = prepare_rows(None, source=str(tmp_path / "data"))
    check_account(prepared)
    assert prepared.rows_quarantined == 0
    # One row of each dialect is the same pair; nectar's third answer makes no pair of its own.
    assert prepared.duplicates == len(EXAMPLES) - 1
    assert "Why is the sky blue?" in prompts(prepared, "train") | prompts(prepared, "eval")


def test_order_names_and_cuts_are_nothing(prepare_rows: Prepare, tmp_path: Path) -> None:
    # With rows of which some must go: near-duplicates, too many pairs of a prompt, near prompts.
    story = "Tell me a long story of a cat, a dog and their friend the bird, who lives in a tree"
    rows = [
        *GOOD,
        *[pair_row(50, chosen=answer(f"Answer {n} of many.")) for n in range(9)],
        *[pair_row(60 + n, prompt=question(story + mark)) for n, mark in enumerate((".", " now."))],
        *[pair_row(70, chosen=answer(story + mark)) for mark in (".", "!", " here.")],
    ]
    first = prepare_rows(rows)
    assert set(first.quarantined) >= {"overrepresented_prompt", "near_duplicate"}
    shuffled = random.Random(0).sample(rows, len(rows))
    other = prepare_rows(["{broken", *shuffled, GOOD[7]], name="other-name.jsonl")
    (tmp_path / "parts").mkdir()
    write_rows(tmp_path / "parts" / "b.jsonl", rows[:20])
    (tmp_path / "parts" / "a.json").write_text(json.dumps(rows[20:]))
    parts = prepare_rows(None, source=str(tmp_path / "parts"))
    for prepared in (other, parts):
        assert prepared.dataset_id == first.dataset_id
        assert prepared.prepared_id == first.prepared_id
        assert prepared.path != first.path  # another origin, and so another stage
    place = ("shard", "position", "origin_file", "origin_row")
    contents = [
        [{k: v for k, v in row.items() if k not in place} for row in kept(prepared)]
        for prepared in (first, other, parts)
    ]
    assert contents[0] == contents[1] == contents[2]


def test_the_id_follows_labels_characters_and_rows(prepare_rows: Prepare) -> None:
    last = GOOD[39]
    flipped = pair_row(39, chosen=last["rejected"], rejected=last["chosen"])
    dotless = pair_row(39, chosen=answer("It is 78"))
    spaced = pair_row(39, prompt=question("What is 39 plus  39?"))
    variants = [GOOD, [*GOOD[:39], flipped], [*GOOD[:39], dotless], [*GOOD[:39], spaced]]
    variants += [GOOD[:39], [*GOOD, pair_row(40)]]
    prepared = [prepare_rows(rows) for rows in variants]
    assert len({p.dataset_id for p in prepared}) == len(variants)
    assert len({p.prepared_id for p in prepared}) == len(variants)


def test_the_id_follows_what_decides_the_tokens(prepare_rows: Prepare) -> None:
    prepared = [
        prepare_rows(GOOD),
        prepare_rows(GOOD, chat={"max_length": 127}),
        prepare_rows(GOOD, eval_fraction=0.29),
    ]
    assert prepared[0].dataset_id != prepared[1].dataset_id
    same_sides = prompts(prepared[0], "eval") == prompts(prepared[2], "eval")
    assert (prepared[0].dataset_id == prepared[2].dataset_id) == same_sides


def index_of(ids: list[str], splits: list[str] | None = None) -> pl.DataFrame:
    return pl.DataFrame({"row_id": ids, "split": splits or ["train"] * len(ids)}).with_columns(
        code=pl.lit(None, pl.String), duplicate=pl.lit(False)
    )


def test_dataset_id_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "RULES_VERSION", 1)
    # printf 'rules 1 s\na train\nb eval\n' | sha256sum
    expected = "1fb124a9640923857e30bc5dc515aec4df8d36fa36b3fdd9c1ef64e44234ebe0"
    assert dataset_id(index_of(["b", "a"], ["eval", "train"]), "s") == expected
    assert dataset_id(index_of(["a", "b"], ["train", "eval"]), "s") == expected
    removed = index_of(["a", "b", "c", "d"], ["train", "eval", "train", "eval"]).with_columns(
        code=pl.Series([None, None, "too_long", None]), duplicate=pl.Series([False] * 3 + [True])
    )
    assert dataset_id(removed, "s") == expected
    assert dataset_id(index_of(["a", "b"], ["train", "train"]), "s") != expected
    assert dataset_id(index_of(["a", "b"], ["train", "eval"]), "t") != expected
    monkeypatch.setattr(publication, "RULES_VERSION", 2)
    assert dataset_id(index_of(["a", "b"], ["train", "eval"]), "s") != expected


def test_dataset_id_sees_the_row_beyond_ten_thousand() -> None:
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(10_002)]
    whole = dataset_id(index_of(ids[:10_000]), "s")
    one_more = [dataset_id(index_of([*ids[:10_000], extra]), "s") for extra in ids[10_000:]]
    assert len({whole, *one_more}) == 3
    assert dataset_id(index_of(ids[9_999::-1]), "s") == whole
