"""The files of the prepare stage, written and read.

    train.parquet, eval.parquet    which row of which shard, in the order of row ids (KeptPairs)
    shards/NNNNN/                  checked blocks: index.parquet, rows.parquet
    quarantine.parquet/            of rows that were not taken (orpo_pipeline/data/quarantine.py)
    duplicates.parquet, report.json, tokenizer/, record.json

Shards are links to the block store's files: a row added to a million costs no second copy.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from orpo_pipeline.data.block_checks import INDEX, ROWS
from orpo_pipeline.data.block_store import StoredBlock
from orpo_pipeline.stages import Entries, manifest_entries
from schemas.pairs import SIDES

TRAIN, EVAL = "train", "eval"
QUARANTINE, DUPLICATES = "quarantine.parquet", "duplicates.parquet"
TOKEN_COLUMNS = tuple(f"{side}_ids" for side in SIDES)


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
    index = pl.read_parquet(
        folder / f"{split}.parquet", columns=["row_id", "shard", "position"], glob=False
    )
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
    ids = pl.read_parquet(folder / f"{split}.parquet", columns=["row_id"], glob=False)[
        "row_id"
    ].sort()
    if only is not None:
        ids = ids.filter(ids.is_in(only.implode()))
    return ids[list(pairs)].to_list()


def read_shard_rows(shard: Path, positions: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of one shard, in the order of `positions`."""
    return pl.read_parquet(shard / ROWS, columns=list(columns), glob=False)[positions]


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
    stored = pl.read_parquet(files or blocks[0].folder / name, columns=[column], glob=False)
    return stored[column].gather(places)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def link_shards(temporary: Path, blocks: Sequence[StoredBlock]) -> None:
    """Links to the blocks' files."""
    for number, block in enumerate(blocks):
        shard = temporary / "shards" / shard_name(number)
        shard.mkdir(parents=True)
        for name in (INDEX, ROWS):
            link(block.folder / name, shard / name)


def shard_entries(blocks: Sequence[StoredBlock]) -> Entries:
    """The manifest entries of the links."""
    entries: Entries = {}
    for number, block in enumerate(blocks):
        known = manifest_entries(block.folder)
        for name in (INDEX, ROWS):
            entries[f"shards/{shard_name(number)}/{name}"] = known[name]
    return entries
