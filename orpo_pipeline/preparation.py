"""The prepare stage: source files in; train, evaluation and quarantine files out."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.chat_template import (
    TokenizedPair,
    format_identity,
    load_chat_format,
    tokenize_pairs,
)
from orpo_pipeline.dialects import parse_pair, prompt_id, row_id
from orpo_pipeline.quality import RULES_VERSION, find_contradictions, first_defect
from orpo_pipeline.sources import RawRow, SourceFile, find_files, read_rows, unreadable
from orpo_pipeline.splits import is_held_out
from orpo_pipeline.stages import (
    code_version,
    file_sha256,
    fingerprint,
    is_complete,
    new_stage,
)
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.frames import CONVERSATION, TOKEN_IDS, PreparedPairs, Quarantine
from schemas.pairs import Conversation, Defect, DefectCode, Origin, Pair
from schemas.results import BaseModelRecord, PreparedData

BATCH = 512
EXAMPLES_PER_CODE = 3
TRAIN, EVAL = "train", "eval"
RECORD = "record.json"

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are (0: not known)."""


@dataclass(slots=True)
class Row:
    """A pair on its way through the gate."""

    pair: Pair
    row_id: str
    prompt_id: str
    split: str
    tokens: TokenizedPair | None = None


@dataclass(slots=True)
class Gate:
    """Rows that are still in, and everything that is not, with its reason."""

    rows_in: int = 0
    duplicates: int = 0
    rows: list[Row] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, origin: Origin, split: str, defect: Defect, row: str) -> None:
        # A reason may quote the row, and with it half a surrogate pair that no file can hold.
        reason = defect.reason.encode(errors="backslashreplace").decode()
        self.quarantine.append(
            {
                "origin_file": origin.file,
                "origin_row": origin.row,
                "split": split,
                "code": defect.code.value,
                "reason": reason,
                "row": row,
            }
        )

    def filter(self, verdict: Callable[[int, Row], Defect | None]) -> None:
        """Keep the rows without a verdict, quarantine the others."""
        kept = []
        for index, row in enumerate(self.rows):
            defect = verdict(index, row)
            if defect is None:
                kept.append(row)
            else:
                self.reject(row.pair.origin, row.split, defect, _as_json(asdict(row.pair)))
        self.rows = kept
        self.check()

    def check(self) -> None:
        """Nothing disappears: rows in = kept + quarantined + duplicates."""
        accounted = len(self.rows) + len(self.quarantine) + self.duplicates
        if accounted != self.rows_in:
            raise AssertionError(f"{self.rows_in} rows came in, {accounted} are accounted for")


def find_prepared(
    config: RunConfig, home: Path, notify: Callable[[str], None]
) -> tuple[Path, BaseModelRecord, dict[str, list[SourceFile]]]:
    """The stage's folder (which may not exist yet), its base model and its source files."""
    files = find_files(config.data)
    base_model = resolve_base_model(config.model, home, notify)
    inputs = {
        "files": {
            split: [(source.name, _sha256(source)) for source in found]
            for split, found in files.items()
        },
        "data": config.data.model_dump(exclude={"source", "revision"}),
        "max_length": config.chat.max_length,
        "format": format_identity(base_model.path, config.chat.template),
        "base_model": base_model.revision,
        "code": code_version("orpo_pipeline.preparation"),
    }
    return home / "prepared" / fingerprint(inputs), base_model, files


def _sha256(source: SourceFile) -> str:
    try:
        return file_sha256(source.path)
    except OSError as error:
        raise unreadable(source, error) from error


def load_prepared(folder: Path, base_model: BaseModelRecord | None = None) -> PreparedData | None:
    """The record of a complete stage, or None.

    `base_model` is where the model is now: the same weights may have moved since, as the state
    folder may.
    """
    if not is_complete(folder):
        return None
    record = PreparedData.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    update = {"reused": True, "path": folder, "base_model": base_model or record.base_model}
    return record.model_copy(update=update)


def prepare(config: RunConfig, home: Path, progress: Progress) -> PreparedData:
    """Read, check, split and tokenise the configured data; or find that it is done.

    Raises UserError for data that cannot be used, and when more than
    `data.max_quarantined_share` of the rows are quarantined.
    """
    folder, base_model, files = find_prepared(config, home, lambda text: progress(text, 0, 0))
    done = load_prepared(folder, base_model)
    if done is not None:
        return done
    gate = read_gate(files, config, progress)
    _check_repetition(gate)
    _check_leakage(gate, separate_eval=config.data.eval_split is not None)
    _check_tokens(gate, config, base_model, progress)
    _check_budget(gate, config)
    return _publish(gate, folder, config, base_model)


def read_gate(files: dict[str, list[SourceFile]], config: RunConfig, progress: Progress) -> Gate:
    """Every row of every file, parsed, checked one by one, and assigned to a split."""
    gate = Gate()
    for split, source in ((split, file) for split, found in files.items() for file in found):
        for raw in read_rows(source):
            gate.rows_in += 1
            if gate.rows_in % 1000 == 0:
                progress("rows read", gate.rows_in, 0)
            _read_row(gate, raw, EVAL if split == config.data.eval_split else TRAIN)
    gate.check()
    if config.data.eval_split is None:
        for row in gate.rows:
            if is_held_out(row.prompt_id, config.data.eval_fraction):
                row.split = EVAL
    return gate


def _read_row(gate: Gate, raw: RawRow, split: str) -> None:
    if isinstance(raw.value, Defect):
        gate.reject(raw.origin, split, raw.value, raw.text)
        return
    pair = parse_pair(raw.value, raw.origin)
    if isinstance(pair, Pair):
        defect = first_defect(pair)
        if defect is None:
            gate.rows.append(Row(pair, row_id(pair), prompt_id(pair), split))
            return
    else:
        defect = pair
    gate.reject(raw.origin, split, defect, _as_json(raw.value))


def _check_repetition(gate: Gate) -> None:
    """The first of equal rows stays; both sides of a contradiction go."""
    # Equal rows across splits count as leakage below, so a duplicate is one within its split.
    first = {(row.row_id, row.split): row for row in reversed(gate.rows)}
    kept = [row for row in gate.rows if first[row.row_id, row.split] is row]
    gate.duplicates = len(gate.rows) - len(kept)
    gate.rows = kept
    contradicting = find_contradictions((row.prompt_id, row.pair) for row in gate.rows)
    defect = Defect(
        DefectCode.CONTRADICTION, "another row prefers these two answers the other way round"
    )
    gate.filter(lambda index, row: defect if index in contradicting else None)


def _check_leakage(gate: Gate, separate_eval: bool) -> None:
    """A prompt of the evaluation split may not be trained on."""
    if not separate_eval:
        return  # the split is by prompt: nothing can be on both sides
    evaluated = {row.prompt_id for row in gate.rows if row.split == EVAL}
    defect = Defect(DefectCode.EVAL_PROMPT_IN_TRAIN, "the evaluation split holds this prompt")
    gate.filter(
        lambda _, row: defect if row.split == TRAIN and row.prompt_id in evaluated else None
    )


def _check_tokens(
    gate: Gate, config: RunConfig, base_model: BaseModelRecord, progress: Progress
) -> None:
    chat = load_chat_format(base_model.path, config.chat.template)
    verdicts: dict[int, Defect] = {}
    for start in range(0, len(gate.rows), BATCH):
        batch = gate.rows[start : start + BATCH]
        results = tokenize_pairs([row.pair for row in batch], chat, config.chat.max_length)
        for index, (row, result) in enumerate(zip(batch, results, strict=True), start):
            if isinstance(result, Defect):
                verdicts[index] = result
            else:
                row.tokens = result
        progress("pairs tokenised", start + len(batch), len(gate.rows))
    gate.filter(lambda index, _: verdicts.get(index))


def _check_budget(gate: Gate, config: RunConfig) -> None:
    """Enough rows must be left, on both sides."""
    counts = Counter(row["code"] for row in gate.quarantine)
    listed = ", ".join(f"{code} {n}" for code, n in counts.most_common()) or "none"
    splits = Counter(row.split for row in gate.rows)
    if not splits[TRAIN] or not splits[EVAL]:
        raise UserError(
            f"Of {gate.rows_in} rows {splits[TRAIN]} are usable for training and {splits[EVAL]} "
            f"for evaluation (quarantined: {listed}; duplicates: {gate.duplicates}).",
            "at least one usable pair on each side.",
            "Give more data, correct the rows, or raise data.eval_fraction."
            + _examples(gate.quarantine),
        )
    share = len(gate.quarantine) / gate.rows_in
    if share > config.data.max_quarantined_share:
        raise UserError(
            f"{len(gate.quarantine)} of {gate.rows_in} rows are quarantined ({share:.1%}): "
            f"{listed}.",
            f"at most {config.data.max_quarantined_share:.1%} (data.max_quarantined_share).",
            "Correct the rows, or raise the limit if this share is meant."
            + _examples(gate.quarantine),
        )


def _examples(quarantine: list[dict[str, Any]]) -> str:
    if not quarantine:
        return ""
    shown = quarantine[:EXAMPLES_PER_CODE]
    return " For example: " + "; ".join(
        f"{row['origin_file']}:{row['origin_row']} {row['code']} ({row['reason']})" for row in shown
    )


def dataset_id(row_ids: Iterable[str]) -> str:
    """SHA-256 over the sorted row ids and the rules' version: order and file names are nothing."""
    digest = hashlib.sha256(f"rules {RULES_VERSION}\n".encode())
    digest.update("\n".join(sorted(row_ids)).encode())
    return digest.hexdigest()


def _publish(
    gate: Gate, folder: Path, config: RunConfig, base_model: BaseModelRecord
) -> PreparedData:
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
    chat = load_chat_format(base_model.path, config.chat.template)
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


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:  # it was just shallow enough to be read
        return "(nested too deeply to be shown)"
