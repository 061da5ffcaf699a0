"""What a judge found: win rates with their intervals, what failed, what it cost."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from schemas.figures import Difference, Estimate, Figure
from schemas.record import Record


class Verdict(StrEnum):
    """The only replies of a judge that count; the value is the whole reply."""

    FIRST = "A"
    SECOND = "B"
    TIE = "TIE"


class WinRate(Record):
    """The candidate's answers against those of one reference model.

    questions = judged + failed; judged = wins + ties + losses.
    """

    against: Literal["base", "champion"]
    questions: int
    judged: int
    wins: int
    """Questions whose two orders both preferred the candidate's answer."""
    ties: int
    losses: int
    identical: int
    """Ties that were not asked: both answers are the same text."""
    orders_disagreed: int
    """Ties because another answer won when the two were shown the other way round."""
    first_shown_share: float | None = None
    """Share of the verdicts that are no ties and prefer what was shown first; 0.5 is fair."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Questions without a verdict by the reason: timeout, connection, http 429, refusal,
    unparseable, not asked."""
    figures: dict[Figure, Estimate] = Field(default_factory=dict)
    """Win rates: wins and half of the ties, of the questions judged. Empty where more than
    `max_failed_share` of the questions failed."""
    differences: dict[Figure, Difference] = Field(default_factory=dict)
    """The candidate's win rates minus the reference's (1 - the candidate's)."""
    new_differences: dict[Figure, Difference] = Field(default_factory=dict)
    """The same over the questions whose prompt group is new to the champion."""

    @property
    def failed_share(self) -> float:
        return sum(self.failures.values()) / self.questions if self.questions else 0.0


class Judgement(Record):
    """All comparisons of one evaluation by one judge."""

    path: Path
    model: str
    template: str
    win_rates: tuple[WinRate, ...]
    asked: int
    """Replies that came now; the other verdicts were kept from before."""
    prompt_tokens: int
    """Tokens that the endpoint has counted for all verdicts and failures, kept ones included."""
    completion_tokens: int
    reused: bool = False
