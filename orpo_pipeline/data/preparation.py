"""The prepare stage: source files in; train, evaluation and quarantine files out."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from orpo_pipeline.data.block_checks import Progress
from orpo_pipeline.data.block_store import BlockStore, StoredBlock
from orpo_pipeline.data.inputs import BLOCKS, HELD_OUT, Inputs, find_inputs
from orpo_pipeline.data.prepared_files import EVAL, QUARANTINE
from orpo_pipeline.data.publication import KEPT, publish_prepared, read_record
from orpo_pipeline.data.relations.held_out import record_held_out
from orpo_pipeline.data.relations.selection import Selection, comparison_settings, load_rows
from orpo_pipeline.data.relations.verdicts import Verdicts
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.stages import is_complete
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.pairs import DefectCode, Severity
from schemas.results import PreparedData

EXAMPLES = 3


def load_prepared(inputs: Inputs) -> PreparedData | None:
    """The record of a complete stage, or None."""
    if not is_complete(inputs.folder):
        return None
    return read_record(inputs.folder, inputs.base_model).model_copy(update={"reused": True})


def prepare(config: RunConfig, home: Path, progress: Progress) -> PreparedData:
    """Read, check, split and tokenise the configured data; or find that it is done.

    Whether a run may go on with it is for `check_usable` to say: a report is wanted most where
    much is wrong. Raises UserError for data that cannot be read or has no rows.
    """
    inputs = find_inputs(config, home, lambda text: progress(text, 0, 0))
    inputs.hashes.save()
    damaged = inputs.folder.exists()
    done = load_prepared(inputs)
    if done is not None:
        return done
    chat = load_chat_format(inputs.base_model.path, config.chat.template)
    checked = home / BLOCKS / inputs.settings
    store = BlockStore(
        checked,
        config,
        inputs.base_model.path,
        inputs.hashes,
        chat,
        trusting=not damaged,
    )
    blocks = store.check_files(inputs.files, progress)
    if not any(block.rows for block in blocks):
        raise _no_rows(config)
    progress("comparing rows", 0, 0)
    verdicts = Verdicts(checked / "compared" / comparison_settings(config.data))
    selection = Selection(load_rows(blocks), blocks, config.data, verdicts)
    rows = selection.select(inputs.barred, inputs.forgotten)
    verdicts.save(inputs.folder.name)
    check_equation(rows, blocks)
    progress("writing the prepared pairs", 0, 0)
    return publish_prepared(rows, blocks, inputs, config, chat)


def check_usable(prepared: PreparedData, config: RunConfig) -> None:
    """Raise UserError where a run must not go on with these data: a side is empty, or a budget,
    which may have changed since they were prepared, is exceeded.
    """

    def examples(code: str) -> str:
        columns = ["code", "reason", "origin_file", "origin_row"]
        return _examples(
            pl.read_parquet(prepared.path / QUARANTINE, columns=columns, glob=False), code
        )

    require_both_sides(prepared, config, examples)
    check_budget(prepared.quarantined, prepared.rows_in, config, examples)


def record_evaluated(prepared: PreparedData, home: Path) -> None:
    """Bar the evaluation prompts from training for ever, before a run goes on with these data.

    Raises UserError for a damaged record, EnvironmentFault when the disk fails.
    """
    prompts = pl.read_parquet(prepared.path / f"{EVAL}.parquet", columns=["prompt_id"], glob=False)
    record_held_out(
        home / HELD_OUT, prepared.held_out_key, prepared.dataset_id, prompts["prompt_id"]
    )


def check_equation(rows: pl.DataFrame, blocks: list[StoredBlock]) -> None:
    """Nothing disappears: rows read = kept + quarantined + duplicates, row by row."""
    read = sum(block.rows for block in blocks)
    both = rows.filter(pl.col("code").is_not_null() & pl.col("duplicate")).height
    kept = rows.filter(KEPT).height
    quarantined = rows["code"].count()
    duplicates = int(rows["duplicate"].sum())
    if both or not read == rows.height == kept + quarantined + duplicates:
        raise AssertionError(
            f"{read} rows were read and {rows.height} compared; {kept} kept + {quarantined} "
            f"quarantined + {duplicates} duplicates are accounted for, {both} of them twice"
        )


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


def require_both_sides(
    prepared: PreparedData,
    config: RunConfig,
    examples: Callable[[str], str] = lambda code: "",
) -> None:
    """Raise UserError where no pair is left to train on, or none to evaluate on."""
    if prepared.train_pairs and prepared.eval_pairs:
        return
    removed = prepared.quarantined
    listed = ", ".join(f"{code} {count:,}" for code, count in removed.items()) or "none"
    example = examples(next(iter(removed))) if removed else ""
    raise UserError(
        f"Of {prepared.rows_in:,} rows in {config.data.source} {prepared.train_pairs:,} are usable "
        f"for training and {prepared.eval_pairs:,} for evaluation (quarantined: {listed}; "
        f"duplicates: {prepared.duplicates:,}).{example}",
        "at least one usable pair on each side.",
        "Give more data, correct the rows, or raise data.eval_fraction.",
    )


def _no_rows(config: RunConfig) -> UserError:
    return UserError(
        f"The files of {config.data.source} hold no rows at all.",
        "at least one usable pair for training and one for evaluation.",
        "Correct data.source.",
    )
