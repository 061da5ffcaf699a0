"""What evaluation measures: figures with their intervals, and differences of two models."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from schemas.record import Record


class Figure(StrEnum):
    """A figure of one model on the held-out data; the value is its name in MLflow and in configs.

    Formulas: docs/evaluate.md and the functions that compute them.
    """

    ACCURACY = "pairs/accuracy"
    ACCURACY_SUMMED = "pairs/accuracy_summed"
    ACCURACY_LENGTH_CONTROLLED = "pairs/accuracy_length_controlled"
    LOG_ODDS_MARGIN = "pairs/log_odds_margin"
    CALIBRATION_ERROR = "pairs/calibration_error"
    ORPO_LOSS = "pairs/orpo_loss"
    CHOSEN_NLL = "pairs/chosen_nll"
    CHOSEN_PERPLEXITY = "pairs/chosen_perplexity"
    REWARDS_CHOSEN = "rewards/chosen"
    REWARDS_REJECTED = "rewards/rejected"
    REWARDS_MARGINS = "rewards/margins"
    DRIFT_KL = "drift/kl"
    DRIFT_NEUTRAL_NLL = "drift/neutral_nll"
    ANSWER_TOKENS = "generation/tokens"
    END_OF_TURN_RATE = "generation/end_of_turn_rate"
    DISTINCT_2 = "generation/distinct_2"
    REPETITION = "generation/repetition"
    REFUSAL_RATE = "generation/refusal_rate"
    FORMAT_RATE = "generation/format_rate"

    @property
    def better(self) -> Literal["higher", "lower", "neither"]:
        """Which direction is an improvement."""
        if self in _HIGHER:
            return "higher"
        return "lower" if self in _LOWER else "neither"


_HIGHER = {
    Figure.ACCURACY,
    Figure.ACCURACY_SUMMED,
    Figure.ACCURACY_LENGTH_CONTROLLED,
    Figure.LOG_ODDS_MARGIN,
    Figure.REWARDS_MARGINS,
    Figure.END_OF_TURN_RATE,
    Figure.DISTINCT_2,
    Figure.FORMAT_RATE,
}
_LOWER = {
    Figure.CALIBRATION_ERROR,
    Figure.ORPO_LOSS,
    Figure.CHOSEN_NLL,
    Figure.CHOSEN_PERPLEXITY,
    Figure.DRIFT_KL,
    Figure.DRIFT_NEUTRAL_NLL,
    Figure.REPETITION,
}


class Estimate(Record):
    """A figure with its 95 % bootstrap interval, clustered by prompt group."""

    value: float
    low: float
    high: float
    n: int
    """Pairs, answers or tokens that it is over."""


class Difference(Estimate):
    """Candidate minus reference of one figure, paired: both on the same pairs."""

    groups: int
    """Prompt groups, the independent units: the error has groups - 1 degrees of freedom."""
    standard_error: float
    """Of the difference, clustered by prompt group."""


class Comparison(Record):
    """The candidate against one reference model, measured by the same code on the same pairs."""

    against: Literal["base", "champion"]
    version: str | None = None
    """The champion's registered version."""
    differences: dict[Figure, Difference]
    """Over all held-out pairs. A figure that could not be measured is missing, never NaN."""
    new_pairs: int | None = None
    """Held-out pairs that the reference's own data did not have; None when that is unknown."""
    new_differences: dict[Figure, Difference] = Field(default_factory=dict)
    """The pair figures over those pairs alone."""


class Slice(Record):
    """Figures over a part of the pairs."""

    by: str
    """source, length (prompt and longer answer), length_ratio (chosen / rejected) or novelty."""
    name: str
    pairs: int
    groups: int
    figures: dict[str, dict[Figure, Estimate]]
    """By model."""
    differences: dict[str, dict[Figure, Difference]]
    """Candidate minus that model."""


class CalibrationBin(Record):
    """One point of a reliability diagram."""

    low: float
    high: float
    """Bounds of the confidence."""
    pairs: int
    confidence: float
    """Mean."""
    right: float
    """Share of pairs whose preferred answer is the chosen one."""


class Slices(Record):
    """slices.json of the evaluate stage."""

    slices: tuple[Slice, ...]
    calibration: dict[str, tuple[CalibrationBin, ...]]
    """By model."""


HEADLINES = {
    Figure.ACCURACY: "pair accuracy",
    Figure.ACCURACY_LENGTH_CONTROLLED: "length-controlled accuracy",
    Figure.LOG_ODDS_MARGIN: "log-odds margin",
    Figure.ORPO_LOSS: "ORPO loss",
    Figure.CHOSEN_NLL: "NLL of chosen (nats a token)",
}
"""The figures that a short summary shows, with their names for people."""

SHARES = {
    Figure.ACCURACY,
    Figure.ACCURACY_SUMMED,
    Figure.ACCURACY_LENGTH_CONTROLLED,
    Figure.END_OF_TURN_RATE,
    Figure.REFUSAL_RATE,
    Figure.FORMAT_RATE,
}
"""Shares, shown in per cent."""


def in_words(figure: Figure, estimate: Estimate | None) -> str:
    """`71.4% [62.1%, 80.0%]`, or a dash where nothing could be estimated."""
    if estimate is None:
        return "-"
    form = ".1%" if figure in SHARES else ".3f"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
