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

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from orpo_pipeline.data.block_checks import INDEX, ROWS
from orpo_pipeline.data.block_store import StoredBlock
from orpo_pipeline.data.checking import as_json
from orpo_pipeline.stages import Entries, manifest_entries
from schemas.frames import Quarantine
from schemas.pairs import SIDES, DefectCode

TRAIN, EVAL = "train", "eval"
QUARANTINE, DUPLICATES = "quarantine.parquet", "duplicates.parquet"
TOKEN_COLUMNS = tuple(f"{side}_ids" for side in SIDES)
WRITTEN_AT_ONCE = 20_000  # quarantined rows in memory


def shard_name(number: int) -> str:
    return f"{number:05d}"


def read_pairs(
    folder: Path,
    split: str,
    columns: Sequence[str] = SIDES + TOKEN_COLUMNS,
    most: int | None = None,
    only: pl.Series | None = None,
) -> pl.DataFrame:
    """The first `most` pairs of a split, by row id: `row_id` and the columns asked for.

    `only`: ids of the rows that are wanted.
    """
    index = pl.read_parquet(folder / f"{split}.parquet", columns=["row_id", "shard", "position"])
    if only is not None:
        index = index.filter(pl.col("row_id").is_in(only.implode()))
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


def read_row_ids(
    folder: Path, split: str, pairs: Sequence[int], only: pl.Series | None = None
) -> list[str]:
    """The row ids of some pairs, given by their numbers in `read_pairs`, with the same `only`."""
    ids = pl.read_parquet(folder / f"{split}.parquet", columns=["row_id"])["row_id"].sort()
    if only is not None:
        ids = ids.filter(ids.is_in(only.implode()))
    return ids[list(pairs)].to_list()


def read_shard_rows(shard: Path, positions: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of one shard, in the order of `positions`."""
    return pl.read_parquet(shard / ROWS, columns=list(columns))[positions]


def read_few_rows(shard: Path, positions: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """`read_shard_rows`, reading only the row groups that hold one of the rows."""
    wanted = positions.to_numpy()
    with pq.ParquetFile(shard / ROWS) as file:
        sizes = np.array([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)])
        group_of = np.searchsorted(np.cumsum(sizes), wanted, side="right")
        groups, place = np.unique(group_of, return_inverse=True)
        rows = file.read_row_groups(groups.tolist(), columns=list(columns), use_threads=False)
    begins = (np.cumsum(sizes) - sizes)[group_of]
    begins_now = (np.cumsum(sizes[groups]) - sizes[groups])[place]
    found = pl.from_arrow(rows)
    assert isinstance(found, pl.DataFrame)
    return found[wanted - begins + begins_now]


def read_column(
    blocks: Sequence[StoredBlock], name: str, column: str, rows: pl.DataFrame
) -> pl.Series:
    """One column of the blocks' files of that name, for `rows` (shard, position) in their order.

    Files read in one call take a quarter of the time that they take one by one.
    """
    numbers, block_of = np.unique(rows["shard"].to_numpy(), return_inverse=True)
    counts = np.array([blocks[number].rows for number in numbers], dtype=np.int64)
    places = (np.cumsum(counts) - counts)[block_of] + rows["position"].to_numpy()
    files = [blocks[number].folder / name for number in numbers]
    # Without rows any file serves, for the column's type.
    stored = pl.read_parquet(files or blocks[0].folder / name, columns=[column])
    return stored[column].gather(places)


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
    severities = {code.value: code.severity.value for code in DefectCode}
    return rows.with_columns(
        severity=pl.col("code").replace_strict(severities, return_dtype=pl.String),
        row=row_texts(rows, blocks),
    ).select("origin_file", "origin_row", "split", "code", "severity", "reason", "row_id", "row")


def row_texts(rows: pl.DataFrame, blocks: Sequence[StoredBlock]) -> pl.Series:
    """`rows` (shard, position, code) as quarantine.parquet shows them.

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
