"""Make a backup of the state folder, while `up` and trainings go on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_pipeline.retention.use import in_use
from orpo_pipeline.stages import first_damage
from schemas.errors import EnvironmentFault, UserError
from schemas.record import Record
from tasks.backup.archive import Index, Writer, codec_of, new_archive
from tasks.backup.contents import DATABASES, copy_database, ordered_files, stage_of

PACKAGES = ("orpo-pipeline", "mlflow", "prefect")


class Written(Record):
    """What went into a backup."""

    file: Path
    size: int
    """Bytes of the backup."""
    files: int
    content: int
    """Bytes of what is in it."""
    damaged: tuple[str, ...]
    """Stages that were left out, because their files are not as they were written."""
    databases: tuple[str, ...]


def write_backup(home: Path, file: Path) -> Written:
    """Everything of the state folder that cannot be made again, in one file.

    Raises UserError for a file that is there already or whose name says no packing, and where there
    is no state folder; EnvironmentFault when the disk fails or a database is damaged.
    """
    codec_of(file)
    if file.exists():
        raise UserError(
            f"{file} exists already.", "a new file.", "Name another one, such as one with the date."
        )
    if file.is_relative_to(home):
        raise UserError(
            f"{file} lies in the state folder.",
            "a file elsewhere, best on another disk.",
            "Name another one: the next backup would hold this one.",
        )
    if not any(home.glob("*/")):
        raise UserError(
            f"There is no state folder {home}.",
            "one with something in it.",
            "Set ORPO_HOME, or change to the folder where you start runs.",
        )
    index = Index(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        home=str(home),
        versions={name: version(name) for name in PACKAGES},
    )
    # Pruned meanwhile, files that the copied databases name would be missing.
    with in_use(home), _disk_faults(file), new_archive(file, index) as archive:
        copied, damaged = _fill(archive, home, file.parent)
    return Written(
        file=file,
        size=file.stat().st_size,
        files=len(index.files),
        content=sum(stored.size for stored in index.files.values()),
        damaged=tuple(sorted(damaged)),
        databases=copied,
    )


def _fill(archive: Writer, home: Path, scratch_parent: Path) -> tuple[tuple[str, ...], set[str]]:
    """Copy in order; which databases there were, and which stages are damaged."""
    before, _ = ordered_files(home)
    damaged = _add(archive, before, home)
    copied = []
    with TemporaryDirectory(prefix=".backup.", dir=scratch_parent) as scratch:
        for name in DATABASES:
            if (home / name).is_file():
                copy = Path(scratch) / Path(name).name
                copy_database(home / name, copy)
                archive.add(copy, name)
                copied.append(name)
    _, after = ordered_files(home)  # looked at only now: see the order in `contents`
    return tuple(copied), damaged | _add(archive, after, home)


def _add(archive: Writer, files: list[Path], home: Path) -> set[str]:
    """Add files but those of damaged stages, which are returned."""
    whole: dict[Path, bool] = {}
    for file in files:
        stage = stage_of(file, home)
        if stage is not None and stage not in whole:
            whole[stage] = _is_whole(stage)
        if stage is None or whole[stage]:
            archive.add(file, file.relative_to(home).as_posix())
    bad = (stage for stage, is_whole in whole.items() if not is_whole and stage.exists())
    return {stage.relative_to(home).as_posix() for stage in bad}


def _is_whole(stage: Path) -> bool:
    try:
        return first_damage(stage) is None
    except FileNotFoundError:  # it was removed a moment ago
        return False


@contextmanager
def _disk_faults(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = " The disk is full." if error.errno == errno.ENOSPC else ""
        raise EnvironmentFault(
            f"Writing the backup {file} failed: {error}.{full}",
            "a folder that can be written, with space for the backup and a copy of the databases.",
            "Mend what the message names, or name a file elsewhere. Nothing half-written is left.",
        ) from error
