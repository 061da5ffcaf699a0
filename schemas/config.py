"""One frozen `RunConfig`: every knob of a run, its unit and what turning it does."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from schemas.evaluation_config import EvaluationConfig
from schemas.gate_config import GateConfig
from schemas.pairs import DefectCode, Severity
from schemas.retention_config import RetentionConfig
from schemas.retraining_config import RetrainingConfig
from schemas.section import Section, on_or_off
from schemas.training_config import TrainingConfig

EMBEDDED = "embedded"

WITHOUT_PASSWORD = re.compile(r"^(sqlite:.*|[^@]*|[^:@]*://[^:@]*@[^@]*)$")
"""Addresses such as HOST, SCHEME://HOST and SCHEME://USER@HOST. In the field's JSON schema, too, by
which Prefect refuses a parameter before it stores it."""

RULE_SHARES = {DefectCode.SCORE_INVERTED: 0.005}
"""Limits of single rules where `data.max_rule_share` names no others."""

ALL_LINEAR_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)


SplitName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""Part of file names, so it is no path."""


class DataConfig(Section):
    """Where the preference pairs come from and which of them are held out."""

    source: str = EMBEDDED
    """`embedded` (the packaged pairs), a file, a folder, a glob, or a hub id `owner/name`."""

    revision: str | None = None
    """Commit, tag or branch of a hub id. Unset: the newest commit."""

    train_split: SplitName = "train"
    """Files of a folder or hub id to train on: those named `SPLIT.*` or `SPLIT-*`."""

    eval_split: SplitName | None = None
    """Files to evaluate on. Unset: `eval_fraction` of the prompts is held out instead."""

    eval_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of prompts held out when there is no `eval_split`. Which ones is decided by content."""

    dialect: str | None = None
    """Name of the files' dialect. Unset: found out from each file's rows."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our field (`prompt`, `chosen`, `rejected`, `system`, `score_chosen`, `score_rejected`,
    `source`) to the column that holds it, for data in no known dialect."""

    personal_data: Literal["redact", "quarantine", "keep"] = "redact"
    """E-mail addresses, phone, card and IBAN numbers: replaced on both sides alike, or else."""

    secrets: Literal["quarantine", "redact", "keep"] = "quarantine"
    """Access keys, tokens and private keys in a row: it is set aside, or they are replaced."""

    min_score_margin: float = Field(default=0.0, ge=0)
    """Scored pairs with a smaller margin are counted in the report. In the data's own units."""

    near_duplicates: float = Field(default=0.85, gt=0, le=1)
    """Jaccard similarity from which two rows count as one, and two prompts as one group."""

    max_pairs_per_prompt: int = Field(default=5, ge=1)
    """Of a prompt's pairs so many are kept, chosen by content."""

    benchmarks: str | None = None
    """File of benchmark prompts (.txt: one a line; .jsonl: field `prompt`) never to train on."""

    max_quarantined_share: float = Field(default=0.2, ge=0, le=1)
    """Share of rows that may be quarantined before preparation fails and says why."""

    max_rule_share: dict[DefectCode, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=RULE_SHARES.copy
    )
    """The same for single rules that remove rows, by their code. `score_inverted` keeps its
    default unless it is named."""

    processes: int | None = Field(default=None, ge=1)
    """Processes that check and tokenise. Unset: one for few new rows, else one a core."""

    @field_validator("max_rule_share")
    @classmethod
    def _complete_rules(cls, given: dict[DefectCode, float]) -> dict[DefectCode, float]:
        uncounted = [c.value for c in given if c.severity in (Severity.REPAIR, Severity.REPORT)]
        if uncounted:
            raise ValueError(
                f"{', '.join(uncounted)} removes no row, so a share of it limits nothing; "
                "name codes that docs/rules.md lists as drop or quarantine"
            )
        return {**RULE_SHARES, **given}

    @model_validator(mode="after")
    def _require_one_naming(self) -> "DataConfig":
        if self.dialect is not None and self.columns:
            raise ValueError(
                "dialect and columns are both set, and each says which columns are read; "
                "remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _require_two_splits(self) -> "DataConfig":
        if self.eval_split == self.train_split:
            raise ValueError(
                f"train_split and eval_split are both {self.eval_split!r}, and no pair can be "
                "trained on and held out; name another one, or leave out eval_split"
            )
        return self


class ChatConfig(Section):
    """How a conversation becomes text and tokens."""

    template: str | None = None
    """Unset: the tokenizer's own. Or `chatml`, `zephyr`, `mistral`, `llama3`, or a Jinja file."""

    max_length: int = Field(default=1024, ge=16)
    """Tokens of prompt + answer."""

    too_long: Literal["drop", "truncate_prompt_left", "truncate_answer"] = "drop"
    """A pair over `max_length`: left out; or its prompt loses the oldest turns and then words from
    the left, keeping system turn and header; or its answers are cut. Never to nothing, and never
    so that both answers are the same."""

    control_tokens: Literal["neutralise", "quarantine"] = "neutralise"
    """Control tokens that stand in a row's own text, such as `<|im_end|>`: tokenised as plain
    text, or the row is set aside."""


class ModelConfig(Section):
    """The base model and how it is held in memory. `auto` is decided by the plan."""

    base_model: str = EMBEDDED
    """`embedded` (SmolLM2-135M-Instruct), a hub id, a local folder, or a GGUF file."""

    revision: str | None = None
    """Commit, tag or branch of a hub id. Unset: the newest commit, recorded with the run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Compute precision."""

    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    """Attention implementation."""

    quantization: Literal["auto", "nf4", "none"] = "auto"
    """`nf4`: 4-bit NormalFloat with double quantisation (QLoRA); `none`: weights in `dtype`."""

    dequantised_cache: Annotated[Literal["auto", "off"], BeforeValidator(on_or_off)] = "auto"
    """Hold the NF4 weights of so many layers in `dtype` instead, as half of the memory left over
    allows: the same numbers, and no step makes them anew."""


class LoraConfig(Section):
    """The adapter that is trained."""

    r: int = Field(default=16, ge=1)
    """Rank."""

    alpha: int = Field(default=16, ge=1)
    """Scale: the update is multiplied by alpha / r (alpha / sqrt(r) with `use_rslora`)."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input. Really applied; 0 costs nothing."""

    target_modules: tuple[str, ...] = Field(default=ALL_LINEAR_PROJECTIONS, min_length=1)
    """Names of the linear layers that get an adapter."""

    use_dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353): often better at low rank, slower."""

    use_rslora: bool = False
    """Rank-stabilised scaling (arXiv 2312.03732): for ranks of 64 and more."""


class RegistryConfig(Section):
    """Where runs and model versions are recorded."""

    tracking_uri: str | None = Field(
        default=None, json_schema_extra={"pattern": WITHOUT_PASSWORD.pattern}
    )
    """MLflow server, without a password: that stands in `MLFLOW_TRACKING_PASSWORD`. Unset:
    `MLFLOW_TRACKING_URI`, else what the state folder has: SQLite, or `ORPO_DATABASE_URL`."""

    experiment: str = Field(default="orpo-pipeline", min_length=1)
    """MLflow experiment."""

    model_name: str = Field(default="orpo-chat", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Registered model: letters, digits, dot, dash and underscore."""

    @field_validator("tracking_uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and not WITHOUT_PASSWORD.fullmatch(uri):
            raise ValueError(
                "holds a password, which would be stored with each run; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead, or PGPASSWORD"
            )
        return uri


class RunConfig(Section):
    """Everything that decides a run's result."""

    data: DataConfig = DataConfig()
    chat: ChatConfig = ChatConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    registry: RegistryConfig = RegistryConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    retention: RetentionConfig = RetentionConfig()
