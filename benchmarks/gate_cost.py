"""What the gate costs beside the tokenisation: each part of RowChecker.check, called by itself."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orpo_pipeline.data.checking import RowChecker, conversation_text
from orpo_pipeline.data.dialects import find_dialect
from orpo_pipeline.data.identity import prompt_id, row_id
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import Block, RawRow, block_rows, read_blocks
from orpo_pipeline.data.relations.near_duplicates import row_signatures, signatures
from orpo_pipeline.data.report.format_marks import format_marks
from orpo_pipeline.data.rules.checks import check_pair
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.data.tokens.tokenization import PairTokenizer
from schemas.config import RunConfig
from schemas.pairs import Defect, Pair

Found = TypeVar("Found")
GATE = ("parsing", "dialect", "rules", "identity", "signatures", "format")


class _Clock:
    """Adds up the seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, part: str, work: Callable[[], Found]) -> Found:
        started = time.perf_counter()
        found = work()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started
        return found


def time_parts(source: Path, model: Path, max_length: int) -> dict[str, object]:
    """Seconds by part, and the seconds of the same blocks checked as preparation does it."""
    config = RunConfig.model_validate({"chat": {"max_length": max_length}})
    blocks = list(read_blocks(SourceFile(source, source.name)))
    checker = RowChecker(config, model)
    tokenizer = PairTokenizer(load_chat_format(model, None), config.chat)
    # What is done once, as compiling patterns, is no part of a row's cost.
    _parts_of(blocks[0], config, tokenizer, _Clock())
    checker.check(blocks[0])
    clock = _Clock()
    rows = sum(_parts_of(block, config, tokenizer, clock) for block in blocks)
    for block in blocks:
        clock.time("whole", lambda block=block: checker.check(block))  # type: ignore[misc]
    gate = sum(clock.seconds[part] for part in GATE)
    return {
        "rows": rows,
        "seconds": clock.seconds,
        "gate": gate,
        "tokenisation": clock.seconds["tokenisation"],
        "rest": clock.seconds["whole"] - gate - clock.seconds["tokenisation"],
    }


def _parts_of(block: Block, config: RunConfig, tokenizer: PairTokenizer, clock: _Clock) -> int:
    raw = clock.time("parsing", lambda: list(block_rows(block)))
    parsed = clock.time("dialect", lambda: _parse(raw))
    checked = clock.time("rules", lambda: [check_pair(pair, config.data) for pair in parsed])
    clock.time("identity", lambda: [(row_id(one.pair), prompt_id(one.pair)) for one in checked])
    pairs = [one.pair for one in checked if one.defect is None]
    results = clock.time("tokenisation", lambda: tokenizer.tokenize(pairs))
    kept = [pair for pair, result in zip(pairs, results, strict=True) if result.tokens]
    clock.time("signatures", lambda: _sign(kept))
    clock.time(
        "format",
        lambda: [
            (format_marks(p.chosen[0].content), format_marks(p.rejected[0].content)) for p in kept
        ],
    )
    return len(raw)


def _parse(raw: list[RawRow]) -> list[Pair]:
    values = [row for row in raw if not isinstance(row.value, Defect)]
    dialect = next(found for row in values if (found := find_dialect(row.value)))  # type: ignore[arg-type]
    parsed = [dialect.parse(row.value, row.origin) for row in values]  # type: ignore[arg-type]
    return [pair for pair in parsed if isinstance(pair, Pair)]


def _sign(pairs: list[Pair]) -> None:
    prompts, chosen, rejected = (
        [conversation_text(getattr(pair, side)) for pair in pairs]
        for side in ("prompt", "chosen", "rejected")
    )
    signatures(prompts)
    row_signatures(prompts, chosen, rejected)
