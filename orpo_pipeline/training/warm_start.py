"""A training that goes on from a registered adapter: its weights, and the rows that it gets."""

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.adapter_files import CONFIG, check_adapter, check_loaded
from orpo_pipeline.data.lineage import prepared_stages, scan_rows
from orpo_pipeline.data.prepared_files import TRAIN
from schemas.config import LoraConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.results import BaseModelRecord
from schemas.training_start import WarmStart

SALT = "replay"
"""So that which rows are repeated has nothing to do with anything else that ids decide."""


def trained_rows(home: Path, prepared_id: str) -> pl.Series | None:
    """Row ids of the training side of prepared data, pruned or not; None when it is not known."""
    for stage in prepared_stages(home):
        if stage.prepared_id == prepared_id:
            rows = scan_rows(stage.folder).filter(pl.col("split") == TRAIN)
            return rows.select("row_id").collect()["row_id"]
    return None


def is_replayed(row_id: str, share: float) -> bool:
    """Whether a known row is trained on again: decided by its id, so always the same."""
    digest = hashlib.sha256(f"{SALT} {row_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_rows(prepared: Path, seen: pl.Series, share: float) -> tuple[pl.Series, pl.Series]:
    """Of the rows to train on: those that were not seen, and the seen ones that are repeated."""
    rows = pl.read_parquet(prepared / f"{TRAIN}.parquet", columns=["row_id"], glob=False)["row_id"]
    known = rows.is_in(seen.implode())
    again = rows.filter(known)
    repeated = pl.Series([is_replayed(one, share) for one in again], dtype=pl.Boolean)
    return rows.filter(~known), again.filter(repeated)


def rows_to_train(prepared: Path, home: Path, start: WarmStart) -> pl.Series:
    """Row ids that a warm start trains on. EnvironmentFault when it is not known what was seen."""
    seen = trained_rows(home, start.prepared_id)
    if seen is None:
        raise EnvironmentFault(
            f"The rows of version {start.version}, from which the training starts, are not in "
            f"{home}.",
            f"prepared data {start.prepared_id}, or the list of its rows.",
            "Start the same command again: it looks anew what can be started from.",
        )
    return pl.concat(split_rows(prepared, seen, start.replay_share))


def require_same_lora(folder: Path, version: str, lora: LoraConfig) -> None:
    """Raise UserError when the adapter was made with other LoRA settings than are asked for."""
    made = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    asked = {
        "r": (lora.r, made.get("r")),
        "alpha": (lora.alpha, made.get("lora_alpha")),
        "target_modules": (sorted(lora.target_modules), sorted(made.get("target_modules") or ())),
        "use_dora": (lora.use_dora, bool(made.get("use_dora"))),
        "use_rslora": (lora.use_rslora, bool(made.get("use_rslora"))),
    }
    others = {name: pair for name, pair in asked.items() if pair[0] != pair[1]}
    if others:
        listed = ", ".join(
            f"lora.{name} is {ours}, there {its}" for name, (ours, its) in others.items()
        )
        raise UserError(
            f"The training cannot start from version {version}, which has another LoRA: {listed}.",
            "the LoRA settings of the champion, whose weights are trained further.",
            "Set them as they are there, or retraining.start=base for a training from the base "
            "model.",
        )


def load_start(model: Any, start: WarmStart, base: BaseModelRecord) -> None:
    """Put the adapter's weights into the fresh one. Raises UserError when they are damaged."""
    from orpo_pipeline.training.qlora import load_trained_weights

    whose = f"version {start.version}'s"
    check_adapter(start.path, whose, base)
    load_trained_weights(model, start.path)
    check_loaded(model, "default", start.path, whose)
