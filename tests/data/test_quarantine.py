"""The quarantine in parts: one table for its readers, and only what changed is written anew."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from prepared import BROKEN, EMPTY, GOOD, answer, content_of, frame
from rows import pair_row, write_rows

from orpo_pipeline.data import quarantine
from orpo_pipeline.data.prepared_files import QUARANTINE
from orpo_pipeline.data.reading import readers
from schemas.frames import Quarantine
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]
NO_LIMIT = {"max_quarantined_share": 1.0}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of four rows each."""
    monkeypatch.setattr(readers, "BLOCK_ROWS", 4)
    monkeypatch.setattr(quarantine, "BLOCKS_A_PART", 2)


def rows_with_one_of_four_broken(count: int) -> list[object]:
    return [BROKEN if number % 4 == 1 else GOOD[number % len(GOOD)] for number in range(count)]


def parts_of(prepared: PreparedData) -> list[Path]:
    return sorted((prepared.path / QUARANTINE).iterdir())


def test_its_parts_are_one_table_in_the_order_of_rows(
    prepare_rows: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*GOOD, *["[]"] * 5, EMPTY, *[BROKEN] * 4]
    parts = prepare_rows(rows, **NO_LIMIT)
    assert len(parts_of(parts)) == 2
    monkeypatch.setattr(quarantine, "BLOCKS_A_PART", 100)
    whole = prepare_rows(rows, home="elsewhere", **NO_LIMIT)
    assert len(parts_of(whole)) == 1
    table = frame(whole, "quarantine")
    assert frame(parts, "quarantine").equals(table)
    assert pl.from_arrow(pq.read_table(parts.path / QUARANTINE)).equals(table)
    Quarantine.validate(table, lazy=True)
    assert table["origin_row"].to_list() == list(range(41, 51))
    assert table["row"].to_list()[:5] == ["[]"] * 5


def test_rows_that_are_added_write_the_last_part_only(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    before = parts_of(prepare_rows(rows_with_one_of_four_broken(30), **NO_LIMIT))
    more = prepare_rows(rows_with_one_of_four_broken(38), **NO_LIMIT)
    after = parts_of(more)
    assert (len(before), len(after)) == (4, 5)
    assert all(one.samefile(other) for one, other in zip(before[:3], after, strict=False))
    assert not before[3].samefile(after[3])
    fresh = prepare_rows(rows_with_one_of_four_broken(38), home="fresh", **NO_LIMIT)
    assert content_of(more.path) == content_of(fresh.path)


def test_a_file_between_others_changes_no_part_of_theirs(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("a", "c"):
        write_rows(folder / f"{name}.jsonl", [BROKEN, *(pair_row(ord(name) + n) for n in range(9))])
    before = parts_of(prepare_rows(None, source=str(folder), **NO_LIMIT))
    write_rows(folder / "b.jsonl", [BROKEN, *(pair_row(200 + n) for n in range(4))])
    after = parts_of(prepare_rows(None, source=str(folder), **NO_LIMIT))
    assert [one.samefile(other) for one, other in zip(before, after[::2], strict=True)] == [
        *(True, True),
    ]


def test_another_verdict_on_a_row_is_another_part(prepare_rows: Prepare) -> None:
    """The block is the same, and what the rows of its file together decide is not."""
    same_prompt = [
        pair_row(1, chosen=answer(text)) for text in ("Yes, always.", "Never, not once.")
    ]
    rows = [*rows_with_one_of_four_broken(8), *same_prompt]
    before = prepare_rows(rows, **NO_LIMIT)
    after = prepare_rows(rows, max_pairs_per_prompt=1, **NO_LIMIT)
    assert frame(after, "quarantine").height > frame(before, "quarantine").height
    fresh = prepare_rows(rows, home="fresh", max_pairs_per_prompt=1, **NO_LIMIT)
    assert content_of(after.path) == content_of(fresh.path)


def test_a_damaged_part_is_written_again(prepare_rows: Prepare, tmp_path: Path) -> None:
    rows = rows_with_one_of_four_broken(30)
    prepared = prepare_rows(rows, **NO_LIMIT)
    expected = content_of(prepared.path)
    parts_of(prepared)[1].write_bytes(b"rotten")
    assert content_of(prepare_rows(rows, **NO_LIMIT).path) == expected
