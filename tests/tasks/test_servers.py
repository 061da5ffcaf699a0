"""`up` with real servers on free ports: one start shared by the tests, a second one at the end.

The checkout is a temporary one: the real prefect.yaml, and a flow of the same name and parameters
that only waits. The tests use the shared servers in the order in which they stand here.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import REPOSITORY, Up, end, free_port, living, start_up, wait_for

from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from schemas.findings import Level
from tasks import prefect_api
from tasks.doctor.services import check_servers
from tasks.home import mlflow_artifacts, mlflow_database, mlflow_store
from tasks.process_group import find_processes
from tasks.servers import run_servers, running_prefect_api

pytestmark = pytest.mark.xdist_group("servers")

# `max_steps` is the seconds that the run takes; its child stands for the training process.
FLOW = """
import subprocess
import sys
from pathlib import Path

from prefect import flow

from schemas.config import RunConfig


@flow(name="orpo-pipeline")
def orpo_pipeline(config: RunConfig = RunConfig()) -> None:
    seconds = config.training.max_steps or 1
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
        run_servers(up.home, free_port(), free_port())
    assert f"process {up.process.pid}" in caught.value.found
    assert up.mlflow_url in caught.value.found


def test_port_of_another_up_is_named(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(up.checkout)
    with pytest.raises(EnvironmentFault) as caught:
        run_servers(tmp_path, up.ports[0], free_port())
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


def test_interrupt_in_a_run_leaves_no_process(up: Up) -> None:
    pid_file = up.checkout / "training.pid"
    pid_file.unlink()
    run = run_to_state(up, 500, "RUNNING")
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), 20)
    training = psutil.Process(int(pid_file.read_text()))
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
    (state,) = connection.execute(
        "SELECT state_type FROM flow_run WHERE replace(id, '-', '') = ?", [run.replace("-", "")]
    ).fetchone()
    connection.close()
    assert state == "CRASHED"


def test_dead_server_ends_up_and_a_killed_up_is_cleared_away(up: Up, folder: Path) -> None:
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

        servers = json.loads((again.home / "servers.json").read_text())
        psutil.Process(servers["processes"]["mlflow"]).kill()
        assert again.process.wait(30) == 3
    finally:
        end(again)
    assert "`mlflow` ended with exit code -9. Its last lines:" in again.output
    assert "mlflow.log" in again.output
    assert find_processes(again.home, lambda role: True) == []
