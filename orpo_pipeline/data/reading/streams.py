"""Text files as streams of whole lines, under limits that hold whatever the file contains.

JSON arrays and CSV become numbered JSON lines, one a row. Everything here raises OSError or
ValueError for a file that cannot be read as a whole.
"""

import codecs
import csv
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

CHUNK_BYTES = 2**18
LONGEST_ROW = 16 * 2**20  # bytes (characters of a JSON array's item); longer is no preference pair
LONGEST_BROKEN = 10_000  # bytes or characters that are kept of an unreadable row
MAX_EXPANSION = 200  # times its size; real text packs 3 to 30 times
FREE_EXPANSION = 2**30  # bytes to which any file may unpack
BOM = b"\xef\xbb\xbf"
CODECS = {".gz": "gzip", ".zst": "zstd"}
AFTER_ITEM = tuple(",] \t\r\n")
SPACE = re.compile(r"[ \t\r\n]*")
LIST_UNDER_KEY = re.compile(r'"((?:[^"\\]|\\.){1,100})"\s*:\s*\[')

# Instead of a row that cannot be kept stands one of these and the row's beginning. No JSON begins
# so: a file that holds such a line itself has a broken row there in any case.
TOO_LONG = b"\xff\x00\xffL"
TOO_MANY_FIELDS = b"\xff\x00\xffF"


def open_regular(path: Path) -> BinaryIO:
    """The file for reading. Pipes, devices and sockets are not opened: that may block."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size == 0:
        raise ValueError("it is empty")
    return path.open("rb")


def read_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Generator[bytes, None, None]:
    """The file's content, unpacked when its name ends with .gz or .zst."""
    codec = CODECS.get(path.suffix)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        stream = pa.input_stream(file, compression=codec) if codec else file
        unpacked = 0
        while chunk := stream.read(chunk_bytes):
            unpacked += len(chunk)
            if codec:
                check_expansion(unpacked, size)
            yield chunk


def check_expansion(unpacked: int, size: int) -> None:
    """Raise ValueError when `size` bytes of a file have become too many."""
    if unpacked > max(MAX_EXPANSION * size, FREE_EXPANSION):
        raise ValueError(
            f"its {size:,} bytes unpack to more than {unpacked - 1:,}; "
            f"a file may unpack to {FREE_EXPANSION:,} bytes or {MAX_EXPANSION} times its size"
        )


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Runs of whole lines, without a byte order mark; the file's last line may have no end.

    A line of more than LONGEST_ROW bytes comes alone, as TOO_LONG and its beginning.
    """
    runs = _line_runs(chunks)
    yield next(runs, b"").removeprefix(BOM)
    yield from runs


def _line_runs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []  # of the line that no chunk has ended yet
    length = 0
    for chunk in chunks:
        first = chunk.find(b"\n") + 1
        if first:
            yield _join_line(parts, length, chunk[:first])
            last = chunk.rfind(b"\n") + 1
            if last > first:
                yield chunk[first:last]
            parts, length = [chunk[last:]], len(chunk) - last
        else:
            if length <= LONGEST_ROW:
                parts.append(chunk)
            length += len(chunk)
    if length:
        yield _join_line(parts, length, b"")


def _join_line(parts: list[bytes], length: int, rest: bytes) -> bytes:
    if length + len(rest.removesuffix(b"\n")) <= LONGEST_ROW:
        return b"".join((*parts, rest))
    begin = b"".join((*parts, rest))[:LONGEST_BROKEN].removesuffix(b"\n")
    return TOO_LONG + begin + b"\n"


def array_lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number and JSON line of each item of a JSON array, as it stands but for line ends."""
    text = _JsonText(chunks)
    if not text.take("["):
        raise ValueError(text.why_no_list())
    number = 0
    while not text.take("]"):
        if number and not text.take(","):
            raise ValueError(f"in line {text.line}: ',' or ']' was expected after item {number}")
        number += 1
        yield number, text.item().replace("\n", " ").replace("\r", " ").encode()
    if text.next_character():
        raise ValueError(f"in line {text.line}: something follows the list")


class _JsonText:
    """A window over JSON text that moves on value by value."""

    # Only the items' ends are wanted: a number of 10,000 digits is left to whoever reads the row.
    decoder = json.JSONDecoder(parse_int=str)

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = iter(chunks)
        self.decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self.text = ""
        self.at = 0
        self.line = 1

    def next_character(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            begin = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            self.line += self.text.count("\n", self.at, begin)
            self.at = begin
            if begin < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def take(self, character: str) -> bool:
        found = self.next_character() == character
        self.at += found
        return found

    def item(self) -> str:
        self.next_character()
        while True:
            end, error = self._end_of_value()
            # A number may go on behind the window: `1`, `1.` and `1.5` may all end there.
            if error is None and self.text[end : end + 1] in AFTER_ITEM:
                break
            size = len(self.text) - self.at
            if size <= LONGEST_ROW and self._more(2 * size):
                continue
            if error is None:
                break
            line = self.line + self.text.count("\n", self.at, error.pos)
            or_long = f", or an item has over {LONGEST_ROW:,} characters"
            raise ValueError(f"in line {line}: {error.msg}{or_long if size > LONGEST_ROW else ''}")
        if end - self.at > LONGEST_ROW:
            raise ValueError(f"in line {self.line}: an item has over {LONGEST_ROW:,} characters")
        found = self.text[self.at : end]
        self.line += found.count("\n")
        self.at = end
        return found

    def _end_of_value(self) -> tuple[int, json.JSONDecodeError | None]:
        try:
            return self.decoder.raw_decode(self.text, self.at)[1], None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except json.JSONDecodeError as error:
            return 0, error

    def why_no_list(self) -> str:
        """Advice for a file that does not begin with a list."""
        self._more(CHUNK_BYTES)
        end, error = self._end_of_value()
        several = error is None and self.text[end:].strip()
        key = None if several else LIST_UNDER_KEY.search(self.text)
        if key:
            return f"it holds an object; make the list under its key {key[1]!r} the whole file"
        return "it holds no list of rows; if each line is a row, name it .jsonl"

    def _more(self, wanted: int = 1) -> bool:
        """Widen the window to `wanted` characters; whether there was any."""
        parts = [self.text[self.at :]]
        size = before = len(parts[0])
        self.at = 0
        while size < max(wanted, before + 1):
            chunk = next(self.chunks, b"")
            parts.append(self.decode(chunk, final=not chunk))
            size += len(parts[-1])
            if not chunk:
                break
        self.text = "".join(parts)
        return size > before


def csv_lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number of the first line and JSON line of each row of a CSV file with a header.

    Fields that a row lacks are null; a row with too many comes as TOO_MANY_FIELDS and its fields.
    """
    csv.field_size_limit(LONGEST_ROW)
    lines = _CsvLines(chunks)
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        first = reader.line_num + 1
        lines.characters = 0
        try:
            row = next(reader, None)
        except csv.Error as error:  # after a wrong quote nothing says where the next row begins
            raise ValueError(f"in the row of line {first}: {error}") from error
        if row is None:
            return
        if not row:
            continue
        if header:
            yield first, _csv_row(header, row)
        else:
            header = row
            require_unique(header)


class _CsvLines:
    """Lines for a csv.reader that stop at a row over LONGEST_ROW characters."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.characters = 0
        self.lines = self._lines(chunks)

    def __iter__(self) -> Iterator[str]:
        return self.lines

    def _lines(self, chunks: Iterable[bytes]) -> Iterator[str]:
        for run in whole_lines(chunks):
            long = run.startswith(TOO_LONG)
            for line in io.StringIO(run.decode("utf-8", "replace"), newline=""):
                self.characters += len(line)
                if long or self.characters > LONGEST_ROW:
                    raise ValueError(f"a row has more than {LONGEST_ROW:,} characters")
                yield line


def _csv_row(header: list[str], row: list[str]) -> bytes:
    if len(row) > len(header):
        return TOO_MANY_FIELDS + json.dumps(row)[:LONGEST_BROKEN].encode()
    fields: dict[str, Any] = dict.fromkeys(header)
    fields.update(zip(header, row, strict=False))
    return json.dumps(fields, ensure_ascii=False).encode()


def require_unique(names: list[str]) -> None:
    """Raise ValueError when two columns have one name."""
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise ValueError(f"{count} columns are named {name[:100]!r}")
