"""How Prefect and MLflow are called, and with which environment."""

import os
import sys
from pathlib import Path

from tasks.home import mlflow_artifacts, mlflow_database, mlflow_store, service_environment
from tasks.ports import HOST

CLIENT_RETRIES = "8"
"""Waits of 2, 4, 8, ... 256 s: a run outlives a Prefect server that is away for eight minutes. With
Prefect's own 5 it fails after one to two and a half."""


def api_url(prefect_port: int) -> str:
    """What PREFECT_API_URL must be for the server on this port."""
    return f"http://{HOST}:{prefect_port}/api"


def prefect_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def prefect_server_command(port: int) -> list[str]:
    return prefect_command("server", "start", "--host", HOST, "--port", str(port))


def mlflow_command(home: Path, port: int) -> list[str]:
    """One process instead of five, and artifacts as plain files, like runs without a server."""
    options = {
        "--backend-store-uri": mlflow_store(home),
        "--default-artifact-root": str(mlflow_artifacts(home)),
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
    }
    flat = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", "--no-serve-artifacts", *flat]


def version_mark(home: Path) -> Path:
    return mlflow_database(home).with_name("schema-of-mlflow")


def server_environment(home: Path, prefect_port: int) -> dict[str, str]:
    environment = {**os.environ, **service_environment(home)}
    # Quiet suits a run in a terminal; behind a server the log is what its page shows.
    if environment["PREFECT_LOGGING_LEVEL"] == "WARNING":
        environment["PREFECT_LOGGING_LEVEL"] = "INFO"
    local = [HOST, "localhost"]
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join([*filter(None, [os.environ.get(name)]), *local])
    return environment | {
        "PREFECT_API_URL": api_url(prefect_port),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(prefect_port),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_CLIENT_MAX_RETRIES": CLIENT_RETRIES,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
