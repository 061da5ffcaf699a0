"""The configuration's section `gate`."""

from typing import Annotated

from pydantic import Field, field_validator

from schemas.figures import SHARES, Figure
from schemas.section import Section

Margin = Annotated[float, Field(gt=0, allow_inf_nan=False)]

GUARDRAILS: dict[Figure, float] = {
    Figure.CHOSEN_NLL: 0.1,
    Figure.DRIFT_KL: 0.5,
    Figure.DRIFT_NEUTRAL_NLL: 0.2,
    Figure.ANSWER_TOKENS: 32.0,
    Figure.END_OF_TURN_RATE: 0.3,
    Figure.REFUSAL_RATE: 0.3,
}
"""What the default number of pairs and answers can rule out: 16 answers that do not differ exclude
a change of 0.3 (0.7^16 = 0.003, six times that with Holm), not one of 0.15."""


class GateConfig(Section):
    """When a candidate may become the champion. docs/promote.md says how it is decided."""

    primary: Figure = Figure.ACCURACY
    """The figure that must become better."""

    min_gain: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """In the primary figure's unit. The gain must be more than this beyond doubt: over the base
    model for the first version, over the champion, on rows new to it, for a later one."""

    margin: Margin = 0.02
    """In the primary figure's unit: the smallest difference that matters. A candidate may not be
    worse than the champion by as much on all held-out pairs."""

    guardrails: dict[Figure, Margin] = Field(default_factory=GUARDRAILS.copy)
    """By how much each of these figures may be worse, in its own unit; a figure without a better
    direction (answer length, refusals) may not differ by as much. One that was not measured fails;
    what is given here replaces the whole list."""

    alpha: float = Field(default=0.025, gt=0, lt=0.5)
    """Largest probability of calling one requirement met when it is not, and of all guardrails
    together. One-sided: 0.025 asks for what the 95 % intervals show."""

    min_groups: int = Field(default=30, ge=2)
    """Prompt groups that the primary figure must be over."""

    @field_validator("primary")
    @classmethod
    def _has_a_direction(cls, figure: Figure) -> Figure:
        if figure.better == "neither":
            raise ValueError(f"{figure.value} has no better direction; name one that has")
        return figure

    @field_validator("guardrails")
    @classmethod
    def _can_be_exceeded(cls, margins: dict[Figure, float]) -> dict[Figure, float]:
        endless = [f.value for f, margin in margins.items() if f in SHARES and margin >= 1]
        if endless:
            raise ValueError(f"{', '.join(endless)}: a rate's margin must be below 1")
        return margins
