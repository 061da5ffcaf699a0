"""LLaMA-Factory's ranking data: alpaca and sharegpt. Source: its data/README.md and converter."""

from typing import Any

from orpo_pipeline.data.dialects.dialect import Refusal, Row, dialect
from orpo_pipeline.data.dialects.messages import conversation, message, optional_text_of
from orpo_pipeline.data.dialects.pairing import assemble
from orpo_pipeline.data.dialects.trl import has_answers, without_lists
from orpo_pipeline.data.identity import nfc
from schemas.pairs import Conversation, DefectCode, Message, Origin, Pair


def _alpaca(row: Row) -> bool:
    return "instruction" in row and "prompt" not in row and has_answers(row) and without_lists(row)


def read_alpaca(row: Row, origin: Origin) -> Pair:
    """`instruction` and `input` on lines of one user turn, behind the turns of `history`."""
    query = [optional_text_of(row, name) for name in ("instruction", "input")]
    if not any(query):
        raise Refusal(DefectCode.MISSING_FIELD, "no instruction and no input")
    # Joining two texts in NFC may give one that is not.
    asked = Message("user", nfc("\n".join(text for text in query if text)))
    return assemble(
        row,
        (*_history(row.get("history")), asked),
        conversation(row.get("chosen"), "assistant", "chosen"),
        conversation(row.get("rejected"), "assistant", "rejected"),
        origin,
    )


def _history(value: Any) -> Conversation:
    """Earlier turns: a list of [question, answer]."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if not isinstance(value, list):
        raise Refusal(DefectCode.WRONG_TYPE, f"history is {type(value).__name__}, not a list")
    turns: list[Message] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2:
            raise Refusal(
                DefectCode.WRONG_TYPE, "an item of history is not a question and its answer"
            )
        for role, text in zip(("user", "assistant"), item, strict=True):
            if not isinstance(text, str):
                raise Refusal(
                    DefectCode.WRONG_TYPE, f"a turn of history is {type(text).__name__}, not text"
                )
            turns.append(Message(role, nfc(text)))
    return tuple(turns)


def _sharegpt(row: Row) -> bool:
    if not has_answers(row):
        return False
    if "conversations" in row:
        return True
    # Its form for data written in OpenAI's words; TRL's forms have lists for answers.
    return "messages" in row and "prompt" not in row and isinstance(row["chosen"], dict)


def read_sharegpt(row: Row, origin: Origin) -> Pair:
    """`conversations` that end with the user; `chosen` and `rejected` are one message each."""
    field = "conversations" if "conversations" in row else "messages"
    prompt = conversation(row.get(field), "user", field)
    if not prompt:
        raise Refusal(DefectCode.MISSING_FIELD, f"no turn in {field}")
    return assemble(
        row,
        prompt,
        _answer(row.get("chosen"), "chosen"),
        _answer(row.get("rejected"), "rejected"),
        origin,
    )


def _answer(value: Any, field: str) -> Conversation:
    return (
        (message(value, field),)
        if isinstance(value, dict)
        else conversation(value, "assistant", field)
    )


LLAMA_FACTORY_ALPACA = dialect("llama_factory_alpaca", _alpaca, read_alpaca)
LLAMA_FACTORY_SHAREGPT = dialect("llama_factory_sharegpt", _sharegpt, read_sharegpt)
