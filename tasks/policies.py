"""What all stage tasks have in common: when to try again, and how results are kept."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from schemas.errors import UserError

SERVER_WAITS = (20.0, 60.0, 120.0, 180.0)
"""Seconds before each new attempt of a task that records in MLflow. They add up to more than six
minutes: a server that is away for five is back for the last."""


def is_worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Not when the user has to change something first."""
    return not isinstance(state.data, UserError)


def stage_task(
    name: str, timeout: timedelta, waits: Sequence[float] = SERVER_WAITS
) -> dict[str, Any]:
    """Arguments of `@task` for a stage that is tried again after each of `waits` seconds.

    The result is kept under the flow run's id: a retried flow run continues after its last finished
    task, and no other flow run sees it. Across flow runs our stage folders are the cache, because
    Prefect's key sees only a task's own lines.
    """
    return {
        "name": name,
        "retries": len(waits),
        "retry_delay_seconds": list(waits),
        "retry_condition_fn": is_worth_retrying,
        "timeout_seconds": timeout.total_seconds(),
        "persist_result": True,
        "result_storage_key": "{flow_run.id}/" + name + ".json",
        "result_serializer": "json",
    }
