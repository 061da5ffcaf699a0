"""What earlier checks found out for later ones."""

from dataclasses import dataclass

from orpo_pipeline.planning.trial import Trial
from schemas.plan import ModelShape, TrainingPlan


@dataclass(slots=True)
class Known:
    """Everything is unknown until a check has said it."""

    shape: ModelShape | None = None
    model_bytes: float = 0.0
    """Of the base model, where the first run writes it into the state folder."""
    source_bytes: int = 0
    """Of all source files, as they lie on the disk."""
    row_bytes: float = 0.0
    """Of a row; 0 where no row was read."""
    rows: int | None = 0
    """In all files; None where they would have to be read to know."""
    plan: TrainingPlan | None = None
    checkpoint_bytes: float = 0.0
    trial: Trial | None = None

    def add_source(self, size: int, row_bytes: float, rows: int | None) -> None:
        """Take another source's files in."""
        self.source_bytes += size
        self.row_bytes = max(self.row_bytes, row_bytes)
        self.rows = None if self.rows is None or rows is None else self.rows + rows
