"""The whole way of one row: where it stood, what was changed, what was decided, and where it is."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.block_checks import INDEX
from orpo_pipeline.data.prepared_files import (
    DUPLICATES,
    EVAL,
    QUARANTINE,
    TRAIN,
    read_shard_rows,
    shard_name,
)
from orpo_pipeline.data.publication import RECORD
from orpo_pipeline.stages import MANIFEST
from schemas.errors import UserError
from schemas.pairs import SIDES, DefectCode

ROW_NUMBER = re.compile("[0-9]{1,18}")
SHORTEST_ID = 6  # digits of a row id that are enough to ask for it
SHOWN = 400  # characters of a text
NEIGHBOURS = 5  # rows of the prompt group that are listed
PURPOSES = {TRAIN: "to train", EVAL: "to evaluate"}
AFTER_DUPLICATES = [
    DefectCode.EVAL_PROMPT_IN_TRAIN.value,
    DefectCode.HELD_OUT_BEFORE.value,
    DefectCode.CONTRADICTION.value,
    DefectCode.NEAR_DUPLICATE.value,
    DefectCode.OVERREPRESENTED_PROMPT.value,
]
"""Why a row that has copies may go: the rules of `Selection`, which look at the first copy only."""
NOTED = ["notes", "score_chosen", "score_rejected"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one prepared stage says of a row: (label, text) in the order of its way."""

    prepared: Path
    steps: tuple[tuple[str, str], ...]


def explain_row(home: Path, wanted: str) -> list[Explanation]:
    """Every prepared stage's account of a row, the newest first.

    `wanted`: a row id or its first digits, or FILE:ROW as reports name an origin. Raises UserError
    when no prepared stage knows the row, or the digits are too few.
    """
    if ":" not in wanted and len(wanted) < SHORTEST_ID:
        raise UserError(
            f"{wanted!r} is too short for a row id.",
            f"at least {SHORTEST_ID} of its hexadecimal digits, or FILE:ROW.",
            "Copy the id from the data report or from quarantine.parquet.",
        )
    folders = prepared_folders(home)
    found = [explanation for folder in folders for explanation in _explanations(folder, wanted)]
    if not found:
        raise UserError(
            f"No prepared data in {home} has the row {wanted!r} ({len(folders)} looked through).",
            "a row id or FILE:ROW of data that was prepared with this state folder.",
            "Prepare the data first: `orpo-pipeline data report SOURCE`.",
        )
    return found


def prepared_folders(home: Path) -> list[Path]:
    """Complete stages, the newest first.

    Not what a crash or a damage left under another name, and none of a version that wrote others.
    """
    stages = (path.parent for path in (home / "prepared").glob(f"*/{MANIFEST}"))
    return sorted(
        (folder for folder in stages if "." not in folder.name and (folder / DUPLICATES).exists()),
        key=lambda folder: (folder / MANIFEST).stat().st_mtime,
        reverse=True,
    )


def _explanations(folder: Path, wanted: str) -> Iterator[Explanation]:
    dataset_id = json.loads((folder / RECORD).read_text(encoding="utf-8"))["dataset_id"]
    file, colon, row = wanted.rpartition(":")
    if colon and ROW_NUMBER.fullmatch(row):
        matches = (pl.col("origin_file") == file) & (pl.col("origin_row") == int(row))
    else:
        matches = pl.col("row_id").str.starts_with(wanted.lower())
    kept = [
        pl.scan_parquet(folder / f"{split}.parquet", glob=False)
        .filter(matches)
        .with_columns(split=pl.lit(split))
        for split in (TRAIN, EVAL)
    ]
    for found in pl.concat(kept).collect().iter_rows(named=True):
        yield Explanation(folder, tuple(_steps_of_kept(folder, dataset_id, found)))
    for name in (QUARANTINE, DUPLICATES):
        rows = pl.scan_parquet(folder / name, glob=False).filter(matches).collect()
        for found in rows.iter_rows(named=True):
            steps = (
                _steps_of_quarantined(found)
                if "code" in found
                else _steps_of_duplicate(folder, found)
            )
            yield Explanation(folder, (*steps, *_stage(folder, dataset_id)))


def _steps_of_kept(folder: Path, dataset_id: str, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    shard = folder / "shards" / shard_name(row["shard"])
    position = pl.Series([row["position"]], dtype=pl.UInt32)
    stored = pl.read_parquet(shard / INDEX, columns=NOTED, glob=False)[position].row(0, named=True)
    texts = read_shard_rows(shard, position, SIDES).row(0, named=True)
    yield "row", row["row_id"]
    yield "read from", _place(row)
    for side in SIDES:
        turns = [f"{turn['role']}: {turn['content']}" for turn in texts[side]]
        yield side, _cut("\n".join(turns))
    if stored["score_chosen"] is not None and stored["score_rejected"] is not None:
        yield "scores", f"{stored['score_chosen']:g} over {stored['score_rejected']:g}"
    for note in stored["notes"]:
        yield note["code"], note["reason"]
    counts = ", ".join(f"{side} {row[f'{side}_tokens']:,}" for side in SIDES)
    yield "tokens", counts
    yield "prompt group", _neighbours(folder, row)
    yield "verdict", f"kept, {PURPOSES[row['split']]}"
    yield from _stage(folder, dataset_id)


def _neighbours(folder: Path, row: dict[str, Any]) -> str:
    """The other kept rows of the prompt's group."""
    others = (
        pl.scan_parquet(folder / f"{row['split']}.parquet", glob=False)
        .filter((pl.col("group") == row["group"]) & (pl.col("row_id") != row["row_id"]))
        .select("row_id")
        .collect()["row_id"]
    )
    if others.is_empty():
        return f"{row['group']}, alone in it"
    listed = ", ".join(other[:12] for other in others.head(NEIGHBOURS))
    return f"{row['group']}, with {others.len():,} more: {listed}"


def _steps_of_quarantined(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "row", row["row_id"] or "(not readable as a pair, so without an id)"
    yield "read from", _place(row)
    yield "text", _cut(row["row"])
    yield "verdict", _why_quarantined(row)


def _why_quarantined(row: dict[str, Any]) -> str:
    return f"{row['code']} ({row['severity']}): {row['reason']}"


def _steps_of_duplicate(folder: Path, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "row", row["row_id"]
    yield "read from", _place(row)
    yield "verdict", f"a copy of {_first_of_copies(folder, row)}"


def _first_of_copies(folder: Path, row: dict[str, Any]) -> str:
    """The row of which this one is a copy, and what became of it."""
    same = pl.col("row_id") == row["row_id"]
    kept = pl.scan_parquet(folder / f"{row['split']}.parquet", glob=False).filter(same).collect()
    if not kept.is_empty():
        (first,) = kept.iter_rows(named=True)
        return f"{_place(first)}, which is kept, {PURPOSES[row['split']]}"
    # A row with the same texts and a tie of scores, say, was out before copies were looked for.
    same &= (pl.col("split") == row["split"]) & pl.col("code").is_in(AFTER_DUPLICATES)
    removed = pl.scan_parquet(folder / QUARANTINE, glob=False).filter(same).collect()
    (first,) = removed.iter_rows(named=True)
    return f"{_place(first)}, which is set aside as well: {_why_quarantined(first)}"


def _place(row: dict[str, Any]) -> str:
    return f"{row['origin_file']}:{row['origin_row']}"


def _stage(folder: Path, dataset_id: str) -> Iterator[tuple[str, str]]:
    yield "data set", dataset_id
    yield "prepared in", str(folder)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"
