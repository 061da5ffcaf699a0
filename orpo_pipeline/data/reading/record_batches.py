"""Parquet and Arrow files as runs of rows in Arrow's stream format, and such runs as rows."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from orpo_pipeline.data.reading.streams import LONGEST_BROKEN, LONGEST_ROW, require_unique
from schemas.pairs import Defect, DefectCode

BATCH_ROWS = 128  # decoded at once; a column that repeats one long text decodes to much
PAGE_BUFFER = 2**20  # bytes of a Parquet column that are read at once, instead of all of it
ARROW_FILE = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
# What pyarrow raises for values that Python cannot hold: broken UTF-8, dates beyond the year
# 9999, time zones that do not exist.
NO_PYTHON_VALUE = (ValueError, OverflowError, LookupError, pa.ArrowException)


def parquet_batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file, of at most BATCH_ROWS rows."""
    with pq.ParquetFile(file, buffer_size=PAGE_BUFFER) as parquet:
        yield from parquet.iter_batches(batch_size=BATCH_ROWS, use_threads=False)


def arrow_batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """Batches of an Arrow file or stream, as they were written.

    They are not mapped into memory: that another process shortens the file must be an error, not
    the end of this process. Raises ValueError for a stream without its end.
    """
    if file.read(len(ARROW_FILE)) == ARROW_FILE:
        file.seek(0)
        with pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield _checked(reader.get_batch(number))
        return
    # A stream that breaks off between two batches looks complete but for this mark.
    file.seek(-min(len(END_OF_STREAM), file.seek(0, 2)), 2)
    if file.read() != END_OF_STREAM:
        raise ValueError("it is no Arrow file, or its end is missing")
    file.seek(0)
    with pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield _checked(batch)


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch; wrong offsets in it would let pyarrow read beyond its memory."""
    batch.validate(full=True)
    return batch


def row_runs(
    batches: Iterable[pa.RecordBatch], most_rows: int, most_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """Runs of rows: their number, and one plain record batch in Arrow's stream format.

    A run ends with `most_rows` rows or with the BATCH_ROWS rows that reach `most_bytes` bytes.
    """
    parts: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = _plain(batch.slice(start, min(BATCH_ROWS, most_rows - rows)))
            parts.append(part)
            start += part.num_rows
            rows += part.num_rows
            size += part.nbytes
            if rows == most_rows or size >= most_bytes:
                yield rows, _as_stream(parts)
                parts, rows, size = [], 0, 0
    if parts:
        yield rows, _as_stream(parts)


def _as_stream(parts: list[pa.RecordBatch]) -> bytes:
    batch = pa.concat_batches(parts)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows without metadata, and each with its own values: no dictionaries, no views.

    Those would be written whole with every run.
    """
    require_unique(batch.schema.names)
    columns = [
        column if (plain := _plain_type(column.type)) == column.type else column.cast(plain)
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain_type(f.type), f.nullable) for f in kind])
    if types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type), kind.list_size)
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain_type(kind.value_type))
    return kind


def rows_of_run(content: bytes) -> Iterator[tuple[dict[str, Any] | Defect, str]]:
    """Each row of a run as Python values, or why it is none and how it begins."""
    with pa.ipc.open_stream(content) as reader:
        for batch in reader:
            yield from _rows(batch)


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any] | Defect, str]]:
    if batch.nbytes <= LONGEST_ROW:
        try:
            values = batch.to_pylist()
        except NO_PYTHON_VALUE:
            pass
        else:
            yield from ((value, "") for value in values)
            return
    for number in range(batch.num_rows):
        yield _row(batch.slice(number, 1))


def _row(batch: pa.RecordBatch) -> tuple[dict[str, Any] | Defect, str]:
    row: dict[str, Any] = {}
    reason = ""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[0].as_py()
        except NO_PYTHON_VALUE as error:
            reason = f"the column {name[:100]!r} cannot be read: {error}"
    if batch.nbytes > LONGEST_ROW:
        reason = f"the row has more than {LONGEST_ROW:,} bytes"
    if reason:
        return Defect(DefectCode.BROKEN_ROW, reason), str(row)[:LONGEST_BROKEN]
    return row, ""
