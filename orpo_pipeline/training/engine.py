"""What every training engine gets and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from schemas.plan import TrainingPlan
from schemas.training_config import TrainingConfig

StepMetrics = Callable[[int, int, dict[str, float]], None]
"""Called after each optimizer step with the step, the number of steps, and its figures."""


class Interrupted(Exception):
    """Training was asked to stop and has checkpointed."""


@dataclass(frozen=True)
class EngineRun:
    """One training: the engine trains `model` in place and keeps checkpoints in `work`.

    When `should_stop()` becomes true it checkpoints after the current step and returns.
    """

    model: Any
    """Causal language model, PEFT-wrapped with a trainable adapter or trainable itself."""
    tokenizer: Any
    pairs: Path
    """Folder of the prepare stage."""
    training: TrainingConfig
    plan: TrainingPlan
    work: Path
    on_step: StepMetrics
    should_stop: Callable[[], bool]
    rows: pl.Series | None = None
    """Ids of the rows to train on; None: all of the prepared data's training side."""
    checkpoint: Path | None = None
    """Of `work`, the one to go on from, whose files have been verified."""


Engine = Callable[[EngineRun], int]
"""Trains and returns the step that it resumed from (0: from the beginning)."""


def find_engine(name: str) -> Engine:
    """The engine that the plan names."""
    from orpo_pipeline.training.packed.engine import train_packed
    from orpo_pipeline.training.trl_engine import train_with_trl

    return {"packed": train_packed, "trl": train_with_trl}[name]
