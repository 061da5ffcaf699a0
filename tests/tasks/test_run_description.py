"""What an MLflow run says of itself: few parameters, no password, a configuration to run again."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from schemas.config import RunConfig
from schemas.jobs import TrainJob
from tasks.run_description import ALWAYS_SHOWN, config_yaml, parameters, tags


@pytest.fixture
def job(train_job: Callable[..., TrainJob]) -> TrainJob:
    return train_job()


def test_parameters_are_those_that_tell_runs_apart(job: TrainJob) -> None:
    shown = parameters(job.config, job.prepared, job.plan)
    assert shown.keys() >= ALWAYS_SHOWN
    assert shown["training.max_steps"] == "4"  # was changed, so it is named
    assert "training.weight_decay" not in shown  # has its default
    assert int(shown["data.train_pairs"]) == job.prepared.train_pairs
    assert shown["plan.device"] == "cpu" and shown["plan.hardware"] == job.plan.probe.name
    assert len(shown) < 45


def test_every_name_that_is_always_shown_is_a_field() -> None:
    values: dict[str, Any] = RunConfig().model_dump()
    for name in ALWAYS_SHOWN:
        section, field = name.split(".")
        assert field in values[section]


def test_the_configuration_can_be_run_again(train_job: Callable[..., TrainJob]) -> None:
    config = train_job().config
    assert RunConfig.model_validate(yaml.safe_load(config_yaml(config))) == config


def test_tags_name_data_base_model_and_code(job: TrainJob) -> None:
    found = tags(job.prepared, "abc123")
    assert found["mlflow.source.git.commit"] == "abc123"
    assert found["orpo.dataset_id"] == job.prepared.dataset_id
    assert found["orpo.base_revision"] == job.prepared.base_model.revision
    assert "mlflow.source.git.commit" not in tags(job.prepared, None)
