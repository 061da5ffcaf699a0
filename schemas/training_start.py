"""What a training begins from."""

from pathlib import Path

from schemas.record import Record


class WarmStart(Record):
    """The adapter of a registered version, and the rows that it has seen."""

    version: str
    path: Path
    """Folder of the adapter."""
    adapter_sha256: str
    prepared_id: str
    """Prepared data whose rows to train on the version, or one that it started from, has seen."""
    replay_share: float
    """Of those rows, the share that is trained on again."""

    @property
    def identity(self) -> dict[str, str | float]:
        """What of it decides the trained weights."""
        return self.model_dump(include={"adapter_sha256", "prepared_id", "replay_share"})


class TrainingStart(Record):
    """The base model, unless `warm` is set."""

    because: str
    """A sentence: why so, and on how many rows."""
    warm: WarmStart | None = None


FROM_BASE = TrainingStart(because="from the base model")
