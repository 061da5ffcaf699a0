"""Rows that show a defect, cut so that a reader sees all of their fields."""

import json
from typing import Any

import polars as pl

from schemas.data_report import Example

EXAMPLES_PER_CODE = 3
SHOWN_TEXT, SHOWN_REASON = 800, 300  # characters
FIELD_LENGTHS = (600, 400, 250, 150, 100, 60, 30)  # tried until the row fits


def first_examples(rows: pl.DataFrame) -> dict[str, tuple[Example, ...]]:
    """The first three rows of each code by file and row.

    `rows`: code, reason, origin, row_id, text; see DataReport's Example. A text that is JSON is
    shown with its long strings cut, a key a line; any other text is cut at its end.
    """
    number = pl.col("origin").str.extract(r":(\d+)$").cast(pl.Int64)
    file = pl.col("origin").str.replace(r":\d+$", "")
    ordered = rows.sort("code", file, number, "text")
    found: dict[str, tuple[Example, ...]] = {}
    for row in ordered.group_by("code", maintain_order=True).head(EXAMPLES_PER_CODE).to_dicts():
        example = Example(
            origin=row["origin"],
            row_id=row["row_id"],
            reason=cut(row["reason"], SHOWN_REASON),
            text=shorten_row(row["text"]),
        )
        found[row["code"]] = (*found.get(row["code"], ()), example)
    return found


def shorten_row(text: str) -> str:
    """At most 800 characters of a row, with something of each field where it is JSON."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            return cut(text, SHOWN_TEXT)
        for length in FIELD_LENGTHS:
            lines = (f"{_json(k)}: {_json(_cut_strings(v, length))}" for k, v in value.items())
            shown = "{" + ",\n ".join(lines) + "}"
            if len(shown) <= SHOWN_TEXT:
                return shown
    except (ValueError, RecursionError):  # it stands in the report because it is broken
        return cut(text, SHOWN_TEXT)
    return cut(shown, SHOWN_TEXT)


def cut(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _cut_strings(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return cut(value, length)
    if isinstance(value, list):
        return [_cut_strings(item, length) for item in value]
    if isinstance(value, dict):
        return {key: _cut_strings(item, length) for key, item in value.items()}
    return value


def _json(value: Any) -> str:
    # Half a surrogate pair cannot be written to a file; escaped, as it came, it can.
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
