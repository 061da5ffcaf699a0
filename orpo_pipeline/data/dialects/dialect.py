"""What a dialect is, and how its parser says no."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.pairs import Defect, DefectCode, Origin, Pair

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One form of preference data.

    `fits` looks at keys and at the types of values, and lets a null pass for any type: a broken
    row still belongs to the dialect that its keys name. `parse` makes the pair or says why not.
    """

    name: str
    fits: Callable[[Row], bool]
    parse: Callable[[Row, Origin], Pair | Defect]


class Refusal(Exception):
    """Raised while a row is read; the dialect's `parse` returns its defect."""

    def __init__(self, code: DefectCode, reason: str) -> None:
        super().__init__(reason)
        self.defect = Defect(code, reason)


def dialect(name: str, fits: Callable[[Row], bool], read: Callable[[Row, Origin], Pair]) -> Dialect:
    """A dialect of a reader that raises Refusal for a row that is no pair."""

    def parse(row: Row, origin: Origin) -> Pair | Defect:
        try:
            return read(row, origin)
        except Refusal as refusal:
            return refusal.defect

    return Dialect(name, fits, parse)


def shown(name: Any) -> str:
    """A key or role as it may stand in a reason: short, and with nothing that cannot be stored."""
    if not isinstance(name, str):
        return f"of type {type(name).__name__}"
    return name[:40].encode("ascii", errors="backslashreplace").decode()
