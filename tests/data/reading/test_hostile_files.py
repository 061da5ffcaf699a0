"""Files that are broken or meant to do harm: a clear error, or a defect of just that row."""

import gzip
import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import pair_row, write_rows

from orpo_pipeline.data.reading import readers, record_batches, streams
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import DEEPEST, Block, RawRow, block_rows, read_blocks
from orpo_pipeline.data.reading.streams import LONGEST_BROKEN, LONGEST_ROW, array_lines
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode

ROWS = [pair_row(number) for number in range(200)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def blocks_of(path: Path) -> list[Block]:
    return list(read_blocks(SourceFile(path, path.name)))


def read(path: Path) -> list[RawRow]:
    return [row for block in blocks_of(path) for row in block_rows(block)]


def read_line(line: str | bytes, tmp_path: Path) -> RawRow:
    """The row of a line between two good ones, which it leaves alone."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"{}\n" + (line.encode() if isinstance(line, str) else line) + b"\n{}")
    before, row, after = read(path)
    assert before.value == after.value == {}
    assert row.origin.row == 2
    return row


def reason(row: RawRow) -> str:
    assert isinstance(row.value, Defect)
    assert row.value.code == DefectCode.BROKEN_ROW
    return row.value.reason


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        read(path)
    assert raised.value.found.startswith(f"The data file {path} cannot be read: ")
    assert raised.value.fix == "Repair or remove the file."
    return raised.value.found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"chosen": null, "n": [null]}', {"chosen": None, "n": [None]}),
        (r'{"chosen": "\ud800"}', {"chosen": "\ud800"}),  # a rule finds it, as the next two
        (r'{"chosen": "a\u0000b"}', {"chosen": "a\0b"}),
        ('{"chosen": "a\u202eb"}', {"chosen": "a\u202eb"}),
        (b'{"chosen": "\xe9"}', {"chosen": "\ufffd"}),
        (b'\t {"a": 1} \r', {"a": 1}),
        ('{"a": Infinity}', {"a": math.inf}),
        ('{"chosen": "{{ 7 * 7 }}"}', {"chosen": "{{ 7 * 7 }}"}),
    ],
)
def test_lines_that_are_rows(line: str | bytes, expected: Any, tmp_path: Path) -> None:
    row = read_line(line, tmp_path)
    assert row.value == expected
    assert row.text == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice in one object"),
        ('{"a": [{"b": {"c": 1, "c": 1}}]}', "the key 'c' stands twice in one object"),
        (r'{"\ud800": 1, "\ud800": 1}', r"the key '\ud800' stands twice in one object"),
        ('{"a": "cut', "not JSON: Unterminated string"),
        (b'{"a": "\0"}', "not JSON: Invalid control character"),
        (b"\0\0\0", "not JSON: Expecting value"),
        ("{'a': 1}", "not JSON: Expecting property name"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
        ("\ufeff{}", "not JSON: Expecting value"),  # a byte order mark within the file
        ("\x0b{}", "not JSON: Expecting value"),
        ("12", "a JSON object was expected, not int"),
        ('["a"]', "a JSON object was expected, not list"),
        ("NaN", "a JSON object was expected, not float"),
    ],
)
def test_lines_that_are_no_rows(line: str | bytes, expected: str, tmp_path: Path) -> None:
    row = read_line(line, tmp_path)
    assert reason(row).startswith(expected)
    shown = line.decode() if isinstance(line, bytes) else line
    assert row.text == shown


def test_a_key_that_stands_twice_among_a_hundred_thousand(tmp_path: Path) -> None:
    keys = ", ".join(f'"{number}": 0' for number in range(10**5))
    assert "'7'" in reason(read_line(f'{{{keys}, "7": 0}}', tmp_path))


@pytest.mark.parametrize("depth", [DEEPEST, DEEPEST + 1, 900, 1_000, 100_000])
def test_nesting(depth: int, tmp_path: Path) -> None:
    bomb = '{"a": ' * (depth // 2) + "[" * (depth - depth // 2) + "]" * (depth - depth // 2)
    row = read_line(bomb + "}" * (depth // 2), tmp_path)
    if depth == DEEPEST:
        assert isinstance(row.value, dict)
    else:
        assert reason(row) == f"nested deeper than {DEEPEST} levels"
        assert len(row.text) <= LONGEST_BROKEN
    # Many brackets are no depth.
    assert read_line('{"a": "' + "[{" * depth + '"}', tmp_path).value == {"a": "[{" * depth}


def test_a_nested_bomb_as_one_document(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert "nested too deeply" in refusal(path)
    path.write_text('[{"a": ' + "[" * 300 + "]" * 300 + "}, {}]")
    assert [isinstance(row.value, Defect) for row in read(path)] == [True, False]


def test_a_line_of_50_mb_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    with path.open("wb") as file:
        file.write(b"{}\n" + b'{"a": "')
        for _ in range(50):
            file.write(b"x" * 2**20)
        file.write(b'"}\n{}\n')
    tracemalloc.start()
    (block,) = blocks_of(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * LONGEST_ROW
    tracemalloc.stop()
    assert len(block.content) < 2 * LONGEST_BROKEN
    rows = list(block_rows(block))
    assert [row.origin.row for row in rows] == [1, 2, 3]
    assert rows[0].value == rows[2].value == {}
    assert reason(rows[1]) == f"the line has more than {LONGEST_ROW:,} bytes"
    assert rows[1].text == '{"a": "' + "x" * (LONGEST_BROKEN - 7)


def test_a_line_just_over_the_limit_is_broken_and_one_just_within_is_not(tmp_path: Path) -> None:
    fits = '{"a": "' + "x" * (LONGEST_ROW - 9) + '"}'
    assert len(fits) == LONGEST_ROW
    rows = read(write_rows(tmp_path / "pairs.jsonl", [fits, fits + " ", " " * 2 * LONGEST_ROW]))
    assert [isinstance(row.value, Defect) for row in rows] == [False, True, True]


def test_rows_of_columns_have_the_same_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_batches, "LONGEST_ROW", 1000)
    pq.write_table(pa.table({"a": ["short", "x" * 1000, "y" * 900]}), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row.value for row in rows[::2]] == [{"a": "short"}, {"a": "y" * 900}]
    assert reason(rows[1]) == "the row has more than 1,000 bytes"
    assert rows[1].text.startswith("{'a': 'xxx")


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zst)])
@pytest.mark.parametrize("name", ["bomb.jsonl", "bomb.csv", "bomb.json"])
def test_a_bomb_is_stopped_at_the_limit(
    name: str,
    ending: str,
    pack: Callable[[bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"{name}.{ending}"
    path.write_bytes(pack(b"[" * name.endswith("json") + (b" " * 1023 + b"\n") * 2**13))  # 8 MiB
    size = path.stat().st_size
    assert size * streams.MAX_EXPANSION < 2**23
    monkeypatch.setattr(streams, "FREE_EXPANSION", 2**22)
    found = refusal(path)
    assert f"its {size:,} bytes unpack to more than 4," in found
    assert "a file may unpack to 4,194,304 bytes or 200 times its size" in found
    path.write_bytes(pack(os.urandom(2**22).hex().encode()))  # as large, and no bomb
    assert "unpack" not in (refusal(path) if "json" in path.suffixes else "")


def test_a_column_bomb_is_stopped_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FREE_EXPANSION", 2**23)
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"a": ["x" * 10_000] * 2000}), path)  # 20 MB of one text
    assert "unpack to more than" in refusal(path)


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.zst"
    path.write_bytes(zst(LINES * (2**26 // len(LINES))))
    tracemalloc.start()
    total = sum(len(block.content) for block in read_blocks(SourceFile(path, path.name)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 0.99 * 2**26
    assert peak < 3 * readers.BLOCK_BYTES


def as_gz(path: Path) -> Path:
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(LINES))
    return path


def as_zst(path: Path) -> Path:
    path = path.with_suffix(".jsonl.zst")
    path.write_bytes(zst(LINES))
    return path


def as_parquet(path: Path) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def as_arrow(path: Path) -> Path:
    path = path.with_suffix(".arrow")
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return path


def as_stream(path: Path) -> Path:
    path = path.with_suffix(".arrow")
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return path


WRITERS = [as_gz, as_zst, as_parquet, as_arrow, as_stream]


@pytest.mark.parametrize("write", WRITERS)
def test_a_truncated_file(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "pairs")
    assert len(read(path)) == len(ROWS)
    content = path.read_bytes()
    for length in {1, 3, 10, *range(20, len(content), 97), len(content) - 8, len(content) - 1}:
        path.write_bytes(content[:length])
        refusal(path)


def test_an_arrow_stream_that_breaks_off_between_two_batches(tmp_path: Path) -> None:
    path = as_stream(tmp_path / "pairs")
    path.write_bytes(path.read_bytes()[:-8])  # all batches are there, only the end is missing
    assert "its end is missing" in refusal(path)


@pytest.mark.parametrize("write", [as_gz, as_parquet])
def test_a_damaged_file(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "pairs")
    content = bytearray(path.read_bytes())
    content[4:80] = bytes(76)
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "it is empty"),
        ("a.parquet", b"", "it is empty"),
        ("a.txt", b"hello", "the file type is not known"),
        ("a.parquet.gz", b"hello", "the file type is not known"),
        ("a.jsonl.gz", LINES, "incorrect header check"),
        ("a.jsonl.zst", LINES, "ZSTD"),
        ("a.parquet", LINES, "magic bytes"),
        ("a.arrow", LINES, "it is no Arrow file"),
        ("a.jsonl", json.dumps(ROWS).encode(), "it holds a list"),
        ("a.jsonl", b"\xef\xbb\xbf\n[\n  {}\n]", "it holds a list"),
        ("a.json", LINES, "if each line is a row, name it .jsonl"),
        ("a.json", b'{"version": 1, "data": [{}, {}]}', "the list under its key 'data'"),
        ("a.json", b'{"data": [' + b"{}," * 2**19, "the list under its key 'data'"),
        ("a.json", b'"text"', "it holds no list of rows"),
        ("a.json", b" \n ", "it holds no list of rows"),
        ("a.json", b"[{},\n{}", "in line 2: ',' or ']' was expected after item 2"),
        ("a.json", b"[{},\n{},\n]", "in line 3: Expecting value"),
        ("a.json", b'[{},\n{"a":\n1,}]', "in line 3: "),
        ("a.json", b"[{}]\n[{}]", "in line 2: something follows the list"),
        ("a.csv", b'q,a\nq,a\nq,"a\nq,a\n', "in the row of line 3: unexpected end of data"),
        ("a.csv", b'q,a\n"q"x,a\n', "in the row of line 2: ',' expected after '\"'"),
        ("a.csv", b"q,a,q\n1,2,3\n", "2 columns are named 'q'"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(
    name: str, content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(tmp_path / name)


def test_csv_rows_and_json_items_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LONGEST_ROW", 2**19)
    path = tmp_path / "pairs.csv"
    for row in (b"x" * 2**20, b'"x"' + b',"x\n"' * 2**18):
        path.write_bytes(b"a,b\n" + row)
        assert "a row has more than 524,288 characters" in refusal(path)
    path = tmp_path / "pairs.json"
    path.write_bytes(b'[{"a": "' + b"x" * 2**20 + b'"}]')
    assert "in line 1: Unterminated string starting at, or an item has over" in refusal(path)
    path.write_bytes(b'[{"a": "' + b"x" * (2**19 + 2**17) + b'"}]')
    assert "in line 1: an item has over 524,288 characters" in refusal(path)
    path.write_bytes(b'[{},\n{"a": "' + b"x" * 2**24)
    assert "in line 2: Unterminated string" in refusal(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_byte_order_mark_and_crlf(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    content = {"a.jsonl": b'{"k": "1"}\r\n{"k": "2"}\r\n', "a.csv": b"k\r\n1\r\n2\r\n"}.get(
        name, b'[\r\n{"k": "1"},\r\n{"k":\r\n"2"}]\r\n'
    )
    path = tmp_path / (name + (".gz" if pack is not bytes else ""))
    path.write_bytes(pack(b"\xef\xbb\xbf" + content))
    rows = read(path)
    assert [row.value for row in rows] == [{"k": "1"}, {"k": "2"}]
    assert [row.origin.row for row in rows] == ([2, 3] if name == "a.csv" else [1, 2])


def strings(values: list[bytes], offsets: list[int]) -> pa.Array:
    buffers = [pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in offsets))]
    return pa.Array.from_buffers(
        pa.string(), len(offsets) - 1, [None, *buffers, pa.py_buffer(b"".join(values))]
    )


def test_broken_utf8_in_columns(tmp_path: Path) -> None:
    table = pa.table({"a": strings([b"good", b"b\xffd", b"fine"], [0, 4, 7, 11]), "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row.value for row in rows[::2]] == [{"a": "good", "n": 1}, {"a": "fine", "n": 3}]
    assert reason(rows[1]).startswith("the column 'a' cannot be read: 'utf-8' codec")
    assert rows[1].text == "{'n': 2}"


def test_an_arrow_file_that_points_beyond_its_memory(tmp_path: Path) -> None:
    table = pa.table({"a": strings([b"good"], [0, 10**9, 4])})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert "Offset invariant failure" in refusal(tmp_path / "a.arrow")


def test_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"]], names=["chosen", "chosen"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "2 columns are named 'chosen'" in refusal(tmp_path / "a.parquet")


JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 20), st.none() | st.integers(0, 2), st.booleans())
def test_a_json_list_is_read_in_pieces(
    items: list[Any], size: int, indent: int | None, ascii_only: bool
) -> None:
    # A lone surrogate cannot be written but as an escape.
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    found = list(array_lines(chunks))
    assert [json.loads(line) for _, line in found] == json.loads(text)
    assert [number for number, _ in found] == list(range(1, len(items) + 1))
    assert not any(b"\n" in line for _, line in found)
