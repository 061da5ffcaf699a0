"""The two SQLite files of the state folder: undamaged, and of a schema that is known here."""

import importlib.util
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from schemas.findings import Finding
from tasks.home import mlflow_database, prefect_database

LOOK_SECONDS = 4.0
STEPS = 100_000  # of SQLite's machine between two looks at the clock
REVISION = re.compile(r"^(down_)?revision(?:\s*:[^=]*)?\s*=\s*['\"](\w+)['\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Database:
    """A database, and where its package keeps the steps that bring it up to date."""

    package: str
    path: Path
    migrations: str
    """Folder below the package's."""
    if_old: str
    """What to do about one of an older release."""


def databases(home: Path) -> tuple[Database, Database]:
    """Prefect's and MLflow's."""
    up = "Make a backup, then start `orpo-pipeline up` once: it migrates the database"
    return (
        Database(
            "mlflow",
            mlflow_database(home),
            "store/db_migrations/versions",
            f"{up}. Until then runs fail.",
        ),
        Database(
            "prefect",
            prefect_database(home),
            "server/database/_migrations/versions/sqlite",
            f"{up}, as the next run does.",
        ),
    )


def check_database(database: Database) -> Iterator[Finding]:
    """Its pages, then its schema."""
    what, path = f"database of {database.package}", database.path
    if not path.is_file():
        yield Finding.ok(what, f"{path} is not there yet")
        return
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            problem, finished = quick_check(connection)
            if problem is not None:
                yield _damaged(what, path, problem)
                return
            revision = _revision(connection)
    except sqlite3.Error as error:
        yield _damaged(what, path, str(error))
        return
    looked = "undamaged" if finished else f"no damage seen in {LOOK_SECONDS:.0f} s"
    yield _schema(database, what, revision, looked)


def quick_check(
    connection: sqlite3.Connection, seconds: float | None = LOOK_SECONDS
) -> tuple[str | None, bool]:
    """The first damage that SQLite finds or None, and whether it had time to look everywhere."""
    until = time.monotonic() + (seconds or 0)
    if seconds is not None:
        connection.set_progress_handler(lambda: time.monotonic() > until, STEPS)
    try:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if str(error) != "interrupted":
            raise
        return None, False
    finally:
        connection.set_progress_handler(None, 0)
    return (None if said == "ok" else str(said)), True


def _damaged(what: str, path: Path, problem: str) -> Finding:
    return Finding.error(
        what,
        f"{path} is damaged or cannot be read: {problem}",
        "Stop `up`, put a backup in its place (docs/operations.md); without one move the file "
        "away, and what it recorded is lost.",
    )


def _revision(connection: sqlite3.Connection) -> str | None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return None  # a file that nobody has written to yet
    return str(row[0]) if row else None


def _schema(database: Database, what: str, revision: str | None, looked: str) -> Finding:
    name = f"{database.package} {version(database.package)}"
    known, newest = known_revisions(database)
    if revision is None:
        return Finding.ok(what, f"{looked}, still empty")
    if revision in newest:
        return Finding.ok(what, f"{looked}, schema {revision} is that of {name}")
    if revision in known:
        return Finding.warning(
            what, f"{looked}, but its schema {revision} is older than {name}", database.if_old
        )
    return Finding.error(
        what,
        f"schema {revision} is not known to {name}: a newer release wrote it",
        "Install that release again, or restore a backup of before (docs/operations.md).",
    )


def known_revisions(database: Database) -> tuple[set[str], set[str]]:
    """All revisions that the installed package has, and those that no other one follows.

    Read as text: importing the package takes seconds, and its migrations more.
    """
    spec = importlib.util.find_spec(database.package)
    assert spec is not None and spec.origin is not None, "it is a dependency"
    known: set[str] = set()
    followed: set[str] = set()
    for file in (Path(spec.origin).parent / database.migrations).glob("*.py"):
        for down, revision in REVISION.findall(file.read_text(encoding="utf-8")):
            (followed if down else known).add(revision)
    return known, known - followed
