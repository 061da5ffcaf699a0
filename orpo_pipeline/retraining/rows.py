"""The rows of prepared data as a watermark remembers them, and what has become of them since.

Columns of such a frame (`SEEN`), one row for each content of each source:

    source         name of the watched source
    row_id         32 bytes; of a row that cannot be read as a pair, the SHA-256 of its text
    accepted       whether it was kept, to train or to evaluate
    origin         file and row, as reports show them
    label          where the row itself says that it comes from; else the source's name
    prompt_tokens  null where it was not accepted
"""

import hashlib
from pathlib import Path

import polars as pl

from orpo_pipeline.data.prepared_files import EVAL, QUARANTINE, TRAIN
from schemas.retraining import SourceChanges

SEEN = {
    "source": pl.String,
    "row_id": pl.Binary,
    "accepted": pl.Boolean,
    "origin": pl.String,
    "label": pl.String,
    "prompt_tokens": pl.Int32,
}
KEY = ["source", "row_id"]


def rows_of(prepared: Path) -> pl.DataFrame:
    """The rows of a prepared snapshot, sorted by source and row id.

    Copies of a row count once, in the source whose copy was judged.
    """
    kept = pl.concat(
        [pl.read_parquet(prepared / f"{split}.parquet", glob=False) for split in (TRAIN, EVAL)]
    ).select(
        "row_id",
        "prompt_tokens",
        "origin_file",
        "origin_row",
        accepted=pl.lit(True),
        label="source",
    )
    removed = pl.read_parquet(prepared / QUARANTINE, glob=False).select(
        _with_an_id("row_id", "row"),
        "origin_file",
        "origin_row",
        prompt_tokens=pl.lit(None, pl.Int32),
        accepted=pl.lit(False),
        label=pl.lit(""),
    )
    # A snapshot has a folder for each source.
    source = pl.col("origin_file").str.split("/").list.first()
    return (
        pl.concat([kept, removed], how="diagonal")
        .select(
            source.alias("source"),
            pl.col("row_id").str.decode("hex"),
            "accepted",
            pl.format("{}:{}", "origin_file", "origin_row").alias("origin"),
            pl.when(pl.col("label") == "").then(source).otherwise("label").alias("label"),
            "prompt_tokens",
        )
        .sort(*KEY, "accepted", "origin", descending=[False, False, True, False])
        .unique(KEY, keep="first", maintain_order=True)
    )


def _with_an_id(row_id: str, text: str) -> pl.Expr:
    def of(value: str) -> str:
        return hashlib.sha256(f"no pair: {value}".encode()).hexdigest()

    return pl.coalesce(row_id, pl.col(text).map_elements(of, return_dtype=pl.String))


def new_rows(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Rows whose content the same source did not hold before."""
    return now.join(before, on=KEY, how="anti")


def count_new(now: pl.DataFrame, before: pl.DataFrame) -> int:
    """Accepted contents that were not accepted before, from whichever source."""
    accepted = now.filter("accepted").unique("row_id")
    return accepted.join(before.filter("accepted"), on="row_id", how="anti").height


def changes(now: pl.DataFrame, before: pl.DataFrame) -> tuple[SourceChanges, ...]:
    """What was added, changed and removed, for each source that is or was there.

    A row has no name but its content. So an edited row is a new one at the place of one that is
    gone; where rows moved as well (a line was inserted above), it counts as one added and one
    removed.
    """
    added, gone = new_rows(now, before), new_rows(before, now)
    edited = added.join(gone, on=["source", "origin"], how="semi")

    def count(rows: pl.DataFrame, name: str) -> int:
        return rows.filter(pl.col("source") == name).height

    names = sorted({*now["source"].unique(), *before["source"].unique()})
    return tuple(
        SourceChanges(
            name=name,
            rows=count(now, name),
            added=count(added, name) - count(edited, name),
            changed=count(edited, name),
            removed=count(gone, name) - count(edited, name),
        )
        for name in names
    )
