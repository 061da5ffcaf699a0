"""The examples in deploy/: valid by their own schemas, and in step with the code.

No container engine runs here. So each command, option, variable, port and path that they name is
held against what the code has.
"""

import configparser
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli import app
from schemas.errors import UserError
from tasks.access.listening import Listening
from tasks.access.login import configured_login
from tasks.access.mlflow_accounts import ACCOUNTS, login_environment
from tasks.home import service_environment
from tasks.service_commands import prefect_server_command
from tasks.stores.database import MLFLOW, PREFECT, configured_database

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TOOLS = Path(sys.executable).parent
GIVEN = {
    "ORPO_DATABASE_URL": "postgresql://orpo:planted@postgres:5432/orpo",
    "ORPO_AUTH": "admin:planted-4c1d-9f20",
}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `up` ran with the database and the login of compose.yaml."""
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "--failure-threshold", "style", "deploy/Dockerfile"],
        shlex.split(
            "check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml "
            "deploy/compose.gpu.yaml"
        ),
        ["kubernetes-validate", "--strict", "deploy/kubernetes/worker.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_each_is_valid_by_its_own_linter(command: list[str]) -> None:
    done = subprocess.run(
        [TOOLS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def manifest(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "worker.yaml").read_text())
    (found,) = [document for document in documents if document["kind"] == kind]
    return dict(found)


def container() -> dict[str, Any]:
    (found,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def unit() -> dict[str, str]:
    text = (DEPLOY / "orpo-pipeline.service").read_text()
    section = text.partition("[Service]")[2].partition("[Install]")[0]
    lines = [line for line in section.splitlines() if "=" in line and line[0] != "#"]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_every_command_of_ours_is_one() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    used = [SERVICES["worker"]["command"], container()["command"], shlex.split(unit()["ExecStart"])]
    for program, command in used:
        assert Path(program).name in ("orpo-pipeline",)
        assert command in known


def test_the_servers_are_started_as_up_starts_them(configured: None, tmp_path: Path) -> None:
    from mlflow.cli import server

    everywhere = Listening(host="0.0.0.0")
    assert SERVICES["prefect"]["command"] == ["prefect", *prefect_server_command(everywhere)[3:]]

    program, name, *options = SERVICES["mlflow"]["command"]
    assert (program, name) == ("mlflow", "server")
    with server.make_context("server", list(options), resilient_parsing=False) as context:
        given = context.params  # MLflow has taken every option
    database = configured_database()
    assert database is not None
    assert given["backend_store_uri"] == database.address(MLFLOW)
    where = (given["host"], int(given["port"]), int(given["workers"]))
    assert where == ("0.0.0.0", everywhere.mlflow_port, 1)
    assert given["app_name"] == "basic-auth"
    assert f"mlflow:{everywhere.mlflow_port}" in given["allowed_hosts"]


def test_the_servers_get_the_settings_that_up_gives_them(configured: None, tmp_path: Path) -> None:
    database, login = configured_database(), configured_login()
    assert database is not None and login is not None
    prefect, mlflow = (SERVICES[name]["environment"] for name in ("prefect", "mlflow"))
    ours = service_environment(tmp_path)
    assert prefect["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == database.address(PREFECT)
    for name in ("PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"):
        assert prefect[name] == ours[name]
    everywhere = Listening(host="0.0.0.0").environment()
    assert prefect["PREFECT_SERVER_UI_API_URL"] == everywhere["PREFECT_SERVER_UI_API_URL"]
    needed = set(login_environment(tmp_path, login))
    assert needed <= set(prefect) | set(mlflow)
    for environment in (prefect, mlflow):
        assert set(database.client_environment()) <= set(environment)


def test_every_variable_is_one_that_somebody_reads(tmp_path: Path, configured: None) -> None:
    import mlflow.environment_variables as of_mlflow
    from prefect.settings import get_current_settings

    of_prefect = set(get_current_settings().to_environment_variables(exclude_unset=False)) | {
        "PREFECT_SERVER_API_AUTH_STRING",
        "PREFECT_SERVER_UI_API_URL",
        "PREFECT_API_URL",
    }
    of_others = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}  # postgres' image
    of_others |= {"PGPASSWORD", "HF_TOKEN", "HF_HOME", "DO_NOT_TRACK"}
    of_ours = {"ORPO_AUTH", "ORPO_HOME"}
    used = {name for service in SERVICES.values() for name in service.get("environment", {})}
    used |= {entry["name"] for entry in container()["env"]}
    used |= set(re.findall(r"(\w+)=", unit()["Environment"]))
    for name in used - of_others - of_ours - of_prefect:
        assert name.startswith("MLFLOW_") and hasattr(of_mlflow, name), name
    for name in of_ours:
        assert any(name in path.read_text() for path in (ROOT / "tasks").rglob("*.py"))


def test_what_compose_asks_for_stands_in_the_example_and_has_no_value() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text)) - {"TORCH_INDEX"}
    lines = (DEPLOY / "example.env").read_text().splitlines()
    offered = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    assert asked == set(offered)
    assert {name for name, value in offered.items() if value} == {"ORPO_USER"}
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "deploy/.env"], cwd=ROOT, env={**os.environ, "LC_ALL": "C"}
    )
    assert ignored.returncode == 0


def test_ports_are_ours_and_open_to_this_machine_only() -> None:
    listening = Listening()
    ports = {"prefect": listening.prefect_port, "mlflow": listening.mlflow_port}
    for name, port in ports.items():
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert f"http://127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
    assert all("ports" not in SERVICES[name] for name in ("postgres", "worker"))
    for environment in (
        SERVICES["worker"]["environment"],
        {entry["name"]: entry["value"] for entry in container()["env"]},
    ):
        assert environment["PREFECT_API_URL"] == f"http://prefect:{ports['prefect']}/api"
        assert environment["MLFLOW_TRACKING_URI"] == f"http://mlflow:{ports['mlflow']}"


def test_every_file_and_volume_that_compose_names_is_there() -> None:
    for service in SERVICES.values():
        for source, target in (volume.split(":")[:2] for volume in service["volumes"]):
            if source == "./data":  # made by the one who has data
                continue
            there = source in COMPOSE["volumes"] or (DEPLOY / source).is_file()
            assert there and target.startswith("/")
    assert SERVICES["worker"]["build"]["dockerfile"] == "deploy/Dockerfile"


def test_the_databases_are_those_of_the_variable(configured: None) -> None:
    database = configured_database()
    assert database is not None
    made = re.findall(r"create database (\w+);", (DEPLOY / "databases.sql").read_text())
    assert set(made) == {database.name(PREFECT), database.name(MLFLOW)}
    assert SERVICES["postgres"]["healthcheck"]["test"][-1] == f"--dbname={made[-1]}"


def test_accounts_are_set_as_up_sets_them() -> None:
    read, ours = configparser.ConfigParser(), configparser.ConfigParser()
    read.read(DEPLOY / "accounts.ini")
    ours.read_string(ACCOUNTS.format(database="/tmp/accounts.db"))
    assert dict(read["mlflow"]) == dict(ours["mlflow"])
    assert SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"].endswith("accounts.ini")


def test_the_image_holds_what_a_run_needs_and_nothing_secret() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    copied = {
        name.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.*)$", lines, flags=re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages | {"prefect.yaml", "configs", "constraints.txt", "demo-model.txt"} <= copied
    (extras,) = re.findall(r"--editable '\.\[([\w,]+)\]'", lines)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    admitted = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in admitted if line.startswith("!")} == copied
    assert "USER 10001" in lines and "useradd --uid 10001" in lines
    assert not re.search(r"(?i)password|secret|token|api_key", lines)


def test_the_unit_stops_where_up_would_only_fail_again() -> None:
    settings = unit()
    assert settings["RestartPreventExitStatus"] == str(UserError.exit_code)
    assert f"ORPO_HOME=/var/lib/{settings['StateDirectory']}" in settings["Environment"]
    assert settings["ExecStart"].startswith(settings["WorkingDirectory"])
    assert int(settings["TimeoutStopSec"]) > 15  # what docs/operate.md promises


def test_the_worker_in_the_cluster_is_one_and_has_a_gpu_and_a_place_to_write() -> None:
    spec = manifest("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    worker = container()
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    mounts = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}
    assert "ORPO_HOME=/state" in (DEPLOY / "Dockerfile").read_text()
    assert mounts["state"] == "/state"
    (claim,) = [v for v in spec["template"]["spec"]["volumes"] if v["name"] == "state"]
    name = claim["persistentVolumeClaim"]["claimName"]
    assert manifest("PersistentVolumeClaim")["metadata"]["name"] == name
