"""`ORPO_DATABASE_URL`: one PostgreSQL server, a database for Prefect and one for MLflow.

The password goes to the processes in `PGPASSWORD`, which both drivers read, and stands in no
address: so no command line, record, page or error can show it.
"""

import os
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from schemas.errors import UserError

DATABASE_VARIABLE = "ORPO_DATABASE_URL"
PASSWORD_VARIABLE = "PGPASSWORD"
SCHEMES = ("postgresql", "postgresql+psycopg", "postgres")

MLFLOW, PREFECT = "mlflow", "prefect"
DRIVERS = {MLFLOW: "psycopg", PREFECT: "asyncpg"}
"""Prefect needs an asynchronous driver."""


@dataclass(frozen=True)
class Database:
    """The server, and the part that both databases' names have in common."""

    place: str
    """USER@HOST:PORT."""
    prefix: str
    password: str | None

    def name(self, part: str) -> str:
        """Name of the database of `MLFLOW` or `PREFECT`."""
        return f"{self.prefix}_{part}"

    def address(self, part: str) -> str:
        """SQLAlchemy URL of that database, without a password."""
        return f"postgresql+{DRIVERS[part]}://{self.place}/{self.name(part)}"

    def client_environment(self) -> dict[str, str]:
        """What processes that open the databases need."""
        return {PASSWORD_VARIABLE: self.password} if self.password else {}


def configured_database() -> Database | None:
    """What `ORPO_DATABASE_URL` says; None where it is not set. UserError for what it cannot be."""
    given = os.environ.get(DATABASE_VARIABLE)
    if not given:
        return None
    try:
        url = urlsplit(given)
        if _is_usable(url):
            password = unquote(url.password) if url.password else None
            place = url.netloc.rpartition("@")[2]
            user = f"{url.username}@" if url.username else ""
            return Database(user + place, url.path.strip("/"), password)
    except ValueError:  # such as a port that is no number
        pass
    raise UserError(
        f"{DATABASE_VARIABLE} cannot be used (its value is not shown, it may hold a password).",
        "postgresql://USER:PASSWORD@HOST:PORT/NAME with nothing behind it, and in the password "
        "%40 for @, %2F for / and so on; the databases are NAME_prefect and NAME_mlflow.",
        f"Correct {DATABASE_VARIABLE}. What else a connection needs is set by libpq's variables, "
        "such as PGSSLMODE.",
    )


def _is_usable(url: SplitResult) -> bool:
    name = url.path.strip("/")
    return (
        url.scheme in SCHEMES
        and bool(url.hostname)
        and url.port != 0
        and name.replace("_", "").replace("-", "").isalnum()
        and not url.query
        and not url.fragment
    )
