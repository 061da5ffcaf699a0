"""A folder for somebody else: complete under its name, or not there."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orpo_pipeline.stages import held, remove_abandoned, sync
from schemas.errors import EnvironmentFault, UserError


def require_free(folder: Path) -> None:
    """Raise UserError when something is there already that an export would overwrite."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise UserError(
            f"{folder} exists and is not an empty folder.",
            "a folder that does not exist yet, or an empty one.",
            "Name another folder, or remove this one.",
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill; then fsynced and renamed to `folder`. On failure it is removed.

    Raises UserError when `folder` is taken, EnvironmentFault when the disk fails or is full.
    """
    require_free(folder)
    folder = folder.resolve()  # `.` has no name beside which to write
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        remove_abandoned(folder.parent, folder.name)
        temporary.mkdir(parents=True)
        with held(temporary):
            yield temporary
        for path in sorted(temporary.rglob("*")):
            sync(path)
        sync(temporary)
        require_free(folder)
        temporary.rename(folder)
        sync(folder.parent)
    except OSError as error:
        raise EnvironmentFault(
            f"Writing {folder} failed: {error}.",
            "a place that this user may write, on a disk with space left.",
            "Free space, or name another folder.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
