"""From a data set's id to its rows, and from a row to the data sets that hold it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from orpo_pipeline.data.explanation import prepared_folders
from orpo_pipeline.data.prepared_files import EVAL, TRAIN
from orpo_pipeline.data.publication import RECORD
from orpo_pipeline.data.row_lists import is_row_list, row_lists, scan_row_list

ROW_COLUMNS = ("row_id", "split", "source", "origin_file", "origin_row")


@dataclass(frozen=True, slots=True)
class PreparedStage:
    """Prepared data in the state folder, or the list of its rows where it was pruned."""

    folder: Path
    dataset_id: str
    prepared_id: str
    train_pairs: int
    eval_pairs: int


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where one row is in one prepared stage."""

    row_id: str
    split: str
    origin: str
    """file:row"""
    stage: PreparedStage


def prepared_stages(home: Path) -> Iterator[PreparedStage]:
    """All prepared data of the state folder, the newest first, and then what was pruned."""
    for folder in [*prepared_folders(home), *row_lists(home)]:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        yield PreparedStage(
            folder,
            record["dataset_id"],
            record["prepared_id"],
            record["train_pairs"],
            record["eval_pairs"],
        )


def find_stage(home: Path, dataset_id: str, prepared_id: str | None) -> PreparedStage | None:
    """The prepared data of these ids; without a prepared id any of the same data set."""
    for stage in prepared_stages(home):
        if stage.dataset_id == dataset_id and prepared_id in (None, stage.prepared_id):
            return stage
    return None


def stage_rows(folder: Path) -> pl.DataFrame:
    """Every kept row: row_id, split, source, origin_file, origin_row; by split and row id."""
    return scan_rows(folder).collect()


def scan_rows(folder: Path) -> pl.LazyFrame:
    """The same, unread: a filter then reads only what it needs."""
    if is_row_list(folder):
        return scan_row_list(folder).select(ROW_COLUMNS)
    sides = [
        pl.scan_parquet(folder / f"{split}.parquet", glob=False).with_columns(split=pl.lit(split))
        for split in (TRAIN, EVAL)
    ]
    return pl.concat([side.select(ROW_COLUMNS) for side in sides])


def find_row(home: Path, prefix: str) -> list[RowPlace]:
    """Every place of the rows whose id begins so, the newest stage first."""
    begins = pl.col("row_id").str.starts_with(prefix.lower())
    found = []
    columns = ("row_id", "split", "origin_file", "origin_row")
    for stage in prepared_stages(home):
        rows = scan_rows(stage.folder).filter(begins).select(columns)
        for row_id, split, file, row in rows.collect().iter_rows():
            found.append(RowPlace(row_id, split, f"{file}:{row}", stage))
    return found
