"""Adapters in a bucket: there and back, and what is said when the store fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import BUCKET, SECRET_KEY, client, s3_server
from servers import free_port

from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from tasks.home import mlflow_store
from tasks.tracking import Tracker
from tasks.tracking_store import require_tracking, store_faults


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


def test_an_adapter_goes_to_the_bucket_and_comes_back(
    bucket: dict[str, str], tmp_path: Path
) -> None:
    home, weights = tmp_path / "home", tmp_path / "adapter_model.safetensors"
    weights.write_bytes(os.urandom(100_000))
    # Named, because MLflow keeps the last store of a process in the environment.
    tracker = Tracker(RegistryConfig(model_name="tiny", tracking_uri=mlflow_store(home)), home)
    run_id = tracker.open_run("adapter-1")
    assert tracker.client.get_run(run_id).info.artifact_uri.startswith(f"s3://{BUCKET}/orpo/")
    uri, _ = tracker.log_model(run_id, {weights.name: weights}, {"README.md": "a card"}, [])
    tracker.ensure_model("tiny")
    version = tracker.client.create_model_version("tiny", uri, run_id=run_id).version

    found = tracker.download_adapter(version, tmp_path / "down")
    assert (found / weights.name).read_bytes() == weights.read_bytes()
    assert (found / "README.md").read_text() == "a card"
    keys = [entry["Key"] for entry in client(bucket).list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert keys and all(key.startswith("orpo/") for key in keys)
    assert not (home / "mlflow" / "artifacts").exists()


def test_a_bucket_that_is_not_there_is_said_before_any_work(
    bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_ARTIFACTS_URL", "s3://elsewhere/orpo")
    said = r"artifact store \(s3://elsewhere/orpo\) failed.*bucket does not exist"
    with pytest.raises(EnvironmentFault, match=said):
        require_tracking(RegistryConfig(tracking_uri=mlflow_store(tmp_path)), tmp_path)


def test_a_store_that_went_away_is_an_environment_fault(
    bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    tracker = Tracker(RegistryConfig(tracking_uri=mlflow_store(home)), home)
    run_id = tracker.open_run("adapter-2")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    from mlflow.store.artifact import s3_artifact_repo

    s3_artifact_repo._cached_get_s3_client.cache_clear()  # another process would not have it
    with (
        pytest.raises(EnvironmentFault, match="Could not connect") as caught,
        store_faults(tracker.uri),
    ):
        tracker.client.log_text(run_id, "lost", "answer.txt")
    assert SECRET_KEY not in str(caught.value)
    s3_artifact_repo._cached_get_s3_client.cache_clear()
