"""Checked blocks: found again by their content, done again when damaged, one dialect a file."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dialect_rows import EXAMPLES
from pandera.errors import SchemaErrors
from prepared import (
    BROKEN,
    EMPTY,
    GOOD,
    answer,
    blocks_in,
    check_account,
    content_of,
    frame,
    quarantined,
    report_of,
)
from rows import pair_row, write_rows

from orpo_pipeline.data import block_store
from orpo_pipeline.data.block_checks import store
from orpo_pipeline.data.block_store import BlockStore, StoredBlock
from orpo_pipeline.data.checking import CheckedBlock, RowChecker
from orpo_pipeline.data.reading import readers
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import Block
from orpo_pipeline.stages import MANIFEST, file_sha256
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]
NEAR = "The quick brown fox jumps over the lazy dog and runs far away into the dark green wood"
# Copies, near-copies and faults, so that old and new rows have to do with each other.
FIRST = [*GOOD[:16], pair_row(50, chosen=answer(NEAR)), BROKEN, GOOD[2], EMPTY]
LATER = [pair_row(50, chosen=answer(f"{NEAR}.")), GOOD[20], GOOD[1], BROKEN, GOOD[21]]
LATER += [pair_row(3, chosen=GOOD[3]["rejected"], rejected=GOOD[3]["chosen"])]
HH = EXAMPLES["hh_rlhf"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", 8)


@pytest.mark.parametrize(
    ("files", "new_blocks"),
    [
        ({"m.jsonl": [*FIRST, *LATER]}, 2),  # 20 rows are 8, 8, 4; 26 are 8, 8, 8, 2
        ({"m.jsonl": FIRST, "z.jsonl": LATER}, 1),
        ({"m.jsonl": FIRST, "a.jsonl": LATER}, 1),
        ({"moved.jsonl": FIRST, "a.jsonl": FIRST[:8]}, 0),
        ({"m.jsonl": [*LATER, *FIRST]}, 4),  # in front of the others: every block is another
    ],
)
def test_growth_checks_new_blocks_only_and_gives_what_a_fresh_start_gives(
    files: dict[str, list[Any]], new_blocks: int, prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    limits = {"max_quarantined_share": 1.0, "source": str(folder)}
    write_rows(folder / "m.jsonl", FIRST)
    prepare_rows(None, **limits)
    before = blocks_in(tmp_path / "home")
    assert len(before) == 3

    (folder / "m.jsonl").unlink()
    for name, rows in files.items():
        write_rows(folder / name, rows)
    grown = prepare_rows(None, **limits)
    after = blocks_in(tmp_path / "home")
    assert {name: after[name] for name in before} == before
    assert len(after) == 3 + new_blocks
    check_account(grown)

    fresh = prepare_rows(None, home="elsewhere", **limits)
    assert not fresh.reused
    assert content_of(grown.path) == content_of(fresh.path)
    assert grown.path.name == fresh.path.name
    assert grown.model_copy(update={"path": fresh.path}) == fresh


def test_the_same_bytes_under_another_suffix_are_other_rows(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "good.jsonl", GOOD)
    text = "prompt,chosen,rejected\nWhy?,Because.,No.\n"
    (folder / "x.csv").write_text(text)
    assert prepare_rows(None, source=str(folder)).rows_quarantined == 0
    (folder / "x.csv").rename(folder / "x.jsonl")
    renamed = prepare_rows(None, source=str(folder))
    assert renamed.quarantined == {"broken_row": 2}
    assert content_of(renamed.path) == content_of(
        prepare_rows(None, home="elsewhere", source=str(folder)).path
    )


def test_a_block_that_stands_twice_is_checked_once(prepare_rows: Prepare, tmp_path: Path) -> None:
    prepared = prepare_rows([*GOOD[:8], *GOOD[:8], *GOOD[8:]])
    assert (prepared.rows_in, prepared.duplicates) == (48, 8)
    assert len(blocks_in(tmp_path / "home")) == 5
    check_account(prepared)
    assert frame(prepared, "duplicates")["origin_row"].to_list() == list(range(9, 17))


def test_a_damaged_block_is_named_and_done_again(
    prepare_rows: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare_rows(GOOD)
    before, content = blocks_in(tmp_path / "home"), content_of(first.path)
    victim = sorted(before)[2]
    (stored,) = (tmp_path / "home").glob(f"blocks/*/{victim}/rows.parquet")
    flip_a_byte(stored)
    second = prepare_rows(GOOD)
    assert not second.reused
    assert f"rows.parquet of stage {victim} is damaged" in caplog.text
    after = blocks_in(tmp_path / "home")
    assert {name for name in before if after[name] != before[name]} == {victim}
    assert content_of(second.path) == content


def test_a_damaged_list_of_blocks_is_written_again(
    prepare_rows: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_rows(GOOD)
    before = blocks_in(tmp_path / "home")
    (listed,) = (tmp_path / "home").glob("blocks/*/files/*.jsonl/blocks.json")
    content = listed.read_text()
    listed.write_text(content.replace("8]", "9]", 1))  # else rows would be said to stand elsewhere
    grown = prepare_rows([*GOOD, GOOD[0]])
    second = prepare_rows(GOOD, max_pairs_per_prompt=4)
    assert f"blocks.json of stage {listed.parent.name} is damaged" in caplog.text
    assert listed.read_text() == content
    after = blocks_in(tmp_path / "home")
    assert {name: after[name] for name in before} == before
    assert grown.rows_in == second.rows_in + 1
    assert sorted(frame(second, "train")["origin_row"].to_list())[-1] <= 40


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (3, ["trl_explicit at rows.jsonl:1 (prompt", "hh_rlhf at rows.jsonl:4 (chosen, rejected)"]),
        (
            16,
            [
                "trl_explicit at rows.jsonl from row 1 (prompt, chosen, rejected)",
                "hh_rlhf at rows.jsonl from row 17 (chosen, rejected)",
            ],
        ),
    ],
)
def test_two_dialects_in_a_file_are_an_error_that_shows_two_rows(
    place: int, shown: list[str], prepare_rows: Prepare
) -> None:
    rows = [*GOOD[:place], HH, *([HH] * 7 if place == 16 else []), *GOOD[place:]]
    for _ in range(2):  # also when the blocks are there already
        with pytest.raises(UserError, match="A file mixes two dialects") as raised:
            prepare_rows(rows)
        assert [text in raised.value.found for text in shown] == [True, True], raised.value.found
        assert raised.value.expected == "one dialect a file."


def test_a_named_dialect_and_named_columns_are_not_looked_for(prepare_rows: Prepare) -> None:
    named = prepare_rows([*GOOD, HH], dialect="trl_explicit")
    assert {row: code for row, (code, _) in quarantined(named).items()} == {41: "missing_field"}
    own = [
        {"q": f"Why {n}?", "good": f"Because of {n}.", "bad": f"No idea, {n}.", "more": n}
        for n in range(20)
    ]
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    mapped = prepare_rows([*own, {"q": "Why?", "good": "So."}], columns=columns)
    assert mapped.train_pairs + mapped.eval_pairs == 20
    assert set(mapped.quarantined) == {"missing_field"}
    unknown = prepare_rows([*GOOD, *own[:2]])
    assert {code for code, _ in quarantined(unknown).values()} == {"missing_field"}
    assert all("data.columns" in reason for _, reason in quarantined(unknown).values())


def test_a_block_knows_neither_its_file_nor_its_place(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    prepare_rows(GOOD)
    for manifest in (tmp_path / "home").glob(f"blocks/*/*/{MANIFEST}"):
        summary = (manifest.parent / "block.json").read_text(encoding="utf-8")
        assert set(json.loads(summary)) == {"rows", "dialects", "first"}
        assert "rows.jsonl" not in summary


def test_what_a_killed_process_left_is_removed(prepare_rows: Prepare, tmp_path: Path) -> None:
    prepare_rows(GOOD)
    (settings,) = (tmp_path / "home" / "blocks").iterdir()
    old, young = settings / ".0123456789abcdef0123.77.aaaaaaaa", settings / ".0123.78.bbbbbbbb"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    prepare_rows([*GOOD, BROKEN])
    assert not old.exists() and young.exists()


WITH_SYSTEM = [
    {"system": "Be kind.", "prompt": f"Why {n}?", "chosen": f"It is {n}.", "rejected": f"No, {n}."}
    for n in range(16)
]
WITHOUT_SYSTEM = {"prompt": "Who?", "chosen": "It was me.", "rejected": "Nobody knows."}


@pytest.mark.parametrize("rows_a_block", [4, 8, 64])
@pytest.mark.parametrize("place", [0, 8, 12, 16])
def test_a_files_dialect_does_not_depend_on_where_blocks_end(
    place: int,
    rows_a_block: int,
    prepare_rows: Prepare,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", rows_a_block)
    prepared = prepare_rows([*WITH_SYSTEM[:place], WITHOUT_SYSTEM, *WITH_SYSTEM[place:]])
    assert [file.dialect for file in report_of(prepared).files] == ["trl_explicit"]
    assert prepared.rows_in == prepared.train_pairs + prepared.eval_pairs == 17
    before = blocks_in(tmp_path / "home")
    prepare_rows(None, source=str(tmp_path / "rows.jsonl"), max_pairs_per_prompt=5)
    assert blocks_in(tmp_path / "home") == before


def check(
    config: RunConfig, model: Path, paths: list[Path], seen: list[int] | None = None
) -> list[StoredBlock]:
    """The blocks of files; `seen` gets the numbers of rows that are reported."""
    files = [(SourceFile(path, path.name), file_sha256(path)) for path in paths]
    blocks = BlockStore(paths[0].parent / "blocks", config, model)

    def note(_: str, done: int, __: int) -> None:
        if seen is not None:
            seen.append(done)

    return blocks.check_files({"train": files}, note)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tiny_config: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", GOOD[:8])
    old = file_sha256(path)
    write_rows(path, GOOD[8:24])
    blocks = BlockStore(tmp_path / "blocks", tiny_config(), tiny_model)
    file = SourceFile(path, path.name)
    with pytest.raises(UserError, match=r"rows\.jsonl changed while it was read"):
        blocks.check_files({"train": [(file, old)]}, lambda *_: None)
    assert not (tmp_path / "blocks" / "files").exists()
    write_rows(path, GOOD[:8])
    (block,) = blocks.check_files({"train": [(file, old)]}, lambda *_: None)
    assert block.rows == 8


def test_an_error_of_the_configuration_comes_out_of_the_processes(
    tiny_config: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", GOOD)
    config = tiny_config(data={"processes": 2, "dialect": "nonsense"})
    with pytest.raises(UserError, match="There is no dialect 'nonsense'"):
        check(config, tiny_model, [path])


def test_processes_start_only_where_enough_rows_are_new(
    tiny_config: Callable[..., RunConfig],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed_over: list[object] = []

    class Pool(ProcessPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> Any:
            handed_over.append(given)
            return super().submit(*given, **named)

    monkeypatch.setattr(block_store, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    path = write_rows(tmp_path / "rows.jsonl", GOOD[:24])
    monkeypatch.setattr(block_store, "SMALL", path.stat().st_size + 1)
    check(tiny_config(), tiny_model, [path])
    assert not handed_over
    write_rows(path, GOOD[:32])  # now the file is large enough, and what is new in it is not
    assert len(check(tiny_config(), tiny_model, [path])) == 4
    assert not handed_over
    monkeypatch.setattr(block_store, "SMALL", 1)
    check(tiny_config(), tiny_model, [write_rows(path, GOOD[1:17])])
    assert handed_over


def test_rows_are_counted_across_files_and_a_copy_is_checked_once(
    tiny_config: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
) -> None:
    parts = [GOOD[:8], GOOD[8:20], GOOD[:8]]
    paths = [write_rows(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate(parts)]
    seen: list[int] = []
    blocks = check(tiny_config(), tiny_model, paths, seen)
    assert [(block.file, block.rows, block.first_row) for block in blocks] == [
        ("0.jsonl", 8, 0),
        ("1.jsonl", 8, 0),
        ("1.jsonl", 4, 8),
        ("2.jsonl", 8, 0),
    ]
    assert seen == [8, 16, 20, 28]
    assert len(list(tmp_path.glob(f"blocks/*/{MANIFEST}"))) == 3


def test_a_block_that_loses_a_row_is_not_stored(
    tiny_config: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
) -> None:
    class Forgetful(RowChecker):
        def check(self, block: Block, read_as: str | None = None) -> CheckedBlock:
            checked = super().check(block, read_as)
            return replace(checked, index=checked.index.head(-1))

    path = write_rows(tmp_path / "rows.jsonl", GOOD[:8])
    (block,) = readers.read_blocks(SourceFile(path, path.name))
    with pytest.raises(AssertionError, match="a block of 8 rows gave 7"):
        store(Forgetful(tiny_config(), tiny_model), block, tmp_path / "block")
    assert not (tmp_path / "block").exists()


def test_a_block_that_is_no_block_of_pairs_is_not_stored(
    tiny_config: Callable[..., RunConfig], tiny_model: Path, tmp_path: Path
) -> None:
    class Confused(RowChecker):
        def check(self, block: Block, read_as: str | None = None) -> CheckedBlock:
            checked = super().check(block, read_as)
            same = checked.rows["chosen_ids"]
            return replace(checked, rows=checked.rows.set_column(5, "rejected_ids", same))

    path = write_rows(tmp_path / "rows.jsonl", GOOD[:8])
    (block,) = readers.read_blocks(SourceFile(path, path.name))
    with pytest.raises(SchemaErrors, match="nothing_is_empty_and_answers_differ"):
        store(Confused(tiny_config(), tiny_model), block, tmp_path / "block")
    assert not (tmp_path / "block").exists()


def test_a_block_that_rots_is_found_with_the_data_that_hold_it(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    first = prepare_rows(GOOD)
    before = content_of(first.path)
    rotten = first.path / "shards" / "00000" / "rows.parquet"
    status = rotten.stat()
    with rotten.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    os.utime(rotten, ns=(status.st_atime_ns, status.st_mtime_ns))  # a disk leaves no trace
    second = prepare_rows(GOOD)
    assert not second.reused
    assert content_of(second.path) == before
