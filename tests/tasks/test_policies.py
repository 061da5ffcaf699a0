"""Which failures are tried again, and for how long."""

from typing import Any

import pytest
from prefect import Task, task
from prefect.states import Failed

from schemas.errors import EnvironmentFault, PipelineError, UserError
from tasks.evaluate import evaluate
from tasks.judge import judge
from tasks.policies import is_worth_retrying
from tasks.promote import promote
from tasks.register import register
from tasks.retraining import decide, remember
from tasks.train import train


@task
def some_task() -> None:
    """Only its type matters here."""


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UserError("a", "b", "c"), False),
        (EnvironmentFault("a", "b", "c"), True),
        (PipelineError("a", "b", "c"), True),
        (RuntimeError("a"), True),
    ],
)
def test_what_the_user_must_change_is_not_retried(error: Exception, again: bool) -> None:
    assert is_worth_retrying(some_task, None, Failed(data=error)) is again  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stage", [train, evaluate, judge, register, promote, decide, remember], ids=lambda t: t.name
)
def test_a_tracking_server_may_be_away_for_five_minutes(stage: Task[..., Any]) -> None:
    waits = stage.retry_delay_seconds
    assert isinstance(waits, list) and len(waits) == stage.retries
    assert sum(waits) > 300
