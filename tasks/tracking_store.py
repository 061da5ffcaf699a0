"""Where runs are recorded: which store, whether it is usable, and what its failures mean."""

import os
import re
import sqlite3
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from schemas.config import WITHOUT_PASSWORD, RegistryConfig
from schemas.errors import EnvironmentFault, PipelineError, UserError
from tasks.home import enable_wal, mlflow_database, mlflow_store
from tasks.stores.artifacts import configured_artifacts
from tasks.stores.database import MLFLOW, configured_database
from tasks.stores.postgresql import require_databases

SCHEMES = ("http://", "https://", "sqlite://", "postgresql", "mysql", "mssql")
HEALTH_SECONDS = 10
BUSY = "database is locked"
"""What SQLite says when another process has been writing for longer than MLflow waits."""
PASSWORD = re.compile(r"//[^/@\s]*@")


def without_password(text: str) -> str:
    """`text` with what stands between // and @ of addresses replaced."""
    return PASSWORD.sub("//***@", text)


def tracking_uri(config: RegistryConfig, home: Path) -> str:
    """Configured server, else `MLFLOW_TRACKING_URI`, else the state folder's SQLite file."""
    return config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or mlflow_store(home)


def require_tracking(config: RegistryConfig, home: Path) -> None:
    """Raise EnvironmentFault when a configured server does not answer, or our store is not usable.

    UserError for a URI that MLflow cannot record in, or that holds a password. Makes the state
    folder's file when it is new.
    """
    uri = tracking_uri(config, home)
    if not WITHOUT_PASSWORD.fullmatch(uri):
        raise UserError(
            "The tracking URI (not shown) holds a password, which records of a run would repeat.",
            "the address alone; the password stands in the environment.",
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, PGPASSWORD "
            "for PostgreSQL.",
        )
    if not uri.startswith(SCHEMES):
        raise UserError(
            f"The tracking URI {uri!r} is none that MLflow can record in.",
            f"a URI that starts with one of {', '.join(SCHEMES)}.",
            "Correct registry.tracking_uri or MLFLOW_TRACKING_URI, or unset both.",
        )
    if uri == mlflow_store(home):
        _require_own_store(home)
    if not uri.startswith("http"):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HEALTH_SECONDS):
            return
    except (OSError, HTTPException, ValueError) as error:
        raise EnvironmentFault(
            f"The MLflow tracking server {uri} does not answer: {error}.",
            "a running MLflow server.",
            "Start it (for the embedded one: `make up`), or unset MLFLOW_TRACKING_URI and "
            "registry.tracking_uri to record in the state folder.",
        ) from error


def bucket_errors() -> tuple[type[Exception], ...]:
    """What the client of S3 raises; nothing where it was not used, by us or by a server's wish."""
    if "botocore" not in sys.modules:
        return ()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (Boto3Error, BotoCoreError, ClientError)


def _require_own_store(home: Path) -> None:
    """The state folder's file, or what ORPO_DATABASE_URL and ORPO_ARTIFACTS_URL name."""
    database = configured_database()
    if database is None:
        enable_wal(mlflow_database(home))
    else:
        require_databases(database, [MLFLOW])
        os.environ.update(database.client_environment())
    require_bucket()


def require_bucket() -> str | None:
    """What ORPO_ARTIFACTS_URL names, and can be read; None where it is not set.

    UserError for what it cannot be, EnvironmentFault for a bucket that does not let us in.
    """
    artifacts = configured_artifacts()
    if artifacts is not None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with store_faults(artifacts, "Reading the artifact store"):
            get_artifact_repository(artifacts).list_artifacts()
    return artifacts


def store_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when its server, database or artifact folder fails.

    Its database layer's own errors come out raw while the store is being opened.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, *bucket_errors())


@contextmanager
def store_faults(uri: str, doing: str = "Recording the run in MLflow") -> Iterator[None]:
    """Turn what MLflow raises in the block into EnvironmentFault; our own errors pass."""
    try:
        yield
    except PipelineError:
        raise
    except store_errors() as error:
        because = _first_words(str(error))
        mend = (
            "Another process is writing to it: wait until that has finished"
            if BUSY in because
            else "Mend what the message names, such as a full disk, a damaged file (a backup: "
            "docs/operations.md) or a server that is down"
        )
        raise EnvironmentFault(
            f"{doing} ({without_password(uri)}) failed: {because}.",
            "a store that can be read and written, and whose runs and model versions nobody "
            "deletes meanwhile.",
            f"{mend}; the same command then continues from what is finished.",
        ) from error


def _first_words(text: str) -> str:
    """The first line that says something: SQLAlchemy begins with advice to programmers."""
    lines = [line for line in text.splitlines() if not line.startswith("(raised as a result")]
    return (lines or [text])[0].rstrip(".")
