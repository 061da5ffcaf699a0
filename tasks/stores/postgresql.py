"""The two PostgreSQL databases: whether they can be used, and by which `up`."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

from schemas.errors import EnvironmentFault, UserError
from tasks.stores.database import (
    DATABASE_VARIABLE,
    MLFLOW,
    PREFECT,
    Database,
    configured_database,
)

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
LOOK_SECONDS = 10.0
GIVE_BACK_SECONDS = 2.0
UP_LOCK = 0x6F72706F  # any number that is the same in every `up`
LONGEST_NAME = 63  # PostgreSQL's limit

# A machine that loses power does not say goodbye: so its lock ends after about a minute.
KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


def require_databases(database: Database, parts: Sequence[str] = (PREFECT, MLFLOW)) -> None:
    """Raise unless the databases can be opened: UserError without a driver, EnvironmentFault.

    To be asked first: MLflow itself tries for most of an hour to open one that does not answer.
    """
    for part in parts:
        _connect(database, part).close()


@contextmanager
def own_databases(home: Path) -> Iterator[Callable[[], None]]:
    """Be the only `up` on the databases of `ORPO_DATABASE_URL`, if that is set.

    Two, on whatever machines, would mark each other's runs as crashed. The server gives the claim
    back however this process ends, and after the server was away it is claimed again. What is
    given is to be called now and then: it raises where another `up` was faster then.

    Both raise EnvironmentFault that names the other `up`.
    """
    database = configured_database()
    if database is None:
        yield lambda: None
        return
    require_databases(database)
    claim = _Claim(database, f"up of {socket.gethostname()}, process {os.getpid()}, on {home}")
    try:
        claim.take()
        claim.keeper.start()
        yield claim.require_kept
    finally:
        claim.give_back()


class _Claim:
    """A lock of the server's, which it holds as long as the connection.

    A thread takes it again where the server was away, so that one that hangs hinders nobody.
    """

    def __init__(self, database: Database, name: str) -> None:
        self.database, self.name = database, name[:LONGEST_NAME]
        self.sessions: list[int] = []
        """Of ours, all that the server has had a process for; the last is the present one."""
        self.connection = self._connect()
        self.taken_by_another: EnvironmentFault | None = None
        self.over = threading.Event()
        self.keeper = threading.Thread(target=self._keep, daemon=True)

    def _connect(self) -> "psycopg.Connection[Any]":
        connection = _connect(self.database, PREFECT, application_name=self.name)
        self.sessions.append(connection.info.backend_pid)
        return connection

    def take(self) -> None:
        """Also when it is held already: the server counts that, and nothing else.

        Where only this side lost an earlier connection, that one has it still: until a later look.
        """
        for _ in range(2):  # who had it may have gone between the two questions
            if _value(self.connection, f"select pg_try_advisory_lock({UP_LOCK})"):
                return
            holder = _value(self.connection, _holder("pid"))
            if holder in self.sessions:
                return
            if holder is not None:
                break
        raise _taken(self.database, self.connection)

    def require_kept(self) -> None:
        """Raise when another `up` came first."""
        if self.taken_by_another is not None:
            raise self.taken_by_another

    def give_back(self) -> None:
        self.over.set()
        if self.keeper.is_alive():
            self.keeper.join(GIVE_BACK_SECONDS)
        if not self.keeper.is_alive():  # else it waits for a server that hangs
            self.connection.close()

    def _keep(self) -> None:
        import psycopg

        while not self.over.wait(LOOK_SECONDS):
            try:
                self.take()
            except psycopg.Error:
                with suppress(psycopg.Error, EnvironmentFault):  # it is still away
                    self._connect_again()
            except EnvironmentFault as taken:
                self.taken_by_another = taken
                return

    def _connect_again(self) -> None:
        self.connection.close()
        self.connection = self._connect()
        # By name, too: a server that was started again may have given the number to another.
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where pid = any(%s) and "
        earlier = self.sessions[:-1]
        self.connection.execute(f"{ended} application_name = %s", [earlier, self.name])


def is_new(database: Database, part: str) -> bool:
    """Whether nobody has made its tables yet."""
    connection = _connect(database, part)
    try:
        return _value(connection, "select to_regclass('alembic_version')") is None
    finally:
        connection.close()


def _value(connection: "psycopg.Connection[Any]", query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def _connect(
    database: Database, part: str, application_name: str = "orpo-pipeline"
) -> "psycopg.Connection[Any]":
    if find_spec("psycopg") is None:
        raise UserError(
            f"{DATABASE_VARIABLE} is set, and the driver of PostgreSQL is not installed.",
            "the package psycopg.",
            "`pip install 'orpo-pipeline[postgresql]'`.",
        )
    import psycopg

    address = f"postgresql://{database.place}/{database.name(part)}"
    try:
        return psycopg.connect(
            address,
            password=database.password,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            options=KEEPALIVE,
            application_name=application_name,
        )
    except psycopg.Error as error:
        because = " ".join(str(error).split()).rstrip(".")
        raise EnvironmentFault(
            f"The database {database.name(part)} at {database.place} cannot be opened: {because}.",
            f"a PostgreSQL server that answers, with the databases {database.name(PREFECT)} and "
            f"{database.name(MLFLOW)}, which the user of {DATABASE_VARIABLE} owns.",
            f"Correct {DATABASE_VARIABLE}, or make what is missing: `createdb "
            f"{database.name(part)}`.",
        ) from None


def _holder(column: LiteralString) -> LiteralString:
    """A query for a fact about the session that has the lock."""
    return (
        f"select {column} from pg_locks join pg_stat_activity using (pid) "
        f"where locktype = 'advisory' and objid = {UP_LOCK} and granted"
    )


def _taken(database: Database, connection: "psycopg.Connection[Any]") -> EnvironmentFault:
    owner = _value(connection, _holder("application_name"))
    return EnvironmentFault(
        f"The databases of {DATABASE_VARIABLE} are used by another `up` already "
        f"({owner or 'which has just ended'}).",
        "one `up` for a pair of databases.",
        f"Stop that one, or use another NAME than {database.prefix}. After a power cut its claim "
        "ends within a minute.",
    )
