"""What the gate answers: one verdict, and every check behind it."""

from enum import StrEnum
from typing import Literal

from schemas.figures import Difference, Figure
from schemas.record import Record


class Verdict(StrEnum):
    """May the candidate become the champion?"""

    PROMOTE = "promote"
    """Every requirement is met beyond doubt."""
    KEEP = "keep"
    """At least one requirement is missed beyond doubt, or was not measured."""
    INCONCLUSIVE = "inconclusive"
    """Nothing speaks against it, but this evaluation cannot tell."""


class Outcome(StrEnum):
    """Of one check."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


class GateCheck(Record):
    """One requirement, and what was found."""

    name: Literal["gain", "no loss", "guardrail", "measured"]
    figure: Figure
    rows: Literal["all", "new"]
    required: str
    """Such as `more than +0.02`."""
    found: Difference | None
    """Candidate minus reference; None when it was not measured."""
    p_value: float | None
    """Of the requirement not being met, to be at most `gate.alpha`; guardrails' by Holm. None when
    it was not measured."""
    outcome: Outcome
    because: str


class GateDecision(Record):
    """The gate's answer about one candidate. Stored with the version that it is about."""

    verdict: Verdict
    because: str
    champion: str | None
    """The version that it was compared with; None: the base model alone."""
    evaluation_id: str
    checks: tuple[GateCheck, ...]
