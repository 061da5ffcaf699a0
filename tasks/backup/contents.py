"""What of the state folder goes into a backup.

Everything but what can be made again from the rest: see `LEFT_OUT`. The order is that in which the
files are copied, while others may write:

1. watermarks: one that is newer than the registry names a version that is not there, and the next
   retraining would start from nothing; an older one only looks at some rows twice
2. databases, each as it is at one instant
3. the rest: whatever a database names had been written before it was named
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from orpo_pipeline.data.inputs import BLOCKS
from orpo_pipeline.evaluation.judge.judge import STORE
from orpo_pipeline.retraining.watermark import WATERMARKS
from orpo_pipeline.stages import MANIFEST
from schemas.errors import EnvironmentFault
from tasks.doctor.databases import quick_check

LEFT_OUT = {
    BLOCKS: "checked blocks, which the next preparation makes again from the sources",
    "champions": "copies of adapters that the registry has",
    "evaluating": "an evaluation that is not finished starts anew",
    "training": "a training that is not finished starts anew",
    "logs": "what happened, for people",
    "servers.json": "the `up` that runs now",
    "huggingface": "the hub's cache, where `deploy/` puts it",
}
"""By name in the state folder, and why nothing is lost without it; nor without `*.lock` beside
them. Of Prefect's folder only the database is taken: results of tasks only save a repeated flow run
the look at finished stages."""

MLFLOW, PREFECT = "mlflow", "prefect"
RECORDS = f"{MLFLOW}/mlflow.db"
DATABASES = (RECORDS, f"{PREFECT}/prefect.db", f"judgements/{STORE}")
ACCOUNTS = f"{MLFLOW}/accounts.db"  # made anew at each start of `up`
NO_PLAIN_FILES = {
    f"{name}{ending}"
    for name in (*DATABASES, ACCOUNTS)
    for ending in ("", "-wal", "-shm", "-journal")
}
BUSY_SECONDS = 60.0


def ordered_files(home: Path) -> tuple[list[Path], list[Path]]:
    """Files to copy before the databases, and after them; those of damaged stages, too."""
    chosen = [
        path
        for path in sorted(home.iterdir())
        if path.name not in LEFT_OUT and path.suffix != ".lock"
    ]
    first = [path for path in chosen if path.name == WATERMARKS]
    rest = [path for path in chosen if path.name not in (WATERMARKS, PREFECT)]
    plain = (
        file for file in _files(rest) if file.relative_to(home).as_posix() not in NO_PLAIN_FILES
    )
    return list(_files(first)), list(plain)


def _files(paths: list[Path], hidden: bool = False) -> Iterator[Path]:
    """Regular files below. Hidden ones, but for MLflow's, are locks or not written to the end."""
    for path in paths:
        if path.name.startswith(".") and not hidden:
            continue
        if path.is_dir():
            if not path.name.endswith(".damaged"):
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield from _files(sorted(path.iterdir()), hidden or path.name == MLFLOW)
        elif path.is_file():
            yield path


def stage_of(file: Path, home: Path) -> Path | None:
    """The stage that a file belongs to; None for one that belongs to none."""
    for folder in file.relative_to(home).parents:
        if (home / folder / MANIFEST).is_file():
            return home / folder
    return None


def copy_database(source: Path, target: Path) -> None:
    """The database as it is at one instant, whoever writes to it.

    Raises EnvironmentFault when it is damaged or cannot be read: a backup of it would be none.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as read,
            closing(sqlite3.connect(target)) as written,
        ):
            read.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
            read.backup(written)
            require_sound(written, source)
            written.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal beside it
    except sqlite3.Error as error:
        raise _unreadable(source, str(error)) from error


def require_sound(connection: sqlite3.Connection, name: Path) -> None:
    """Raise EnvironmentFault where SQLite finds damage."""
    problem, _ = quick_check(connection, seconds=None)
    if problem is not None:
        raise _unreadable(name, problem)


def _unreadable(name: Path, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"The database {name} is damaged or cannot be read: {reason}.",
        "an undamaged SQLite file.",
        "Look at it with `orpo-pipeline doctor`; an earlier backup may still have it whole.",
    )
