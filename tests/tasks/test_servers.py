"""`up` with real servers on free ports: one start shared by the tests, a second one at the end.

The checkout is a temporary one: the real prefect.yaml, and a flow of the same name and parameters
that only waits. The tests use the shared servers in the order in which they stand here.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import REPOSITORY, Up, end, free_port, living, start_up, wait_for

from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from schemas.findings import Level
from tasks import prefect_api
from tasks.access.listening import Listening
from tasks.doctor.services import check_servers
from tasks.home import mlflow_artifacts, mlflow_database, mlflow_store
from tasks.process_group import find_processes
from tasks.recovery import restarts
from tasks.recovery.flow_runs import (
    LIMIT,
    Outcome,
    crash_silent_runs,
    release_slots,
    settle,
    still_left,
)
from tasks.recovery.owner import OWNER_TAG, Owner, this_process
from tasks.servers import run_servers, running_prefect_api

pytestmark = pytest.mark.xdist_group("servers")

# `max_steps` is the seconds that the run takes, of which 1 is left when it is continued; its child
# stands for the training process.
FLOW = """
import subprocess
import sys
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from schemas.config import RunConfig


@flow(name="orpo-pipeline")
def orpo_pipeline(config: RunConfig = RunConfig()) -> None:
    seconds = config.training.max_steps if flow_run.run_count == 1 else 1
    command = [sys.executable, "-c", f"import time; time.sleep({seconds})"]
    child = subprocess.Popen(command, start_new_session=True)
    Path("training.pid").write_text(str(child.pid))
    child.wait()
"""

RETRAIN = """
from prefect import flow

from schemas.config import RunConfig


@flow(name="orpo-retrain")
def orpo_retrain(config: RunConfig = RunConfig(), force: bool = False) -> None:
    pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("up")
    (folder / "checkout" / "flows").mkdir(parents=True)
    (folder / "checkout" / "flows" / "pipeline.py").write_text(FLOW)
    (folder / "checkout" / "flows" / "retrain.py").write_text(RETRAIN)
    shutil.copy(REPOSITORY / "flows" / "promotion.py", folder / "checkout" / "flows")
    shutil.copy(REPOSITORY / "prefect.yaml", folder / "checkout")
    return folder


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Up]:
    up = start_up(folder, folder / "checkout")
    yield up
    end(up)


def test_both_servers_answer(up: Up) -> None:
    assert prefect_api.answers(f"{up.api}/health")
    assert prefect_api.answers(f"{up.mlflow_url}/health")
    # The pages must talk to this port, not to Prefect's default one.
    settings = prefect_api.call(up.api.removesuffix("/api"), "GET", "/ui-settings")
    assert settings["api_url"] == up.api


def test_doctor_finds_them_well(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    findings = {f.what: f for f in check_servers(RegistryConfig(), up.home)}
    assert {finding.level for finding in findings.values()} == {Level.OK}, findings
    assert f"process {up.process.pid}" in findings["up"].found
    assert findings.keys() == {"up", "prefect server", "mlflow server", "tracking"}


def test_the_way_to_the_servers_is_printed_and_found(up: Up) -> None:
    wait_for(lambda: "Stop with Ctrl-C" in up.output, 5)
    assert f"export PREFECT_API_URL={up.api}" in up.output
    assert up.mlflow_url in up.output
    assert running_prefect_api(up.home) == up.api


def test_everything_listens_on_this_machine_only(up: Up) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in find_processes(up.home, lambda role: True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {("127.0.0.1", port) for port in up.ports} <= listening
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_deployments_are_registered(up: Up) -> None:
    pool = prefect_api.call(up.api, "GET", "/work_pools/local")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", 1)
    flows = {"orpo-pipeline": "pipeline", "orpo-retrain": "retrain", "nightly": "retrain"}
    for name, module in flows.items():
        deployment = up.deployment(name)
        assert deployment["entrypoint"].startswith(f"flows/{module}.py:orpo_")
        assert deployment["work_pool_name"] == "local"
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        (step,) = deployment["pull_steps"]
        assert list(step.values()) == [{"directory": str(up.checkout)}]
    assert up.deployment("orpo-pipeline")["schedules"] == []
    (schedule,) = up.deployment("nightly")["schedules"]
    assert schedule["schedule"] == {"cron": "0 3 * * *", "timezone": "UTC", "day_or": True}
    assert schedule["active"] is False


def test_announced_data_starts_a_retraining(up: Up) -> None:
    deployment = up.deployment("orpo-retrain")
    prefect_api.announce_data(up.api)
    wanted = {
        "deployments": {"id": {"any_": [deployment["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    runs = wait_for(lambda: prefect_api.call(up.api, "POST", "/flow_runs/filter", wanted), 120)
    assert len(runs) == 1


def test_both_databases_are_in_wal_mode(up: Up) -> None:
    for database in (mlflow_database(up.home), up.home / "prefect" / "prefect.db"):
        connection = sqlite3.connect(database)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


def test_resumed_schedule_creates_runs(up: Up) -> None:
    """Under SQLAlchemy 2.1 everything else works, and this silently doesn't."""
    nightly = up.deployment("nightly")
    path = f"/deployments/{nightly['id']}/schedules/{nightly['schedules'][0]['id']}"
    prefect_api.call(up.api, "PATCH", path, {"active": True})
    wanted = {
        "deployments": {"id": {"any_": [nightly["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    runs = wait_for(lambda: prefect_api.call(up.api, "POST", "/flow_runs/filter", wanted), 60)
    assert all(run["auto_scheduled"] for run in runs)
    assert all("T03:00:00" in run["expected_start_time"] for run in runs)
    with pytest.raises(ZeroDivisionError), prefect_api.activity_kept(up.api):
        prefect_api.call(up.api, "PATCH", path, {"active": False})  # as deploying does
        raise ZeroDivisionError
    (schedule,) = up.deployment("nightly")["schedules"]
    assert schedule["active"] is True


def test_run_recorded_without_a_server_is_served(up: Up, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_store(up.home))
    location = str(mlflow_artifacts(up.home) / "direct")
    experiment = client.create_experiment("direct", artifact_location=location)
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "four", "answer.txt")

    through_server = MlflowClient(up.mlflow_url)
    assert through_server.get_run(run).info.artifact_uri == f"{location}/{run}/artifacts"
    assert through_server.get_experiment_by_name("Default").artifact_location.startswith(
        str(mlflow_artifacts(up.home))
    )
    page = f"{up.mlflow_url}/get-artifact?path=answer.txt&run_uuid={run}"
    assert prefect_api.answers(page)


def test_second_up_is_refused(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(up.checkout)
    with pytest.raises(EnvironmentFault) as caught:
        run_servers(up.home, Listening(free_port(), free_port()))
    assert f"process {up.process.pid}" in caught.value.found
    assert up.mlflow_url in caught.value.found


def test_port_of_another_up_is_named(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(up.checkout)
    with pytest.raises(EnvironmentFault) as caught:
        run_servers(tmp_path, Listening(up.ports[0], free_port()))
    assert f"Port {up.ports[0]}" in caught.value.found
    assert f"the `up` on {up.home}" in caught.value.found
    assert "--prefect-port" in caught.value.fix


def run_to_state(up: Up, seconds: int, state: str) -> str:
    """Start a run of so many seconds, wait for the state, return the run's id."""
    run = up.start_run({"training": {"max_steps": seconds}})
    wait_for(lambda: up.run_state(run) == state, 60)
    return run


def test_worker_takes_runs(up: Up) -> None:
    run_to_state(up, 1, "COMPLETED")


def start_waiting(up: Up, seconds: int) -> tuple[str, int]:
    """A run of so many seconds that executes: its id, and the process id of its child."""
    pid_file = up.checkout / "training.pid"
    pid_file.unlink(missing_ok=True)
    run = run_to_state(up, seconds, "RUNNING")
    return run, int(wait_for(lambda: pid_file.exists() and pid_file.read_text(), 20))


def state_names(up: Up, run: str) -> list[str]:
    states = prefect_api.call(up.api, "GET", f"/flow_run_states/?flow_run_id={run}")
    return [state["name"] for state in sorted(states, key=lambda state: state["timestamp"])]


def open_mlflow_run(up: Up, owner: str) -> str:
    """An MLflow run in the state RUNNING that a process has opened."""
    experiment = {"experiment_id": "0", "tags": [{"key": OWNER_TAG, "value": owner}]}
    path = "/api/2.0/mlflow/runs/create"
    run = prefect_api.call(up.mlflow_url, "POST", path, experiment)["run"]
    return str(run["info"]["run_id"])


def mlflow_status(up: Up, run: str) -> str:
    path = f"/api/2.0/mlflow/runs/get?run_id={run}"
    return str(prefect_api.call(up.mlflow_url, "GET", path)["run"]["info"]["status"])


def test_a_run_whose_process_was_killed_goes_on_by_itself(up: Up) -> None:
    gone = Owner(pid=2**22 + 1, started=1.0, host=socket.gethostname())
    living = Owner.model_validate_json(this_process())
    left, open_ = (open_mlflow_run(up, owner.model_dump_json()) for owner in (gone, living))
    run, child = start_waiting(up, 5)  # the child lives so long, and the run waits for its end
    (flow,) = psutil.Process(child).parents()[:1]
    flow.kill()
    wait_for(lambda: up.run_state(run) == "COMPLETED", 120)
    names = state_names(up, run)
    assert (names.count("Running"), names.count("Resuming")) == (2, 1)
    assert names[names.index("Crashed") + 1] == "Resuming"
    assert "was cut off: continued." in up.output
    wait_for(lambda: mlflow_status(up, left) == "KILLED", 60)
    assert mlflow_status(up, open_) == "RUNNING"


@pytest.mark.slow
def test_what_dies_is_started_again_and_its_run_goes_on(up: Up) -> None:
    """Both servers and the worker at once, while a run executes."""
    run, child = start_waiting(up, 500)
    pids = json.loads((up.home / "servers.json").read_text())["processes"]
    assert sorted(pids) == ["mlflow", "prefect", "worker"]
    training = psutil.Process(child)
    for pid in pids.values():
        psutil.Process(pid).kill()
    wait_for(lambda: prefect_api.answers(f"{up.mlflow_url}/health"), 120)
    wait_for(lambda: prefect_api.answers(f"{up.api}/health"), 120)
    wait_for(lambda: up.run_state(run) == "COMPLETED", 120)
    assert living([training]) == []
    assert state_names(up, run).count("Resuming") == 1
    now = json.loads((up.home / "servers.json").read_text())["processes"]
    assert set(now.values()).isdisjoint(pids.values())
    for name in pids:
        assert f"`{name}` ended with signal SIGKILL; it is started again." in up.output
    assert up.process.poll() is None


def test_a_slot_that_nobody_holds_is_freed(up: Up) -> None:
    lost = {"name": "lost", "limit": 1, "active_slots": 1}
    made = prefect_api.call(up.api, "POST", "/v2/concurrency_limits/", lost)
    path = f"/v2/concurrency_limits/{made['id']}"
    assert release_slots(up.api) == 1
    assert prefect_api.call(up.api, "GET", path)["active_slots"] == 0
    assert release_slots(up.api) == 0


def flow_run(up: Up, run: str) -> dict[str, Any]:
    found: dict[str, Any] = prefect_api.call(up.api, "GET", f"/flow_runs/{run}")
    return found


def set_state(up: Up, run: str, state: dict[str, str]) -> None:
    body = {"state": state, "force": True}
    prefect_api.call(up.api, "POST", f"/flow_runs/{run}/set_state", body)


def test_a_run_without_worker_is_ended_when_it_is_silent(up: Up) -> None:
    """As `orpo-pipeline run` makes them: one sends heartbeats, one is gone. A third is not ours."""

    def start(name: str) -> str:
        flow = prefect_api.call(up.api, "POST", "/flows/", {"name": name})["id"]
        body = {"flow_id": flow, "state": {"type": "RUNNING"}}
        return str(prefect_api.call(up.api, "POST", "/flow_runs/", body)["id"])

    gone, heard, foreign = start("orpo-promote"), start("orpo-promote"), start("somebody-s")
    with closing(sqlite3.connect(up.home / "prefect" / "prefect.db", timeout=20)) as connection:
        connection.execute(
            "UPDATE flow_run SET start_time = '2026-01-01 00:00:00.000000' "
            "WHERE deployment_id IS NULL"
        )
        connection.commit()
    beat = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{heard}"},
    }
    prefect_api.call(up.api, "POST", "/events", [beat])
    known = {"filter": {"resource": {"id": [beat["resource"]["prefect.resource.id"]]}}}
    wait_for(lambda: prefect_api.call(up.api, "POST", "/events/filter", known)["events"], 20)
    assert crash_silent_runs(up.api, timedelta(minutes=10)) == 1
    states = [up.run_state(run) for run in (gone, heard, foreign)]
    assert states == ["CRASHED", "RUNNING", "RUNNING"]


@pytest.fixture
def no_run_starts(up: Up) -> Iterator[None]:
    """The pool gives its worker nothing."""
    prefect_api.call(up.api, "PATCH", "/work_pools/local", {"is_paused": True})
    yield
    prefect_api.call(up.api, "PATCH", "/work_pools/local", {"is_paused": False})


def test_a_run_is_given_up_when_it_dies_again_and_again(up: Up, no_run_starts: None) -> None:
    """Continued three times; what a person then schedules is continued three times again."""
    run = up.start_run({"training": {"max_steps": 1}})
    state = {"type": "CRASHED", "name": "Crashed", "message": "Exit code -9."}
    outcomes = []
    for _ in range(LIMIT + 1):
        set_state(up, run, state)
        outcomes.append(settle(up.api, flow_run(up, run)))
    assert outcomes == [*[Outcome.CONTINUED] * LIMIT, Outcome.GIVEN_UP]
    found = flow_run(up, run)
    assert (found["state_type"], found["state_name"]) == ("CRASHED", "GivenUp")
    assert list(still_left(up.api, [found, found])) == [found]
    assert "Cut off 4 times, and not continued any more: Exit code -9." in found["state"]["message"]
    set_state(up, run, {"type": "SCHEDULED", "name": "AwaitingRetry"})
    set_state(up, run, state)
    assert settle(up.api, flow_run(up, run)) == Outcome.CONTINUED
    set_state(up, run, {"type": "COMPLETED"})
    assert list(still_left(up.api, [found])) == []  # it ended after it was looked at
    prefect_api.call(up.api, "DELETE", f"/flow_runs/{run}")


def test_interrupt_in_a_run_leaves_no_process(up: Up) -> None:
    run, child = start_waiting(up, 500)
    training = psutil.Process(child)
    processes = [*psutil.Process(up.process.pid).children(recursive=True), training]
    assert len(set(processes)) >= 6  # two servers and MLflow's own child, worker, flow, training

    before = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 0
    assert time.monotonic() - before < 15

    assert living(processes) == []
    assert find_processes(up.home, lambda role: True) == []
    assert running_prefect_api(up.home) is None
    assert not (up.home / "servers.json").exists()
    connection = sqlite3.connect(up.home / "prefect" / "prefect.db")
    state = connection.execute(
        "SELECT state_type, state_name FROM flow_run WHERE replace(id, '-', '') = ?",
        [run.replace("-", "")],
    ).fetchone()
    connection.close()
    assert state == ("CRASHED", "Stopped")


def new_pid(up: Up, dead: set[int]) -> int | None:
    """MLflow's process, once it has been started again."""
    pid = json.loads((up.home / "servers.json").read_text())["processes"]["mlflow"]
    return None if pid in dead else int(pid)


@pytest.mark.slow
def test_a_server_that_cannot_live_ends_up_after_a_killed_one(up: Up, folder: Path) -> None:
    """On the state that the tests above left: also what survives a restart is seen here."""
    assert up.process.poll() is not None, "this needs the state folder of a stopped `up`"
    killed = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"],
        env={**os.environ, "ORPO_UP": f"prefect:{up.home}"},
    )
    again = start_up(folder, folder / "checkout")
    try:
        assert killed.wait(5) == -signal.SIGTERM
        assert "Ended 1 processes" in again.output
        (schedule,) = again.deployment("nightly")["schedules"]
        assert schedule["active"] is True  # although prefect.yaml, deployed again, says paused

        # The run that the last test interrupted.
        assert "1 flow runs that were cut off, going on." in again.output

        dead: set[int] = set()
        while len(dead) < restarts.LIMIT:
            pid = wait_for(lambda: new_pid(again, dead), 60)
            psutil.Process(pid).kill()
            dead.add(pid)
        assert again.process.wait(40) == 3
    finally:
        end(again)
    assert "`mlflow` ended with signal SIGKILL, the 5th death in ten minutes." in again.output
    assert "mlflow.log" in again.output
    assert find_processes(again.home, lambda role: True) == []
