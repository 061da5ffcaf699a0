"""The small records that stages hand to each other. Rows, models and tensors stay on disk."""

from pathlib import Path
from typing import Literal

from schemas.benchmark_results import BenchmarkFigure
from schemas.figures import Comparison, Estimate, Figure
from schemas.judgement import Judgement
from schemas.plan import Choice, ModelShape, TrainingPlan
from schemas.promotion import PromotionResult
from schemas.record import Record
from schemas.tokens import Longest


class BaseModelRecord(Record):
    """A base model that is on this disk and complete."""

    path: Path
    name: str
    """As a person knows it: hub id, file or folder name."""
    revision: str
    """Hub commit, or the SHA-256 of the weights."""
    licence: str | None = None
    shape: ModelShape

    @property
    def is_hub_snapshot(self) -> bool:
        """The hub cache names a snapshot's folder by its commit."""
        return self.path.name == self.revision

    @property
    def address(self) -> str:
        """What `from_pretrained` takes: a hub id where there is one, else the folder."""
        return self.name if self.is_hub_snapshot else str(self.path)


class PreparedData(Record):
    """Output of `prepare`. rows_in = train + evaluation + quarantined + duplicates."""

    path: Path
    prepared_id: str
    dataset_id: str
    base_model: BaseModelRecord
    rows_in: int
    train_pairs: int
    eval_pairs: int
    duplicates: int
    quarantined: dict[str, int]
    """Rows per defect code."""
    longest_pair: int
    """Tokens of the longest prompt + answer; 0 where nothing is kept."""
    longest_segment: int
    """Tokens of the longest prompt + chosen + rejected."""
    held_out_key: str
    """Names how evaluation prompts were chosen: those of a run are recorded under it."""
    reused: bool = False

    @property
    def longest(self) -> Longest:
        return Longest(self.longest_pair, self.longest_segment)

    @property
    def rows_quarantined(self) -> int:
        return sum(self.quarantined.values())


class TrainedAdapter(Record):
    """Output of `train`: a complete PEFT adapter."""

    path: Path
    adapter_id: str
    """Names one logical training: the stage's fingerprint. MLflow finds its run by it."""
    steps: int
    seconds: float
    resumed_from: int = 0
    forward_pass: Choice[int] | None = None
    """The plan's, or what became of it when memory ran out."""
    skipped_steps: int = 0
    """Steps that were left out because loss or gradient was not finite."""
    started_from: str | None = None
    """Number of the version whose adapter it began from; None: from the base model."""
    reused: bool = False


class Champion(Record):
    """The registered version that a candidate is compared with, its adapter on this disk."""

    version: str
    path: Path
    """Folder of the adapter; it lies there once the champion is fetched."""
    adapter_id: str
    base_model: str
    base_revision: str
    prepared_id: str | None = None
    """The prepared data that it was trained on; None when its version does not say."""


class ModelFigures(Record):
    """What was measured of one model. A figure that could not be estimated is missing."""

    version: str | None = None
    """Of the registered model; the champion's."""
    figures: dict[Figure, Estimate]


class EvaluationReport(Record):
    """Output of `evaluate`: all models measured by the same code on the same pairs."""

    path: Path
    pairs: int
    groups: int
    """Groups of equal and near-equal prompts and of dialogues, the independent units."""
    base: ModelFigures
    candidate: ModelFigures
    champion: ModelFigures | None = None
    comparisons: tuple[Comparison, ...]
    """The candidate against the base model, and against the champion when there is one."""
    smallest_difference: float | None
    """Of pair accuracy (0.05: five points) that these pairs would have shown in four of five cases,
    against the champion when there is one, else the base model. None when that is unknown."""
    longer_wins: Estimate | None = None
    """Accuracy of preferring the longer answer: what length alone gives away."""
    alarms: tuple[str, ...] = ()
    """Sentences on what is missing or looks wrong."""
    generations: int
    """Prompts that every model answered."""
    benchmarks: tuple[BenchmarkFigure, ...] = ()
    judgement: Judgement | None = None
    """The judge's; its figures are among the comparisons', too."""
    reused: bool = False

    @property
    def identity(self) -> str:
        """Names what was measured: the stage, and the judge's where it found anything."""
        if self.judgement is None or not any(rate.figures for rate in self.judgement.win_rates):
            return self.path.name
        return f"{self.path.name} {self.judgement.path.name}"

    @property
    def models(self) -> dict[str, ModelFigures]:
        """base, candidate and, when there is one, champion."""
        known = {"base": self.base, "candidate": self.candidate}
        return {**known, "champion": self.champion} if self.champion else known

    def comparison(self, against: Literal["base", "champion"]) -> Comparison | None:
        """The candidate against that model, or None when it was not measured."""
        return next((c for c in self.comparisons if c.against == against), None)


class RegisteredVersion(Record):
    """Output of `register`."""

    model_name: str
    version: str
    run_id: str
    experiment_id: str
    tracking_uri: str
    reused: bool = False


class PipelineResult(Record):
    """What one run of the main job produced."""

    prepared: PreparedData
    plan: TrainingPlan
    adapter: TrainedAdapter
    evaluation: EvaluationReport
    version: RegisteredVersion
    promotion: PromotionResult
    seconds: float
