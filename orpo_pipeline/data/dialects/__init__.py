"""Dialects of preference data: rows of any supported form become `Pair`s.

docs/formats.md shows each with an example.
"""

from orpo_pipeline.data.dialects.argilla_export import ARGILLA_EXPORT
from orpo_pipeline.data.dialects.axolotl import CHATML_ARGILLA, CHATML_ICR, CHATML_INTEL
from orpo_pipeline.data.dialects.columns import mapped_dialect
from orpo_pipeline.data.dialects.comparisons import HELPSTEER2_PREFERENCE, SHP, ZEPHYR_NECTAR
from orpo_pipeline.data.dialects.dialect import Dialect, Row
from orpo_pipeline.data.dialects.llama_factory import (
    LLAMA_FACTORY_ALPACA,
    LLAMA_FACTORY_SHAREGPT,
)
from orpo_pipeline.data.dialects.openai_preference import OPENAI_PREFERENCE
from orpo_pipeline.data.dialects.trl import (
    CHATML_ULTRA,
    HH_RLHF,
    TRL_EXPLICIT,
    TRL_IMPLICIT,
    ULTRAFEEDBACK,
)
from schemas.errors import UserError

__all__ = [
    "DIALECTS",
    "Dialect",
    "dialect_named",
    "find_dialect",
    "mapped_dialect",
]

# Names that only one form has come first; TRL's, which many forms extend, come after those.
DIALECTS: tuple[Dialect, ...] = (
    ARGILLA_EXPORT,
    OPENAI_PREFERENCE,
    SHP,
    HELPSTEER2_PREFERENCE,
    ZEPHYR_NECTAR,
    LLAMA_FACTORY_SHAREGPT,
    CHATML_ARGILLA,
    ULTRAFEEDBACK,
    TRL_EXPLICIT,
    CHATML_ULTRA,
    LLAMA_FACTORY_ALPACA,
    CHATML_ICR,
    CHATML_INTEL,
    TRL_IMPLICIT,
    HH_RLHF,
)


def find_dialect(row: Row) -> Dialect | None:
    """The first dialect that the row's keys and types fit, if any does."""
    return next((dialect for dialect in DIALECTS if dialect.fits(row)), None)


def dialect_named(name: str) -> Dialect:
    """The dialect of that name. Raises UserError for another one."""
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    raise UserError(
        f"There is no dialect {name!r}.",
        f"one of {', '.join(dialect.name for dialect in DIALECTS)}.",
        "Correct data.dialect, or leave it out: each file's rows then show its dialect.",
    )
