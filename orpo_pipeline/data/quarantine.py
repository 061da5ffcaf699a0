"""quarantine.parquet: what was not trained on, why, where it stands, and how it reads.

    prepared/PREPARED/quarantine.parquet/NNNNN.parquet    parts, which readers take as one file
    blocks/SETTINGS/quarantined/PART/{part.parquet, manifest.json}

A part is known by what decides its bytes and is linked like a shard. Added rows write a last part,
and those anew in which they change the verdict on a row.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import count, groupby, pairwise
from pathlib import Path

import numpy as np
import polars as pl

from orpo_pipeline.data.block_checks import ROWS
from orpo_pipeline.data.block_store import StoredBlock
from orpo_pipeline.data.checking import as_json
from orpo_pipeline.data.prepared_files import QUARANTINE, link, read_column, read_few_rows
from orpo_pipeline.stages import (
    Entries,
    code_version,
    fingerprint,
    is_complete,
    manifest_entries,
    new_stage,
)
from schemas.frames import Quarantine
from schemas.pairs import SIDES, DefectCode

QUARANTINED, PART = "quarantined", "part.parquet"
BLOCKS_A_PART = 4
"""Of one file. With fewer there are more files, with more a new row changes more of them."""

DECIDING = ("position", "code", "reason", "row_id", "origin_file", "origin_row", "split")


def store_parts(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> list[Path]:
    """The stored parts of `rows`, in their order; written where they are not there yet.

    Args:
        rows: shard and the columns of DECIDING, by shard.

    Raises EnvironmentFault when the disk fails.
    """
    store = blocks[0].folder.parent / QUARANTINED
    return [_store_part(store, part, blocks) for part in _parts(rows, blocks)]


def link_parts(temporary: Path, parts: Sequence[Path]) -> None:
    """Links to the stored parts."""
    (temporary / QUARANTINE).mkdir()
    for name, part in zip(_names(), parts, strict=False):
        link(part / PART, temporary / name)


def part_entries(parts: Sequence[Path]) -> Entries:
    """The manifest entries of the links."""
    names = zip(_names(), parts, strict=False)
    return {name: manifest_entries(part)[PART] for name, part in names}


def row_texts(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> pl.Series:
    """`rows` (shard, position, code) as the quarantine shows them.

    A row with a defect of its own was stored with its text; that of any other is rebuilt, but for
    one that is forgotten: reports are kept with every run.
    """
    forgotten = rows["code"] == DefectCode.FORGOTTEN.value
    texts = read_column(blocks, ROWS, "text", rows)
    if forgotten.any():  # else a copy of all texts for nothing
        texts = texts.set(forgotten, "")
    missing = rows.select("shard", "position").with_row_index().filter(texts.is_null())
    places: list[int] = []
    rebuilt: list[str] = []
    for (number,), part in missing.group_by("shard", maintain_order=True):
        found = read_few_rows(blocks[int(str(number))].folder, part["position"], SIDES)
        places.extend(part["index"])
        rebuilt += map(as_json, found.iter_rows(named=True))
    return texts.scatter(places, rebuilt)


def _names() -> Iterator[str]:
    return (f"{QUARANTINE}/{number:05d}.parquet" for number in count())


def _parts(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> Iterator[pl.DataFrame]:
    """`rows` by the blocks that have them; one part, an empty one, where there are none.

    They begin anew with each file: one that comes between others changes no part of theirs.
    """
    if rows.is_empty():
        yield rows
        return
    files = groupby(blocks, key=lambda block: (block.split, block.file))
    places = [place for _, of_file in files for place, _ in enumerate(of_file)]
    # Each block stands for its part by the number of the part's first block.
    part_of_block = np.array([n - place % BLOCKS_A_PART for n, place in enumerate(places)])
    part_of_row = part_of_block[rows["shard"].to_numpy()]
    begins = np.flatnonzero(np.diff(part_of_row, prepend=-1))
    for begin, end in pairwise([*begins, rows.height]):
        yield rows[begin:end]


def _store_part(store: Path, rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> Path:
    folder = store / _identity(rows, blocks)
    if not is_complete(folder):
        with new_stage(folder) as temporary:
            Quarantine.validate(_shown(rows, blocks), lazy=True).write_parquet(temporary / PART)
    return folder


def _identity(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> str:
    names = pl.Series("block", [block.folder.name for block in blocks])
    text = rows.select(names.gather(rows["shard"]), *DECIDING).write_csv()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return fingerprint({"rows": digest, "code": code_version(__name__)})


def _shown(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> pl.DataFrame:
    severities = {code.value: code.severity.value for code in DefectCode}
    return rows.with_columns(
        severity=pl.col("code").replace_strict(severities, return_dtype=pl.String),
        row=row_texts(rows, blocks),
    ).select("origin_file", "origin_row", "split", "code", "severity", "reason", "row_id", "row")
