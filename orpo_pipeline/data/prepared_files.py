"""The files of the prepare stage, written and read.

    train.parquet, eval.parquet    which row of which shard, in the order of row ids (KeptPairs)
    shards/NNNNN/                  checked blocks: index.parquet, rows.parquet
    quarantine.parquet, duplicates.parquet, report.json, tokenizer/, record.json

Shards are links to the block store's files: a row added to a million costs no second copy.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from orpo_pipeline.data.block_store import INDEX, ROWS, StoredBlock
from orpo_pipeline.data.checking import as_json
from orpo_pipeline.stages import Entries, manifest_entries
from schemas.frames import Quarantine
from schemas.pairs import DefectCode

TRAIN, EVAL = "train", "eval"
QUARANTINE, DUPLICATES = "quarantine.parquet", "duplicates.parquet"
SIDES = ("prompt", "chosen", "rejected")
TOKEN_COLUMNS = tuple(f"{side}_ids" for side in SIDES)
WRITTEN_AT_ONCE = 20_000  # quarantined rows in memory


def shard_name(number: int) -> str:
    return f"{number:05d}"


def read_pairs(
    folder: Path,
    split: str,
    columns: Sequence[str] = SIDES + TOKEN_COLUMNS,
    most: int | None = None,
) -> pl.DataFrame:
    """The first `most` pairs of a split, by row id: `row_id` and the columns asked for."""
    index = pl.read_parquet(folder / f"{split}.parquet", columns=["row_id", "shard", "position"])
    wanted = index.head(most) if most is not None else index
    parts = [
        read_shard_rows(folder / "shards" / shard_name(number), rows["position"], columns).hstack(
            rows.select("row_id")
        )
        for (number,), rows in wanted.group_by("shard", maintain_order=True)
    ]
    if not parts:
        parts = [pl.DataFrame(schema=dict.fromkeys(("row_id", *columns), pl.Null))]
    return pl.concat(parts).sort("row_id").select("row_id", *columns)


def read_shard_rows(shard: Path, positions: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of one shard, in the order of `positions`."""
    return pl.read_parquet(shard / ROWS, columns=list(columns))[positions]


def link_shards(temporary: Path, blocks: Sequence[StoredBlock]) -> None:
    """Hard links to the blocks' files, or copies where the disk has no links."""
    for number, block in enumerate(blocks):
        shard = temporary / "shards" / shard_name(number)
        shard.mkdir(parents=True)
        for name in (INDEX, ROWS):
            try:
                os.link(block.folder / name, shard / name)
            except OSError:
                shutil.copyfile(block.folder / name, shard / name)


def shard_entries(blocks: Sequence[StoredBlock]) -> Entries:
    """The manifest entries of the links."""
    entries: Entries = {}
    for number, block in enumerate(blocks):
        known = manifest_entries(block.folder)
        for name in (INDEX, ROWS):
            entries[f"shards/{shard_name(number)}/{name}"] = known[name]
    return entries


def write_quarantine(path: Path, rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> None:
    """quarantine.parquet from `rows`: shard, position, code, reason, row_id, origin, split.

    Written in portions, since the rows' texts together may not fit the memory.
    """
    schema: pa.Schema | None = None
    writer: pq.ParquetWriter | None = None
    try:
        for part in _portions(rows):
            frame = Quarantine.validate(_with_texts(part, blocks), lazy=True)
            table = frame.to_arrow().cast(schema) if schema else frame.to_arrow()
            schema = table.schema
            writer = writer or pq.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _portions(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield rows.head(WRITTEN_AT_ONCE)  # also when there are none: the file is there
    for start in range(WRITTEN_AT_ONCE, rows.height, WRITTEN_AT_ONCE):
        yield rows.slice(start, WRITTEN_AT_ONCE)


def _with_texts(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> pl.DataFrame:
    columns = (*SIDES, "text")
    parts = []
    for (number,), part in rows.group_by("shard", maintain_order=True):
        found = read_shard_rows(blocks[int(str(number))].folder, part["position"], columns)
        texts = [row_text(*row) for row in found.iter_rows()]
        parts.append(part.with_columns(row=pl.Series(texts, dtype=pl.String)))
    whole = pl.concat(parts) if parts else rows.with_columns(row=pl.lit(""))
    severities = {code.value: code.severity.value for code in DefectCode}
    return whole.with_columns(
        severity=pl.col("code").replace_strict(severities, return_dtype=pl.String)
    ).select("origin_file", "origin_row", "split", "code", "severity", "reason", "row_id", "row")


def row_text(
    prompt: list[dict[str, str]] | None,
    chosen: list[dict[str, str]] | None,
    rejected: list[dict[str, str]] | None,
    text: str | None,
) -> str:
    """A row as quarantine.parquet shows it: kept with its reason, or rebuilt from its parts."""
    if text is not None:
        return text
    return as_json({"prompt": prompt, "chosen": chosen, "rejected": rejected})
