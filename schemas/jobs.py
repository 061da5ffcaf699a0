"""The line protocol between a stage's child process and its parent: one JSON object a line."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.config import RunConfig
from schemas.plan import TrainingPlan
from schemas.results import Champion, PreparedData, TrainedAdapter
from schemas.training_start import WarmStart


class Line(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PrepareJob(Line):
    """Parent to child: read, check, split and tokenise."""

    kind: Literal["prepare"] = "prepare"
    config: RunConfig
    home: Path


class TrainJob(Line):
    """Parent to child: train the adapter `adapter_id`."""

    kind: Literal["train"] = "train"
    config: RunConfig
    home: Path
    prepared: PreparedData
    plan: TrainingPlan
    adapter_id: str
    start: WarmStart | None = None


class EvaluateJob(Line):
    """Parent to child: measure base model, candidate and, when there is one, champion."""

    kind: Literal["evaluate"] = "evaluate"
    config: RunConfig
    home: Path
    prepared: PreparedData
    plan: TrainingPlan
    adapter: TrainedAdapter
    champion: Champion | None = None


Job = Annotated[PrepareJob | TrainJob | EvaluateJob, Field(discriminator="kind")]
JOB: TypeAdapter[PrepareJob | TrainJob | EvaluateJob] = TypeAdapter(Job)


LOADING = "loading the model"
"""What a training does until its first forward pass: its size is no matter there."""


class Progress(Line):
    """Child to parent: what is being done, and how far. `total` 0: not known."""

    kind: Literal["progress"] = "progress"
    what: str
    done: int = 0
    total: int = 0


class Metrics(Line):
    """Child to parent: figures of one optimizer step."""

    kind: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float]


class Done(Line):
    """Child to parent, last: the stage's record as JSON."""

    kind: Literal["done"] = "done"
    record: str


class Failed(Line):
    """Child to parent, last: an error that a person can act on."""

    kind: Literal["failed"] = "failed"
    exit_code: int
    found: str
    expected: str
    fix: str


Event = Progress | Metrics | Done | Failed
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
