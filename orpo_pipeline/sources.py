"""Files of preference data: found, opened, and read row by row with their origin."""

import csv
import glob
import gzip
import importlib.resources
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def find_files(config: DataConfig) -> dict[str, list[SourceFile]]:
    """Source files by split name. Hub ids are downloaded first.

    Raises UserError when there is nothing to read or nothing for a split that the config names.
    """
    root, files = _list_files(config)
    by_split: dict[str, list[SourceFile]] = {}
    for split in filter(None, (config.train_split, config.eval_split)):
        found = [f for f in files if _belongs_to(f.path, split)]
        if not found and config.eval_split is None:
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
        packaged = importlib.resources.files("orpo_pipeline") / "embedded" / EMBEDDED_PAIRS
        return name, [SourceFile(Path(str(packaged)), EMBEDDED_PAIRS)]
    path = Path(name).expanduser()
    if path.is_file():
        return name, [SourceFile(path, path.name)]
    if path.is_dir():
        return name, _files_below(path)
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 -- absolute too
    if matches:
        return name, [SourceFile(match, match.name) for match in matches if match.is_file()]
    if looks_like_hub_id(name):
        return name, _files_below(download_snapshot(name, config.revision, "dataset", HUB_PATTERNS))
    raise UserError(
        f"The data source {name!r} does not exist.",
        f"`{EMBEDDED}`, an existing file, folder or glob, or a hub id OWNER/NAME.",
        "Correct data.source (relative paths start at the current folder).",
    )


def _files_below(folder: Path) -> list[SourceFile]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    return [SourceFile(path, path.relative_to(folder).as_posix()) for path in paths]


def _belongs_to(path: Path, split: str) -> bool:
    return path.name.startswith((f"{split}.", f"{split}-")) or path.parent.name == split


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
    except (OSError, EOFError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UserError(
            f"The data file {file.path} cannot be read: {error}.",
            f"a readable, complete file of one of the types {', '.join(SUFFIXES)}.",
            "Repair or remove the file.",
        ) from error


def _open_text(path: Path) -> Any:
    # Undecodable bytes become U+FFFD, which the damaged_characters rule then finds row by row.
    options: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "replace"}
    return gzip.open(path, "rt", **options) if path.suffix == ".gz" else path.open(**options)


def _read_json_lines(file: SourceFile) -> Iterator[RawRow]:
    with _open_text(file.path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield RawRow(Origin(file.name, number), _parse_object(line))


def _parse_object(line: str) -> dict[str, Any] | Defect:
    if len(line) > LONGEST_ROW:
        return Defect(DefectCode.BROKEN_ROW, f"the line has {len(line):,} characters")
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
        rows = json.load(text)
    if not isinstance(rows, list):
        raise ValueError("the file holds no list of rows")
    for number, value in enumerate(rows, start=1):
        yield RawRow(Origin(file.name, number), _as_row(value))


def _read_csv(file: SourceFile) -> Iterator[RawRow]:
    csv.field_size_limit(min(LONGEST_ROW, sys.maxsize))
    with _open_text(file.path) as lines:
        for number, row in enumerate(csv.DictReader(lines, strict=True), start=2):
            yield RawRow(Origin(file.name, number), dict(row))


def _read_parquet(file: SourceFile) -> Iterator[RawRow]:
    number = 0
    with pq.ParquetFile(file.path) as parquet:
        for batch in parquet.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield RawRow(Origin(file.name, number), value)
