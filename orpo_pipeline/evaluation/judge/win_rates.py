"""Win rates from verdicts: both orders, ties, and what length alone wins. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orpo_pipeline.evaluation.statistics.resampling import (
    Array,
    Formula,
    Sample,
    Sums,
    difference,
    draw_groups,
    estimate,
    ratio,
    resample,
)
from schemas.figures import Difference, Estimate, Figure
from schemas.judgement import Verdict

RIDGE = 0.001
"""Of both coefficients: keeps them finite where every question was won, and moves no other fit."""

STEPS = 30
SMALL_STEP = 1e-9  # of a coefficient: about eight Newton steps


Estimates = dict[Figure, Estimate]
Differences = dict[Figure, Difference]


@dataclass(frozen=True, slots=True)
class Scored:
    """One judged question."""

    score: float
    """1: won, 0.5: a tie, 0: lost."""
    longer_by: int
    """Characters of the candidate's answer minus those of the reference's."""
    group: str
    is_new: bool = False
    """See `Question`."""


def score_orders(candidate_first: Verdict, reference_first: Verdict) -> float:
    """1 if both orders prefer the candidate's answer, 0 if both the reference's, else a tie: 0.5.

    The rule of MT-bench for position bias (Zheng et al. 2023, arXiv 2306.05685, section 3.4).
    """
    if (candidate_first, reference_first) == (Verdict.FIRST, Verdict.SECOND):
        return 1.0
    if (candidate_first, reference_first) == (Verdict.SECOND, Verdict.FIRST):
        return 0.0
    return 0.5


def win_rates(scored: Sequence[Scored]) -> tuple[Estimates, Differences]:
    """The candidate's win rates, and those minus the reference's; what cannot be estimated is
    missing.

    The win rate is the mean score. The length-controlled one is the probability of a win at equal
    length, sigmoid(theta), of the logistic regression

        P(win) = sigmoid(theta + phi * tanh((length of candidate - length of reference) / s))

    with s the standard deviation of the differences and ties as half a win: AlpacaEval's
    (Dubois et al. 2024, arXiv 2404.04475) without its difficulty of instructions, which takes
    verdicts on many models; `length_controlled_minimal` in its code.

    A reference's win rate is 1 minus the candidate's. So a difference of 0 means equal, and 0.2
    that the candidate wins 60 to 40.
    """
    candidate = _sample(scored)
    reference = Sample(
        _mirrored(candidate.total),
        _mirrored(candidate.resampled),
        _mirrored(candidate.without_one),
        candidate.groups,
    )
    estimates, differences = {}, {}
    for figure in _COLUMNS:
        own = estimate(candidate, _rate(figure), "questions")
        against = difference(candidate, reference, _rate(figure), "questions")
        if own is not None and against is not None:
            estimates[figure], differences[figure] = own, against
    return estimates, differences


_COLUMNS = {
    Figure.JUDGE_WIN_RATE: "won",
    Figure.JUDGE_WIN_RATE_LENGTH_CONTROLLED: "won_at_equal_length",
}


def _rate(figure: Figure) -> Formula:
    return lambda sums: ratio(sums[_COLUMNS[figure]], sums["questions"])


def _mirrored(sums: Sums) -> Sums:
    won = {name: sums["questions"] - sums[name] for name in _COLUMNS.values()}
    return {**won, "questions": sums["questions"]}


def _sample(scored: Sequence[Scored]) -> Sample:
    """Sums over questions; the fitted rate enters as the wins that it amounts to."""
    scores = np.array([one.score for one in scored])
    lengths = np.array([one.longer_by for one in scored], dtype=np.float64)
    _, group_of = np.unique([one.group for one in scored], return_inverse=True)
    sample = resample({"won": scores, "questions": np.ones(len(scores))}, group_of)
    every = np.ones((1, len(scores)))
    drawn = draw_groups(sample.groups)[:, group_of]
    left_out = (np.arange(sample.groups)[:, None] != group_of).astype(np.float64)

    def fitted(sums: Sums, weights: Array) -> Sums:
        rate = win_rate_at_equal_length(scores, lengths, weights)
        return {**sums, "won_at_equal_length": rate.reshape(sums["won"].shape) * sums["questions"]}

    return Sample(
        fitted(sample.total, every),
        fitted(sample.resampled, drawn),
        fitted(sample.without_one, left_out),
        sample.groups,
    )


def win_rate_at_equal_length(scores: Array, longer_by: Array, weights: Array) -> Array:
    """sigmoid(theta) of the regression above, once for each row of weights.

    Newton's method on the log-likelihood minus RIDGE / 2 * (theta^2 + phi^2).

    Args:
        scores: (N,) between 0 and 1.
        longer_by: (N,) differences of length.
        weights: (W, N) how often each question counts.

    Returns:
        (W,) probabilities.
    """
    spread = longer_by.std()
    length: NDArray[np.float64] = np.tanh(longer_by / spread) if spread else np.zeros(len(scores))
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(STEPS):
        chance = _sigmoid(theta[:, None] + phi[:, None] * length)  # (W, N)
        off = weights * (scores - chance)
        steep = weights * chance * (1 - chance)
        slope = off.sum(1) - RIDGE * theta, off @ length - RIDGE * phi
        a, b, c = steep.sum(1) + RIDGE, steep @ length, steep @ length**2 + RIDGE
        determinant = a * c - b * b
        step = (c * slope[0] - b * slope[1]) / determinant
        theta, phi = theta + step, phi + (a * slope[1] - b * slope[0]) / determinant
        if np.abs(step).max(initial=0.0) < SMALL_STEP:
            break
    return _sigmoid(theta)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))
