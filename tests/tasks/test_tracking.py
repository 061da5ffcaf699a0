"""MLflow records against a real SQLite store: nothing lost, nothing doubled."""

import re
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.configuration import read_config
from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault, UserError
from tasks.home import mlflow_artifacts, mlflow_database, mlflow_store
from tasks.tracking import FAILURE_TAG, Tracker, recorded_run
from tasks.tracking_store import require_tracking, store_faults, tracking_uri

POINTS = [{"step": step, "values": {"train/loss": 1.0 / step}} for step in range(1, 6)]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(RegistryConfig(experiment="tests"), tmp_path_factory.mktemp("home"))


def steps_of(tracker: Tracker, run_id: str) -> list[int]:
    return sorted(m.step for m in tracker.client.get_metric_history(run_id, "train/loss"))


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_training_has_one_run_however_often_it_is_opened(tracker: Tracker) -> None:
    first = tracker.open_run("adapter-a")
    assert tracker.open_run("adapter-a") == first
    assert tracker.open_run("adapter-b") != first


def test_points_are_delivered_once(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-points")
    tracker.points.log_live(run_id, 1, POINTS[0]["values"])
    tracker.points.log_live(run_id, 3, POINTS[2]["values"])  # 2 was lost on the way
    tracker.points.deliver(run_id, POINTS)
    tracker.points.deliver(run_id, POINTS)
    assert steps_of(tracker, run_id) == [1, 2, 3, 4, 5]


def test_a_figure_that_is_measured_anew_is_logged_when_it_has_changed(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-figures")
    for loss in (0.5, 0.5, 0.25, 0.25, 0.5):
        tracker.points.correct(run_id, [{"step": 3, "values": {"train/loss": loss}}])
    history = tracker.client.get_metric_history(run_id, "train/loss")
    assert [m.value for m in sorted(history, key=lambda m: m.timestamp)] == [0.5, 0.25, 0.5]
    assert tracker.client.get_run(run_id).data.metrics["train/loss"] == 0.5


def test_a_clock_that_was_set_back_does_not_bring_back_an_old_figure(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-clock")
    tomorrow = int((time.time() + 86_400) * 1000)
    tracker.client.log_metric(run_id, "pairs/accuracy", 0.5, timestamp=tomorrow, step=3)
    for _ in range(2):
        tracker.points.correct(run_id, [{"step": 3, "values": {"pairs/accuracy": 0.25}}])
    assert tracker.client.get_run(run_id).data.metrics["pairs/accuracy"] == 0.25
    assert len(tracker.client.get_metric_history(run_id, "pairs/accuracy")) == 2


def test_a_continued_training_does_not_log_its_repeated_steps(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-continued")
    for point in POINTS[:3]:
        tracker.points.log_live(run_id, point["step"], point["values"])
    for point in POINTS[1:3]:  # a second child of the same attempt, after memory ran out
        tracker.points.log_live(run_id, point["step"], point["values"])
    again = Tracker(tracker.config, tracker.home)
    again.open_run("adapter-continued")
    for point in POINTS[1:]:
        again.points.log_live(run_id, point["step"], point["values"])
    assert steps_of(tracker, run_id) == [1, 2, 3, 4, 5]


def test_system_metrics_are_logged_and_a_resumed_training_continues_them(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run_id = tracker.open_run("adapter-system")
    for attempt in (1, 2):
        with tracker.system_metrics(run_id):
            wait_for_metric(tracker, run_id, "system/cpu_utilization_percentage", attempt)
    history = tracker.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert sorted(metric.step for metric in history) == list(range(len(history)))


def wait_for_metric(tracker: Tracker, run_id: str, name: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(tracker.client.get_metric_history(run_id, name)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_error_closes_the_run_and_reopening_makes_it_running(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-failing")
    with pytest.raises(ValueError, match="boom"), tracker.failure_recorded(run_id):
        raise ValueError("boom")
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.data.tags[FAILURE_TAG]) == ("FAILED", "boom")
    with pytest.raises(KeyboardInterrupt), tracker.failure_recorded(run_id):
        raise KeyboardInterrupt
    assert tracker.client.get_run(run_id).info.status == "KILLED"
    tracker.open_run("adapter-failing")
    run = tracker.client.get_run(run_id)
    assert run.info.status == "RUNNING" and FAILURE_TAG not in run.data.tags


def test_a_later_failure_leaves_a_finished_training_finished(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-finished")
    tracker.finish_run(run_id)
    before = tracker.client.get_run(run_id).info
    with pytest.raises(ValueError, match="boom"), tracker.failure_recorded(run_id):
        raise ValueError("boom")
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", before.end_time)
    assert run.data.tags[FAILURE_TAG] == "boom"


def test_artifacts_are_plain_files_in_the_state_folder(tracker: Tracker) -> None:
    run_id = tracker.open_run("adapter-artifacts")
    tracker.client.log_text(run_id, "hello", "note.txt")
    found = list(mlflow_artifacts(tracker.home).rglob("note.txt"))
    assert [path.read_text() for path in found] == ["hello"]


def test_a_server_that_is_down_is_named_with_the_fix(tmp_path: Path) -> None:
    config = RegistryConfig(tracking_uri=f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(EnvironmentFault) as caught:
        require_tracking(config, tmp_path)
    assert config.tracking_uri is not None and config.tracking_uri in caught.value.found
    assert "make up" in caught.value.fix


def test_a_server_that_went_away_costs_no_point(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_id = tracker.open_run("adapter-away")
    living = tracker.points.client
    tracker.points.client = MlflowClient(tracking_uri=f"http://127.0.0.1:{closed_port()}")
    tracker.points.log_live(run_id, 1, POINTS[0]["values"])
    assert tracker.points.quiet_until > 0
    tracker.points.client, tracker.points.quiet_until = living, 0.0
    tracker.points.deliver(run_id, POINTS)
    assert steps_of(tracker, run_id) == [1, 2, 3, 4, 5]


def test_where_runs_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(RegistryConfig(), tmp_path) == mlflow_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a")
    assert tracking_uri(RegistryConfig(), tmp_path) == "http://a"
    assert tracking_uri(RegistryConfig(tracking_uri="http://b"), tmp_path) == "http://b"


def test_a_database_that_is_none_is_found_before_any_work(tmp_path: Path) -> None:
    database = mlflow_database(tmp_path)
    database.parent.mkdir()
    database.write_bytes(b"no database, whatever its name says" * 100)
    with pytest.raises(EnvironmentFault) as caught:
        require_tracking(RegistryConfig(), tmp_path)
    assert f"{database} cannot be opened: file is not a database" in caught.value.found
    assert "backup" in caught.value.fix


def test_a_damaged_database_is_named(tracker: Tracker, tmp_path: Path) -> None:
    """Its tables are there and their pages overwritten, as by a disk that fails."""
    tracker.open_run("adapter-before-the-damage")
    database = mlflow_database(tmp_path)
    shutil.copytree(mlflow_database(tracker.home).parent, database.parent)
    require_tracking(tracker.config, tmp_path)  # also moves the copied log into the file
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with (
        pytest.raises(EnvironmentFault, match="malformed"),
        recorded_run(tracker.config, tmp_path, "adapter-x"),
    ):
        pass


@contextmanager
def no_file_grows() -> Iterator[None]:
    """Every write past 1,000 bytes of a file fails in the kernel, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log_points(tracker: Tracker, run_id: str) -> None:
    with no_file_grows():
        tracker.points.log(run_id, POINTS)


def log_file(tracker: Tracker, run_id: str) -> None:
    with no_file_grows():
        tracker.client.log_text(run_id, "x" * 5000, "note.txt")


def delete_run(tracker: Tracker, run_id: str) -> None:
    tracker.client.delete_run(run_id)
    tracker.points.log(run_id, POINTS)


def delete_version(tracker: Tracker, run_id: str) -> None:
    tracker.ensure_model("deleted")
    version = tracker.client.create_model_version("deleted", "file:///nowhere").version
    tracker.client.delete_model_version("deleted", version)
    tracker.client.set_registered_model_alias("deleted", "champion", version)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (log_points, "disk I/O error"),
        (log_file, "File too large"),
        (delete_run, "must be in the 'active' state"),
        (delete_version, "not found"),
    ],
)
def test_what_mlflow_cannot_do_is_the_environment_s_fault(
    tracker: Tracker, work: Callable[[Tracker, str], None], words: str
) -> None:
    with (
        pytest.raises(EnvironmentFault) as caught,
        recorded_run(tracker.config, tracker.home, f"adapter-{work.__name__}") as (own, run_id),
    ):
        work(own, run_id)
    assert words in caught.value.found and tracker.uri in caught.value.found
    assert caught.value.exit_code == 3
    run = tracker.client.get_run(run_id).info
    assert run.status == "FAILED" or run.lifecycle_stage == "deleted"


def test_a_password_in_the_uri_is_not_shown() -> None:
    uri = "postgresql://us:secret@host/mlflow"
    with pytest.raises(EnvironmentFault) as caught, store_faults(uri):
        raise OSError("gone.")
    assert "(postgresql://***@host/mlflow) failed: gone. " in f"{caught.value.found} "


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:planted@127.0.0.1:5000",
        "postgresql://me:planted/1@db/mlflow",
        "https://:planted@host",
        "me:planted@host",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="holds a password") as caught:
        require_tracking(RegistryConfig(), tmp_path)
    assert "planted" not in str(caught.value)
    assert "MLFLOW_TRACKING_PASSWORD" in caught.value.fix

    with pytest.raises(UserError, match="holds a password") as in_config:
        read_config(None, [f"registry.tracking_uri={uri}"])
    assert "planted" not in str(in_config.value)
    # So says the schema, too, by which Prefect refuses a flow's parameters before it stores them.
    pattern = RegistryConfig.model_json_schema()["properties"]["tracking_uri"]["pattern"]
    assert re.search(pattern, uri) is None


def test_an_address_without_a_password_is_taken() -> None:
    for uri in ("http://h:5000", "postgresql+psycopg://me@h:5/db", "sqlite:////a:b@c/m.db", "x"):
        assert RegistryConfig(tracking_uri=uri).tracking_uri == uri
