"""`orpo-pipeline worker`: what `up` does beside its servers, for servers that run elsewhere."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import NoReturn

from schemas.errors import EnvironmentFault, UserError
from tasks import prefect_api
from tasks.home import state_home, use_services
from tasks.process_group import LONE_WORKER, MARKER, end_processes
from tasks.recovery.flow_runs import crashed_runs, settle, still_left, unfinished_runs
from tasks.recovery.watch import RECENTLY
from tasks.service_commands import CLIENT_RETRIES, prefect_command

START_LIMIT_SECONDS = 120.0
GRACE_SECONDS = 20.0
"""For a training that an earlier worker left, to write a checkpoint."""


def run_worker() -> NoReturn:
    """Register this checkout's deployments and become the worker that executes their runs.

    It has to be the only worker of its pool: what an earlier one left on this machine is ended, and
    its runs are continued, as `up` does.

    Raises UserError without PREFECT_API_URL; EnvironmentFault for a server that does not answer, or
    refuses the deployments.
    """
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise UserError(
            "PREFECT_API_URL is not set, so there is no server to take runs from.",
            "the address of a Prefect server, such as http://HOST:4200/api.",
            "Set it; without a server elsewhere, `orpo-pipeline up` starts one.",
        )
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")  # quiet suits a terminal, not a log
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", CLIENT_RETRIES)
    use_services(state_home())
    _await_server(api)
    prefect_api.require_access(api)
    prefect_api.ensure_work_pool(api)
    with prefect_api.activity_kept(api):
        deployed = subprocess.run(prefect_command("--no-prompt", "deploy", "--all")).returncode
    if deployed != 0:
        raise EnvironmentFault(
            "The deployments of prefect.yaml could not be registered; the lines above say why.",
            f"a checkout's folder here, and a server at {api} that takes them.",
            "Mend what they name, and start the worker again.",
        )
    # Those without a worker end as crashed at their next line of output.
    home, left = state_home(), [*unfinished_runs(api), *crashed_runs(api, _recently())]
    # A worker that was killed has left its runs' processes, which nobody would hear from.
    end_processes(home, lambda role: role == LONE_WORKER, GRACE_SECONDS)
    os.environ[MARKER] = f"{LONE_WORKER}:{home}"
    for run in still_left(api, left):
        print(f"A run that an earlier worker left, {run['name']}: {settle(api, run).value}.")
    sys.stdout.flush()
    pool = prefect_api.WORK_POOL
    command = prefect_command("worker", "start", "--pool", pool, "--type", "process")
    os.execv(command[0], command)  # so that a signal to stop reaches the worker itself


def _recently() -> datetime:
    return datetime.now(UTC) - RECENTLY


def _await_server(api: str) -> None:
    """Containers start in any order."""
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while not prefect_api.answers(f"{api}/health"):
        if time.monotonic() > deadline:
            raise EnvironmentFault(
                f"The Prefect server {api} has not answered in {START_LIMIT_SECONDS:.0f} s.",
                "a running Prefect server in PREFECT_API_URL.",
                "Start it, or correct PREFECT_API_URL.",
            )
        time.sleep(1)
