"""Removing what nothing needs, so that a kill at any moment leaves nothing half-valid."""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from schemas.errors import EnvironmentFault


def remove(folder: Path) -> None:
    """Rename a folder away, then delete it. Killed in between, the next prune finds what is left.

    The new name is that of a stage that is being written, which no reader takes for one.
    Raises EnvironmentFault when the disk does not let us.
    """
    gone = folder.with_name(f".{folder.name.lstrip('.')}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with suppress(FileNotFoundError):  # somebody has removed it by hand
            if folder.is_file():
                folder.unlink()
                return
            folder.rename(gone)
            shutil.rmtree(gone)
    except OSError as error:
        raise EnvironmentFault(
            f"Removing {folder} failed: {error}.",
            "a state folder whose files this user may remove.",
            "Correct its permissions; the next prune goes on from there.",
        ) from error


def rotate_log(log: Path, most_bytes: float) -> bool:
    """Move a log's content to NAME.log.1 when it is long; whether it was.

    Copied and cut, because a server that writes it keeps the file open.
    """
    if log.stat().st_size <= most_bytes:
        return False
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
    return True
