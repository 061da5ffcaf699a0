"""`orpo-pipeline worker` against a real Prefect server that asks for a login."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from servers import REPOSITORY, free_port, living, wait_for

from schemas.errors import UserError
from tasks import prefect_api
from tasks.access.listening import Listening
from tasks.lone_worker import run_worker
from tasks.service_commands import prefect_server_command, server_environment

LOGIN = "ann:planted-4c1d-9f20"

DEPLOYMENTS = """
name: waiting
deployments:
  - name: waiting
    entrypoint: flow.py:waiting
    work_pool: {name: local}
"""

FLOW = """
import time

from prefect import flow


@flow
def waiting(seconds: int) -> None:
    time.sleep(seconds)
"""


def test_it_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(UserError, match="PREFECT_API_URL is not set"):
        run_worker()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "prefect.yaml").write_text(DEPLOYMENTS)
    (tmp_path / "checkout" / "flow.py").write_text(FLOW)
    return tmp_path / "checkout"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("ORPO_AUTH", LOGIN)
    listening = Listening(prefect_port=free_port())
    (tmp_path / "server" / "prefect").mkdir(parents=True)  # SQLite does not make it
    environment = server_environment(tmp_path / "server", listening)
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            prefect_server_command(listening), env=environment, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: prefect_api.answers(f"{listening.prefect_api}/health"), 180)
        yield listening.prefect_api
    finally:
        process.kill()
        process.wait(20)


def start_worker(checkout: Path, api: str) -> "subprocess.Popen[bytes]":
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    home = str(checkout.parent / "home")
    with (checkout.parent / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", "worker"],
            cwd=checkout,
            env={
                **outside,
                "PYTHONPATH": str(REPOSITORY),
                "ORPO_HOME": home,
                "PREFECT_API_URL": api,
                "PREFECT_WORKER_QUERY_SECONDS": "2",
            },
            stdout=log,
            stderr=log,
        )


def start_run(api: str, seconds: int) -> str:
    found = wait_for(lambda: prefect_api.call(api, "POST", "/deployments/filter", {}), 120)
    path = f"/deployments/{found[0]['id']}/create_flow_run"
    run = prefect_api.call(api, "POST", path, {"parameters": {"seconds": seconds}})
    return str(run["id"])


def state(api: str, run: str) -> str:
    return str(prefect_api.call(api, "GET", f"/flow_runs/{run}")["state_type"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("alone", [False, True])
def test_a_killed_worker_s_run_is_continued_and_keeps_no_pool(
    checkout: Path, api: str, alone: bool
) -> None:
    """As a container ends, all at once; or the worker alone, whose run's process lives on."""
    worker = start_worker(checkout, api)
    try:
        lost = start_run(api, 30)
        wait_for(lambda: state(api, lost) == "RUNNING", 120)
        processes = [
            psutil.Process(worker.pid),
            *psutil.Process(worker.pid).children(recursive=True),
        ]
        for process in processes[:1] if alone else processes:
            process.kill()
        worker.wait(20)
        if not alone:
            wait_for(lambda: not living(processes), 20)

        worker = start_worker(checkout, api)
        wait_for(lambda: not living(processes), 120)
        second = start_run(api, 1)
        wait_for(lambda: state(api, second) == "COMPLETED", 180)
        wait_for(lambda: state(api, lost) == "COMPLETED", 180)
    finally:
        worker.terminate()
        worker.wait(60)
    log = (checkout.parent / "worker.log").read_text()
    assert ": continued." in log and "planted" not in log
