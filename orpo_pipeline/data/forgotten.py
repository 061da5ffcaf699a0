"""Rows that somebody wants forgotten: no later preparation trains or evaluates on them.

forgotten.json    {row id: {"since": ..., "because": ...}} in the state folder
"""

import fcntl
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from orpo_pipeline.stages import sync, write_atomically
from schemas.errors import EnvironmentFault, UserError

FORGOTTEN = "forgotten.json"
ROW_ID = re.compile(r"[0-9a-f]{64}")

Marks = dict[str, dict[str, str]]


def forgotten_rows(home: Path) -> pl.Series:
    """Row ids, sorted. Raises UserError for a damaged list: what is not known must not be lost."""
    return pl.Series("row_id", sorted(read_marks(home)), dtype=pl.String)


def read_marks(home: Path) -> Marks:
    """Every marked row id, since when and why. Raises UserError for a damaged list."""
    path = home / FORGOTTEN
    try:
        marks = json.loads(path.read_text(encoding="utf-8"))
        sound = all(ROW_ID.fullmatch(row_id) for row_id in marks) and isinstance(marks, dict)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    if not sound:
        raise _damaged(path, "it does not hold row ids alone")
    return {str(row_id): dict(mark) for row_id, mark in marks.items()}


def mark_forgotten(home: Path, row_ids: Iterable[str], because: str) -> list[str]:
    """Add rows to the list; those that were not on it yet."""
    mark = {"since": datetime.now(UTC).isoformat(timespec="seconds"), "because": because}

    def add(marks: Marks) -> list[str]:
        new = sorted(set(row_ids) - marks.keys())
        marks.update(dict.fromkeys(new, mark))
        return new

    return _change(home, add)


def unmark_forgotten(home: Path, row_ids: Iterable[str]) -> list[str]:
    """Take rows off the list; those that were on it."""

    def remove(marks: Marks) -> list[str]:
        known = sorted(set(row_ids) & marks.keys())
        for row_id in known:
            del marks[row_id]
        return known

    return _change(home, remove)


def _change(home: Path, change: Callable[[Marks], list[str]]) -> list[str]:
    """Concurrent writers wait for each other; a crash leaves the old list or the new one."""
    with _disk_faults(home), (home / f".{FORGOTTEN}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        marks = read_marks(home)
        changed = change(marks)
        if changed:
            write_atomically(home / FORGOTTEN, json.dumps(marks, indent=1, sort_keys=True))
            sync(home)
    return changed


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"The list of forgotten rows {path} is damaged: {why}.",
        "a JSON object of row ids, as `orpo-pipeline forget` writes it.",
        "Restore it from a backup. Without it nobody knows what must not be trained on.",
    )


@contextmanager
def _disk_faults(home: Path) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"The list of forgotten rows cannot be written: {error}.",
            "a state folder that can be written and has space left.",
            "Correct its permissions, free space, or set ORPO_HOME to another folder.",
        ) from error
