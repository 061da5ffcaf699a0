"""An invented feed of preference data: each day a file lands, and some of what is there changes.

The ledger is the files themselves. Everything comes from the seed, so that a soak can be repeated.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo_pipeline.data.identity import row_id
from schemas.pairs import Message, Origin, Pair

DAYS_KEPT = 20  # files: older ones leave the landing folder, as a feed with a window has it
MOST_ROWS = 6  # a day
CHANGED_EVERY = 5  # days
FIRST_ROWS = 60
SYLLABLES = ("ba", "ke", "di", "lo", "mu", "na", "pe", "ri", "so", "tu", "vi", "zo")

Row = dict[str, Any]


@dataclass
class Feed:
    """A landing folder and what happens to it."""

    folder: Path
    random: random.Random
    files: dict[str, list[Row]] = field(default_factory=dict)

    def next_day(self, day: int) -> dict[str, int]:
        """Let a day's data arrive; what was added, edited and deleted, in rows."""
        rows = FIRST_ROWS if day == 1 else self.random.randint(1, MOST_ROWS)
        new = [self._row() for _ in range(rows)]
        if day % 7 == 0:
            new.append(_emptied(self._row()))  # goes to quarantine
        if day % 3 == 0:
            new.append(new[0])  # an exact duplicate
        done = {"added": len(new), "edited": 0, "deleted": 0}
        self._write(f"day-{day:05d}.jsonl", new)
        if day % CHANGED_EVERY == 0:
            done |= self._change()
        for name in sorted(self.files)[:-DAYS_KEPT]:
            done["deleted"] += len(self.files.pop(name))
            (self.folder / name).unlink(missing_ok=True)
        return done

    def rows(self) -> int:
        """Lines of all files."""
        return sum(map(len, self.files.values()))

    def row_ids(self) -> set[str]:
        """Of the rows that are pairs, however often they stand there."""
        return {_row_id(row) for rows in self.files.values() for row in rows if _is_pair(row)}

    def _row(self) -> Row:
        words = ["".join(self.random.choices(SYLLABLES, k=3)) for _ in range(9)]
        return {
            "prompt": _said("user", f"What do {' and '.join(words[:3])} mean?"),
            "chosen": _said("assistant", f"They mean {' '.join(words[3:6])}, as you may know."),
            "rejected": _said("assistant", f"Nobody can say {' '.join(words[6:])} of that."),
        }

    def _change(self) -> dict[str, int]:
        """Edit a row of one file in place, and delete one of another."""
        edited, shortened = self.random.sample(sorted(self.files), 2)
        rows = list(self.files[edited])
        rows[self.random.randrange(len(rows))] = self._row()
        self._write(edited, rows)
        if len(self.files[shortened]) > 1:
            self._write(shortened, self.files[shortened][:-1])
        return {"edited": 1, "deleted": 1}

    def _write(self, name: str, rows: list[Row]) -> None:
        self.files[name] = rows
        partial = self.folder.with_name("partial.jsonl")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(self.folder / name)


def _said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _emptied(row: Row) -> Row:
    return {**row, "chosen": _said("assistant", " ")}


def _is_pair(row: Row) -> bool:
    return bool(row["chosen"][0]["content"].strip())


def _row_id(row: Row) -> str:
    prompt, chosen, rejected = (
        tuple(Message(role=m["role"], content=m["content"]) for m in row[side])
        for side in ("prompt", "chosen", "rejected")
    )
    return row_id(Pair(prompt, chosen, rejected, origin=Origin("", 0)))
