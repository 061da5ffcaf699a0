"""Rows of preference data for tests."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import RawRow, block_rows, read_blocks


def pair_row(number: int, **changes: Any) -> dict[str, Any]:
    """An explicit conversational row; every number gives another prompt."""
    row = {
        "prompt": [{"role": "user", "content": f"What is {number} plus {number}?"}],
        "chosen": [{"role": "assistant", "content": f"It is {2 * number}."}],
        "rejected": [{"role": "assistant", "content": f"Numbers like {number} are nice to add."}],
    }
    return {**row, **changes}


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A JSON Lines file; a row given as text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_rows(file: SourceFile) -> Iterator[RawRow]:
    """Every row of a file, in order, wherever its blocks end."""
    for block in read_blocks(file):
        yield from block_rows(block)
