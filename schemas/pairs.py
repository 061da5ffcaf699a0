"""Preference pairs, where they came from, and why one is not trained on."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row was read: file relative to the source, and its 1-based line or row."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a preferred and a less preferred answer, one assistant message each."""

    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    origin: Origin
    score_chosen: float | None = None
    score_rejected: float | None = None


class DefectCode(StrEnum):
    """Why a row is not trained on. Each value stands in reports and in quarantine.parquet."""

    BROKEN_ROW = "broken_row"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    PROMPTS_DIFFER = "prompts_differ"
    WRONG_ROLES = "wrong_roles"
    ANSWER_NOT_ASSISTANT = "answer_not_assistant"
    EMPTY_TEXT = "empty_text"
    IDENTICAL_ANSWERS = "identical_answers"
    DAMAGED_CHARACTERS = "damaged_characters"
    LEAKED_ROLE_MARKER = "leaked_role_marker"
    SCORE_NOT_HIGHER = "score_not_higher"
    CONTROL_TOKEN = "control_token"
    PROMPT_NOT_PREFIX = "prompt_not_prefix"
    UNFINISHED_TURN = "unfinished_turn"
    TOO_LONG = "too_long"
    CONTRADICTION = "contradiction"
    EVAL_PROMPT_IN_TRAIN = "eval_prompt_in_train"


@dataclass(frozen=True, slots=True)
class Defect:
    """One reason with the sentence that a person reads."""

    code: DefectCode
    reason: str
