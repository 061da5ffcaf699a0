"""Put a backup in the place of a state folder: whole and verified, or not at all."""

import glob
import os
import secrets
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from orpo_pipeline.stages import MANIFEST, first_damage, held, remove_abandoned, sync
from schemas.errors import EnvironmentFault, UserError
from schemas.record import Record
from tasks.backup.archive import unpack
from tasks.backup.contents import DATABASES, require_sound
from tasks.backup.relocation import relocate


class Restored(Record):
    """What was put back."""

    home: Path
    made: str
    """When the backup was made, in UTC."""
    old_home: str
    files: int
    stages: int
    gone: tuple[str, ...]
    """Stages that were removed while the backup was made."""
    relocated: int
    """Places where MLflow named the old folder."""
    other_versions: tuple[str, ...]
    """Packages whose version is another one here than where the backup was made."""


def restore_backup(file: Path, home: Path) -> Restored:
    """Unpack beside `home`, verify every file, every stage and every database, then rename.

    Raises UserError when the state folder has something in it, or the file is no backup;
    EnvironmentFault when the backup is damaged or the disk fails.
    """
    _require_room(file, home)
    temporary = home.with_name(f".{home.name}.restore.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        remove_abandoned(home.parent, f"{glob.escape(home.name)}.restore")
        temporary.mkdir(parents=True, mode=0o700)
        with held(temporary):
            index = unpack(file, temporary)
            stages, gone = _verify(temporary)
            relocated = relocate(temporary, index.home, str(home))
            sync(temporary)
            temporary.rename(home)  # an empty folder is replaced, one with anything in it is not
        sync(home.parent)
    except OSError as error:
        raise EnvironmentFault(
            f"Restoring {file} to {home} failed: {error}.",
            "a folder that can be made, on a disk with space for all of it; no mount point.",
            "Free space or correct the permissions; for a mount point set ORPO_HOME to a folder "
            "inside it. Nothing was restored.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    here = {name: version(name) for name in index.versions if name != "orpo-pipeline"}
    return Restored(
        home=home,
        made=index.made,
        old_home=index.home,
        files=len(index.files),
        stages=stages,
        gone=gone,
        relocated=relocated,
        other_versions=tuple(
            f"{name} {index.versions[name]} there, {found} here"
            for name, found in here.items()
            if found != index.versions[name]
        ),
    )


def _require_room(file: Path, home: Path) -> None:
    if not file.is_file():
        raise UserError(f"There is no file {file}.", "a backup.", "Correct the path.")
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(
            f"The state folder {home} is not empty.",
            "a folder that is not there yet, or is empty: nothing is overwritten.",
            "Stop `up`, move the folder away, and restore again; or set ORPO_HOME to another one.",
        )


def _verify(home: Path) -> tuple[int, tuple[str, ...]]:
    """Every stage by its manifest, every database by SQLite; how many stages, and which are gone.

    The list of the backup has been checked: a stage whose files are not all there was removed while
    it was copied, and would not be used.
    """
    whole, gone = 0, []
    for manifest in sorted(home.rglob(MANIFEST)):
        if first_damage(manifest.parent) is None:
            whole += 1
        else:
            gone.append(manifest.parent.relative_to(home).as_posix())
            shutil.rmtree(manifest.parent)
    for name in DATABASES:
        if (home / name).is_file():
            with closing(sqlite3.connect(home / name)) as connection:
                require_sound(connection, home / name)
    return whole, tuple(gone)
