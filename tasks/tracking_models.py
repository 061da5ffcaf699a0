"""Registered versions as a user of them sees them: found by alias, downloaded, loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.config import RegistryConfig
from tasks.tracking import Tracker
from tasks.tracking_store import store_faults, tracking_uri

ADAPTER = Path("artifacts") / "adapter"
"""Where a downloaded version has its adapter."""


@contextmanager
def registry(config: RegistryConfig, home: Path) -> Iterator[Tracker]:
    """The store, for work on versions; what MLflow itself raises becomes EnvironmentFault."""
    with store_faults(tracking_uri(config, home), "Using the model registry"):
        yield Tracker(config, home)


def version_with_alias(uri: str, name: str, alias: str) -> str:
    """Number of the version that has the alias; MlflowException when none has."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return str(client.get_model_version_by_alias(name, alias).version)


def download_version(uri: str, model_uri: str, folder: Path) -> Path:
    """Copy the files of `models:/NAME@ALIAS` or `models:/NAME/VERSION` to below `folder`."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=str(folder)))


def delete_files(tracker: Tracker, version: str, names: Sequence[str]) -> None:
    """Delete these of a version's adapter files from the artifact store, as far as they are there.

    MlflowException where the store cannot delete.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    name = tracker.config.model_name
    uri = tracker.client.get_model_version_download_uri(name, version)
    files = get_artifact_repository(uri, tracking_uri=tracker.uri, registry_uri=tracker.uri)
    for file in files.list_artifacts(ADAPTER.as_posix()):
        if Path(file.path).name in names:
            files.delete_artifacts(file.path)


def load_version(folder: Path) -> Any:
    """The pyfunc model of a downloaded version: `predict` takes messages and gives answers."""
    import mlflow

    return mlflow.pyfunc.load_model(str(folder))
