"""The row ids of prepared data that was pruned: who was trained on a row must stay known.

    lineage/PREPARED_ID/{rows.parquet, record.json, manifest.json}

rows.parquet has the columns that `lineage.stage_rows` gives: about 40 bytes a row, mostly its id.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from orpo_pipeline.stages import MANIFEST, is_complete, new_stage

LINEAGE = "lineage"
ROWS, RECORD = "rows.parquet", "record.json"
FACTS = ("dataset_id", "prepared_id", "train_pairs", "eval_pairs")


def keep_row_list(home: Path, rows: pl.DataFrame, facts: dict[str, str | int]) -> None:
    """Keep the rows of prepared data that is about to go; doing it twice changes nothing.

    Raises EnvironmentFault when the disk fails or is full.
    """
    folder = home / LINEAGE / str(facts["prepared_id"])
    if is_complete(folder):
        return
    with new_stage(folder) as temporary:
        packed = rows.with_columns(pl.col("row_id").str.decode("hex"))
        packed.write_parquet(temporary / ROWS, compression="zstd")
        (temporary / RECORD).write_text(json.dumps({name: facts[name] for name in FACTS}))


def row_lists(home: Path) -> Iterator[Path]:
    """The folders of all complete lists."""
    for manifest in sorted((home / LINEAGE).glob(f"[!.]*/{MANIFEST}")):
        if "." not in manifest.parent.name:
            yield manifest.parent


def is_row_list(folder: Path) -> bool:
    """Whether the folder is such a list, and no prepared data."""
    return (folder / ROWS).is_file()


def scan_row_list(folder: Path) -> pl.LazyFrame:
    """Its rows, ids as hexadecimal text."""
    return pl.scan_parquet(folder / ROWS, glob=False).with_columns(
        pl.col("row_id").bin.encode("hex")
    )
