"""Data, base model, secrets and servers: reachable, and not."""

import http.server
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rows import pair_row, write_rows
from servers import free_port

from orpo_pipeline.base_model import EMBEDDED_SHAPE, resolve_base_model
from schemas.config import ModelConfig, RegistryConfig, RunConfig
from schemas.findings import Finding, Level, exit_code
from tasks.doctor.data import check_credentials, check_data
from tasks.doctor.evaluation import check_evaluation
from tasks.doctor.known import Known
from tasks.doctor.model import check_base_model
from tasks.doctor.services import check_servers


def look(known: Known | None = None, **sections: Any) -> list[Finding]:
    return list(check_data(RunConfig.model_validate(sections), known or Known()))


def test_rows_of_a_known_dialect_are_named_and_counted(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "pairs.jsonl", [pair_row(number) for number in range(60)])
    known = Known()
    (finding,) = look(known, data={"source": str(source)})
    assert finding.level is Level.OK and "the first rows are trl_explicit" in finding.found
    assert (known.rows, known.source_bytes) == (60, source.stat().st_size)
    assert known.row_bytes * 60 == pytest.approx(known.source_bytes)


def test_rows_of_many_blocks_are_counted_by_their_bytes(tmp_path: Path) -> None:
    rows = [pair_row(number) for number in range(10_000, 15_000)]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    known = Known()
    look(known, data={"source": str(source)})
    assert known.rows == pytest.approx(5_000, rel=0.01)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": "a", "answer": "b"}], "have the keys question, answer"),
        (["{broken"], "cannot be parsed"),
        ([], "it is empty"),
    ],
)
def test_what_cannot_be_trained_on_is_an_error_of_the_configuration(
    tmp_path: Path, rows: list[Any], words: str
) -> None:
    source = tmp_path / "pairs.jsonl"
    source.touch()
    if rows:
        write_rows(source, rows)
    (finding,) = look(data={"source": str(source)})
    assert (finding.level, finding.exit_code) == (Level.ERROR, 2) and words in finding.found


def test_every_watched_source_has_its_line_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "votes.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table votes (prompt, chosen, rejected)")
    sql = {"kind": "sql", "query": "select * from votes"}
    monkeypatch.setenv("VOTES_URL", f"sqlite:///{database}")
    monkeypatch.setenv("AWAY_URL", f"postgresql+psycopg://bob:planted@127.0.0.1:{free_port()}/x")
    sources = [
        {**sql, "name": "votes", "database_url_variable": "VOTES_URL"},
        {**sql, "name": "unset", "database_url_variable": "UNSET_URL"},
        {**sql, "name": "away", "database_url_variable": "AWAY_URL"},
        {"kind": "files", "name": "landing", "path": str(tmp_path / "landing")},
    ]
    votes, unset, away, landing = look(retraining={"sources": sources})
    assert votes.level is Level.OK and "VOTES_URL is set; sqlite" in votes.found
    assert unset.exit_code == 2 and "UNSET_URL" in unset.found
    assert away.exit_code == 3 and "planted" not in away.found and "bob" not in away.found
    assert landing.what == "data landing" and "does not exist" in landing.found


def test_a_source_that_only_run_reads_is_looked_at_too(tmp_path: Path) -> None:
    landing = write_rows(tmp_path / "landing.jsonl", [pair_row(number) for number in range(5)])
    watched = {"kind": "files", "name": "landing", "path": str(landing)}
    found = look(data={"source": str(tmp_path / "other.jsonl")}, retraining={"sources": [watched]})
    assert [(f.what, f.level) for f in found] == [
        ("data landing", Level.OK),
        ("data", Level.ERROR),
    ]


def test_an_evaluation_that_cannot_be_is_said() -> None:
    (fine,) = check_evaluation(RunConfig())
    assert fine.level is Level.OK
    config = RunConfig.model_validate(
        {"evaluation": {"drift_pairs": 0, "benchmarks": ["arc_easy"], "generations": 0}}
    )
    *_, gate = check_evaluation(config)
    assert gate.level is Level.WARNING and "it will promote nothing" in gate.found


def test_secrets_are_looked_for_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_variable": "JUDGE_KEY"}
    sections: dict[str, Any] = {
        "data": {"source": "owner/pairs"},
        "evaluation": {"judge": judge},
    }
    config = RunConfig.model_validate(sections)
    for name in ("HF_TOKEN", "JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    token, key = check_credentials(config)
    assert token.level is Level.WARNING and key.level is Level.ERROR and "JUDGE_KEY" in key.found
    monkeypatch.setenv("HF_TOKEN", "planted")
    monkeypatch.setenv("JUDGE_KEY", "planted")
    found = list(check_credentials(config))
    assert [finding.level for finding in found] == [Level.OK, Level.OK]
    assert "planted" not in str(found)
    assert list(check_credentials(RunConfig())) == []


def test_base_models_that_are_here_and_not(tiny_model: Path, tmp_path: Path) -> None:
    def check(name: str) -> tuple[Finding, Known]:
        known = Known()
        return check_base_model(ModelConfig(base_model=name), tmp_path / "home", known), known

    found, known = check("embedded")
    assert found.level is Level.OK and "the first run dequantises it" in found.found
    assert known.shape == EMBEDDED_SHAPE and known.model_bytes == 2 * EMBEDDED_SHAPE.parameters
    found, known = check(str(tiny_model))
    assert found.level is Level.OK and known.shape is not None and known.shape.layers == 2
    for name in (str(tmp_path), str(tmp_path / "gone.gguf"), "no such model"):
        found, known = check(name)
        assert (found.level, found.exit_code) == (Level.ERROR, 2) and known.shape is None
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_the_embedded_shape_is_that_of_its_weights(tmp_path: Path) -> None:
    record = resolve_base_model(ModelConfig(), tmp_path, lambda _: None)
    assert record.shape == EMBEDDED_SHAPE


@contextmanager
def answering(text: str) -> Iterator[str]:
    """The address of a server that says this and nothing else: one of another release."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_servers_that_are_away_or_of_another_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    idle, tracking = check_servers(RegistryConfig(), tmp_path)
    assert idle.level is tracking.level is Level.OK and "need no server" in idle.found
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    uri = f"http://127.0.0.1:{free_port()}"
    _, prefect, tracking = check_servers(RegistryConfig(tracking_uri=uri), tmp_path)
    assert prefect.level is tracking.level is Level.ERROR
    assert "unset PREFECT_API_URL" in prefect.fix
    with answering(version("mlflow")) as same, answering('"2.0.0"') as older:
        monkeypatch.setenv("PREFECT_API_URL", f"{older}/api")
        _, prefect, tracking = check_servers(RegistryConfig(tracking_uri=same), tmp_path)
    assert tracking.level is Level.OK and prefect.level is Level.WARNING
    assert f"is prefect 2.0.0; {version('prefect')} is installed here" in prefect.found
    wrong = RegistryConfig(tracking_uri="file:///tmp/runs")
    *_, tracking = check_servers(wrong, tmp_path)
    assert tracking.exit_code == 2


def test_the_exit_code_is_that_of_the_worst() -> None:
    fine, service = Finding.ok("a", "b"), Finding.error("a", "b", "c")
    configuration = service.model_copy(update={"exit_code": 2})
    assert exit_code([fine, Finding.warning("a", "b", "c")]) == 0
    assert exit_code([fine, service]) == 3
    assert exit_code([configuration, service]) == 2
