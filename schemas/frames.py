"""Columns of prepared pairs, of the quarantine, and of what lies between, as Pandera models."""

from typing import Any

import pandera.polars as pa
import polars as pl

MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
CONVERSATION = pl.List(MESSAGE)
TOKEN_IDS = pl.List(pl.Int32)
SHA256 = r"^[0-9a-f]{64}$"

FORMAT_MARKS = ("lists", "headings", "code", "bold")
"""What is counted in an answer to tell whether format gives the preferred answer away."""
MARKS = (*FORMAT_MARKS, "words")

ROW_INDEX: dict[str, Any] = {
    "number": pl.UInt32,
    "code": pl.String,
    "reason": pl.String,
    "notes": pl.List(pl.Struct({"code": pl.String, "reason": pl.String})),
    "row_id": pl.String,
    "prompt_id": pl.String,
    "earlier_ids": pl.List(pl.String),
    "source": pl.String,
    "score_chosen": pl.Float64,
    "score_rejected": pl.Float64,
    "prompt_tokens": pl.Int32,
    "chosen_tokens": pl.Int32,
    "rejected_tokens": pl.Int32,
    "chosen_key": pl.UInt64,
    "rejected_key": pl.UInt64,
    "chosen_marks": pl.Struct(dict.fromkeys(MARKS, pl.UInt16)),
    "rejected_marks": pl.Struct(dict.fromkeys(MARKS, pl.UInt16)),
    "prompt_bands": pl.Binary,
    "pair_bands": pl.Binary,
}
"""One row of a checked block: `number` counts from the block's beginning, `code` is null while
the row is in, `earlier_ids` are the prompt ids of the dialogue's earlier turns (none where the
prompt is one question), `*_key` are equal for equal answers, `*_bands` are MinHash bands
(16 x u64)."""


class KeptPairs(pa.DataFrameModel):
    """train.parquet and eval.parquet: which row of which shard, in the order of row ids."""

    row_id: str = pa.Field(unique=True, str_matches=SHA256)
    prompt_id: str = pa.Field(str_matches=SHA256)
    group: pl.UInt32
    """Prompts that are equal or nearly so, or of one dialogue, have one number."""
    shard: pl.UInt32
    """shards/NNNNN.parquet"""
    position: pl.UInt32
    """Row of the shard."""
    prompt_tokens: pl.Int32 = pa.Field(ge=1)
    chosen_tokens: pl.Int32 = pa.Field(ge=1)
    rejected_tokens: pl.Int32 = pa.Field(ge=1)
    source: str
    origin_file: str
    origin_row: pl.Int64 = pa.Field(ge=1)

    class Config:
        strict = True
        ordered = True


class PairRows(pa.DataFrameModel):
    """Rows of a shard that are pairs: conversations and token ids."""

    prompt: CONVERSATION  # type: ignore[valid-type]
    chosen: CONVERSATION  # type: ignore[valid-type]
    rejected: CONVERSATION  # type: ignore[valid-type]
    prompt_ids: TOKEN_IDS  # type: ignore[valid-type]
    chosen_ids: TOKEN_IDS  # type: ignore[valid-type]
    rejected_ids: TOKEN_IDS  # type: ignore[valid-type]

    class Config:
        strict = "filter"

    @pa.dataframe_check
    @classmethod
    def prompts_end_with_the_user(cls, data: pa.PolarsData) -> pl.LazyFrame:
        last = pl.col("prompt").list.last().struct.field("role")
        return data.lazyframe.select(last == "user")

    @pa.dataframe_check
    @classmethod
    def answers_are_one_assistant_message(cls, data: pa.PolarsData) -> pl.LazyFrame:
        def one_assistant(side: str) -> pl.Expr:
            role = pl.col(side).list.first().struct.field("role")
            return (pl.col(side).list.len() == 1) & (role == "assistant")

        return data.lazyframe.select(one_assistant("chosen") & one_assistant("rejected"))

    @pa.dataframe_check
    @classmethod
    def nothing_is_empty_and_answers_differ(cls, data: pa.PolarsData) -> pl.LazyFrame:
        filled = pl.all_horizontal(
            pl.col("prompt_ids", "chosen_ids", "rejected_ids").list.len() > 0
        )
        return data.lazyframe.select(filled & (pl.col("chosen_ids") != pl.col("rejected_ids")))


class Quarantine(pa.DataFrameModel):
    """Rows of quarantine.parquet: what was not trained on, why, and where it stands."""

    origin_file: str
    origin_row: pl.Int64 = pa.Field(ge=1)
    split: str
    code: str
    severity: str
    reason: str
    row_id: str = pa.Field(nullable=True)
    """Null where the row could not be read as a pair."""
    row: str
    """The row as JSON text, or as it stood in the file when it is no JSON; at most 20,000
    characters."""

    class Config:
        strict = True
        ordered = True
