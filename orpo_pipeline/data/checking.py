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

from orpo_pipeline.data.dialects import Dialect, dialect_named
from orpo_pipeline.data.identity import folded, prompt_ids, row_id
from orpo_pipeline.data.reading.detection import common_dialects, given_dialect, unknown_row
from orpo_pipeline.data.reading.readers import Block, RawRow, block_rows
from orpo_pipeline.data.relations.decontamination import read_benchmarks
from orpo_pipeline.data.relations.near_duplicates import row_signatures, signatures
from orpo_pipeline.data.report.format_marks import format_marks
from orpo_pipeline.data.rules.checks import check_pair
from orpo_pipeline.data.rules.redaction import Redaction
from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.data.tokens.tokenization import PairTokenizer, Tokenized
from schemas.config import RunConfig
from schemas.frames import MARKS, ROW_INDEX
from schemas.pairs import SIDES, Conversation, Defect, DefectCode, Pair

LONGEST_SHOWN = 20_000  # characters of a quarantined row that are kept beside its reason

CONVERSATIONS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """The rows of one block, in their order: `index` (ROW_INDEX) and `rows` (texts and token ids).

    `rows` has nulls where the index has a code.
    """

    dialects: tuple[str, ...]
    """Names of all dialects that fit the rows; the first is the one that they were read as."""
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
    earlier_ids: list[str] = field(default_factory=list)
    text: str | None = None
    tokenized: Tokenized | None = None


class RowChecker:
    """Checks blocks under one configuration. Building it loads the tokenizer, unless given one."""

    def __init__(
        self, config: RunConfig, model_folder: Path, chat: ChatFormat | None = None
    ) -> None:
        self._data = config.data
        chat = chat or load_chat_format(model_folder, config.chat.template)
        self._tokenizer = PairTokenizer(chat, config.chat)
        self._given = given_dialect(config.data)
        self._redaction = Redaction(config.data)
        benchmarks = config.data.benchmarks
        self._benchmarks = read_benchmarks(Path(benchmarks).expanduser()) if benchmarks else None

    def check(self, block: Block, read_as: str | None = None) -> CheckedBlock:
        """The block's rows, read as the dialect `read_as` or as one that is found out from them.

        Raises UserError when the rows are of more than one dialect.
        """
        raw_rows = list(block_rows(block))
        given = dialect_named(read_as) if read_as else self._given
        redact = self._redaction.text
        dialects, first = ((given,), "") if given else common_dialects(raw_rows, redact)
        dialect = dialects[0] if dialects else None
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
            dialects=tuple(one.name for one in dialects),
            first=first,
            index=_index(rows),
            rows=_texts_and_ids(rows),
        )

    def _check_row(self, raw: RawRow, dialect: Dialect | None, first_row: int) -> _Row:
        row = _Row(raw.origin.row - first_row)
        if isinstance(raw.value, Defect):
            row.defect = self._redacted(raw.value)
            row.text = self._redaction.beginning(raw.text)[:LONGEST_SHOWN]
            return row
        if dialect is not None:
            parsed = dialect.parse(raw.value, raw.origin)
        else:
            parsed = unknown_row(raw.value, self._redaction.text)
        if isinstance(parsed, Defect):
            row.defect, row.text = self._redacted(parsed), as_json(raw.value, self._redaction)
            return row
        checked = check_pair(parsed, self._data)
        row.pair, row.defect = checked.pair, checked.defect
        row.notes += checked.notes
        row.row_id = row_id(checked.pair)
        *row.earlier_ids, row.prompt_id = prompt_ids(checked.pair)
        return row

    def _redacted(self, defect: Defect) -> Defect:
        # A reason may quote the row's keys.
        return Defect(defect.code, self._redaction.text(defect.reason))

    def _find_benchmarks(self, rows: Sequence[_Row]) -> None:
        if self._benchmarks is None:
            return
        sound = [row for row in rows if row.pair is not None and row.defect is None]
        for side in SIDES:
            # Turn by turn, since a short benchmark prompt is looked for as a whole text.
            turns = [(row, turn.content) for row in sound for turn in getattr(row.pair, side)]
            overlaps = self._benchmarks.overlaps([text for _, text in turns])
            for (row, _), found in zip(turns, overlaps, strict=True):
                if found is not None and row.defect is None:
                    reason = f"{side} holds the benchmark prompt {found!r}"
                    row.defect = Defect(DefectCode.BENCHMARK_PROMPT, reason)


def conversation_text(turns: Conversation) -> str:
    """The turns' contents: what is compared when near-duplicates are looked for.

    Without system turns: a long one that all prompts share would make them all nearly equal.
    """
    return "\n".join(message.content for message in turns if message.role != "system")


def shown_pair(pair: Pair) -> dict[str, Any]:
    """The pair as a row of the quarantine shows it."""
    shown: dict[str, Any] = {
        side: [{"role": m.role, "content": m.content} for m in getattr(pair, side)]
        for side in SIDES
    }
    scores = {"score_chosen": pair.score_chosen, "score_rejected": pair.score_rejected}
    return shown | {name: value for name, value in scores.items() if value is not None}


def as_json(value: Any, redaction: Redaction | None = None) -> str:
    """A row for the quarantine file; ASCII, since a broken row may hold half a surrogate pair."""
    try:
        if redaction is None:
            return _dumped(value)[:LONGEST_SHOWN]
        # A number may be personal data, too, and it is text only here.
        return redaction.text(_dumped(redaction.value(value)))[:LONGEST_SHOWN]
    except RecursionError:  # it was just shallow enough to be read
        return "(nested too deeply to be shown)"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)


def _readable(reason: str) -> str:
    # A reason may quote the row, and with it half a surrogate pair that no file can hold.
    return reason.encode(errors="backslashreplace").decode()


def _key_and_marks(answer: Conversation) -> tuple[int, dict[str, int]]:
    """64 bits that are equal for answers equal in folded form, and the answer's marks of format."""
    text = answer[-1].content
    same = folded(text)
    digest = hashlib.blake2b(same.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # Folding has put one space between words; beyond ASCII it may make some of its own.
    words = same.count(" ") + bool(same) if text.isascii() else None
    marks = dict(zip(MARKS, format_marks(text, words), strict=True))
    return int.from_bytes(digest, "big"), marks


def _index(rows: list[_Row]) -> pl.DataFrame:
    pairs = [row.pair for row in rows if row.defect is None and row.pair is not None]
    prompts, chosen, rejected = (
        [conversation_text(getattr(pair, side)) for pair in pairs] for side in SIDES
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
            "earlier_ids": row.earlier_ids,
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
            }
            for side in ("chosen", "rejected"):
                key, marks = _key_and_marks(getattr(pair, side))
                value |= {f"{side}_key": key, f"{side}_marks": marks}
            value["prompt_bands"], value["pair_bands"] = next(sketches)
        values.append(value)
    return pl.DataFrame(values, schema=ROW_INDEX)


def _as_bytes(bands: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(bands, dtype="<u8")]


def _texts_and_ids(rows: list[_Row]) -> pa.Table:
    def of(values: list[Any], side: str) -> list[Any]:
        return [None if value is None else getattr(value, side) for value in values]

    pairs = [row.pair if row.defect is None else None for row in rows]
    tokens = [row.tokenized.tokens if row.tokenized else None for row in rows]
    columns: dict[str, pa.Array] = {side: _conversations(of(pairs, side)) for side in SIDES}
    columns |= {f"{side}_ids": _token_ids(of(tokens, side)) for side in SIDES}
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
