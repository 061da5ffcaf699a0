"""Blocks whose files were found whole before, and which nothing has written to since.

A block's files are hashed once. From then on they are known by device, inode, size and time of
writing: hashing a million rows' files again at each growth takes longer than comparing the rows. A
disk that rots leaves those as they were; this is found where the prepared data that hold the block
are used again, whose hashes are always compared, and then nothing is taken for seen.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from orpo_pipeline.data.source_hashes import SETTLED
from orpo_pipeline.stages import MANIFEST, is_complete, manifest_entries, write_atomically

State = list[list[int]]
"""Of each file, the manifest first: device, inode, bytes, nanoseconds of its last writing."""


class SeenBlocks:
    """What is known of the stages in a folder, kept in a small file that may be removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _read(path)

    def is_complete(self, folder: Path) -> bool:
        """As `stages.is_complete`, without reading the files of a block that was seen."""
        state = _state(folder)
        if state is not None and self._seen.get(folder.name) == state:
            return True
        self._seen.pop(folder.name, None)
        if not is_complete(folder):
            return False
        self.remember(folder)
        return True

    def remember(self, folder: Path) -> None:
        """That the block is whole: it was just looked through, or written."""
        state = _state(folder)
        if state is not None:
            self._seen[folder.name] = state

    def forget(self) -> None:
        """Have all blocks looked through again."""
        self._seen.clear()

    def save(self) -> None:
        """Keep what is known. Files that were written to just now may change within the tick."""
        settled = time.time_ns() - SETTLED
        kept = {
            name: state
            for name, state in self._seen.items()
            if all(written < settled for *_, written in state)
        }
        with suppress(OSError):  # it only saves time; what must be written says so itself
            write_atomically(self._path, json.dumps(kept))


def _state(folder: Path) -> State | None:
    try:
        names = (MANIFEST, *sorted(manifest_entries(folder)))
        return [_of_file((folder / name).stat()) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_file(status: os.stat_result) -> list[int]:
    # Not the inode's own time: a link from prepared data, which are a copy, changes it.
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _read(path: Path) -> dict[str, State]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(found, dict) and all(isinstance(state, list) for state in found.values())
    return found if usable else {}
