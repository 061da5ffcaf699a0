"""From prompt, answers and scores to a pair: what all dialects share."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from orpo_pipeline.data.dialects.dialect import Refusal, Row
from orpo_pipeline.data.dialects.messages import (
    conversation,
    optional_text_of,
    refuse_other_media,
)
from orpo_pipeline.data.dialects.transcripts import HUMAN, read_prompt
from orpo_pipeline.data.identity import nfc
from schemas.pairs import Conversation, DefectCode, Message, Origin, Pair

SCORE_FIELDS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
)
Scores = tuple[float | None, float | None]


def read_pair(row: Row, origin: Origin) -> Pair:
    """The pair of a row with `chosen`, `rejected` and, mostly, `prompt`.

    `system`, `source` and the score columns are read where they are there. Raises Refusal.
    """
    prompt = row.get("prompt")
    return make_pair(row, prompt, row.get("chosen"), row.get("rejected"), origin)


def make_pair(row: Row, prompt: Any, chosen: Any, rejected: Any, origin: Origin) -> Pair:
    """The same for a prompt and answers that other columns hold."""
    missing = [n for n, value in (("chosen", chosen), ("rejected", rejected)) if value is None]
    if missing:
        raise Refusal(DefectCode.MISSING_FIELD, f"no {' and no '.join(missing)}")
    return assemble(
        row,
        prompt_of(prompt),
        conversation(chosen, "assistant", "chosen"),
        conversation(rejected, "assistant", "rejected"),
        origin,
    )


def prompt_of(value: Any) -> Conversation:
    """A prompt as text, transcript or messages; empty where there is none."""
    if value is None or (isinstance(value, str) and not value):  # CSV has no null
        return ()
    if isinstance(value, str) and value.startswith(HUMAN):
        return read_prompt(value, "prompt")
    return conversation(value, "user", "prompt")


def assemble(
    row: Row,
    prompt: Conversation,
    chosen: Conversation,
    rejected: Conversation,
    origin: Origin,
    scores: Scores | None = None,
) -> Pair:
    """The pair of conversations that are read; `row` gives system, scores and source."""
    refuse_other_media(row)
    if scores is None:
        scores = scores_of(row)
    prompt, chosen, rejected = split_prompt(prompt, chosen, rejected)
    if prompt and prompt[0].role == "system" and not prompt[0].content.strip():
        prompt = prompt[1:]  # as an empty column it would be no turn either
    if "system" in row:
        prompt = with_system(prompt, optional_text_of(row, "system"))
    source = source_of(row.get("source")) if "source" in row else ""
    return Pair(prompt, chosen, rejected, origin, *scores, source)


def split_prompt(
    prompt: Conversation, chosen: Conversation, rejected: Conversation
) -> tuple[Conversation, Conversation, Conversation]:
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
        raise Refusal(
            DefectCode.PROMPTS_DIFFER, "chosen and rejected differ before the last answer"
        )
    if not shared:
        raise Refusal(DefectCode.MISSING_FIELD, "no prompt, neither of its own nor in chosen")
    if prompt and not _repeats(prompt, shared):
        raise Refusal(DefectCode.PROMPTS_DIFFER, "the prompt differs from the one in chosen")
    return shared, chosen[-1:], rejected[-1:]


def _repeats(prompt: Conversation, shared: Conversation) -> bool:
    """Whether a prompt column names the user's last turn, or the first behind a system turn."""
    if shared[-len(prompt) :] == prompt:
        return True
    start = 1 if shared[0].role == "system" and prompt[0].role != "system" else 0
    return shared[start : start + len(prompt)] == prompt


def with_system(prompt: Conversation, system: str) -> Conversation:
    """The prompt behind the text of a system column, unless it has that turn already."""
    if not system:
        return prompt
    if not prompt or prompt[0].role != "system":
        return (Message("system", system), *prompt)
    if prompt[0].content != system:
        raise Refusal(
            DefectCode.PROMPTS_DIFFER, "the system column differs from the prompt's system turn"
        )
    return prompt


def scores_of(row: Row, fields: Sequence[tuple[str, str]] = SCORE_FIELDS) -> Scores:
    """Both scores under the first names that the row has, or (None, None).

    One score alone says nothing of the pair and counts as none.
    """
    for names in fields:
        if names[0] not in row:
            continue
        chosen, rejected = row[names[0]], row.get(names[1])
        if not (_unset(chosen) or _unset(rejected)):
            return number(chosen, names[0]), number(rejected, names[1])
    return None, None


def _unset(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)  # as CSV says "none"


def number(value: Any, field: str) -> float:
    """A finite number, or its text as CSV holds it."""
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, int | float | str | Decimal) and not isinstance(value, bool):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            result = math.nan
        if math.isfinite(result):
            return result
    raise Refusal(DefectCode.WRONG_TYPE, f"{field} is not a finite number")


def source_of(value: Any) -> str:
    """A row's label of its source; Nectar has a list of them. What is no text is no label."""
    if isinstance(value, str):
        return nfc(value)
    if isinstance(value, list):
        return nfc(", ".join(item for item in value if isinstance(item, str)))
    return ""
