"""Files of preference data: found, opened, and read row by row with their origin."""

import csv
import glob
import gzip
import importlib.resources
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from orpo_pipeline.hub import download_snapshot, looks_like_hub_id
from schemas.config import EMBEDDED, DataConfig
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode, Origin

EMBEDDED_PAIRS = "preferences.jsonl"
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")
HUB_PATTERNS = [f"*{suffix}" for suffix in SUFFIXES]
LONGEST_ROW = 16 * 2**20  # characters; a longer line is not a preference pair
LONGEST_JSON = 2**30  # characters of a .json file, which is held in memory whole
LONGEST_SHOWN = 10_000  # characters of an unreadable row that are kept to show it
NO_ROWS = ("dataset_info.json", "dataset_infos.json")  # what `datasets` writes beside the rows
HELD_OUT = re.compile(r"(test|eval|evaluation|val|valid|validation|dev)(_\w+)?([.-]|$)")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file and the name under which reports show it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file: columns, or the defect that made it unreadable."""

    origin: Origin
    value: dict[str, Any] | Defect
    text: str = ""
    """The beginning of an unreadable row, as it stands in the file."""


def find_files(config: DataConfig) -> dict[str, list[SourceFile]]:
    """Source files by split name. Hub ids are downloaded first.

    Raises UserError when there is nothing to read or nothing for a split that the config names.
    """
    root, files = _list_files(config)
    by_split: dict[str, list[SourceFile]] = {}
    for split in filter(None, (config.train_split, config.eval_split)):
        found = [f for f in files if _belongs_to(f, split)]
        if not found and config.eval_split is None and not _has_held_out(files):
            found = files
        if not found:
            names = ", ".join(f.name for f in files[:5]) or "no data file at all"
            raise UserError(
                f"No file of split {split!r} in {root}; found {names}.",
                f"files named {split}.* or {split}-* with one of {', '.join(SUFFIXES)}.",
                "Correct data.train_split and data.eval_split, or data.source.",
            )
        by_split[split] = found
    return by_split


def _list_files(config: DataConfig) -> tuple[str, list[SourceFile]]:
    name = config.source
    if name == EMBEDDED:
        packaged = importlib.resources.files("orpo_pipeline.data") / "embedded" / EMBEDDED_PAIRS
        return name, [SourceFile(Path(str(packaged)), EMBEDDED_PAIRS)]
    path = Path(name).expanduser()
    if path.is_file():
        return name, _named([path], path.parent)
    if path.is_dir():
        return name, _files_below(path)
    matches = _data_files(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 -- absolute too
    if matches:
        return name, _named(matches, Path(os.path.commonpath([m.parent for m in matches])))
    if looks_like_hub_id(name) and not name.endswith(SUFFIXES):
        return name, _files_below(download_snapshot(name, config.revision, "dataset", HUB_PATTERNS))
    raise UserError(
        f"The data source {name!r} does not exist.",
        f"`{EMBEDDED}`, an existing file, folder or glob, or a hub id OWNER/NAME.",
        "Correct data.source (relative paths start at the current folder).",
    )


def _files_below(folder: Path) -> list[SourceFile]:
    return _named(_data_files(folder.rglob("*")), folder)


def _data_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        p for p in paths if p.name.endswith(SUFFIXES) and p.name not in NO_ROWS and p.is_file()
    )


def _named(paths: list[Path], root: Path) -> list[SourceFile]:
    # A file name may hold bytes that are no text; reports and Parquet take text only.
    names = (os.fsencode(path.relative_to(root).as_posix()) for path in paths)
    return [SourceFile(p, n.decode(errors="replace")) for p, n in zip(paths, names, strict=True)]


def _belongs_to(file: SourceFile, split: str) -> bool:
    path = PurePosixPath(file.name)  # within the source: folders above it name no split
    return path.name.startswith((f"{split}.", f"{split}-")) or path.parent.name == split


def _has_held_out(files: list[SourceFile]) -> bool:
    """Whether one of several files is named as a test set, which must not be trained on."""
    paths = [PurePosixPath(file.name) for file in files] if len(files) > 1 else []
    return any(HELD_OUT.match(path.name) or HELD_OUT.match(path.parent.name) for path in paths)


def read_rows(file: SourceFile) -> Iterator[RawRow]:
    """Every row of a file, in order; a row that cannot be parsed comes as a defect.

    Raises UserError when the file as a whole cannot be read.
    """
    name = file.path.name.removesuffix(".gz")
    try:
        if name.endswith(".jsonl"):
            yield from _read_json_lines(file)
        elif name.endswith(".json"):
            yield from _read_json(file)
        elif name.endswith(".csv"):
            yield from _read_csv(file)
        elif name.endswith(".parquet"):
            yield from _read_parquet(file)
        else:
            raise ValueError("the file type is not known")
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise unreadable(file, error) from error


def unreadable(file: SourceFile, error: Exception) -> UserError:
    """The error of a file that cannot be read as a whole."""
    return UserError(
        f"The data file {file.path} cannot be read: {error}.",
        f"a readable, complete file of one of the types {', '.join(SUFFIXES)}.",
        "Repair or remove the file.",
    )


def _open_text(path: Path, newline: str | None = None) -> TextIO:
    # Undecodable bytes become U+FFFD, which the damaged_characters rule then finds row by row.
    options: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "replace", "newline": newline}
    return gzip.open(path, "rt", **options) if path.suffix == ".gz" else path.open(**options)


def _read_json_lines(file: SourceFile) -> Iterator[RawRow]:
    with _open_text(file.path) as lines:
        for number, line in enumerate(_bounded_lines(lines), start=1):
            if line.strip():
                value = _parse_object(line)
                shown = line.strip()[:LONGEST_SHOWN] if isinstance(value, Defect) else ""
                yield RawRow(Origin(file.name, number), value, shown)


def _bounded_lines(text: TextIO) -> Iterator[str]:
    """Lines, each cut after LONGEST_ROW + 1 characters, so that none of them fills the memory."""
    while line := text.readline(LONGEST_ROW + 1):
        rest = line
        while len(rest) > LONGEST_ROW and not rest.endswith("\n"):
            rest = text.readline(LONGEST_ROW + 1)
        yield line.removesuffix("\n")


def _parse_object(line: str) -> dict[str, Any] | Defect:
    if len(line) > LONGEST_ROW:
        return Defect(DefectCode.BROKEN_ROW, f"the line has more than {LONGEST_ROW:,} characters")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Defect(DefectCode.BROKEN_ROW, f"not JSON: {error}")
    return _as_row(value)


def _as_row(value: Any) -> dict[str, Any] | Defect:
    if isinstance(value, dict):
        return value
    return Defect(DefectCode.BROKEN_ROW, f"a JSON object was expected, not {type(value).__name__}")


def _read_json(file: SourceFile) -> Iterator[RawRow]:
    with _open_text(file.path) as text:
        content = text.read(LONGEST_JSON + 1)
    if len(content) > LONGEST_JSON:
        raise ValueError(f"it has more than {LONGEST_JSON:,} characters; JSON Lines may have more")
    if not content.lstrip().startswith("["):
        raise ValueError("it holds no list of rows; if each line is a row, name it .jsonl")
    try:
        rows = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for number, item in enumerate(rows, start=1):
        value = _as_row(item)
        shown = json.dumps(item)[:LONGEST_SHOWN] if isinstance(value, Defect) else ""
        yield RawRow(Origin(file.name, number), value, shown)


def _read_csv(file: SourceFile) -> Iterator[RawRow]:
    csv.field_size_limit(LONGEST_ROW)
    with _open_text(file.path, newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for number, row in enumerate(reader, start=2):
                value = _as_csv_row(row)
                shown = str(row)[:LONGEST_SHOWN] if isinstance(value, Defect) else ""
                yield RawRow(Origin(file.name, number), value, shown)
        except csv.Error as error:  # after a wrong quote nothing says where the next row begins
            raise ValueError(f"in the row behind line {reader.line_num}: {error}") from error


def _as_csv_row(row: dict[Any, Any]) -> dict[str, Any] | Defect:
    if None in row:
        return Defect(DefectCode.BROKEN_ROW, "the row has more fields than the header")
    return row


def _read_parquet(file: SourceFile) -> Iterator[RawRow]:
    number = 0
    with pq.ParquetFile(file.path) as parquet:
        for batch in parquet.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(Origin(file.name, number), value)
