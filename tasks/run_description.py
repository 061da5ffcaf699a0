"""What an MLflow run says of itself: few parameters, tags to search by, the whole configuration."""

from importlib.metadata import version
from typing import Any

import yaml

from orpo_pipeline.planning.plan import plan_table
from schemas.config import RunConfig
from schemas.plan import TrainingPlan
from schemas.results import PreparedData
from tasks.tracking_store import without_password
from tasks.version_tags import BASE_MODEL_TAG, BASE_REVISION_TAG, DATASET_TAG, PREPARED_TAG

ALWAYS_SHOWN = frozenset(
    {
        "data.source",
        "chat.max_length",
        "model.base_model",
        "lora.r",
        "lora.alpha",
        "training.orpo_lambda",
        "training.learning_rate",
        "training.lr_scheduler",
        "training.batch_size",
        "training.seed",
    }
)
"""Fields that people compare runs by. Of the others a run names those that somebody has changed."""


def parameters(config: RunConfig, prepared: PreparedData, plan: TrainingPlan) -> dict[str, str]:
    """Parameters of a run by name: `section.field`, the data's counts, the plan's choices.

    The configuration with all fields is the artifact `config.yaml`. The section `registry` says
    where a run is recorded and not what it does, so it is no parameter.
    """
    defaults = _flat(RunConfig().model_dump(mode="json"))
    shown = {
        name: value
        for name, value in _flat(config.model_dump(mode="json", exclude={"registry"})).items()
        if name in ALWAYS_SHOWN or value != defaults.get(name)
    }
    counts = {
        "data.rows": prepared.rows_in,
        "data.train_pairs": prepared.train_pairs,
        "data.eval_pairs": prepared.eval_pairs,
        "data.quarantined": prepared.rows_quarantined,
        "data.duplicates": prepared.duplicates,
    }
    choices = {f"plan.{name}": value for name, value, _ in plan_table(plan)}
    return {
        **shown,
        **{name: str(count) for name, count in counts.items()},
        **choices,
        "plan.hardware": plan.probe.name,
    }


def tags(prepared: PreparedData, commit: str | None) -> dict[str, str]:
    """Tags of a run: its name, what it was trained on, the commit of the code that trained it."""
    base = prepared.base_model
    return {
        "mlflow.runName": f"{base.name} {prepared.dataset_id[:8]}",
        "mlflow.source.name": f"orpo-pipeline {version('orpo-pipeline')}",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
        DATASET_TAG: prepared.dataset_id,
        PREPARED_TAG: prepared.prepared_id,
        BASE_MODEL_TAG: base.name,
        BASE_REVISION_TAG: base.revision,
    }


def config_yaml(config: RunConfig) -> str:
    """All fields as a file for `orpo-pipeline run --config`, without passwords in addresses."""
    values = config.model_dump(mode="json")
    return without_password(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            flat[prefix + key] = text
    return flat
