"""A dialect made of the configuration's `data.columns`."""

from collections.abc import Mapping

from orpo_pipeline.data.dialects.dialect import Dialect, Row, dialect
from orpo_pipeline.data.dialects.messages import is_text, refuse_other_media
from orpo_pipeline.data.dialects.pairing import read_pair
from orpo_pipeline.data.dialects.trl import read_hh_rlhf
from schemas.errors import UserError
from schemas.pairs import Origin, Pair

FIELDS = ("prompt", "chosen", "rejected", "system", "score_chosen", "score_rejected", "source")


def mapped_dialect(columns: Mapping[str, str]) -> Dialect:
    """The dialect `columns`: our field to the column that holds it.

    Columns that are not named are not read, scores included. Without `prompt` the answers hold
    whole conversations, as messages or as transcripts. Raises UserError for a mapping that
    cannot be meant.
    """
    _check(columns)
    named = dict(columns)

    def fits(row: Row) -> bool:
        return named["chosen"] in row and named["rejected"] in row

    def read(row: Row, origin: Origin) -> Pair:
        refuse_other_media(row)
        ours = {field: row.get(column) for field, column in named.items()}
        if "prompt" not in ours and is_text(ours["chosen"]) and is_text(ours["rejected"]):
            return read_hh_rlhf(ours, origin)
        return read_pair(ours, origin)

    return dialect("columns", fits, read)


def _check(columns: Mapping[str, str]) -> None:
    expected = f"chosen and rejected, and any of the other fields: {', '.join(FIELDS)}."
    fix = "Correct data.columns, for example {prompt: question, chosen: good, rejected: bad}."
    unknown = sorted(set(columns) - set(FIELDS))
    if unknown:
        raise UserError(f"data.columns names {', '.join(unknown)}.", expected, fix)
    missing = [field for field in ("chosen", "rejected") if field not in columns]
    if missing:
        raise UserError(f"data.columns has no {' and no '.join(missing)}.", expected, fix)
    if columns["chosen"] == columns["rejected"]:
        raise UserError(
            f"data.columns gives the column {columns['chosen']!r} to chosen and rejected.",
            "one column for each.",
            fix,
        )
    if ("score_chosen" in columns) != ("score_rejected" in columns):
        raise UserError("data.columns gives one score.", "both scores, or none.", fix)
