"""What the last training saw of its sources, written only after its version was registered.

    watermarks/MODEL/NNNNNN/{rows.parquet, watermark.json, manifest.json}

Each is a stage: there as a whole or not at all, and a damaged one is set aside, so that the one
before it counts again. That way a row may be looked at twice; it is never taken for seen.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from orpo_pipeline.retraining.rows import SEEN
from orpo_pipeline.stages import is_complete, new_stage
from schemas.retraining import Trained

WATERMARKS = "watermarks"
ROWS, RECORD = "rows.parquet", "watermark.json"
NUMBER = re.compile(r"[0-9]{6}")
KEPT = 3
"""Watermarks that stay: the newest, and two to go back to."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """The training, and the rows of its sources (columns: SEEN)."""

    trained: Trained
    rows: pl.DataFrame


def read_watermark(home: Path, model_name: str) -> Watermark | None:
    """The newest undamaged watermark of a model; None before the first training."""
    folder = _newest(home, model_name)
    return Watermark(_read(folder), pl.read_parquet(folder / ROWS, glob=False)) if folder else None


def newest_training(home: Path, model_name: str) -> Trained | None:
    """The same without its rows."""
    folder = _newest(home, model_name)
    return _read(folder) if folder else None


def commit_watermark(home: Path, watermark: Watermark) -> None:
    """Make it the newest of its model. Doing it twice changes nothing that is read.

    Raises EnvironmentFault when the disk fails or is full; then the one before it counts.
    """
    folders = _numbered(home, watermark.trained.model_name)
    number = int(folders[-1].name) + 1 if folders else 1
    folder = home / WATERMARKS / watermark.trained.model_name / f"{number:06d}"
    with new_stage(folder) as temporary:
        watermark.rows.select(*SEEN).write_parquet(temporary / ROWS, compression="zstd")
        text = watermark.trained.model_dump_json(indent=1)
        (temporary / RECORD).write_text(text, encoding="utf-8")
    for old in _numbered(home, watermark.trained.model_name)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def nothing_seen() -> pl.DataFrame:
    """The rows before the first training."""
    return pl.DataFrame(schema=SEEN)


def _newest(home: Path, model_name: str) -> Path | None:
    return next(filter(is_complete, reversed(_numbered(home, model_name))), None)


def _read(folder: Path) -> Trained:
    return Trained.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))


def _numbered(home: Path, model_name: str) -> list[Path]:
    folders = (home / WATERMARKS / model_name).glob("*")
    return sorted(folder for folder in folders if NUMBER.fullmatch(folder.name))
