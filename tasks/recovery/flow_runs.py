"""Flow runs that were cut off, on record in Prefect: continued, given up, or cancelled.

A run is continued under its own id. So Prefect takes the results of its finished tasks, and the
stage in which it was cut off continues from what it had saved.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from tasks.prefect_api import WORK_POOL, call

LIMIT = 3
"""How often in a row a run is continued. What a person schedules again has all of them again."""

CUT_OFF = "Cut off"
CONTINUED, STOPPED, GIVEN_UP = "Resuming", "Stopped", "GivenUp"
"""Our names of states. Prefect cancels a `Resuming` run at once, since it has no process yet."""

OUR_FLOWS = "orpo-"
"""What the names of our flows have in common."""

BY_A_PERSON = ("Scheduled", "AwaitingRetry")
"""Names of states in which Prefect's own commands and pages start a run, or start it again."""

Run = dict[str, Any]


class Outcome(Enum):
    """What became of a run that was cut off."""

    CONTINUED = "continued"
    GIVEN_UP = "given up"
    CANCELLED = "cancelled"


def unfinished_runs(api: str, timeout: float = 60) -> list[Run]:
    """Runs of the pool that should have a process, or should lose it."""
    state = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
    return _runs(api, {"state": state}, timeout)


def crashed_runs(api: str, since: datetime, timeout: float = 60) -> list[Run]:
    """Runs of the pool that crashed after `since`, and of which nobody has taken notice."""
    wanted = {"state": {"name": {"any_": ["Crashed"]}}, "end_time": {"after_": since.isoformat()}}
    return _runs(api, wanted, timeout)


def still_left(api: str, runs: Iterable[Run]) -> Iterator[Run]:
    """Each of them once, as it is now; not those that have come to an end of their own."""
    for identity in {run["id"]: None for run in runs}:
        now: Run = call(api, "GET", f"/flow_runs/{identity}")
        if now["state_type"] in ("RUNNING", "PENDING", "CANCELLING", "CRASHED"):
            yield now


def stopped_runs(api: str) -> list[Run]:
    """Runs that ended because somebody stopped `up`."""
    return _runs(api, {"state": {"name": {"any_": [STOPPED]}}}, 60)


def _runs(api: str, wanted: dict[str, Any], timeout: float) -> list[Run]:
    body = {"flow_runs": wanted, "work_pools": {"name": {"any_": [WORK_POOL]}}}
    found: list[Run] = call(api, "POST", "/flow_runs/filter", body, timeout)
    return found


def crash_silent_runs(api: str, silence: timedelta, timeout: float = 60) -> int:
    """End the runs of `orpo-pipeline run` whose process has given no sign of life for so long.

    They have no worker that would report their end. Prefect's engine sends a heartbeat every half
    minute (PREFECT_FLOWS_HEARTBEAT_FREQUENCY, which we set: flows of others may be silent).
    Returns how many.
    """
    before = (datetime.now(UTC) - silence).isoformat()
    wanted = {
        "state": {"type": {"any_": ["RUNNING"]}},
        "deployment_id": {"is_null_": True},
        "start_time": {"before_": before},
    }
    body = {"flow_runs": wanted, "flows": {"name": {"like_": OUR_FLOWS}}}
    runs = call(api, "POST", "/flow_runs/filter", body, timeout)
    silent = [run for run in runs if not _gave_sign(api, run, before, timeout)]
    for run in silent:
        _crash_tasks(api, run)
        message = f"{CUT_OFF}: its process is gone. The same command goes on from what is finished."
        _set_state(api, run, "CRASHED", GIVEN_UP, message, timeout)
    return len(silent)


def _gave_sign(api: str, run: Run, since: str, timeout: float) -> bool:
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
        "occurred": {"since": since},
    }
    found = call(api, "POST", "/events/filter", {"filter": wanted, "limit": 1}, timeout)
    return bool(found["events"])


def settle(api: str, run: Run) -> Outcome:
    """End a run whose process is gone, or have it continued by the worker."""
    if run["state_type"] == "CANCELLING":
        _set_state(api, run, "CANCELLED", "Cancelled", "Cancelled; its process is gone.")
        return Outcome.CANCELLED
    _crash_tasks(api, run)
    if run["state_name"] == STOPPED:
        _continue(api, run, "Goes on after `up` was stopped. Finished stages are not repeated.")
        return Outcome.CONTINUED
    number = _times_continued(api, run) + 1
    if number > LIMIT:
        message = (
            f"{CUT_OFF} {number} times, and not continued any more: {_reason(run)} "
            "`prefect flow-run retry` continues it; finished stages are not repeated."
        )
        _set_state(api, run, "CRASHED", GIVEN_UP, message)
        return Outcome.GIVEN_UP
    message = (
        f"{CUT_OFF}: {_reason(run)} Continued, {number} of {LIMIT} times. "
        "Finished stages are not repeated."
    )
    _continue(api, run, message)
    return Outcome.CONTINUED


def mark_stopped(api: str, runs: list[Run], timeout: float) -> int:
    """Record that runs ended with `up`, whatever their last words were; returns how many."""
    count = 0
    for run in runs:
        now = call(api, "GET", f"/flow_runs/{run['id']}", timeout=timeout)
        if now["state_type"] == "CANCELLING":
            _set_state(api, now, "CANCELLED", "Cancelled", "Cancelled.", timeout)
        elif now["state_type"] in ("RUNNING", "PENDING", "CRASHED"):
            message = "`up` was stopped. The run goes on at the next start of `up`."
            _set_state(api, now, "CRASHED", STOPPED, message, timeout)
            count += 1
    return count


def release_slots(api: str) -> int:
    """Free the deployments' concurrency slots while no run can be alive; returns how many.

    Setting a run's state frees its own slot. What is taken after that was lost between the server's
    two writes when it was killed, and would block the deployment for ever.
    """
    limits = call(api, "POST", "/v2/concurrency_limits/filter", {})
    taken = [limit for limit in limits if limit["active_slots"]]
    for limit in taken:
        call(api, "PATCH", f"/v2/concurrency_limits/{limit['id']}", {"active_slots": 0})
    return len(taken)


def _continue(api: str, run: Run, message: str) -> None:
    _set_state(api, run, "SCHEDULED", CONTINUED, message)


def _times_continued(api: str, run: Run) -> int:
    """How often in a row, since a person last scheduled it."""
    history = call(api, "GET", f"/flow_run_states/?flow_run_id={run['id']}")
    count = 0
    for state in sorted(history, key=lambda state: datetime.fromisoformat(state["timestamp"])):
        if state["type"] == "SCHEDULED" and state["name"] in BY_A_PERSON:
            count = 0
        elif state["name"] == CONTINUED and (state["message"] or "").startswith(CUT_OFF):
            count += 1
    return count


def _reason(run: Run) -> str:
    if run["state_type"] != "CRASHED":
        return "its process is gone."
    return str((run["state"] or {}).get("message") or "it crashed.").rstrip()


def _crash_tasks(api: str, run: Run) -> None:
    """Its tasks that show as Running would do so for ever."""
    body = {
        "flow_runs": {"id": {"any_": [run["id"]]}},
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
    }
    for task in call(api, "POST", "/task_runs/filter", body):
        state = {"type": "CRASHED", "name": "Crashed", "message": f"{CUT_OFF} with its flow run."}
        path = f"/task_runs/{task['id']}/set_state"
        call(api, "POST", path, {"state": state, "force": True})


def _set_state(api: str, run: Run, kind: str, name: str, message: str, timeout: float = 60) -> None:
    state: dict[str, Any] = {"type": kind, "name": name, "message": message}
    if kind == "SCHEDULED":
        state["state_details"] = {"scheduled_time": datetime.now(UTC).isoformat()}
    path = f"/flow_runs/{run['id']}/set_state"
    call(api, "POST", path, {"state": state, "force": True}, timeout)
