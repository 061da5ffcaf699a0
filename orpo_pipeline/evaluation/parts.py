"""Parts of an unfinished evaluation, kept so that a killed one continues behind the last of them.

    evaluating/ID/NAME.parquet    removed when the stage ID is published

A part is written under a temporary name, fsynced and renamed: it is there whole or not at all.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl

from orpo_pipeline.disk import disk_faults
from orpo_pipeline.stages import sync

ABANDONED_AFTER = 14 * 86400  # seconds


class Parts:
    """The parts of the evaluation that is going to be published as `stage`."""

    def __init__(self, home: Path, stage: Path) -> None:
        self.folder = home / "evaluating" / stage.name

    def keep(self, name: str, measure: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """The part of that name: as it was kept, or measured now and kept.

        Raises EnvironmentFault when the disk fails or is full.
        """
        path = self.folder / f"{name}.parquet"
        if path.is_file():
            with suppress(pl.exceptions.PolarsError):
                return pl.read_parquet(path, glob=False)
        frame = measure()
        doing = f"Keeping a part of the evaluation in {path}"
        with disk_faults(doing, path, lambda: int(frame.estimated_size())):
            self._write(path, frame)
        return frame

    def _write(self, path: Path, frame: pl.DataFrame) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        frame.write_parquet(temporary)
        sync(temporary)
        temporary.replace(path)

    def remove(self) -> None:
        """Remove all parts, and those of evaluations that nobody has continued for two weeks."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for left in self.folder.parent.glob("*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > ABANDONED_AFTER:
                    shutil.rmtree(left, ignore_errors=True)
