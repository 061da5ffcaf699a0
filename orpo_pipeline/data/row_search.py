"""Rows by their ids in all prepared data of a state folder: which is meant, and who has it."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from orpo_pipeline.data.explanation import SHORTEST_ID, prepared_folders
from orpo_pipeline.data.forgotten import ROW_ID, read_marks
from orpo_pipeline.data.lineage import prepared_stages, scan_rows
from orpo_pipeline.data.prepared_files import DUPLICATES, EVAL, QUARANTINE, TRAIN
from orpo_pipeline.data.row_lists import row_lists
from schemas.errors import UserError
from schemas.pairs import DefectCode

LISTED = 5  # ids that an error names
TABLES = (f"{TRAIN}.parquet", f"{EVAL}.parquet", QUARANTINE, DUPLICATES)


@dataclass(frozen=True, slots=True)
class RowUse:
    """What prepared data under one prepared id has of some rows."""

    trained: frozenset[str]
    evaluated: frozenset[str]


def resolve_row_id(home: Path, wanted: str) -> str:
    """The whole row id that begins with `wanted`, of any prepared data or of the forgotten rows.

    A whole id is taken as it is: its row may be prepared later. Raises UserError when the beginning
    is too short, or belongs to no row or to several.
    """
    beginning = wanted.lower()
    if ROW_ID.fullmatch(beginning):
        return beginning
    if len(beginning) < SHORTEST_ID or not ROW_ID.fullmatch(beginning.ljust(64, "0")):
        raise UserError(
            f"{wanted!r} is no row id and not the beginning of one.",
            f"64 hexadecimal digits, or at least the first {SHORTEST_ID}.",
            "Copy the id from the data report, or ask `orpo-pipeline data explain FILE:ROW`.",
        )
    found = {row_id for row_id in read_marks(home) if row_id.startswith(beginning)}
    prepared = [folder / table for folder in prepared_folders(home) for table in TABLES]
    tables = [
        *(pl.scan_parquet(one, glob=False) for one in prepared),
        *map(scan_rows, row_lists(home)),
    ]
    for rows in tables:
        begins = pl.col("row_id").str.starts_with(beginning)
        found.update(rows.select("row_id").filter(begins).collect()["row_id"])
    if len(found) == 1:
        return found.pop()
    listed = ", ".join(sorted(found)[:LISTED])
    raise UserError(
        f"{len(found):,} rows have an id that begins with {wanted!r}: {listed}."
        if found
        else f"No prepared data has a row whose id begins with {wanted!r}.",
        "the beginning of exactly one row id.",
        "Give more digits, or all 64.",
    )


def row_uses(home: Path, row_ids: set[str]) -> dict[str, RowUse]:
    """By prepared id, pruned data too: which of the rows are trained on and evaluated on there."""
    uses = {}
    for stage in prepared_stages(home):
        # Folders with one prepared id hold the same rows.
        if stage.prepared_id not in uses:
            wanted = pl.col("row_id").is_in(sorted(row_ids))
            found = scan_rows(stage.folder).filter(wanted).select("row_id", "split").collect()
            sides = (found.filter(split=side)["row_id"] for side in (TRAIN, EVAL))
            uses[stage.prepared_id] = RowUse(*map(frozenset, sides))
    return uses


def near_duplicates_of(home: Path, row_ids: set[str]) -> set[str]:
    """Rows that were left out because they are nearly the same as one of these."""
    found: set[str] = set()
    stays = pl.any_horizontal(
        pl.col("reason").str.contains(row_id[:12], literal=True) for row_id in sorted(row_ids)
    )
    near = pl.col("code") == DefectCode.NEAR_DUPLICATE.value
    for folder in prepared_folders(home):
        rows = (
            pl.scan_parquet(folder / QUARANTINE, glob=False)
            .filter(near & stays)
            .select("row_id")
            .collect()
        )
        found.update(rows["row_id"].drop_nulls())
    return found - row_ids
