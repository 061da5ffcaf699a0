"""What one pair's text, structure and scores say about it."""

from collections.abc import Callable
from dataclasses import dataclass

from orpo_pipeline.data.rules.cleaning import clean_pair
from orpo_pipeline.data.rules.glance import glance
from orpo_pipeline.data.rules.scores import score_inverted, score_tie, small_score_margin
from orpo_pipeline.data.rules.structure import answer_not_assistant, wrong_roles
from orpo_pipeline.data.rules.text import (
    answer_is_prefix,
    damaged_characters,
    empty_text,
    folded_answers,
    identical_answers,
    leaked_role_marker,
)
from schemas.config import DataConfig
from schemas.pairs import Defect, Pair, Severity

RULES_VERSION = 2
"""Part of the dataset id: raise it when a rule's verdict or repair of any row changes."""

Rule = Callable[[Pair], Defect | None]

AFTER_TEXT: tuple[Rule, ...] = (
    leaked_role_marker,
    answer_not_assistant,
    wrong_roles,
    score_tie,
    score_inverted,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A pair after the rules."""

    pair: Pair
    """Repaired and redacted: what is trained on, hashed, and written down."""
    defect: Defect | None
    """The first broken rule of severity drop or quarantine."""
    notes: tuple[Defect, ...]
    """Repairs; and, of a pair without a defect, what is only reported."""


def check_pair(pair: Pair, data: DataConfig) -> Checked:
    """Repair characters, then look for secrets, personal data, faulty text, structure, scores.

    Raises nothing, whatever the texts hold.
    """
    texts = [m.content for part in (pair.prompt, pair.chosen, pair.rejected) for m in part]
    seen = glance(texts)
    pair, found = clean_pair(pair, data, seen)
    notes = tuple(one for one in found if one.code.severity is Severity.REPAIR)
    set_aside = next((one for one in found if one.code.severity is Severity.QUARANTINE), None)
    answers = folded_answers(pair)
    defect = (
        set_aside
        or empty_text(pair)
        or (damaged_characters(pair) if seen.odd_characters else None)
        or identical_answers(answers)
        or next((broken for rule in AFTER_TEXT if (broken := rule(pair))), None)
    )
    if defect is None:
        reports = (answer_is_prefix(answers), small_score_margin(pair, data.min_score_margin))
        notes += tuple(report for report in reports if report)
    return Checked(pair, defect, notes)
