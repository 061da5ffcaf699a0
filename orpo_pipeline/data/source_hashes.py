"""SHA-256 of source files, taken again only where the file system says that a file changed.

A file is known by device, inode, size and both of its times, which every write changes; its name is
nothing. A file that was written to shortly before it was hashed is never remembered: a second write
within the same tick of the clock would leave no trace (git calls such entries racily clean).
"""

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from orpo_pipeline.stages import file_sha256, write_atomically

SETTLED = 3_000_000_000  # nanoseconds; the coarsest file systems count in steps of two seconds
MOST = 10_000  # files remembered; those that were used last
SHA256 = re.compile(r"[0-9a-f]{64}")


class SourceHashes:
    """Hashes of files, kept in a small JSON file that may be removed at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = _read(path)
        self._known = dict(self._stored)

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of the file's bytes. Raises OSError when it cannot be read."""
        now, status = time.time_ns(), path.stat()
        key = _key(status)
        known = self._known.pop(key, None)
        found = known or file_sha256(path)
        settled = now - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED
        if known or (settled and _key(path.stat()) == key):
            self._known[key] = found  # at the end, since it was used last
        return found

    def still(self, path: Path, sha256: str) -> bool:
        """Whether the file is known to have this hash still, without reading it."""
        try:
            return self._known.get(_key(path.stat())) == sha256
        except OSError:
            return False

    def save(self) -> None:
        """Keep what was found out. Concurrent writers lose each other's hashes, nothing else."""
        if self._known == self._stored:
            return
        self._stored = dict(list(self._known.items())[-MOST:])
        with suppress(OSError):  # it only saves time; what must be written says so itself
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._stored, indent=1))


def _key(status: os.stat_result) -> str:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, (status.st_dev, status.st_ino, status.st_size, *times)))


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sound = all(SHA256.fullmatch(sha256) for sha256 in found.values())
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return found if sound else {}
