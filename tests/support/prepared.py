"""Prepared data for tests: made, read, and held against the row equation."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from rows import pair_row

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.data.prepared_files import read_pairs
from orpo_pipeline.stages import MANIFEST, file_sha256
from schemas.config import RunConfig
from schemas.data_report import DataReport
from schemas.results import PreparedData

GOOD = [pair_row(number) for number in range(40)]
EMPTY = pair_row(100, chosen=[{"role": "assistant", "content": " "}])
BROKEN = '{"prompt": "cut off'


def run(config: RunConfig, home: Path) -> PreparedData:
    return prepare(config, home, lambda *_: None)


def frame(prepared: PreparedData, name: str) -> pl.DataFrame:
    """One of the stage's tables: train, eval, quarantine or duplicates."""
    return pl.read_parquet(prepared.path / f"{name}.parquet", glob=False)


def kept(prepared: PreparedData) -> list[dict[str, Any]]:
    """Every kept pair with its texts, ids and origin, by split and row id."""
    sides = [
        read_pairs(prepared.path, split)
        .hstack(frame(prepared, split).drop("row_id"))
        .with_columns(split=pl.lit(split))
        for split in ("train", "eval")
    ]
    return [row for side in sides for row in side.to_dicts()]


def prompts(prepared: PreparedData, split: str) -> set[str]:
    """The first turn of every prompt of a split."""
    turns = read_pairs(prepared.path, split, ("prompt",))["prompt"].to_list()
    return {prompt[0]["content"] for prompt in turns}


def report_of(prepared: PreparedData) -> DataReport:
    return DataReport.model_validate_json((prepared.path / "report.json").read_text("utf-8"))


def quarantined(prepared: PreparedData) -> dict[int, tuple[str, str]]:
    """Code and reason of each quarantined row, by its number in the file."""
    rows = frame(prepared, "quarantine").select("origin_row", "code", "reason").iter_rows()
    return {number: (code, reason) for number, code, reason in rows}


def check_account(prepared: PreparedData) -> None:
    """rows in = kept + quarantined + duplicates, in the record, in the report and in the files.

    And every row stands in exactly one place.
    """
    sides = [frame(prepared, name) for name in ("train", "eval", "quarantine", "duplicates")]
    train, held_out, quarantine, duplicates = (side.height for side in sides)
    assert (train, held_out, duplicates) == (
        prepared.train_pairs,
        prepared.eval_pairs,
        prepared.duplicates,
    )
    assert dict(Counter(sides[2]["code"])) == prepared.quarantined
    assert prepared.rows_in == train + held_out + quarantine + duplicates
    origins = pl.concat([side["origin_file", "origin_row"] for side in sides])
    assert origins.is_unique().all()
    report = report_of(prepared)
    assert (report.rows_in, report.kept_train, report.kept_eval) == (
        prepared.rows_in,
        train,
        held_out,
    )
    assert (report.quarantined, report.duplicates) == (quarantine, duplicates)
    assert sum(file.rows for file in report.files) == prepared.rows_in


def content_of(stage: Path) -> dict[str, str]:
    """SHA-256 of every file of a stage, manifest and all."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    assert stage / MANIFEST in files
    return {path.relative_to(stage).as_posix(): file_sha256(path) for path in files}


def blocks_in(home: Path) -> dict[str, int]:
    """The checked blocks of a state folder: name and time at which they were written."""
    found = home.glob(f"blocks/*/*/{MANIFEST}")
    return {p.parent.name: p.stat().st_mtime_ns for p in found if "." not in p.parent.name}


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
