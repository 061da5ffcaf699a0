"""The gate: rows that are still in, and everything that is not, with its reason."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from orpo_pipeline.data.chat_template import TokenizedPair
from schemas.pairs import Defect, Origin, Pair

TRAIN, EVAL = "train", "eval"


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
                self.reject(row.pair.origin, row.split, defect, as_json(asdict(row.pair)))
        self.rows = kept
        self.check()

    def check(self) -> None:
        """Nothing disappears: rows in = kept + quarantined + duplicates."""
        accounted = len(self.rows) + len(self.quarantine) + self.duplicates
        if accounted != self.rows_in:
            raise AssertionError(f"{self.rows_in} rows came in, {accounted} are accounted for")


def as_json(value: Any) -> str:
    """A row for the quarantine file."""
    try:
        return json.dumps(value, ensure_ascii=True, default=str)
    except RecursionError:  # it was just shallow enough to be read
        return "(nested too deeply to be shown)"
