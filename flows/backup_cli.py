"""`orpo-pipeline backup` and `restore`: the state folder in one file, and back."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.options import Debug
from tasks.home import state_home
from tasks.stores.artifacts import ARTIFACTS_VARIABLE
from tasks.stores.database import DATABASE_VARIABLE

ELSEWHERE = (DATABASE_VARIABLE, ARTIFACTS_VARIABLE, "MLFLOW_TRACKING_URI")
GIB = 1 << 30


def backup(
    file: Annotated[Path, typer.Argument(help="New file: .tar.zst, .tar.gz or .tar.")],
    debug: Debug = False,
) -> None:
    """Write the state folder to FILE; servers and trainings may go on meanwhile."""
    from tasks.backup.contents import RECORDS
    from tasks.backup.writing import write_backup

    home = state_home()
    written = write_backup(home, file.expanduser().resolve())
    _say(f"Backup of {home}: {written.files:,} files, {_size(written.content)}.")
    if RECORDS not in written.databases:
        _say("MLflow's records are not in it: where they are elsewhere, back that up, too.")
    for name in filter(os.environ.get, ELSEWHERE):
        _say(f"What {name} names is not in it: back that up, too.")
    for stage in written.damaged:
        _say(f"Left out, because its files are not as they were written: {stage}")
    _say(f"{written.file} ({_size(written.size)}). It holds your data: keep it as private.")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    debug: Debug = False,
) -> None:
    """Put a backup back, into a state folder that is empty or not there yet."""
    from tasks.backup.restoring import restore_backup

    restored = restore_backup(file.expanduser().resolve(), state_home())
    _say(
        f"Restored to {restored.home}: {restored.files:,} files, {restored.stages} stages, all "
        f"verified, as of {restored.made}."
    )
    for stage in restored.gone:
        _say(f"Left out, because it was removed while the backup was made: {stage}")
    if restored.relocated:
        _say(f"It was {restored.old_home}; MLflow's paths were changed to the new folder.")
    for other in restored.other_versions:
        _say(f"Another version: {other}. `orpo-pipeline up` migrates an older database.")
    _say("Look at it: orpo-pipeline doctor")


def _say(text: str) -> None:
    Console().print(escape(text), soft_wrap=True, highlight=False)


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"
