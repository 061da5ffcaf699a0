"""The prepare stage: source files in; train, evaluation and quarantine files out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.block_store import BlockStore, Progress, StoredBlock
from orpo_pipeline.data.chat_template import load_chat_format
from orpo_pipeline.data.held_out import record_held_out
from orpo_pipeline.data.inputs import HELD_OUT, Inputs, find_inputs
from orpo_pipeline.data.prepared_files import EVAL, QUARANTINE, TRAIN
from orpo_pipeline.data.publication import KEPT, dataset_id, publish_prepared, read_record
from orpo_pipeline.data.selection import Selection, load_rows
from orpo_pipeline.stages import is_complete
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.pairs import DefectCode, Severity
from schemas.results import PreparedData

EXAMPLES = 3


def load_prepared(inputs: Inputs, config: RunConfig) -> PreparedData | None:
    """The record of a complete stage, or None.

    Raises UserError when its rows exceed the budget, which may have been lowered since.
    """
    if not is_complete(inputs.folder):
        return None
    record = read_record(inputs.folder, inputs.base_model)

    def examples(code: str) -> str:
        return _examples(pl.read_parquet(inputs.folder / QUARANTINE), code)

    check_budget(record.quarantined, record.rows_in, config, examples)
    return record.model_copy(update={"reused": True})


def prepare(config: RunConfig, home: Path, progress: Progress) -> PreparedData:
    """Read, check, split and tokenise the configured data; or find that it is done.

    Raises UserError for data that cannot be used, and when more rows are quarantined than
    `data.max_quarantined_share` and `data.max_rule_share` allow.
    """
    inputs = find_inputs(config, home, lambda text: progress(text, 0, 0))
    done = load_prepared(inputs, config)
    if done is not None:
        return done
    store = BlockStore(home / "blocks" / inputs.settings, config, inputs.base_model.path)
    blocks = store.check_files(inputs.files, progress)
    if not blocks:
        raise _nothing_usable(config)
    progress("comparing rows", 0, 0)
    rows = Selection(load_rows(blocks), blocks, config.data).select(inputs.barred)
    _check_equation(rows)
    removed = _count_removed(rows)
    _require_both_sides(rows, removed, blocks)
    check_budget(removed, rows.height, config, lambda code: _examples(rows, code))
    prompts = rows.filter(KEPT & (pl.col("split") == EVAL))["prompt_id"]
    # Before anyone can train on what follows: a crash in between bars too much, never too little.
    record_held_out(home / HELD_OUT, inputs.held_out_key, dataset_id(rows, inputs.tokens), prompts)
    progress("writing the prepared pairs", 0, 0)
    chat = load_chat_format(inputs.base_model.path, config.chat.template)
    return publish_prepared(rows, blocks, inputs, config, chat)


def _check_equation(rows: pl.DataFrame) -> None:
    """Nothing disappears: rows in = kept + quarantined + duplicates, row by row."""
    both = rows.filter(pl.col("code").is_not_null() & pl.col("duplicate")).height
    kept = rows.filter(KEPT).height
    quarantined = rows["code"].count()
    duplicates = int(rows["duplicate"].sum())
    if both or kept + quarantined + duplicates != rows.height:
        raise AssertionError(
            f"{rows.height} rows came in; {kept} kept + {quarantined} quarantined + {duplicates} "
            f"duplicates are accounted for, {both} of them twice"
        )


def _count_removed(rows: pl.DataFrame) -> dict[str, int]:
    counts = rows["code"].drop_nulls().value_counts()
    return dict(sorted(counts.iter_rows(), key=lambda item: (-item[1], item[0])))


def check_budget(
    removed: dict[str, int],
    rows_in: int,
    config: RunConfig,
    examples: Callable[[str], str] = lambda code: "",
) -> None:
    """Raise UserError when more rows are quarantined, by one rule or by all, than is allowed.

    Rows that are dropped as any data has them (too long, ties, near-duplicates) do not count.
    """
    counted = {c: n for c, n in removed.items() if DefectCode(c).severity is Severity.QUARANTINE}
    for rule, limit in config.data.max_rule_share.items():
        found = removed.get(rule.value, 0)
        if found > limit * rows_in:
            raise UserError(
                f"{found:,} of {rows_in:,} rows have the defect {rule.value} "
                f"({found / rows_in:.1%}).{examples(rule.value)}",
                f"at most {limit:.1%} (data.max_rule_share).",
                f"Correct the rows, or raise data.max_rule_share.{rule.value} if this is meant.",
            )
    total = sum(counted.values())
    if total > config.data.max_quarantined_share * rows_in:
        listed = ", ".join(f"{code} {count:,}" for code, count in counted.items())
        most = next(iter(counted))
        raise UserError(
            f"{total:,} of {rows_in:,} rows are quarantined ({total / rows_in:.1%}): {listed}."
            f"{examples(most)}",
            f"at most {config.data.max_quarantined_share:.1%} (data.max_quarantined_share).",
            "Correct the rows, or raise the limit if this share is meant.",
        )


def _examples(rows: pl.DataFrame, code: str) -> str:
    shown = rows.filter(pl.col("code") == code).head(EXAMPLES)
    listed = "; ".join(
        f"{file}:{row} ({reason})"
        for file, row, reason in shown.select("origin_file", "origin_row", "reason").iter_rows()
    )
    return f" For example {code} at {listed}."


def _require_both_sides(
    rows: pl.DataFrame, removed: dict[str, int], blocks: list[StoredBlock]
) -> None:
    kept = Counter[Any](rows.filter(KEPT)["split"].to_list())
    if kept[TRAIN] and kept[EVAL]:
        return
    listed = ", ".join(f"{code} {count:,}" for code, count in removed.items()) or "none"
    files = sorted({block.file for block in blocks})
    example = _examples(rows, next(iter(removed))) if removed else ""
    raise UserError(
        f"Of {rows.height:,} rows in {', '.join(files[:5])} {kept[TRAIN]:,} are usable for "
        f"training and {kept[EVAL]:,} for evaluation (quarantined: {listed}; duplicates: "
        f"{rows['duplicate'].sum():,}).{example}",
        "at least one usable pair on each side.",
        "Give more data, correct the rows, or raise data.eval_fraction.",
    )


def _nothing_usable(config: RunConfig) -> UserError:
    return UserError(
        f"The files of {config.data.source} hold no rows at all.",
        "at least one usable pair for training and one for evaluation.",
        "Correct data.source.",
    )
