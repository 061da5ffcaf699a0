"""The same through a real MLflow server: races are decided by it, and it may go away."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import Registry, make_registry
from servers import free_port, wait_for

from schemas.promotion import PromotionState
from tasks import prefect_api
from tasks.access.listening import Listening
from tasks.promotion import repair
from tasks.promotion_history import read_history
from tasks.service_commands import mlflow_command
from tasks.versions import read_aliases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def store(tmp_path: Path) -> Registry:
    return make_registry(tmp_path / "home")


@pytest.fixture
def server(store: Registry) -> Iterator["tuple[str, subprocess.Popen[bytes]]"]:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    # Its own process group would outlive a kill; one worker process is all there is to kill.
    process = subprocess.Popen(
        mlflow_command(store.home, Listening(mlflow_port=port)),
        env={**os.environ},
        start_new_session=True,
    )
    try:
        wait_for(lambda: prefect_api.answers(f"{uri}/health"), 180)
        yield uri, process
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    import signal
    from contextlib import suppress

    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def test_of_three_that_race_through_a_server_one_wins(
    store: Registry, server: "tuple[str, subprocess.Popen[bytes]]"
) -> None:
    uri, _ = server
    winner = store.race({to: store.start("1", to, uri=uri) for to in ("2", "3", "4")})
    assert read_aliases(store.tracker())["champion"] == winner
    counted = [e for e in read_history(store.tracker()) if e.state is PromotionState.COMPLETED]
    assert [entry.promotion.to_version for entry in counted] == [winner]


def test_a_server_that_goes_away_promotes_nothing(
    store: Registry,
    server: "tuple[str, subprocess.Popen[bytes]]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    uri, process = server
    promoting = store.start("1", "2", uri=uri)
    stop(process)
    output, _ = promoting.communicate("\n", timeout=120)
    assert promoting.returncode == 3
    assert f"Using the model registry ({uri}) failed" in output
    assert "Traceback" not in output
    assert read_aliases(store.tracker()) == {"champion": "1", "challenger": "2"}
    assert repair(store.tracker()) == []
