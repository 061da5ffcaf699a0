"""Dialects of preference data: rows of any supported form become `Pair`s.

Explicit prompt (`prompt`, `chosen`, `rejected`), as text or as lists of messages, or implicit
(`chosen` and `rejected` are lists that hold the whole conversation), as TRL names them;
UltraFeedback binarized is the mixture with a text prompt, whole conversations and scores.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from schemas.pairs import Conversation, Defect, DefectCode, Message, Origin, Pair

SCORE_FIELDS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
)


def parse_pair(row: Mapping[str, Any], origin: Origin) -> Pair | Defect:
    """The row as a pair, or why it is none."""
    missing = [field for field in ("chosen", "rejected") if row.get(field) is None]
    if missing:
        return Defect(DefectCode.MISSING_FIELD, f"no {' and no '.join(missing)}")
    try:
        prompt = _conversation(row.get("prompt"), "user", "prompt")
        chosen = _conversation(row["chosen"], "assistant", "chosen")
        rejected = _conversation(row["rejected"], "assistant", "rejected")
    except TypeError as error:
        return Defect(DefectCode.WRONG_TYPE, str(error))
    scores = _scores(row)
    if isinstance(scores, Defect):
        return scores
    split = _split_prompt(prompt, chosen, rejected)
    if isinstance(split, Defect):
        return split
    return Pair(*split, origin, *scores)


def _conversation(value: Any, role_of_text: str, field: str) -> Conversation:
    if value is None:
        return ()
    if isinstance(value, str):
        return (Message(role_of_text, _nfc(value)),)
    if not isinstance(value, list):
        raise TypeError(f"{field} is {type(value).__name__}, not text or a list of messages")
    return tuple(_message(item, field) for item in value)


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise TypeError(f"a message of {field} is {type(item).__name__}, not role and content")
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise TypeError(f"a message of {field} has no text in role or content")
    beyond = sorted(k for k, v in item.items() if k not in ("role", "content") and v is not None)
    if beyond:
        raise TypeError(f"a message of {field} has {', '.join(beyond)}, which is not supported yet")
    return Message(role, _nfc(content))


def _scores(row: Mapping[str, Any]) -> tuple[float | None, float | None] | Defect:
    for names in SCORE_FIELDS:
        chosen, rejected = (row.get(name) for name in names)
        if chosen in (None, "") or rejected in (None, ""):  # CSV has no other way to say "none"
            continue
        try:
            return float(chosen), float(rejected)
        except (TypeError, ValueError, OverflowError):
            return Defect(DefectCode.WRONG_TYPE, f"{names[0]} or {names[1]} is not a number")
    return None, None


def _split_prompt(
    prompt: Conversation, chosen: Conversation, rejected: Conversation
) -> tuple[Conversation, Conversation, Conversation] | Defect:
    """Prompt and the two answers.

    An implicit prompt is cut at the last assistant turn, never by common characters: a common
    beginning of two answers belongs to the answers.
    """
    whole = all(
        len(answer) > 1 and answer[0].role in ("system", "user") for answer in (chosen, rejected)
    )
    if prompt and not whole:
        return prompt, chosen, rejected  # what is no single answer here, a rule names
    shared = chosen[:-1]
    if shared != rejected[:-1]:
        return Defect(
            DefectCode.PROMPTS_DIFFER, "chosen and rejected differ before the last answer"
        )
    if not shared:
        return Defect(DefectCode.MISSING_FIELD, "no prompt, neither of its own nor in chosen")
    # UltraFeedback's text prompt repeats the user's turn; a system turn may stand before it.
    if prompt and shared[-len(prompt) :] != prompt:
        return Defect(DefectCode.PROMPTS_DIFFER, "the prompt differs from the one in chosen")
    return shared, chosen[-1:], rejected[-1:]


def canonical(conversation: Conversation) -> list[list[str]]:
    """Roles and contents in NFC: what a row's identity is made of."""
    return [[m.role, _nfc(m.content)] for m in conversation]


def _nfc(text: str) -> str:
    # Pairs are held in NFC, so that rows of one identity also have the same tokens.
    return unicodedata.normalize("NFC", text)


def row_id(pair: Pair) -> str:
    """SHA-256 (hex) of the canonical row: one changed character or a flipped label changes it."""
    return _digest([canonical(part) for part in (pair.prompt, pair.chosen, pair.rejected)])


def prompt_id(pair: Pair) -> str:
    """SHA-256 (hex) of the prompt, equal for prompts that differ only in case and white space."""
    turns = [[m.role, folded(m.content)] for m in pair.prompt]
    return _digest(turns)


def folded(text: str) -> str:
    """NFKC, white space collapsed, case folded: the form in which texts count as the same."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
