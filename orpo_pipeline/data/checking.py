"""Everything that one row decides alone: parsed, repaired, judged, tokenised, sketched.

The result depends on the block's content and on the settings, on no other row and on no place: so a
block is checked once, wherever its rows stand, and is cached by its content.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from orpo_pipeline.data.chat_template import load_chat_format
from orpo_pipeline.data.decontamination import read_benchmarks
from orpo_pipeline.data.dialects import Dialect, dialect_named, find_dialect, mapped_dialect
from orpo_pipeline.data.format_marks import format_marks
from orpo_pipeline.data.identity import folded, prompt_id, row_id
from orpo_pipeline.data.near_duplicates import row_signatures, signatures
from orpo_pipeline.data.readers import Block, RawRow, block_rows
from orpo_pipeline.data.rules.checks import check_pair
from orpo_pipeline.data.tokenization import PairTokenizer, Tokenized
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.frames import MARKS, ROW_INDEX
from schemas.pairs import Conversation, Defect, DefectCode, Pair

LONGEST_SHOWN = 20_000  # characters of a quarantined row that are kept beside its reason
NO_DIALECT = "unknown"

CONVERSATIONS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """The rows of one block, in their order: `index` (ROW_INDEX) and `rows` (texts and token ids).

    `rows` has nulls where the index has a code.
    """

    dialect: str
    first: str
    """The first row's keys, to show when another block of the file has another dialect."""
    index: pl.DataFrame
    rows: pa.Table


@dataclass(slots=True)
class _Row:
    number: int
    defect: Defect | None = None
    notes: list[Defect] = field(default_factory=list)
    pair: Pair | None = None
    row_id: str | None = None
    prompt_id: str | None = None
    text: str | None = None
    tokenized: Tokenized | None = None


class RowChecker:
    """Checks blocks under one configuration. Building it loads the tokenizer."""

    def __init__(self, config: RunConfig, model_folder: Path) -> None:
        self._data = config.data
        self._tokenizer = PairTokenizer(
            load_chat_format(model_folder, config.chat.template), config.chat
        )
        self._given = _given_dialect(config)
        benchmarks = config.data.benchmarks
        self._benchmarks = read_benchmarks(Path(benchmarks)) if benchmarks else None

    def check(self, block: Block) -> CheckedBlock:
        """Raises UserError when the block's rows are of more than one dialect."""
        raw_rows = list(block_rows(block))
        dialect, first = self._dialect(raw_rows)
        rows = [self._check_row(raw, dialect, block.first_row) for raw in raw_rows]
        self._find_benchmarks(rows)
        sound = [row for row in rows if row.pair is not None and row.defect is None]
        tokenized = self._tokenizer.tokenize([row.pair for row in sound])  # type: ignore[misc]
        for row, result in zip(sound, tokenized, strict=True):
            row.tokenized, row.defect = result, result.defect
            row.notes += result.notes
        for row in rows:
            if row.defect is not None and row.pair is not None:
                row.text = as_json(shown_pair(row.pair))
        return CheckedBlock(
            dialect=dialect.name if dialect else NO_DIALECT,
            first=first,
            index=_index(rows),
            rows=_texts_and_ids(rows),
        )

    def _dialect(self, rows: Sequence[RawRow]) -> tuple[Dialect | None, str]:
        """The rows' common dialect. Raises UserError for a second one, and shows both rows."""
        if self._given is not None:
            return self._given, ""
        known: Dialect | None = None
        first = ""
        seen: list[dict[str, Any]] = []
        for raw in rows:
            if isinstance(raw.value, Defect):
                continue
            if known is None or not known.fits(raw.value):
                other = find_dialect(raw.value)
                if other is None:
                    continue
                keys = ", ".join(map(str, raw.value))[:200]
                # A first row with nulls may have looked like another dialect than it is.
                if known is not None and not all(other.fits(row) for row in seen):
                    raise mixed_dialects(known.name, first, other.name, f"{raw.origin} ({keys})")
                known, first = other, first or f"{raw.origin} ({keys})"
            seen.append(raw.value)
        return known, first.partition(" ")[2]

    def _check_row(self, raw: RawRow, dialect: Dialect | None, first_row: int) -> _Row:
        row = _Row(raw.origin.row - first_row)
        if isinstance(raw.value, Defect):
            row.defect, row.text = raw.value, raw.text[:LONGEST_SHOWN]
            return row
        parsed = dialect.parse(raw.value, raw.origin) if dialect else _unknown(raw.value)
        if isinstance(parsed, Defect):
            row.defect, row.text = parsed, as_json(raw.value)
            return row
        checked = check_pair(parsed, self._data)
        row.pair, row.defect = checked.pair, checked.defect
        row.notes += checked.notes
        row.row_id, row.prompt_id = row_id(checked.pair), prompt_id(checked.pair)
        return row

    def _find_benchmarks(self, rows: Sequence[_Row]) -> None:
        if self._benchmarks is None:
            return
        sound = [row for row in rows if row.pair is not None and row.defect is None]
        for side in ("prompt", "chosen", "rejected"):
            texts = [conversation_text(getattr(row.pair, side)) for row in sound]
            for row, found in zip(sound, self._benchmarks.overlaps(texts), strict=True):
                if found is not None and row.defect is None:
                    reason = f"{side} holds the benchmark prompt {found!r}"
                    row.defect = Defect(DefectCode.BENCHMARK_PROMPT, reason)


def mixed_dialects(first: str, first_row: str, second: str, second_row: str) -> UserError:
    """The error of a file that speaks two dialects."""
    return UserError(
        f"A file mixes two dialects: {first} at {first_row} and {second} at {second_row}.",
        "one dialect a file.",
        "Split the file by dialect, or name the columns with data.columns.",
    )


def _given_dialect(config: RunConfig) -> Dialect | None:
    if config.data.columns:
        return mapped_dialect(config.data.columns)
    return dialect_named(config.data.dialect) if config.data.dialect else None


def _unknown(row: dict[str, Any]) -> Defect:
    keys = ", ".join(map(str, row))[:200] or "none"
    return Defect(
        DefectCode.MISSING_FIELD,
        f"no known dialect has these fields: {keys}; name the columns with data.columns",
    )


def conversation_text(turns: Conversation) -> str:
    """All turns' contents: what is compared when near-duplicates are looked for."""
    return "\n".join(message.content for message in turns)


def shown_pair(pair: Pair) -> dict[str, Any]:
    """The pair as a row of the quarantine shows it."""
    shown: dict[str, Any] = {
        side: [{"role": m.role, "content": m.content} for m in getattr(pair, side)]
        for side in ("prompt", "chosen", "rejected")
    }
    scores = {"score_chosen": pair.score_chosen, "score_rejected": pair.score_rejected}
    return shown | {name: value for name, value in scores.items() if value is not None}


def as_json(value: Any) -> str:
    """A row for the quarantine file; ASCII, since a broken row may hold half a surrogate pair."""
    try:
        return json.dumps(value, ensure_ascii=True, default=str)[:LONGEST_SHOWN]
    except RecursionError:  # it was just shallow enough to be read
        return "(nested too deeply to be shown)"


def _readable(reason: str) -> str:
    # A reason may quote the row, and with it half a surrogate pair that no file can hold.
    return reason.encode(errors="backslashreplace").decode()


def _answer_key(answer: Conversation) -> int:
    """64 bits that are equal for answers equal in folded form."""
    text = folded(answer[-1].content).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _index(rows: list[_Row]) -> pl.DataFrame:
    pairs = [row.pair for row in rows if row.defect is None and row.pair is not None]
    prompts, chosen, rejected = (
        [conversation_text(getattr(pair, side)) for pair in pairs]
        for side in ("prompt", "chosen", "rejected")
    )
    of_prompts = _as_bytes(signatures(prompts))
    of_rows = _as_bytes(row_signatures(prompts, chosen, rejected))
    sketches = zip(of_prompts, of_rows, strict=True)
    values = []
    for row in rows:
        pair, tokenized = row.pair, row.tokenized
        value: dict[str, Any] = {
            "number": row.number,
            "code": row.defect and row.defect.code.value,
            "reason": row.defect and _readable(row.defect.reason),
            "notes": [{"code": n.code.value, "reason": _readable(n.reason)} for n in row.notes],
            "row_id": row.row_id,
            "prompt_id": row.prompt_id,
            "source": _readable(pair.source) if pair else None,
            "score_chosen": pair and pair.score_chosen,
            "score_rejected": pair and pair.score_rejected,
        }
        if row.defect is None and pair is not None and tokenized and tokenized.tokens:
            tokens = tokenized.tokens
            value |= {
                "prompt_tokens": len(tokens.prompt),
                "chosen_tokens": len(tokens.chosen),
                "rejected_tokens": len(tokens.rejected),
                "chosen_key": _answer_key(pair.chosen),
                "rejected_key": _answer_key(pair.rejected),
                "chosen_marks": _marks(pair.chosen),
                "rejected_marks": _marks(pair.rejected),
            }
            value["prompt_bands"], value["pair_bands"] = next(sketches)
        values.append(value)
    return pl.DataFrame(values, schema=ROW_INDEX)


def _as_bytes(bands: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(bands, dtype="<u8")]


def _marks(answer: Conversation) -> dict[str, int]:
    return dict(zip(MARKS, format_marks(answer[-1].content), strict=True))


def _texts_and_ids(rows: list[_Row]) -> pa.Table:
    def of(values: list[Any], side: str) -> list[Any]:
        return [None if value is None else getattr(value, side) for value in values]

    pairs = [row.pair if row.defect is None else None for row in rows]
    tokens = [row.tokenized.tokens if row.tokenized else None for row in rows]
    sides = ("prompt", "chosen", "rejected")
    columns: dict[str, pa.Array] = {side: _conversations(of(pairs, side)) for side in sides}
    columns |= {f"{side}_ids": _token_ids(of(tokens, side)) for side in sides}
    columns["text"] = pa.array([row.text for row in rows], pa.string())
    return pa.table(columns)


def _conversations(values: Sequence[Conversation | None]) -> pa.Array:
    messages = [message for turns in values if turns is not None for message in turns]
    flat = pa.StructArray.from_arrays(
        [
            pa.array([message.role for message in messages], pa.string()),
            pa.array([message.content for message in messages], pa.string()),
        ],
        names=["role", "content"],
    )
    return pa.ListArray.from_arrays(_offsets(values), flat, type=CONVERSATIONS)


def _token_ids(values: Sequence[list[int] | None]) -> pa.Array:
    flat = np.fromiter(chain.from_iterable(filter(None, values)), dtype=np.int32)
    return pa.ListArray.from_arrays(_offsets(values), pa.array(flat))


def _offsets(values: Sequence[Sequence[Any] | None]) -> pa.Array:
    """Arrow's offsets; a null offset makes a null list."""
    ends = np.cumsum([0] + [len(value) if value is not None else 0 for value in values])
    missing = np.array([value is None for value in values] + [False])
    return pa.array(ends.astype(np.int32), mask=missing)
