"""The state folder, and the environment that Prefect and MLflow need to live in it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from schemas.errors import EnvironmentFault
from tasks.access.login import configured_login
from tasks.stores.database import MLFLOW, PREFECT, configured_database

HOME_VARIABLE = "ORPO_HOME"


def state_home() -> Path:
    """Absolute path of `$ORPO_HOME`, or of `.orpo` in the current folder."""
    return Path(os.environ.get(HOME_VARIABLE) or ".orpo").expanduser().resolve()


def make_folder(folder: Path) -> None:
    """Make a folder below the state folder; EnvironmentFault when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(
            f"The state folder cannot be written: {error}.",
            "a folder that this user may write, on a disk with space left.",
            f"Set {HOME_VARIABLE} to another folder.",
        ) from error


def service_environment(home: Path) -> dict[str, str]:
    """Settings for this process and its children; what the user has set already wins,
    but for the place of Prefect's files, which is the state folder's.

    The waits are generous because a busy 2-core machine needs them: Prefect's default of 20 s for
    the temporary server is regularly missed there.
    """
    defaults = {
        HOME_VARIABLE: str(home),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Flow runs and their logs go after 90 days, Prefect's default, once a server runs.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # of a live point; all are delivered at the end
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "TOKENIZERS_PARALLELISM": "false",
    }
    database = configured_database()
    if database is not None:
        defaults["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database.address(PREFECT)
    chosen = {name: os.environ.get(name, value) for name, value in defaults.items()}
    # Locks, backups and doctor look there: another one would be nobody's to guard.
    chosen["PREFECT_HOME"] = defaults["PREFECT_HOME"]
    for given in (database, configured_login()):
        chosen |= given.client_environment() if given is not None else {}
    return chosen


def use_services(home: Path) -> None:
    """Put `service_environment` into this process; before MLflow is imported, which reads it."""
    os.environ.update(service_environment(home))


def mlflow_store(home: Path) -> str:
    """Tracking and registry URI of the state folder: used directly, and behind `up`'s server.

    Its SQLite file, or the PostgreSQL database of `ORPO_DATABASE_URL`, without a password.
    """
    database = configured_database()
    if database is not None:
        return database.address(MLFLOW)
    return f"sqlite:///{mlflow_database(home)}"


def mlflow_database(home: Path) -> Path:
    """Absolute path of the SQLite file behind `mlflow_store`, where that is one."""
    return home.resolve() / "mlflow" / "mlflow.db"


def prefect_database(home: Path) -> Path:
    """Where Prefect keeps its SQLite file, unless it is told to use another database."""
    return home / "prefect" / "prefect.db"


def mlflow_artifacts(home: Path) -> Path:
    """Where artifacts lie, as plain files. An absolute path, because MLflow stores it as it is."""
    return home.resolve() / "mlflow" / "artifacts"


def enable_wal(database: Path) -> None:
    """Let readers and one writer of `database` work at once; creates it and its folder if absent.

    The mode is kept in the file, so every later connection has it, MLflow's own included.

    Raises:
        EnvironmentFault: the file system cannot do it (network file systems usually cannot), or
            the file is there and no database.
    """
    make_folder(database.parent)
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise EnvironmentFault(
            f"The database {database} cannot be opened: {error}.",
            "an undamaged SQLite file that this user may write, on a disk with space left.",
            "Free space, or put a backup of the file in its place (docs/operations.md); without "
            "one, move the file away and what it recorded is lost.",
        ) from error
    if mode != "wal":
        raise EnvironmentFault(
            f"SQLite answered journal_mode={mode} for {database}.",
            "journal_mode=wal, so that several processes can use the file.",
            f"Set {HOME_VARIABLE} to a folder on a local disk.",
        )
