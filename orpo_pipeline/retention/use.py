"""Runs and pruning keep out of each other's way by one lock, which no dead process can hold.

in-use.lock    shared by runs, their stages' processes, backups, reports and exports; exclusive
               while something is pruned
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from schemas.errors import EnvironmentFault

LOCK = "in-use.lock"


class InUse(EnvironmentFault):
    """Something reads or writes the state folder, and nothing may be removed."""


@contextmanager
def in_use(home: Path) -> Iterator[None]:
    """Nothing of the state folder is pruned while the block runs. Waits for a prune at work."""
    with _opened(home) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def not_in_use(home: Path) -> Iterator[None]:
    """Nothing is at work while the block runs; what starts waits.

    Raises InUse when something is at work already.
    """
    with _opened(home) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"A run, backup, report or export is at work on {home}; nothing was pruned.",
                "neither while files are removed.",
                "Wait until it has ended; the next retraining prunes, too.",
            ) from None
        yield


def _opened(home: Path) -> IO[str]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return (home / LOCK).open("w")
    except OSError as error:
        raise EnvironmentFault(
            f"The lock of the state folder cannot be opened: {error}.",
            "a folder that this user may write, on a disk with space left.",
            "Correct its permissions, or set ORPO_HOME to another folder.",
        ) from error
