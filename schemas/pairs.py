"""Preference pairs, where they came from, and why one is not trained on."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]

SIDES = ("prompt", "chosen", "rejected")
"""The conversations of a pair, by the names of their fields and columns."""


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
    source: str = ""
    """Where the row says it comes from (UltraFeedback's and others' `source`), if it does."""


class Severity(StrEnum):
    """What happens to a row that has a defect."""

    DROP = "drop"
    """Not trained on, as is to be expected of any data: outside the quarantine budget."""
    QUARANTINE = "quarantine"
    """Not trained on; too large a share of such rows stops the run."""
    REPAIR = "repair"
    """Trained on after the stated change."""
    REPORT = "report"
    """Trained on as it is, and counted."""


class DefectCode(StrEnum):
    """What can be said of a row. Each value stands in reports and in quarantine.parquet."""

    # by somebody's wish
    FORGOTTEN = "forgotten"
    # reading
    BROKEN_ROW = "broken_row"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    UNSUPPORTED_CONTENT = "unsupported_content"
    # structure
    PROMPTS_DIFFER = "prompts_differ"
    WRONG_ROLES = "wrong_roles"
    ANSWER_NOT_ASSISTANT = "answer_not_assistant"
    # text
    EMPTY_TEXT = "empty_text"
    IDENTICAL_ANSWERS = "identical_answers"
    DAMAGED_CHARACTERS = "damaged_characters"
    CHARACTERS_REPAIRED = "characters_repaired"
    LEAKED_ROLE_MARKER = "leaked_role_marker"
    ANSWER_IS_PREFIX = "answer_is_prefix"
    # secrets and personal data
    SECRET = "secret"
    SECRET_REDACTED = "secret_redacted"
    PERSONAL_DATA = "personal_data"
    PERSONAL_DATA_REDACTED = "personal_data_redacted"
    # scores
    SCORE_TIE = "score_tie"
    SCORE_INVERTED = "score_inverted"
    SMALL_SCORE_MARGIN = "small_score_margin"
    # tokens
    CONTROL_TOKEN = "control_token"
    CONTROL_TOKEN_NEUTRALISED = "control_token_neutralised"
    PROMPT_NOT_PREFIX = "prompt_not_prefix"
    BOUNDARY_KEPT = "boundary_kept"
    UNFINISHED_TURN = "unfinished_turn"
    REPEATED_BOS = "repeated_bos"
    PAD_IN_ANSWER = "pad_in_answer"
    TOO_LONG = "too_long"
    TRUNCATED = "truncated"
    # repetition
    NEAR_DUPLICATE = "near_duplicate"
    CONTRADICTION = "contradiction"
    OVERREPRESENTED_PROMPT = "overrepresented_prompt"
    # leakage
    EVAL_PROMPT_IN_TRAIN = "eval_prompt_in_train"
    HELD_OUT_BEFORE = "held_out_before"
    BENCHMARK_PROMPT = "benchmark_prompt"

    @property
    def severity(self) -> Severity:
        return SEVERITIES.get(self, Severity.QUARANTINE)


SEVERITIES = {
    DefectCode.FORGOTTEN: Severity.DROP,
    DefectCode.SCORE_TIE: Severity.DROP,
    DefectCode.TOO_LONG: Severity.DROP,
    DefectCode.NEAR_DUPLICATE: Severity.DROP,
    DefectCode.OVERREPRESENTED_PROMPT: Severity.DROP,
    DefectCode.EVAL_PROMPT_IN_TRAIN: Severity.DROP,
    DefectCode.HELD_OUT_BEFORE: Severity.DROP,
    DefectCode.BENCHMARK_PROMPT: Severity.DROP,
    DefectCode.CHARACTERS_REPAIRED: Severity.REPAIR,
    DefectCode.SECRET_REDACTED: Severity.REPAIR,
    DefectCode.PERSONAL_DATA_REDACTED: Severity.REPAIR,
    DefectCode.CONTROL_TOKEN_NEUTRALISED: Severity.REPAIR,
    DefectCode.BOUNDARY_KEPT: Severity.REPAIR,
    DefectCode.TRUNCATED: Severity.REPAIR,
    DefectCode.ANSWER_IS_PREFIX: Severity.REPORT,
    DefectCode.SMALL_SCORE_MARGIN: Severity.REPORT,
}
"""Codes that are not listed quarantine the row."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One reason with the sentence that a person reads."""

    code: DefectCode
    reason: str
