"""Verdicts on disk, so that a question that was judged once is not paid for again."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from orpo_pipeline.evaluation.judge.endpoint import Usage
from orpo_pipeline.evaluation.judge.questions import Messages
from schemas.errors import EnvironmentFault
from schemas.judge_config import JudgeConfig
from schemas.judgement import Verdict

BUSY_SECONDS = 60.0
TABLE = """CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY, verdict TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
)"""


def verdict_key(config: JudgeConfig, messages: Messages) -> str:
    """SHA-256 of what decides a verdict: judge model, request fields, template and texts.

    The address is not in it: a local server that moved is the same judge.
    """
    parts = json.dumps([config.model, config.request, messages], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


class VerdictStore:
    """A SQLite file; several processes may use it. Only verdicts are kept, never failures."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def find(self, key: str) -> tuple[Verdict, Usage] | None:
        """A kept verdict and what it had cost."""
        query = "SELECT verdict, prompt_tokens, completion_tokens FROM verdicts WHERE key = ?"
        row = self.connection.execute(query, (key,)).fetchone()
        if row is None:
            return None
        return Verdict(row[0]), Usage(prompt_tokens=row[1], completion_tokens=row[2])

    def keep(self, key: str, verdict: Verdict, usage: Usage) -> None:
        """Keep a verdict; on disk when this returns."""
        row = (key, verdict.value, usage.prompt_tokens, usage.completion_tokens)
        with self.connection:
            self.connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", row)


@contextmanager
def open_verdicts(path: Path) -> Iterator[VerdictStore]:
    """The store at `path`, made when it is not there.

    Raises EnvironmentFault when the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            connection.execute(TABLE)
            yield VerdictStore(connection)
    except (sqlite3.Error, OSError) as error:
        raise EnvironmentFault(
            f"The judge's verdicts in {path} cannot be used: {error}.",
            "a SQLite file that can be written.",
            "Free space or mend its rights; if it is broken, remove it: the answers in it are then "
            "judged again.",
        ) from error
