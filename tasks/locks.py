"""What only one process at a time may do in a state folder; the others wait."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.home import make_folder


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait for the others, then run the block. The kernel frees the lock when its holder dies."""
    make_folder(lock.parent)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
