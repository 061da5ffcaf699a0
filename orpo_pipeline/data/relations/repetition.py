"""Rows that repeat: equal rows, and prompts with too many pairs."""

import polars as pl


def find_duplicates(rows: pl.DataFrame) -> pl.Series:
    """Whether an equal row of the same split stands before this one: true for all but the first.

    `rows` has row_id, split, origin_file and origin_row; the first is the one of the first file by
    name, and in it of the first row. Equal rows of different splits are a matter of leakage.
    """
    same = ["row_id", "split"]
    numbered = rows.select(*same, "origin_file", "origin_row").with_row_index("row")
    repeated = numbered.filter(pl.struct(same).is_duplicated())
    first = repeated.sort("origin_file", "origin_row", "row").unique(same, keep="first")
    return numbered.select(
        pl.col("row").is_in(repeated["row"].implode())
        & ~pl.col("row").is_in(first["row"].implode())
    ).to_series()


def overrepresented_reasons(rows: pl.DataFrame, limit: int) -> pl.Series:
    """A reason for each row beyond its prompt's `limit` pairs, else null.

    `rows` has row_id (each once) and prompt_id; the pairs with the smallest row ids stay, which is
    a sample that neither order nor file names decide.
    """
    numbered = rows.select("row_id", "prompt_id").with_row_index("row")
    pairs = pl.len().over("prompt_id")
    place = pl.col("row_id").rank("ordinal").over("prompt_id")
    reason = pl.format(
        "the prompt has {} pairs, of which {} are kept (data.max_pairs_per_prompt)",
        "pairs",
        pl.lit(limit),
    )
    beyond = (
        numbered.with_columns(pairs=pairs)
        .filter(pl.col("pairs") > limit)
        .filter(place > limit)
        .select("row", reason=reason)
    )
    return numbered.select("row").join(beyond, on="row", how="left", maintain_order="left")[
        "reason"
    ]
