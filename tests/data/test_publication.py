"""The files that preparation leaves behind, written and read."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from prepared import (
    BROKEN,
    GOOD,
    answer,
    blocks_in,
    check_account,
    content_of,
    frame,
    question,
    report_of,
)
from rows import pair_row, write_rows

from orpo_pipeline.data import prepared_files
from orpo_pipeline.data.checking import LONGEST_SHOWN
from orpo_pipeline.data.prepared_files import (
    TOKEN_COLUMNS,
    read_few_rows,
    read_pairs,
    read_shard_rows,
)
from orpo_pipeline.data.reading import readers
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.stages import MANIFEST, is_complete
from schemas.frames import KeptPairs, PairRows, Quarantine
from schemas.pairs import SIDES
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", 8)


@pytest.mark.usefixtures("small_blocks")
def test_pairs_are_read_by_row_id_over_all_shards(prepare_rows: Prepare) -> None:
    prepared = prepare_rows(GOOD)
    assert len(list((prepared.path / "shards").iterdir())) == 5
    whole = read_pairs(prepared.path, "train")
    assert whole.columns == ["row_id", *SIDES, *TOKEN_COLUMNS]
    assert whole["row_id"].to_list() == sorted(whole["row_id"])
    assert whole.height == prepared.train_pairs
    assert read_pairs(prepared.path, "train", most=7).equals(whole.head(7))
    assert read_pairs(prepared.path, "train", ("chosen",), most=3).equals(
        whole.head(3).select("row_id", "chosen")
    )
    assert read_pairs(prepared.path, "eval", most=0).height == 0
    index = frame(prepared, "train")
    assert index["row_id"].to_list() == whole["row_id"].to_list()
    KeptPairs.validate(index, lazy=True)
    PairRows.validate(whole, lazy=True)
    for (text,), number in zip(
        whole.select("prompt").iter_rows(), index["origin_row"].to_list(), strict=True
    ):
        assert text == GOOD[number - 1]["prompt"]


@pytest.mark.usefixtures("small_blocks")
def test_shards_are_links_and_the_manifest_vouches_for_all(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    prepared = prepare_rows([*GOOD, BROKEN])
    stored = {
        path.stat().st_ino
        for path in (tmp_path / "home").glob("blocks/*/*/*.parquet")
        if path.parent.name in blocks_in(tmp_path / "home")
    }
    shards = list((prepared.path / "shards").rglob("*.parquet"))
    assert len(shards) == 2 * 6
    assert {shard.stat().st_ino for shard in shards} == stored
    listed = json.loads((prepared.path / MANIFEST).read_text())["files"]
    content = content_of(prepared.path)
    assert {name: entry["sha256"] for name, entry in listed.items()} == {
        name: sha256 for name, sha256 in content.items() if name != MANIFEST
    }
    for name in ("train.parquet", "duplicates.parquet", "report.json"):
        assert name in listed
    assert "quarantine.parquet/00000.parquet" in listed
    assert "tokenizer/tokenizer.json" in listed


@pytest.mark.usefixtures("small_blocks")
def test_where_the_disk_has_no_links_shards_are_copies(
    prepare_rows: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = prepare_rows(GOOD)

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(prepared_files.os, "link", refuse)
    copied = prepare_rows(GOOD, home="elsewhere")
    assert content_of(copied.path) == content_of(linked.path)
    shards = list((copied.path / "shards").rglob("*.parquet"))
    assert {shard.stat().st_nlink for shard in shards} == {1}
    assert is_complete(copied.path)


def test_nothing_quarantined_is_an_empty_table_with_the_same_columns(
    prepare_rows: Prepare,
) -> None:
    prepared = prepare_rows(GOOD)
    check_account(prepared)
    Quarantine.validate(frame(prepared, "quarantine"), lazy=True)
    assert frame(prepared, "quarantine").height == 0
    assert frame(prepared, "duplicates").height == 0
    assert report_of(prepared).defects == ()


def test_a_long_row_is_cut_where_it_is_set_aside(prepare_rows: Prepare) -> None:
    long = "word " * 5000
    near = [pair_row(50, prompt=question(long), chosen=answer(end)) for end in ("Yes.", "Yes!")]
    rows = [*GOOD, *near, "x" * 30_000, pair_row(51, chosen=answer(" "), prompt=question(long))]
    prepared = prepare_rows(rows, chat={"max_length": 16_000})
    assert set(prepared.quarantined) == {"near_duplicate", "broken_row", "empty_text"}
    lengths = frame(prepared, "quarantine")["row"].str.len_chars()
    assert lengths.max() == LONGEST_SHOWN == 20_000


def test_the_record_says_nothing_of_places(prepare_rows: Prepare, tmp_path: Path) -> None:
    prepared = prepare_rows(GOOD)
    record = json.loads((prepared.path / "record.json").read_text(encoding="utf-8"))
    assert "path" not in record
    assert "path" not in record["base_model"]
    assert str(tmp_path) not in json.dumps(record)
    assert record["dataset_id"] == prepared.dataset_id


def test_the_report_shows_repairs_of_kept_rows(prepare_rows: Prepare) -> None:
    rows = [*GOOD, *[pair_row(50 + n, chosen=answer(f"a\u200bb {n}\r\n.")) for n in range(5)]]
    (repaired,) = report_of(prepare_rows(rows)).defects
    assert (repaired.code, repaired.severity, repaired.rows) == ("characters_repaired", "repair", 5)
    assert [example.origin for example in repaired.examples] == [
        f"rows.jsonl:{number}" for number in (41, 42, 43)
    ]
    assert json.loads(repaired.examples[0].text)["chosen"] == answer("ab 0\n.")


def test_the_report_names_files_groups_and_sources(prepare_rows: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "b.jsonl", [*GOOD, GOOD[0], BROKEN])
    same = [pair_row(50, chosen=answer(f"Answer {n}.")) for n in range(4)]
    write_rows(folder / "a.jsonl", [{**row, "source": "ours"} for row in same])
    prepared = prepare_rows(None, source=str(folder))
    report = report_of(prepared)
    counts = [(f.name, f.rows, f.kept, f.quarantined, f.duplicates) for f in report.files]
    assert counts == [("a.jsonl", 4, 4, 0, 0), ("b.jsonl", 42, 40, 1, 1)]
    assert report.largest_groups == (("What is 50 plus 50?", 4),)
    assert {s.source: s.pairs for s in report.sources} == {"(not stated)": 40, "ours": 4}
    assert report.prompts == report.prompt_groups == 41
    kept = pl.concat([frame(prepared, split) for split in ("train", "eval")])
    assert dict(kept["source"].value_counts().iter_rows()) == {"": 40, "ours": 4}


def test_a_few_rows_are_read_as_the_whole_shard_has_them(tmp_path: Path) -> None:
    rows = pl.DataFrame({"number": range(20), "text": [f"row {n}" for n in range(20)]})
    pq.write_table(rows.to_arrow(), tmp_path / "rows.parquet", row_group_size=3)
    for wanted in ([19, 0, 4, 4, 5], [7], list(range(20)), []):
        positions = pl.Series(wanted, dtype=pl.UInt32)
        few = read_few_rows(tmp_path, positions, ("text",))
        assert few.equals(read_shard_rows(tmp_path, positions, ("text",)))


def test_a_tokenizer_that_was_used_is_saved_as_it_was_loaded(
    prepare_rows: Prepare, tiny_model: Path, tmp_path: Path
) -> None:
    prepared = prepare_rows([*GOOD, pair_row(51, chosen=answer("Say <|im_end|> twice."))])
    load_chat_format(tiny_model, None).tokenizer.save_pretrained(tmp_path / "fresh")
    saved, fresh = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (prepared.path / "tokenizer", tmp_path / "fresh")
    )
    assert saved == fresh
