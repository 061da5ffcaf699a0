"""The small records that stages hand to each other. Rows, models and tensors stay on disk."""

from pathlib import Path

from schemas.plan import ModelShape, TrainingPlan
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
    reused: bool = False


class PairMetrics(Record):
    """One model on the held-out pairs. Every figure is over the same `pairs`."""

    pairs: int
    accuracy: float
    """Share of pairs whose chosen answer has the higher average log-prob per token."""
    log_odds_margin: float
    """Mean of log-odds(chosen) - log-odds(rejected)."""
    orpo_loss: float
    """Mean over pairs of NLL(prompt + chosen) + lambda * odds-ratio loss."""
    chosen_nll: float
    """Nats per answer token of the chosen answers, over all their tokens."""
    chosen_tokens: int


class EvaluationReport(Record):
    """Output of `evaluate`: base model and candidate measured by the same code."""

    path: Path
    base: PairMetrics
    candidate: PairMetrics
    generations: int
    reused: bool = False


class RegisteredVersion(Record):
    """Output of `register`."""

    model_name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    experiment_id: str
    tracking_uri: str
    because: str
    reused: bool = False


class PipelineResult(Record):
    """What one run of the main job produced."""

    prepared: PreparedData
    plan: TrainingPlan
    adapter: TrainedAdapter
    evaluation: EvaluationReport
    version: RegisteredVersion
    seconds: float
