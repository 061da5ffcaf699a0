"""The held-out pairs that are measured: which, of which prompt group, and which of them are new."""

from pathlib import Path

import polars as pl

from orpo_pipeline.data.lineage import prepared_stages, stage_rows
from orpo_pipeline.data.prepared_files import EVAL, read_pairs
from schemas.jobs import EvaluateJob

INDEX = ("row_id", "prompt_id", "group", "source", "prompt_tokens")
CONVERSATIONS = ("prompt", "chosen", "prompt_ids")


def read_index(job: EvaluateJob) -> pl.DataFrame:
    """One row a pair that is scored, by row id: INDEX and `new`, see `known_rows`."""
    index = pl.read_parquet(job.prepared.path / f"{EVAL}.parquet", columns=list(INDEX), glob=False)
    most = job.config.evaluation.max_pairs
    index = index if most is None else index.head(most)
    known = None
    if job.champion is not None and job.champion.prepared_id is not None:
        known = known_rows(job.home, job.champion.prepared_id)
    if known is None:
        return index.with_columns(new=pl.lit(None, dtype=pl.Boolean))
    return index.with_columns(new=~pl.col("row_id").is_in(known.implode()))


def known_rows(home: Path, prepared_id: str) -> pl.Series | None:
    """Row ids of all pairs of prepared data, trained on and held out; None when it is gone."""
    for stage in prepared_stages(home):
        if stage.prepared_id == prepared_id:
            return stage_rows(stage.folder)["row_id"]
    return None


def prompts_to_answer(job: EvaluateJob, index: pl.DataFrame) -> pl.DataFrame:
    """The first `evaluation.generations` different prompts: CONVERSATIONS and `group`."""
    places = index.with_row_index("place").unique("prompt_id", keep="first", maintain_order=True)
    chosen = places.head(job.config.evaluation.generations)
    if chosen.is_empty():
        return pl.DataFrame(schema={**dict.fromkeys(CONVERSATIONS, pl.Null), "group": pl.UInt32})
    rows = read_pairs(job.prepared.path, EVAL, CONVERSATIONS, most=int(chosen["place"][-1]) + 1)
    return rows.join(chosen.select("row_id", "group"), on="row_id", maintain_order="left")
