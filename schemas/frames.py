"""Column contracts of prepared pairs and of the quarantine, as Pandera models."""

import pandera.polars as pa
import polars as pl

MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
CONVERSATION = pl.List(MESSAGE)
TOKEN_IDS = pl.List(pl.Int32)
SHA256 = r"^[0-9a-f]{64}$"


class PreparedPairs(pa.DataFrameModel):
    """Rows of train.parquet and eval.parquet: conversations, token ids and where they came from."""

    row_id: str = pa.Field(unique=True, str_matches=SHA256)
    prompt_id: str = pa.Field(str_matches=SHA256)
    prompt: CONVERSATION  # type: ignore[valid-type]
    chosen: CONVERSATION  # type: ignore[valid-type]
    rejected: CONVERSATION  # type: ignore[valid-type]
    prompt_ids: TOKEN_IDS  # type: ignore[valid-type]
    chosen_ids: TOKEN_IDS  # type: ignore[valid-type]
    rejected_ids: TOKEN_IDS  # type: ignore[valid-type]
    origin_file: str
    origin_row: int = pa.Field(ge=1)

    class Config:
        strict = True
        ordered = True

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
    origin_row: int = pa.Field(ge=1)
    split: str
    code: str
    reason: str
    row: str
    """The row as JSON text, or as it stood in the file when it is no JSON."""

    class Config:
        strict = True
        ordered = True
