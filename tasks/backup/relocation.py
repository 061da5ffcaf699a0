"""MLflow stores absolute paths: make those of one state folder those of another."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from orpo_pipeline.stages import sync

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's database keeps them. Parameters and tags stay: they say how it was."""

TEXTS = ("MLmodel", "*.json", "*.yaml")
"""Files among the artifacts that may name a folder: where a model's files and its base lie."""


def relocate(home: Path, old: str, new: str) -> int:
    """Change what is unpacked in `home` from the state folder `old` to `new`; how many places."""
    if old == new:
        return 0
    changed = _relocate_database(home / "mlflow" / "mlflow.db", old, new)
    for pattern in TEXTS:
        for file in (home / "mlflow" / "artifacts").rglob(pattern):
            changed += _relocate_text(file, old, new)
    return changed


def _relocate_database(database: Path, old: str, new: str) -> int:
    if not database.is_file():
        return 0
    changed = 0
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in COLUMNS:
            known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            if column not in known:  # an older release's
                continue
            for before, after in _spellings(old, new):
                for prefix in ("", "file://"):
                    # With `/` behind, so that /data/orpo is not found in /data/orpo-2.
                    changed += connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (
                            f"{prefix}{after}/",
                            len(f"{prefix}{before}/") + 1,
                            len(f"{prefix}{before}/"),
                            f"{prefix}{before}/",
                        ),
                    ).rowcount
    return changed


def _relocate_text(file: Path, old: str, new: str) -> int:
    text = file.read_bytes()
    changed = 0
    for before, after in _spellings(old, new):
        pattern = rb"(?<![\w.-])" + re.escape(before.encode()) + rb"(?=[/\"'\s]|$)"
        text, count = re.subn(pattern, after.encode().replace(b"\\", b"\\\\"), text)
        changed += count
    if changed:
        file.write_bytes(text)
        sync(file)
    return changed


def _spellings(old: str, new: str) -> list[tuple[str, str]]:
    """Each way in which a path is written: as it is, in JSON, and in a URI; each once."""
    ways = [(old, new), (json.dumps(old)[1:-1], json.dumps(new)[1:-1]), (quote(old), quote(new))]
    return list({before: (before, after) for before, after in reversed(ways)}.values())
