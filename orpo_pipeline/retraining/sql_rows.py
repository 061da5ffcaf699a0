"""Rows of a SQL query as JSON Lines, without a word of the database's URL in any error."""

import json
import os
import re
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from schemas.errors import EnvironmentFault, UserError
from schemas.retraining_config import SqlSource

AT_ONCE = 1000  # rows in memory
LONGEST_REASON = 300
SHORT = 4
CONNECT_SECONDS = 5
SERVERS = ("postgresql", "mysql", "mariadb")
DRIVER_ERRORS = (ImportError, ValueError, TypeError)
"""What comes out raw: a driver that is missing, and what one says of a URL it cannot read."""


def write_rows(source: SqlSource, path: Path) -> int:
    """The query's rows, one JSON object a line, in its order; how many.

    Raises UserError for a variable that is not set or holds no URL, a driver that is not installed,
    values that are no JSON, or no row at all; EnvironmentFault when the database fails.
    """
    url = _url(source)
    count = 0
    try:
        with path.open("w", encoding="utf-8") as file:
            for row in _rows(url, source.query):
                file.write(json.dumps(_decoded(row, source), ensure_ascii=False, default=_plain))
                file.write("\n")
                count += 1
    except (SQLAlchemyError, *DRIVER_ERRORS) as error:
        # Without its cause: a log would print that, with all that the driver says of the URL.
        raise _failed(source, url, error) from None
    if not count:
        raise UserError(
            f"The query of the source {source.name} gives no row.",
            "at least one: a feed that is empty must not look like a deletion.",
            f"Correct retraining.sources, or the database that {source.database_url_variable} "
            "names.",
        )
    return count


def require_connection(source: SqlSource) -> str:
    """Which database answers, as `DRIVER on HOST`; the query is not run.

    Raises as `write_rows` does.
    """
    url = _url(source)
    # A host that swallows packets would hold us for minutes.
    patience = {"connect_timeout": CONNECT_SECONDS} if url.get_backend_name() in SERVERS else {}
    try:
        engine = create_engine(url, hide_parameters=True, connect_args=patience)
        try:
            with engine.connect() as connection:
                connection.execute(text("select 1"))
        finally:
            engine.dispose()
    except (SQLAlchemyError, *DRIVER_ERRORS) as error:
        raise _failed(source, url, error) from None
    return f"{url.get_backend_name()} on {url.host or 'this machine'}"


def _url(source: SqlSource) -> URL:
    variable = source.database_url_variable
    given = os.environ.get(variable)
    try:
        return make_url(given or "")
    except (SQLAlchemyError, ValueError):
        raise UserError(
            f"The environment variable {variable}, with the database of the source {source.name}, "
            f"{'holds no URL' if given else 'is not set'}.",
            "a URL such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or sqlite:////FILE.",
            f"Set {variable} where the flow runs (for a worker: where `up` is started).",
        ) from None


def _rows(url: URL, query: str) -> Iterator[dict[str, Any]]:
    engine = create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as connection:
            options = {"yield_per": AT_ONCE, "stream_results": True}
            result = connection.execution_options(**options).execute(text(query))
            for row in result.mappings():
                yield dict(row)
    finally:
        engine.dispose()


def _decoded(row: dict[str, Any], source: SqlSource) -> dict[str, Any]:
    for name in source.json_columns:
        if isinstance(value := row.get(name), str | bytes):
            row[name] = json.loads(value)
    return row


def _plain(value: Any) -> Any:
    """Values that JSON has no form for."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)


def _failed(source: SqlSource, url: URL, error: Exception) -> UserError | EnvironmentFault:
    reason = hide(" ".join(str(error).split()), url)[:LONGEST_REASON]
    found = f"The query of the source {source.name} failed: {type(error).__name__}: {reason}."
    if isinstance(error, ImportError | NoSuchModuleError):
        return UserError(
            found,
            f"the driver that {source.database_url_variable} names.",
            "Install it: `pip install 'orpo-pipeline[postgresql]'` for postgresql+psycopg.",
        )
    if isinstance(error, ValueError | TypeError):
        return UserError(
            found,
            "a URL that the driver can read, and JSON in every column of json_columns.",
            f"Correct {source.database_url_variable}, or json_columns of the source.",
        )
    return EnvironmentFault(
        found,
        "a database that answers, and a query that it understands.",
        f"Correct the query in retraining.sources, or {source.database_url_variable}; then start "
        "the same command again.",
    )


def hide(reason: str, url: URL) -> str:
    """The text without what may be secret in the URL, as it stands or percent-encoded.

    That is password and user, and the values of all options, such as `?password=` or `?sslkey=`.
    """
    options = [v for values in url.normalized_query.values() for v in values]
    parts = [url.render_as_string(hide_password=False), url.password, url.username, *options]
    forms = {form for part in parts if part for form in (str(part), quote_plus(str(part)))}
    for form in sorted(forms, key=len, reverse=True):
        # A short one, such as the user `sa`, only as a word: every word has its letters.
        word = r"\b" if len(form) < SHORT and form.isalnum() else ""
        reason = re.sub(f"{word}{re.escape(form)}{word}", "***", reason)
    return reason
