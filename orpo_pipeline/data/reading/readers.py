"""Rows of preference data with their origin, read in blocks that can be prepared one by one."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from orpo_pipeline.data.reading.files import SUFFIXES, SourceFile, unreadable
from orpo_pipeline.data.reading.quick_json import quickly_parsed
from orpo_pipeline.data.reading.record_batches import (
    arrow_batches,
    parquet_batches,
    row_runs,
    rows_of_run,
)
from orpo_pipeline.data.reading.streams import (
    LONGEST_BROKEN,
    LONGEST_ROW,
    TOO_LONG,
    TOO_MANY_FIELDS,
    array_lines,
    check_expansion,
    csv_lines,
    open_regular,
    read_chunks,
    whole_lines,
)
from orpo_pipeline.stages import file_sha256
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode, Origin

BLOCK_ROWS = 2048
BLOCK_BYTES = 8 * 2**20  # the row that reaches this is the block's last
DEEPEST = 100  # levels of lists and objects; Python's own limit depends on who calls
HEAD_BYTES = 4096
ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
MARKED = {
    TOO_LONG: f"the line has more than {LONGEST_ROW:,} bytes",
    TOO_MANY_FIELDS: "the row has more fields than the header",
}

Kind = Literal["json_lines", "arrow"]
Numbers = tuple[int, ...] | None
Content = tuple[Kind, int, bytes, Numbers]
"""Kind, first_row, content and numbers of a block."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file: columns, or the defect that made it unreadable."""

    origin: Origin
    value: dict[str, Any] | Defect
    text: str = ""
    """The beginning of an unreadable row, as it stands in the file."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of consecutive rows of one file: what is prepared once and kept by its digest."""

    file: str
    index: int
    first_row: int
    """Rows of the file before this block; lines where rows are numbered by their lines."""
    kind: Kind
    content: bytes
    """JSON lines, or one record batch in Arrow's stream format."""
    numbers: Numbers
    """Row numbers, counted from 1 after `first_row`. None: 1, 2, 3 and so on."""
    digest: str
    """Hex SHA-256 of kind, numbers and content: not of the block's name or place."""


def read_blocks(file: SourceFile) -> Iterator[Block]:
    """All rows of a file, block by block, in constant memory.

    Where a block ends depends only on what stands before: rows that are added to the end of a
    file leave all blocks but the last as they were. Raises UserError when the file as a whole
    cannot be read.
    """
    try:
        for index, (kind, first_row, content, numbers) in enumerate(_contents(file.path)):
            digest = _digest(kind, content, numbers)
            yield Block(file.name, index, first_row, kind, content, numbers, digest)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(file, error) from error


def block_rows(block: Block) -> Iterator[RawRow]:
    """Every row of a block, in order; one that cannot be parsed comes as a defect."""
    rows = rows_of_run(block.content) if block.kind == "arrow" else _parse_lines(block.content)
    numbers = block.numbers
    numbered = zip(count(1), rows) if numbers is None else zip(numbers, rows, strict=True)
    for number, row in numbered:
        if row is not None:
            yield RawRow(Origin(block.file, block.first_row + number), *row)


def count_rows(block: Block) -> int:
    """How many rows a block has, without reading any: what `block_rows` is held against."""
    if block.kind == "arrow":
        with pa.ipc.open_stream(block.content) as reader:
            return sum(batch.num_rows for batch in reader)
    return sum(1 for line in block.content.split(b"\n") if line and not line.isspace())


def require_unchanged(file: SourceFile, sha256: str) -> None:
    """Raise UserError when the file is not the one that was hashed: its blocks are another's."""
    try:
        now = file_sha256(file.path)
    except OSError as error:
        raise unreadable(file, error) from error
    if now != sha256:
        raise UserError(
            f"The data file {file.path} changed while it was read.",
            "a file that nothing writes to during preparation.",
            "Start again when it is written to its end.",
        )


def _digest(kind: Kind, content: bytes, numbers: Numbers) -> str:
    digest = hashlib.sha256(f"{kind} {numbers}\n".encode())
    digest.update(content)
    return digest.hexdigest()


def _contents(path: Path) -> Iterator[Content]:
    if not path.name.endswith(SUFFIXES):
        raise ValueError("the file type is not known")
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith((".parquet", ".arrow")):
        yield from _columns(path)
        return
    with closing(read_chunks(path)) as chunks:
        if name.endswith(".json"):
            yield from rows_as_blocks(array_lines(chunks))
        elif name.endswith(".csv"):
            yield from rows_as_blocks(csv_lines(chunks))
        else:
            _refuse_array(path)
            yield from lines_as_blocks(whole_lines(chunks))


def _refuse_array(path: Path) -> None:
    with closing(read_chunks(path, HEAD_BYTES)) as chunks:
        if ARRAY.match(next(chunks, b"")):
            raise ValueError("it holds a list, and not a row in each line; name it .json")


def lines_as_blocks(runs: Iterable[bytes]) -> Iterator[Content]:
    """Runs of whole lines, however many lines each has, as blocks of their bytes."""
    parts: list[bytes] = []
    first_row = lines = size = 0
    for run in runs:
        start = 0
        while start < len(run):
            end, ended = _end_of_block(run, start, BLOCK_ROWS - lines, BLOCK_BYTES - size)
            parts.append(run[start:end])
            lines += ended
            size += end - start
            start = end
            if lines == BLOCK_ROWS or size >= BLOCK_BYTES:
                yield "json_lines", first_row, b"".join(parts), None
                first_row += lines
                parts, lines, size = [], 0, 0
    if parts:
        yield "json_lines", first_row, b"".join(parts), None


def _end_of_block(run: bytes, start: int, most_lines: int, enough_bytes: int) -> tuple[int, int]:
    """Where in the run the block ends, at the latest at its end, and how many lines that makes."""
    end = run.find(b"\n", start + enough_bytes - 1) + 1 or len(run)
    lines = run.count(b"\n", start, end)
    if lines > most_lines:
        lines, end = most_lines, start
        for _ in range(lines):
            end = run.find(b"\n", end) + 1
    return end, lines


def rows_as_blocks(rows: Iterable[tuple[int, bytes]]) -> Iterator[Content]:
    """Numbered JSON lines as blocks."""
    numbers: list[int] = []
    lines: list[bytes] = []
    size = 0
    for number, line in rows:
        numbers.append(number)
        lines.append(line)
        size += len(line) + 1
        if len(lines) == BLOCK_ROWS or size >= BLOCK_BYTES:
            yield _numbered(numbers, lines)
            numbers, lines, size = [], [], 0
    if lines:
        yield _numbered(numbers, lines)


def _numbered(numbers: list[int], lines: list[bytes]) -> Content:
    before = numbers[0] - 1
    consecutive = numbers[-1] - before == len(numbers)
    relative = None if consecutive else tuple(number - before for number in numbers)
    return "json_lines", before, b"\n".join((*lines, b"")), relative


def _columns(path: Path) -> Iterator[Content]:
    first_row = unpacked = 0
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        batches = parquet_batches if path.suffix == ".parquet" else arrow_batches
        for rows, content in row_runs(batches(file), BLOCK_ROWS, BLOCK_BYTES):
            unpacked += len(content)
            check_expansion(unpacked, size)
            yield "arrow", first_row, content, None
            first_row += rows


def _parse_lines(content: bytes) -> Iterator[tuple[dict[str, Any] | Defect, str] | None]:
    """What each line holds, and the beginning of what cannot be parsed; None for an empty line."""
    # What stands behind the last line's end is no line: rows with numbers are held against it.
    for line in content.removesuffix(b"\n").split(b"\n"):
        if not line or line.isspace():
            yield None
            continue
        if (row := quickly_parsed(line)) is not None and not _refusal(row, line):
            yield row, ""
            continue
        text = line.decode("utf-8", "replace").strip(" \t\r")
        try:
            value, end = ROW_DECODER.raw_decode(text)
            reason = _refusal(value, line) if end == len(text) else f"not JSON: extra data at {end}"
        except (ValueError, RecursionError) as error:
            reason = _explanation(error)
        if not reason:
            yield value, ""
        elif mark := MARKED.get(line[: len(TOO_LONG)]):
            shown = line[len(TOO_LONG) :].decode("utf-8", "replace")
            yield Defect(DefectCode.BROKEN_ROW, mark), shown
        else:
            yield Defect(DefectCode.BROKEN_ROW, reason), text[:LONGEST_BROKEN]


class RepeatedKey(ValueError):
    """An object has two values for one key; JSON readers differ in which they keep."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise RepeatedKey(f"the key {repeated[:100]!r} stands twice in one object")
    return value


ROW_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _explanation(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return f"nested deeper than {DEEPEST} levels"
    return str(error) if isinstance(error, RepeatedKey) else f"not JSON: {error}"


def _refusal(value: Any, line: bytes) -> str:
    """Why a parsed value is no row; empty if it is one."""
    if not isinstance(value, dict):
        return f"a JSON object was expected, not {type(value).__name__}"
    if line.count(b"[") + line.count(b"{") > DEEPEST and _is_deep(value):
        return f"nested deeper than {DEEPEST} levels"
    return ""


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        if not level:
            return False
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for items in inner for child in items if isinstance(child, (dict, list))]
    return bool(level)
