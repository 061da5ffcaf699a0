"""Which dialect the rows of a file are of: one that fits every row that fits any."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from orpo_pipeline.data.dialects import (
    DIALECTS,
    Dialect,
    dialect_named,
    find_dialect,
    mapped_dialect,
)
from orpo_pipeline.data.reading.readers import RawRow
from schemas.config import DataConfig
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode

NO_DIALECT = "unknown"
LONGEST_KEYS = 200  # characters of a row's keys that are shown

Redact = Callable[[str], str]


class Found(NamedTuple):
    """Which dialects a run of rows may be of."""

    dialects: tuple[Dialect, ...]
    """All that fit every row that fits any, in the order of DIALECTS; none if no row fits any."""
    first: str
    """The keys of the first row that fits one."""


def given_dialect(data: DataConfig) -> Dialect | None:
    """The dialect that the configuration names. Raises UserError for one that there is not."""
    if data.columns:
        return mapped_dialect(data.columns)
    return dialect_named(data.dialect) if data.dialect else None


def common_dialects(rows: Sequence[RawRow], redact: Redact) -> Found:
    """The rows' common dialects. Raises UserError where there is none, and shows two rows."""
    common: tuple[Dialect, ...] = ()
    first: RawRow | None = None
    for raw in rows:
        if isinstance(raw.value, Defect):
            continue
        value = raw.value
        if first is not None and all(dialect.fits(value) for dialect in common):
            continue
        fitting = tuple(one for one in (DIALECTS if first is None else common) if one.fits(value))
        if fitting:
            common, first = fitting, first or raw
        elif first is not None and (other := find_dialect(value)):
            raise mixed_dialects(
                (common[0].name, f"{first.origin} ({shown_keys(first.value, redact)})"),
                (other.name, f"{raw.origin} ({shown_keys(value, redact)})"),
            )
    return Found(common, f"({shown_keys(first.value, redact)})" if first else "")


def shown_keys(row: Any, redact: Redact) -> str:
    """A row's keys as an error or a reason shows them."""
    return redact(", ".join(map(str, row)))[:LONGEST_KEYS]


class BlockDialects(NamedTuple):
    """The names of the dialects that a block may be of, and its place and first keys."""

    names: Sequence[str]
    shown: str


def file_dialect(blocks: Sequence[BlockDialects]) -> str:
    """The dialect of a file of these blocks; NO_DIALECT when no row fits any.

    It does not depend on where blocks end: it is the first that fits every row that fits any.
    Raises UserError where there is none.
    """
    first: BlockDialects | None = None
    common: list[str] = []
    for block in blocks:
        if not block.names:
            continue
        if first is None:
            first, common = block, list(block.names)
            continue
        both = [name for name in common if name in block.names]
        if not both:
            raise mixed_dialects((common[0], first.shown), (block.names[0], block.shown))
        common = both
    return common[0] if common else NO_DIALECT


def mixed_dialects(one: tuple[str, str], other: tuple[str, str]) -> UserError:
    """The error of a file that speaks two dialects, each given with a row that shows it."""
    return UserError(
        f"A file mixes two dialects: {one[0]} at {one[1]} and {other[0]} at {other[1]}.",
        "one dialect a file.",
        "Split the file by dialect; or name the right one with data.dialect, which sets the other "
        "rows aside, or the columns with data.columns.",
    )


def unknown_row(row: dict[str, Any], redact: Redact) -> Defect:
    """What is wrong with a row in a block where no row fits any dialect."""
    keys = shown_keys(row, redact) or "none"
    return Defect(
        DefectCode.MISSING_FIELD,
        f"no known dialect has these fields: {keys}; name the columns with data.columns",
    )
