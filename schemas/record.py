"""What all records have in common."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen and JSON-serialisable: Prefect persists it as a task's result."""

    model_config = ConfigDict(frozen=True, extra="forbid")
