"""How Prefect and MLflow are called, and with which environment."""

import os
import sys
from pathlib import Path

from tasks.access.listening import Listening
from tasks.access.login import configured_login
from tasks.access.mlflow_accounts import login_environment
from tasks.home import mlflow_artifacts, mlflow_store, service_environment
from tasks.ports import HOST
from tasks.stores.artifacts import configured_artifacts

CLIENT_RETRIES = "8"
"""Waits of 2, 4, 8, ... 256 s: a run outlives a Prefect server that is away for eight minutes. With
Prefect's own 5 it fails after one to two and a half."""


def prefect_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def prefect_server_command(listening: Listening) -> list[str]:
    where = ("--host", listening.host, "--port", str(listening.prefect_port))
    return prefect_command("server", "start", *where)


def mlflow_command(home: Path, listening: Listening) -> list[str]:
    """One process instead of five, and artifacts as plain files, like runs without a server."""
    options = {
        "--backend-store-uri": mlflow_store(home),
        "--default-artifact-root": configured_artifacts() or str(mlflow_artifacts(home)),
        "--host": listening.host,
        "--port": str(listening.mlflow_port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
    }
    if configured_login() is not None:
        options["--app-name"] = "basic-auth"
    flat = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", "--no-serve-artifacts", *flat]


def server_environment(home: Path, listening: Listening) -> dict[str, str]:
    environment = {**os.environ, **service_environment(home)}
    # Quiet suits a run in a terminal; behind a server the log is what its page shows.
    if environment["PREFECT_LOGGING_LEVEL"] == "WARNING":
        environment["PREFECT_LOGGING_LEVEL"] = "INFO"
    local = {HOST: None, "localhost": None, listening.reached_at: None}
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join([*filter(None, [os.environ.get(name)]), *local])
    login = configured_login()
    return (
        environment
        | listening.environment()
        | (login_environment(home, login) if login is not None else {})
        | {
            "PREFECT_API_URL": listening.prefect_api,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "30",  # by which `up` knows that it works
            "PREFECT_CLIENT_MAX_RETRIES": CLIENT_RETRIES,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )
