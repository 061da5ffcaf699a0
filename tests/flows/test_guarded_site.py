"""The whole job on PostgreSQL and S3, behind a login, with a secret planted wherever one may be.

A real PostgreSQL, a real HTTP server that speaks S3 (moto), real Prefect and MLflow servers, a real
worker and a real judge's endpoint. The tests share them and stand in the order of their use.
"""

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml
from judge_server import fair, judge_server
from postgresql import PASSWORD, VARIABLE, make_databases, postgresql, programs
from rows import pair_row
from s3 import BUCKET, SECRET_KEY, client, s3_server
from servers import REPOSITORY, Up, end, free_port, start_up, wait_for
from sqlalchemy import create_engine, text

from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from tasks import prefect_api
from tasks.access.listening import Listening
from tasks.home import mlflow_store, service_environment
from tasks.process_group import find_processes
from tasks.service_commands import mlflow_command, server_environment
from tasks.tracking import recorded_run

INSTALLED = programs()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(INSTALLED is None, reason="PostgreSQL is not installed"),
]

LOGIN = "ann:planted-login-4c1d"
SECRETS = {
    "ORPO_AUTH": LOGIN,
    "HF_TOKEN": "hf_planted0123456789abcdefghijklmnop",
    "JUDGE_KEY": "sk-planted-0123456789abcdef",
}
PLANTED = (PASSWORD, SECRET_KEY, "planted-login-4c1d", *SECRETS.values())
RUN_SECONDS = 500


@dataclass
class Site:
    """A state folder and everything that its runs need."""

    folder: Path
    environment: dict[str, str]
    config: dict[str, Any]
    url: str
    """Of the PostgreSQL server."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def command(self, *arguments: str, code: int = 0, typed: str = "", **changes: str) -> str:
        """Output and errors of `orpo-pipeline ARGUMENTS`, in a terminal with the secrets set."""
        ours = ("PREFECT", "MLFLOW", "PG")
        outside = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(self.config))
        done = subprocess.run(
            [sys.executable, "-m", "flows", *arguments, "--config", str(file)],
            env={**outside, **self.environment, "ORPO_HOME": str(self.home), **changes},
            capture_output=True,
            text=True,
            input=typed,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == code, done.stdout + done.stderr
        (self.folder / f"terminal-{len(list(self.folder.iterdir()))}").write_text(
            done.stdout + done.stderr
        )
        return done.stdout + done.stderr

    def mlflow(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(mlflow_store(self.home), mlflow_store(self.home))

    def versions(self) -> list[Any]:
        return list(self.mlflow().search_model_versions("name = 'tiny'"))


def make_votes(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "create table votes (id serial primary key, prompt jsonb, chosen jsonb, "
                "rejected jsonb)"
            )
        )
        for number in range(60):
            row = {name: json.dumps(value) for name, value in pair_row(number).items()}
            insert = "insert into votes (prompt, chosen, rejected) values (:prompt, :chosen, "
            connection.execute(text(insert + ":rejected)"), row)
    engine.dispose()


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert INSTALLED is not None
    folder = tmp_path_factory.mktemp("guarded")
    with (
        postgresql(INSTALLED) as url,
        s3_server() as bucket,
        judge_server() as judge,
        pytest.MonkeyPatch.context() as patch,
    ):
        judge.behave = fair
        make_votes(url)
        environment = {
            **SECRETS,
            **bucket,
            VARIABLE: make_databases(url, "orpo"),
            "VOTES_DATABASE_URL": url,
            "OMP_NUM_THREADS": "1",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("PGPASSWORD", PASSWORD)  # of this process's own look at the store
        query = "select prompt, chosen, rejected from votes order by id"
        source = {"kind": "sql", "name": "votes", "query": query}
        config = {
            "data": {"eval_fraction": 0.3},
            "chat": {"max_length": 128},
            "model": {"base_model": str(tiny_model), "quantization": "none"},
            "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 2},
            "evaluation": {
                "generations": 4,
                "max_new_tokens": 4,
                "judge": {
                    "base_url": judge.base_url,
                    "model": "judge-1",
                    "retries": 0,
                    "key_variable": "JUDGE_KEY",
                },
            },
            "registry": {"experiment": "guarded", "model_name": "tiny"},
            "retraining": {"sources": [{**source, "database_url_variable": "VOTES_DATABASE_URL"}]},
        }
        yield Site(folder, environment, config, url)


@pytest.fixture(scope="module")
def up(site: Site) -> Iterator[Up]:
    up = start_up(site.folder, REPOSITORY, site.environment)
    yield up
    end(up)


def status(url: str, login: str | None = None, **headers: str) -> int:
    """HTTP status of a GET."""
    if login is not None:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    try:
        with urlopen(Request(url, headers=headers), timeout=20) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code


def test_both_servers_ask_for_the_login(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = f"{up.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1"
    pages = [
        f"{up.api}/admin/version",
        experiments,
        f"{up.mlflow_url}/get-artifact?path=a&run_uuid=b",
    ]
    for page in pages[:2]:
        assert [status(page), status(page, "ann:wrong"), status(page, LOGIN)] == [401, 401, 200]
        assert status(page, "admin:password1234") == 401
    assert status(pages[2]) == 401
    for page in (f"{up.api}/health", f"{up.mlflow_url}/health"):
        assert status(page) == 200  # a probe needs no password

    monkeypatch.delenv("ORPO_AUTH")
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    with pytest.raises(EnvironmentFault, match="asks for a login, and none is set"):
        prefect_api.require_access(up.api)


def test_a_deployed_run_trains_judges_and_promotes(site: Site, up: Up) -> None:
    run = up.start_run(site.config, "orpo-retrain")
    ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
    state = wait_for(lambda: (now := up.run_state(run)) in ended and now, RUN_SECONDS)
    log = prefect_api.call(up.api, "POST", "/logs/filter", {})
    assert state == "COMPLETED", "\n".join(line["message"] for line in log)[-3000:]
    (version,) = site.versions()
    found = client(site.environment).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert any(entry["Key"].endswith("adapter_model.safetensors") for entry in found)
    assert version.tags["orpo.prepared_id"]
    # MLflow's page of a file comes from the bucket through the server.
    page = f"{up.mlflow_url}/get-artifact?path=config.yaml&run_uuid={version.run_id}"
    assert status(page, LOGIN) == 200


def test_a_password_in_a_parameter_is_refused_before_it_is_stored(site: Site, up: Up) -> None:
    registry = {"tracking_uri": "http://ann:planted-parameter@127.0.0.1:5000"}
    path = f"/deployments/{up.deployment('orpo-pipeline')['id']}/create_flow_run"
    with pytest.raises(EnvironmentFault, match="409"):
        prefect_api.call(up.api, "POST", path, {"parameters": {"config": {"registry": registry}}})


def test_a_killed_server_loses_nothing(site: Site, up: Up) -> None:
    """kill -9 of MLflow, then of everything; the next `up` goes on with the same records."""
    psutil.Process(find_processes(up.home, lambda role: role == "mlflow")[0].pid).kill()
    end(up)
    again = start_up(site.folder, REPOSITORY, site.environment)
    try:
        assert again.deployment("orpo-pipeline")["name"] == "orpo-pipeline"
        run = again.start_run(site.config, "orpo-retrain")
        ended = {"COMPLETED", "FAILED", "CRASHED"}
        state = wait_for(lambda: (now := again.run_state(run)) in ended and now, RUN_SECONDS)
        assert state == "COMPLETED"
        assert len(site.versions()) == 1  # nothing new: it was skipped
        for process in psutil.Process(again.process.pid).children(recursive=True):
            command = " ".join(process.cmdline())
            assert not any(secret in command for secret in PLANTED), command
    finally:
        end(again)


def test_the_commands_use_the_same_stores_without_servers(site: Site, tmp_path: Path) -> None:
    assert "skip" in site.command("retrain").lower()
    assert [str(version.version) for version in site.versions()] == ["1"]
    site.command("export", "1", str(tmp_path / "exported"))
    assert (tmp_path / "exported" / "adapter_model.safetensors").is_file()
    assert "planted" not in (said := site.command("chat", "1", typed="What is 2 plus 2?\n"))
    assert said.strip()
    wrong = site.environment[VARIABLE].replace(PASSWORD, "planted-wrong")
    said = site.command("retrain", code=3, **{VARIABLE: wrong})
    assert "password authentication failed" in said and "planted-wrong" not in said


def test_no_secret_is_on_disk_in_a_database_or_in_the_bucket(site: Site) -> None:
    """Also not in what the commands printed and what `up` said."""
    places: dict[str, bytes] = {}
    for path in site.folder.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
    for name in ("orpo_prefect", "orpo_mlflow"):
        assert INSTALLED is not None
        address = site.url.replace("+psycopg", "").rpartition("/")[0] + f"/{name}"
        dump = subprocess.run([INSTALLED / "pg_dump", address], capture_output=True, check=True)
        places[name] = dump.stdout
        assert b"alembic_version" in dump.stdout
    store = client(site.environment)
    for entry in store.list_objects_v2(Bucket=BUCKET)["Contents"]:
        places[entry["Key"]] = store.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
    assert len(places) > 50 and any("worker.log" in place for place in places)
    found = [
        (place, secret)
        for place, content in places.items()
        for secret in (*PLANTED, "planted-parameter", "planted-wrong")
        if secret.encode() in content
    ]
    assert found == []


def test_an_mlflow_server_that_passes_files_on_asks_for_the_login(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in deploy/compose.yaml: clients know its address and the login, and no bucket."""
    here = Listening(mlflow_port=free_port())
    command = [*mlflow_command(site.home, here), "--artifacts-destination", str(tmp_path / "files")]
    command.remove("--no-serve-artifacts")
    at = command.index("--default-artifact-root")
    del command[at : at + 2]
    process = subprocess.Popen(
        command, env=server_environment(site.home, here), start_new_session=True
    )
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(os.urandom(100_000))
    monkeypatch.delenv("ORPO_ARTIFACTS_URL")
    try:
        wait_for(lambda: prefect_api.answers(f"{here.mlflow_url}/health"), 180)
        config = RegistryConfig(experiment="proxied", tracking_uri=here.mlflow_url, model_name="p")
        for name, value in service_environment(site.home).items():
            monkeypatch.setenv(name, value)
        with recorded_run(config, tmp_path / "home", "adapter-p") as (tracker, run_id):
            uri, model = tracker.log_model(run_id, {weights.name: weights}, {}, [])
            tracker.ensure_model("p")
            made = tracker.client.create_model_version("p", uri, run_id=run_id, model_id=model)
            version = made.version
            found = tracker.download_adapter(version, tmp_path / "down")
            assert (found / weights.name).read_bytes() == weights.read_bytes()
        assert list((tmp_path / "files").rglob(weights.name))

        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted-wrong")
        with (
            pytest.raises(EnvironmentFault, match="401") as refused,
            recorded_run(config, tmp_path / "home", "adapter-p"),
        ):
            pass
        assert "planted" not in str(refused.value)
    finally:
        end_server(process)


def end_server(process: "subprocess.Popen[bytes]") -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait(20)


def test_mlflow_takes_requests_by_the_names_of_this_machine_only(site: Site) -> None:
    """The settings of `--host 0.0.0.0`, on a server that only this machine reaches."""
    listening = Listening(mlflow_port=free_port(), host="0.0.0.0")
    environment = server_environment(site.home, listening)
    here = Listening(mlflow_port=listening.mlflow_port)
    process = subprocess.Popen(
        mlflow_command(site.home, here), env=environment, start_new_session=True
    )
    try:
        wait_for(lambda: prefect_api.answers(f"{here.mlflow_url}/health"), 180)
        page = f"{here.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1"
        for name in listening.environment()["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","):
            assert status(page, LOGIN, Host=name) == 200
            assert status(page, Host=name) == 401
        assert status(page, LOGIN, Host="evil.example:5000") == 403
    finally:
        end_server(process)
