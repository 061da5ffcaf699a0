"""Blocks and rows of files of every format."""

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows import pair_row, write_rows

from orpo_pipeline.data.reading import readers
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import (
    Block,
    RawRow,
    block_rows,
    count_rows,
    lines_as_blocks,
    read_blocks,
)
from orpo_pipeline.data.reading.streams import whole_lines
from schemas.pairs import Defect, DefectCode, Origin

ROWS = [pair_row(number) for number in range(3)]
TEXT_ROWS = [
    {"prompt": "Say hi, twice", "chosen": 'Hi, "hi"\nand hi', "rejected": "No"},
    {"prompt": "Grüße", "chosen": "Grüß Gott", "rejected": "Nö"},
]


def blocks_of(path: Path) -> list[Block]:
    return list(read_blocks(SourceFile(path, path.name)))


def read(path: Path) -> list[RawRow]:
    return [row for block in blocks_of(path) for row in block_rows(block)]


def values(path: Path) -> list[Any]:
    return [row.value for row in read(path)]


def codes(rows: Sequence[RawRow]) -> list[str | None]:
    return [row.value.code.value if isinstance(row.value, Defect) else None for row in rows]


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst}


def as_lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_array() -> bytes:
    return json.dumps(ROWS, indent=2).encode()


def write_parquet(path: Path) -> None:
    pl.DataFrame(ROWS).write_parquet(path)


def write_ipc(path: Path) -> None:
    pl.DataFrame(ROWS).write_ipc(path)  # an Arrow file with views of strings


def write_ipc_stream(path: Path) -> None:
    pl.DataFrame(ROWS).write_ipc_stream(path)


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    ("ending", "content"), [(".jsonl", as_lines), (".ndjson", as_lines), (".json", as_array)]
)
def test_every_json_format_gives_the_same_rows(
    ending: str, content: Callable[[], bytes], packed: str, tmp_path: Path
) -> None:
    path = tmp_path / f"pairs{ending}{packed}"
    path.write_bytes(PACKED[packed](content()))
    assert read(path) == [
        RawRow(Origin(path.name, number), row) for number, row in enumerate(ROWS, start=1)
    ]


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", write_parquet), ("a.arrow", write_ipc), ("b.arrow", write_ipc_stream)],
)
def test_every_column_format_gives_the_same_rows(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    assert read(tmp_path / name) == [
        RawRow(Origin(name, number), row) for number, row in enumerate(ROWS, start=1)
    ]


@pytest.mark.parametrize("packed", PACKED)
def test_csv(packed: str, tmp_path: Path) -> None:
    plain = write_csv(tmp_path / "plain.csv", TEXT_ROWS)
    path = tmp_path / f"pairs.csv{packed}"
    path.write_bytes(PACKED[packed](plain.read_bytes()))
    assert values(path) == TEXT_ROWS


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_csv_rows_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('a,b\n1,2\n"two\nlines",3\n\n4,5\n')
    (block,) = blocks_of(path)
    assert (block.first_row, block.numbers) == (1, (1, 2, 5))
    assert [str(row.origin) for row in block_rows(block)] == [f"pairs.csv:{n}" for n in (2, 3, 6)]
    assert block.content == (
        b'{"a": "1", "b": "2"}\n{"a": "two\\nlines", "b": "3"}\n{"a": "4", "b": "5"}\n'
    )


def test_csv_keeps_line_ends_inside_fields(tmp_path: Path) -> None:
    row = {"prompt": "one\r\ntwo\rthree\u2028four", "chosen": "a", "rejected": "b\0c"}
    assert values(write_csv(tmp_path / "pairs.csv", [row])) == [row]


def test_a_csv_row_of_another_length(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\nq,a,b\nq,a,b,left over\nq,a\n")
    rows = read(path)
    assert rows[1].value == Defect(DefectCode.BROKEN_ROW, "the row has more fields than the header")
    assert rows[1].text == '["q", "a", "b", "left over"]'
    assert rows[2].value == {"prompt": "q", "chosen": "a", "rejected": None}


def test_broken_lines_keep_their_place_and_text(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "pairs.jsonl", [ROWS[0], '{"prompt": "cut', "", "[1, 2]", "null", "{} {}", {}]
    )
    rows = read(path)
    assert [row.origin.row for row in rows] == [1, 2, 4, 5, 6, 7]  # an empty line is no row
    assert codes(rows) == [None, *["broken_row"] * 4, None]
    assert [row.text for row in rows] == ["", '{"prompt": "cut', "[1, 2]", "null", "{} {}", ""]
    assert rows[2].value == Defect(DefectCode.BROKEN_ROW, "a JSON object was expected, not list")
    assert rows[4].value == Defect(DefectCode.BROKEN_ROW, "not JSON: extra data at 2")


def test_a_json_list_may_hold_broken_rows(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([ROWS[0], "text", 12, ROWS[1]]))
    rows = read(path)
    assert codes(rows) == [None, "broken_row", "broken_row", None]
    assert [row.text for row in rows] == ["", '"text"', "12", ""]


def test_an_empty_json_list_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(" [ ] ")
    assert read(tmp_path / "pairs.json") == []


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert values(path) == ROWS


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    row = pair_row(1, chosen="one\u2028two\u0085three")
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert values(path) == [row]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", 4)
    monkeypatch.setattr(readers, "BLOCK_BYTES", 20)


@pytest.mark.usefixtures("small_blocks")
def test_a_block_ends_with_enough_rows_or_enough_bytes(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [b"{}\n"] * 5 + [b'{"k": "0123456789"}\n', b"\n", b'{"k": "01234567890123"}\n', b"{}"]
    path.write_bytes(b"".join(lines))
    blocks = blocks_of(path)
    # 4 rows; 3 + 20 bytes; 1 + 24 bytes (an empty line is a line); the rest
    assert [block.content for block in blocks] == [
        b"".join(lines[:4]),
        b"".join(lines[4:6]),
        b"".join(lines[6:8]),
        lines[8],
    ]
    assert [block.first_row for block in blocks] == [0, 4, 6, 8]
    assert [block.index for block in blocks] == [0, 1, 2, 3]
    rows = [row.origin.row for block in blocks for row in block_rows(block)]
    assert rows == [1, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("name", "numbers"), [("a.json", [1, 2, 3, 4, 5, 6]), ("a.csv", [2, 3, 4, 6, 7, 8])]
)
def test_rows_of_other_formats_are_numbered_across_blocks(
    name: str, numbers: list[int], tmp_path: Path
) -> None:
    items = [{"k": str(number)} for number in range(6)]
    fields = ["0", "1", '"2\n"', "3", "4", "5"]
    path = tmp_path / name
    path.write_text(json.dumps(items) if name == "a.json" else "\n".join(["k", *fields]))
    blocks = blocks_of(path)
    assert len(blocks) > 1
    assert [row.origin.row for block in blocks for row in block_rows(block)] == numbers
    assert all(block.first_row == next(block_rows(block)).origin.row - 1 for block in blocks)


def test_blocks_of_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", 1000)
    numbers = list(range(2500))
    table = pa.table(
        {
            "number": numbers,
            "word": pa.array([f"word {n % 7}" for n in numbers]).dictionary_encode(),
            "maybe": [None if n % 3 else [{"text": str(n)}] for n in numbers],
        }
    ).replace_schema_metadata({"pandas": "{}"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=900)
    for path in (tmp_path / "a.parquet", tmp_path / "a.arrow"):
        blocks = blocks_of(path)
        assert [(b.kind, b.first_row, b.numbers) for b in blocks] == [
            ("arrow", first, None) for first in (0, 1000, 2000)
        ]
        schema = pa.ipc.open_stream(blocks[1].content).schema
        assert schema.metadata is None
        assert schema.field("word").type == pa.string()
        assert values(path) == table.to_pylist()
        assert read(path)[-1].origin == Origin(path.name, 2500)
        assert [block.digest for block in blocks_of(path)] == [block.digest for block in blocks]


def test_the_digest_is_of_kind_numbers_and_content(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first.jsonl", ROWS)
    (block,) = blocks_of(first)
    assert block.digest == hashlib.sha256(b"json_lines None\n" + first.read_bytes()).hexdigest()
    (tmp_path / "second.jsonl.gz").write_bytes(gzip.compress(first.read_bytes()))
    assert blocks_of(tmp_path / "second.jsonl.gz")[0].digest == block.digest
    for name, text in (("a.csv", "k\n1\n2\n3\n"), ("b.csv", "k\n1\n\n2\n3\n")):
        (tmp_path / name).write_text(text)
    one, other = blocks_of(tmp_path / "a.csv")[0], blocks_of(tmp_path / "b.csv")[0]
    assert one.content == other.content
    assert one.digest != other.digest


def test_a_block_whose_numbers_do_not_match_its_rows_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k\n1\n\n2\n")
    (block,) = blocks_of(path)
    assert block.numbers == (1, 3)
    assert count_rows(block) == len(list(block_rows(block))) == 2
    for numbers in ((1,), (1, 3, 4)):
        with pytest.raises(ValueError, match="zip"):
            list(block_rows(replace(block, numbers=numbers)))


LINE = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"{}", b'{"k": 1}', b"", b" \t", b"\r", b"null", b'{"k": "\xff\xc3\xa9"}']),
)
CONTENT = (
    st.lists(LINE, min_size=1, max_size=40)
    .map(b"\n".join)
    .filter(lambda content: content and not readers.ARRAY.match(content))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(CONTENT, st.integers(1, 9), st.integers(1, 60))
@settings(deadline=None)
def test_any_bytes_are_rows(folder: Path, content: bytes, rows: int, size: int) -> None:
    path = folder / "any.jsonl"
    path.write_bytes(content)
    expected = [
        number
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
        if line and not line.isspace()
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_ROWS", rows)
        patch.setattr(readers, "BLOCK_BYTES", size)
        blocks = blocks_of(path)
    found = [row.origin.row for block in blocks for row in block_rows(block)]
    assert found == expected
    assert sum(map(count_rows, blocks)) == len(expected)
    joined = b"".join(block.content for block in blocks)
    assert joined == content.removeprefix(b"\xef\xbb\xbf")


@given(CONTENT, LINE, st.integers(1, 9), st.integers(1, 60))
@settings(deadline=None)
def test_what_is_added_leaves_earlier_blocks_alone(
    folder: Path, content: bytes, more: bytes, rows: int, size: int
) -> None:
    assume(not readers.ARRAY.match(content + b"\n" + more))
    path = folder / "grown.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_ROWS", rows)
        patch.setattr(readers, "BLOCK_BYTES", size)
        path.write_bytes(content + b"\n")
        before = blocks_of(path)
        path.write_bytes(content + b"\n" + more + b"\n")
        after = blocks_of(path)
    assert after[: len(before) - 1] == before[:-1]


@given(CONTENT, st.integers(1, 9), st.integers(1, 60), st.integers(1, 30))
def test_blocks_do_not_depend_on_how_a_file_is_read(
    content: bytes, rows: int, size: int, chunk: int
) -> None:
    chunks = [content[start : start + chunk] for start in range(0, len(content), chunk)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_ROWS", rows)
        patch.setattr(readers, "BLOCK_BYTES", size)
        whole = list(lines_as_blocks(whole_lines([content])))
        assert list(lines_as_blocks(whole_lines(chunks))) == whole
