"""What preparation leaves behind: the stage's files and its record."""

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.block_store import StoredBlock
from orpo_pipeline.data.inputs import Inputs
from orpo_pipeline.data.prepared_files import (
    DUPLICATES,
    EVAL,
    TRAIN,
    link_shards,
    read_few_rows,
    shard_entries,
)
from orpo_pipeline.data.quarantine import link_parts, part_entries, row_texts, store_parts
from orpo_pipeline.data.report.contents import ReportHeader, summarise
from orpo_pipeline.data.rules.checks import RULES_VERSION
from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.stages import fingerprint, new_stage
from schemas.config import RunConfig
from schemas.data_report import DataReport, FileSummary
from schemas.frames import KeptPairs
from schemas.pairs import DefectCode
from schemas.results import BaseModelRecord, PreparedData

RECORD, REPORT = "record.json", "report.json"
EXAMPLES = 3
PLACES: Any = {"path": True, "base_model": {"path"}}
KEPT = pl.col("code").is_null() & ~pl.col("duplicate")


def dataset_id(rows: pl.DataFrame, tokens: str) -> str:
    """SHA-256 over the kept rows' sorted ids with their splits, the rules, and what decides tokens.

    Order, file names and what was left out are nothing; one changed character is another data set.
    """
    kept = rows.filter(KEPT)
    lines = kept.select(pl.format("{} {}", "row_id", "split").alias("line"))["line"].sort()
    digest = hashlib.sha256(f"rules {RULES_VERSION} {tokens}\n".encode())
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def publish_prepared(
    rows: pl.DataFrame,
    blocks: list[StoredBlock],
    inputs: Inputs,
    config: RunConfig,
    chat: ChatFormat,
) -> PreparedData:
    """Write the stage. Raises EnvironmentFault when the disk does not take it."""
    identity = dataset_id(rows, inputs.tokens)
    kept = rows.filter(KEPT).sort("row_id")
    removed = rows.filter(pl.col("code").is_not_null())
    counts = removed["code"].value_counts().sort("count", "code", descending=[True, False])
    longer = pl.col("prompt_tokens") + pl.max_horizontal("chosen_tokens", "rejected_tokens")
    whole = pl.sum_horizontal("prompt_tokens", "chosen_tokens", "rejected_tokens")
    longest_pair, longest_segment = kept.select(longer.max(), whole.max().alias("whole")).row(0)
    record = PreparedData(
        path=inputs.folder,
        prepared_id=fingerprint(
            {"data": identity, "settings": inputs.settings, "model": inputs.base_model.revision}
        ),
        dataset_id=identity,
        base_model=inputs.base_model,
        rows_in=rows.height,
        train_pairs=kept.filter(pl.col("split") == TRAIN).height,
        eval_pairs=kept.filter(pl.col("split") == EVAL).height,
        duplicates=int(rows["duplicate"].sum()),
        quarantined=dict(counts.iter_rows()),
        longest_pair=int(longest_pair or 0),
        longest_segment=int(longest_segment or 0),
        held_out_key=inputs.held_out_key,
    )
    report = _report(rows, blocks, record, config)
    parts = store_parts(removed, blocks)
    linked = shard_entries(blocks) | part_entries(parts)
    with new_stage(inputs.folder, linked) as temporary:
        for split in (TRAIN, EVAL):
            side = kept.filter(pl.col("split") == split).select(*KeptPairs.to_schema().columns)
            KeptPairs.validate(side, lazy=True).write_parquet(temporary / f"{split}.parquet")
        link_parts(temporary, parts)
        _write_duplicates(temporary / DUPLICATES, rows)
        link_shards(temporary, blocks)
        chat.tokenizer.save_pretrained(temporary / "tokenizer")
        (temporary / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
        write_record(temporary, record)
    return record


def write_record(folder: Path, record: PreparedData) -> None:
    """The record without paths: where a state folder lies changes no byte of a stage."""
    text = record.model_dump_json(indent=1, exclude=PLACES)
    (folder / RECORD).write_text(text, encoding="utf-8")


def read_record(folder: Path, base_model: BaseModelRecord) -> PreparedData:
    """The record of a complete stage, whose base model lies where `base_model` says."""
    values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return PreparedData.model_validate({**values, "path": folder, "base_model": base_model})


def _write_duplicates(path: Path, rows: pl.DataFrame) -> None:
    """Where each repeated row stands; the row itself is the kept one with its row id."""
    rows.filter("duplicate").select("origin_file", "origin_row", "split", "row_id").write_parquet(
        path
    )


def _report(
    rows: pl.DataFrame, blocks: list[StoredBlock], record: PreparedData, config: RunConfig
) -> DataReport:
    def prompt_of(row_id: str) -> str:
        shard, position = rows.filter(pl.col("row_id") == row_id)["shard", "position"].row(0)
        chosen = pl.Series([position], dtype=pl.UInt32)
        turns = read_few_rows(blocks[shard].folder, chosen, ("prompt",))["prompt"][0]
        return str(turns[-1]["content"])

    kept = rows.filter(KEPT)
    shown = _examples(rows, kept)
    examples = shown.select(
        "code", "reason", pl.format("{}:{}", "origin_file", "origin_row").alias("origin"), "row_id"
    ).with_columns(text=row_texts(shown, blocks))
    header = ReportHeader(
        prepared_id=record.prepared_id,
        dataset_id=record.dataset_id,
        tokenizer=record.base_model.name,
        max_length=config.chat.max_length,
        files=_files(rows, blocks),
    )
    counts = {DefectCode(code): count for code, count in record.quarantined.items()}
    codes = pl.col("notes").list.eval(pl.element().struct.field("code"))
    return summarise(header, kept.with_columns(notes=codes), counts, examples, prompt_of)


def _examples(rows: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """The first rows of each code, of those that were removed and those that were only noted."""
    removed = rows.filter(pl.col("code").is_not_null())
    noted = kept.filter(pl.col("notes").list.len() > 0).explode("notes")
    notes = noted.drop("code", "reason").unnest("notes")
    columns = ("code", "reason", "origin_file", "origin_row", "row_id", "shard", "position")
    both = [removed.select(columns), notes.select(columns)]
    return pl.concat(both).group_by("code", maintain_order=True).head(EXAMPLES)


def _files(rows: pl.DataFrame, blocks: list[StoredBlock]) -> tuple[FileSummary, ...]:
    """What became of each file's rows. A file's split is the side it was given for."""
    summaries = []
    counted = rows.group_by("shard").agg(
        kept=KEPT.sum(), quarantined=pl.col("code").count(), duplicates=pl.col("duplicate").sum()
    )
    by_shard = {row["shard"]: row for row in counted.iter_rows(named=True)}
    files: dict[tuple[str, str], list[int]] = {}
    for number, block in enumerate(blocks):
        files.setdefault((block.file, block.split), []).append(number)
    for (name, split), shards in files.items():
        own = [by_shard[number] for number in shards if number in by_shard]
        totals = {
            key: sum(row[key] for row in own) for key in ("kept", "quarantined", "duplicates")
        }
        dialects = {blocks[number].dialect for number in shards} - {"unknown"}
        summaries.append(
            FileSummary(
                name=name,
                split=split,
                dialect=dialects.pop() if dialects else "unknown",
                rows=sum(blocks[number].rows for number in shards),
                **totals,
            )
        )
    return tuple(summaries)
