"""What `orpo-retrain` finds, decides and remembers."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from schemas.record import Record
from schemas.results import PipelineResult, PreparedData
from schemas.retention import PruneResult
from schemas.training_start import TrainingStart


class SourceState(Record):
    """One watched source at one moment."""

    name: str
    revision: str
    """Hub commit, or a fingerprint of the contents."""


class Snapshot(Record):
    """What all sources held at one moment: a folder that nothing changes any more."""

    path: Path
    """What `data.source` of the training is."""
    snapshot_id: str
    sources: tuple[SourceState, ...]


class SourceChanges(Record):
    """One source now, against what the last training saw of it."""

    name: str
    rows: int
    """That it holds now, each content once."""
    added: int
    changed: int
    """Rows with another content at the place (file and row) of one that is gone."""
    removed: int


class DriftFigure(Record):
    """How far new rows are from those that the last training saw."""

    name: Literal["prompt length", "source mix", "acceptance"]
    value: float
    limit: float
    p_value: float
    """Probability of a value as large by chance, if new and known rows were alike."""
    alpha: float
    """The largest such probability that still counts as drift."""

    @property
    def exceeded(self) -> bool:
        """Large enough to matter, and no chance."""
        return self.value >= self.limit and self.p_value <= self.alpha


class RetrainingVerdict(StrEnum):
    """Train now, for this reason, or not."""

    FIRST = "first"
    NEW_ROWS = "new_rows"
    AGE = "age"
    DRIFT = "drift"
    FORCED = "forced"
    SKIPPED = "skipped"

    @property
    def trains(self) -> bool:
        return self is not RetrainingVerdict.SKIPPED


class Trained(Record):
    """A training that was registered, as its watermark names it."""

    when: datetime
    """UTC."""
    snapshot_id: str
    dataset_id: str
    model_name: str
    version: str
    experiment_id: str
    run_id: str


class RetrainingDecision(Record):
    """The answer of `orpo-retrain`, in one word, one sentence and its numbers."""

    verdict: RetrainingVerdict
    because: str
    new_rows: int
    """Accepted rows that the last training did not have."""
    changes: tuple[SourceChanges, ...]
    drift: tuple[DriftFigure, ...]
    """Empty without new rows, or before the first training."""
    age_days: float | None
    """None before the first training."""
    last: Trained | None
    """The training that the sources are compared with."""


class RetrainingResult(Record):
    """What one `orpo-retrain` did."""

    snapshot: Snapshot
    prepared: PreparedData
    decision: RetrainingDecision
    pipeline: PipelineResult | None
    """None when it was skipped."""
    start: TrainingStart | None = None
    """What was trained from; None when it was skipped."""
    pruned: PruneResult | None = None
    """None when another run was at work, or pruning failed."""
