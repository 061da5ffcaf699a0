"""MLflow's tables: made by its server when they are not there, migrated by `mlflow db upgrade`."""

import sys
from importlib.metadata import version
from pathlib import Path

from tasks.home import enable_wal, make_folder, mlflow_database, mlflow_store
from tasks.stores.database import MLFLOW, configured_database
from tasks.stores.postgresql import is_new


def needs_upgrade(home: Path) -> bool:
    """Make the store ready to be opened; whether it may have the tables of an older MLflow.

    MLflow refuses those. Asking it takes seconds, so it is asked once per MLflow version.
    """
    database = configured_database()
    if database is None:
        file = mlflow_database(home)
        exists = file.exists()
        enable_wal(file)
    else:
        make_folder(_mark(home).parent)
        exists = not is_new(database, MLFLOW)
    return exists and not (_mark(home).exists() and _mark(home).read_text("utf-8") == _now(home))


def upgrade_command(home: Path) -> list[str]:
    return [sys.executable, "-m", "mlflow", "db", "upgrade", mlflow_store(home)]


def note_upgraded(home: Path) -> None:
    """Remember that the installed MLflow has opened the store."""
    _mark(home).write_text(_now(home), encoding="utf-8")


def _mark(home: Path) -> Path:
    return mlflow_database(home).with_name("schema-of-mlflow")


def _now(home: Path) -> str:
    return f"{version('mlflow')} {mlflow_store(home)}"
