"""PostgreSQL and the bucket, where `ORPO_DATABASE_URL` and `ORPO_ARTIFACTS_URL` name them."""

from collections.abc import Iterator

from schemas.errors import PipelineError
from schemas.findings import Finding
from tasks.stores.database import MLFLOW, PREFECT, Database
from tasks.stores.postgresql import require_databases
from tasks.tracking_store import require_bucket


def check_postgresql(database: Database) -> Finding:
    """Can both databases be opened?"""
    try:
        require_databases(database)
    except PipelineError as error:
        return Finding.of("databases", error)
    names = f"{database.name(PREFECT)} and {database.name(MLFLOW)}"
    return Finding.ok("databases", f"{names} at {database.place} can be opened")


def check_bucket() -> Iterator[Finding]:
    """Can the bucket be read, if there is one?"""
    try:
        bucket = require_bucket()
    except PipelineError as error:
        yield Finding.of("artifacts", error)
        return
    if bucket is not None:
        yield Finding.ok("artifacts", f"{bucket} can be read")
