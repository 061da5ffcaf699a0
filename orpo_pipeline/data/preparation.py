"""The prepare stage: source files in; train, evaluation and quarantine files out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.data.chat_template import (
    ChatFormat,
    format_identity,
    load_chat_format,
    tokenize_pairs,
)
from orpo_pipeline.data.dialects import parse_pair, prompt_id, row_id
from orpo_pipeline.data.gate import EVAL, TRAIN, Gate, Row, as_json
from orpo_pipeline.data.prepared_files import EXAMPLES_PER_CODE, RECORD, publish_prepared
from orpo_pipeline.data.quality import find_contradictions, first_defect
from orpo_pipeline.data.sources import RawRow, SourceFile, find_files, read_rows, unreadable
from orpo_pipeline.data.splits import is_held_out
from orpo_pipeline.stages import code_version, file_sha256, fingerprint, is_complete
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode, Pair
from schemas.results import BaseModelRecord, PreparedData

BATCH = 512

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are (0: not known)."""


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
        "code": code_version("orpo_pipeline.data.preparation"),
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
    chat = load_chat_format(base_model.path, config.chat.template)
    gate = read_gate(files, config, progress)
    _check_repetition(gate)
    _check_leakage(gate, separate_eval=config.data.eval_split is not None)
    _check_tokens(gate, chat, config.chat.max_length, progress)
    _check_budget(gate, config)
    return publish_prepared(gate, folder, chat, base_model)


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
    gate.reject(raw.origin, split, defect, as_json(raw.value))


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


def _check_tokens(gate: Gate, chat: ChatFormat, max_length: int, progress: Progress) -> None:
    verdicts: dict[int, Defect] = {}
    for start in range(0, len(gate.rows), BATCH):
        batch = gate.rows[start : start + BATCH]
        results = tokenize_pairs([row.pair for row in batch], chat, max_length)
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
