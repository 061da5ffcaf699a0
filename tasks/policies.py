"""What all stage tasks have in common: when to try again, and how results are kept."""

from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from schemas.errors import UserError


def is_worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Not when the user has to change something first."""
    return not isinstance(state.data, UserError)


def stage_task(name: str, timeout: timedelta, retries: int, delay: timedelta) -> dict[str, Any]:
    """Arguments of `@task` for a stage.

    The result is kept under the flow run's id: a retried flow run continues after its last finished
    task, and no other flow run sees it. Across flow runs our stage folders are the cache, because
    Prefect's key sees only a task's own lines.
    """
    return {
        "name": name,
        "retries": retries,
        "retry_delay_seconds": delay.total_seconds(),
        "retry_condition_fn": is_worth_retrying,
        "timeout_seconds": timeout.total_seconds(),
        "persist_result": True,
        "result_storage_key": "{flow_run.id}/" + name + ".json",
        "result_serializer": "json",
    }
