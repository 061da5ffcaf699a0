"""TRL's forms, and the data sets that are written nearly so."""

from orpo_pipeline.data.dialects.dialect import Refusal, Row, dialect
from orpo_pipeline.data.dialects.messages import is_messages, is_text
from orpo_pipeline.data.dialects.pairing import SCORE_FIELDS, assemble, read_pair
from orpo_pipeline.data.dialects.transcripts import is_transcript, read_transcript
from schemas.pairs import DefectCode, Origin, Pair

OTHER_PROMPTS = frozenset(("prompt", "instruction", "input", "question", "conversations"))


def has_answers(row: Row) -> bool:
    """Whether the row has both columns, whatever they hold."""
    return "chosen" in row and "rejected" in row


def without_lists(row: Row) -> bool:
    """Whether neither answer is a list of messages."""
    return not (is_messages(row.get("chosen")) or is_messages(row.get("rejected")))


def with_lists(row: Row) -> bool:
    """Whether an answer is a list of messages, and the other one no text.

    Where both are null nothing tells TRL's forms apart, and the row fits none of them.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    return (is_messages(chosen) or is_messages(rejected)) and not (
        is_text(chosen) or is_text(rejected)
    )


def _explicit(row: Row) -> bool:
    if "prompt" not in row or not has_answers(row):
        return False
    if row["chosen"] is None and row["rejected"] is None:
        return False
    return not (is_text(row["prompt"]) and with_lists(row))


def _text_prompt_and_conversations(row: Row) -> bool:
    return (
        "prompt" in row and has_answers(row) and not is_messages(row["prompt"]) and with_lists(row)
    )


def _ultrafeedback(row: Row) -> bool:
    return _text_prompt_and_conversations(row) and any(
        names[0] in row and names[1] in row for names in SCORE_FIELDS
    )


def _implicit(row: Row) -> bool:
    # Two single answers are an explicit row that has lost its prompt.
    whole = any(
        is_messages(row.get(side)) and len(row[side]) > 1 for side in ("chosen", "rejected")
    )
    return whole and "prompt" not in row and "conversations" not in row and with_lists(row)


def _hh_rlhf(row: Row) -> bool:
    return (
        has_answers(row)
        and OTHER_PROMPTS.isdisjoint(row)
        and (is_transcript(row["chosen"]) or is_transcript(row["rejected"]))
        and without_lists(row)
    )


def read_hh_rlhf(row: Row, origin: Origin) -> Pair:
    """Two transcripts, equal up to the last assistant turn, which is the answer."""
    turns = []
    for field in ("chosen", "rejected"):
        value = row.get(field)
        if value is None:
            raise Refusal(DefectCode.MISSING_FIELD, f"no {field}")
        if not isinstance(value, str):
            raise Refusal(DefectCode.WRONG_TYPE, f"{field} is {type(value).__name__}, not text")
        found = read_transcript(value, field)
        if not found:
            raise Refusal(
                DefectCode.MISSING_FIELD, f"no prompt: {field} has no turn of Human or Assistant"
            )
        turns.append(found)
    return assemble(row, (), turns[0], turns[1], origin)


TRL_EXPLICIT = dialect("trl_explicit", _explicit, read_pair)
TRL_IMPLICIT = dialect("trl_implicit", _implicit, read_pair)
ULTRAFEEDBACK = dialect("ultrafeedback", _ultrafeedback, read_pair)
CHATML_ULTRA = dialect("chatml.ultra", _text_prompt_and_conversations, read_pair)
HH_RLHF = dialect("hh_rlhf", _hh_rlhf, read_hh_rlhf)
