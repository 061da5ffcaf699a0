"""The files of the prepare stage: pairs, quarantine, report, tokenizer, record."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.chat_template import ChatFormat
from orpo_pipeline.data.gate import EVAL, TRAIN, Gate, Row
from orpo_pipeline.data.quality import RULES_VERSION
from orpo_pipeline.stages import new_stage
from schemas.frames import CONVERSATION, TOKEN_IDS, PreparedPairs, Quarantine
from schemas.pairs import Conversation
from schemas.results import BaseModelRecord, PreparedData

EXAMPLES_PER_CODE = 3
RECORD = "record.json"


def dataset_id(row_ids: Iterable[str]) -> str:
    """SHA-256 over the sorted row ids and the rules' version: order and file names are nothing."""
    digest = hashlib.sha256(f"rules {RULES_VERSION}\n".encode())
    digest.update("\n".join(sorted(row_ids)).encode())
    return digest.hexdigest()


def publish_prepared(
    gate: Gate, folder: Path, chat: ChatFormat, base_model: BaseModelRecord
) -> PreparedData:
    """Write the stage. Raises EnvironmentFault when the disk does not take it."""
    frames = {
        split: _frame([row for row in gate.rows if row.split == split]) for split in (TRAIN, EVAL)
    }
    quarantine = Quarantine.validate(pl.DataFrame(gate.quarantine, schema=_quarantine_schema()))
    quarantined = dict(Counter(row["code"] for row in gate.quarantine).most_common())
    record = PreparedData(
        path=folder,
        prepared_id=folder.name,
        dataset_id=dataset_id(row.row_id for row in gate.rows),
        base_model=base_model,
        rows_in=gate.rows_in,
        train_pairs=frames[TRAIN].height,
        eval_pairs=frames[EVAL].height,
        duplicates=gate.duplicates,
        quarantined=quarantined,
        longest_pair=max(row.tokens.longest for row in gate.rows if row.tokens),
    )
    with new_stage(folder) as temporary:
        for split, frame in frames.items():
            frame.write_parquet(temporary / f"{split}.parquet")
        quarantine.write_parquet(temporary / "quarantine.parquet")
        report = _report(record, gate)
        text = json.dumps(report, indent=1, ensure_ascii=False)
        (temporary / "report.json").write_text(text, encoding="utf-8")
        chat.tokenizer.save_pretrained(temporary / "tokenizer")
        (temporary / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return record


def _frame(rows: list[Row]) -> pl.DataFrame:
    """Rows by id, so that file order changes nothing downstream."""
    schema: dict[str, Any] = {
        "row_id": pl.String,
        "prompt_id": pl.String,
        "prompt": CONVERSATION,
        "chosen": CONVERSATION,
        "rejected": CONVERSATION,
        "prompt_ids": TOKEN_IDS,
        "chosen_ids": TOKEN_IDS,
        "rejected_ids": TOKEN_IDS,
        "origin_file": pl.String,
        "origin_row": pl.Int64,
    }
    values = [
        {
            "row_id": row.row_id,
            "prompt_id": row.prompt_id,
            "prompt": _plain(row.pair.prompt),
            "chosen": _plain(row.pair.chosen),
            "rejected": _plain(row.pair.rejected),
            "prompt_ids": row.tokens.prompt,
            "chosen_ids": row.tokens.chosen,
            "rejected_ids": row.tokens.rejected,
            "origin_file": row.pair.origin.file,
            "origin_row": row.pair.origin.row,
        }
        for row in sorted(rows, key=lambda row: row.row_id)
        if row.tokens
    ]
    return PreparedPairs.validate(pl.DataFrame(values, schema=schema))


def _plain(conversation: Conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in conversation]


def _quarantine_schema() -> dict[str, Any]:
    text = dict.fromkeys(("split", "code", "reason", "row"), pl.String)
    return {"origin_file": pl.String, "origin_row": pl.Int64, **text}


def _report(record: PreparedData, gate: Gate) -> dict[str, Any]:
    """What became of the rows, with examples; lengths in tokens."""
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in gate.quarantine:
        shown = examples.setdefault(row["code"], [])
        if len(shown) < EXAMPLES_PER_CODE:
            shown.append({**row, "row": row["row"][:300]})
    tokens = [row.tokens for row in gate.rows if row.tokens]
    longer = sum(len(t.chosen) > len(t.rejected) for t in tokens)
    return {
        "dataset_id": record.dataset_id,
        "prepared_id": record.prepared_id,
        "rows_in": record.rows_in,
        "kept": {"train": record.train_pairs, "eval": record.eval_pairs},
        "duplicates": record.duplicates,
        "quarantined": record.quarantined,
        "examples": examples,
        "tokens": {
            part: _spread([len(getattr(t, part)) for t in tokens])
            for part in ("prompt", "chosen", "rejected")
        },
        "longest_pair": record.longest_pair,
        "chosen_longer_share": round(longer / len(tokens), 4),
    }


def _spread(lengths: list[int]) -> dict[str, float]:
    series = pl.Series(lengths)
    return {
        "median": float(series.median() or 0),  # type: ignore[arg-type]
        "p95": float(series.quantile(0.95) or 0),
        "max": float(series.max() or 0),  # type: ignore[arg-type]
        "total": float(series.sum()),
    }
