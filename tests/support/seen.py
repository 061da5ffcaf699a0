"""Rows as a watermark has them, for tests."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import polars as pl

from orpo_pipeline.retraining.rows import KEY, SEEN
from orpo_pipeline.retraining.watermark import Watermark
from schemas.retraining import Trained


def seen(text: str, place: int = 1, **other: Any) -> dict[str, Any]:
    """An accepted row with this content, at this line of the source `votes`."""
    row = {
        "source": "votes",
        "row_id": hashlib.sha256(text.encode()).digest(),
        "accepted": True,
        "origin": f"votes/train-a.jsonl:{place}",
        "label": "votes",
        "prompt_tokens": 10,
    }
    return {**row, **other}


def frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SEEN).sort(KEY)


def watermark(rows: Iterable[dict[str, Any]], dataset_id: str = "old", **other: Any) -> Watermark:
    """A training of version 1 on 1 November."""
    values = {
        "when": datetime(2026, 11, 1, tzinfo=UTC),
        "snapshot_id": "s",
        "dataset_id": dataset_id,
        "model_name": "tiny",
        "version": "1",
        "experiment_id": "0",
        "run_id": "r",
    }
    return Watermark(Trained.model_validate({**values, **other}), frame(rows))
