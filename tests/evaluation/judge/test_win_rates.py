"""Win rates by hand: both orders, the regression on length, the intervals."""

import math

import numpy as np
import pytest

from orpo_pipeline.evaluation.judge.win_rates import (
    Scored,
    score_orders,
    win_rate_at_equal_length,
    win_rates,
)
from schemas.figures import Figure
from schemas.judgement import Verdict

PLAIN, CONTROLLED = Figure.JUDGE_WIN_RATE, Figure.JUDGE_WIN_RATE_LENGTH_CONTROLLED


@pytest.mark.parametrize(
    ("candidate_first", "reference_first", "score"),
    [
        ("A", "B", 1.0),  # both orders prefer the candidate
        ("B", "A", 0.0),
        ("A", "A", 0.5),  # the first shown wins: no preference
        ("B", "B", 0.5),
        ("TIE", "TIE", 0.5),
        ("A", "TIE", 0.5),
        ("TIE", "A", 0.5),
    ],
)
def test_a_win_is_a_win_in_both_orders(
    candidate_first: str, reference_first: str, score: float
) -> None:
    assert score_orders(Verdict(candidate_first), Verdict(reference_first)) == score


def at_equal_length(scores: list[float], longer_by: list[int]) -> float:
    one = np.ones((1, len(scores)))
    return float(win_rate_at_equal_length(np.array(scores), np.array(longer_by, float), one)[0])


def test_without_differences_of_length_it_is_the_win_rate() -> None:
    # 1 + 1 + 1 + 0.5 of 5; the ridge of 0.001 moves the fourth digit.
    assert at_equal_length([1, 1, 1, 0.5, 0], [0] * 5) == pytest.approx(0.7, abs=1e-3)


def test_the_regression_by_hand() -> None:
    # Two lengths, +d and -d, so s = d and the feature is t = tanh(1) or -t. With as many parameters
    # as lengths the fit is exact: 16 of 20 where longer, 8 of 20 where shorter:
    #   theta + phi t = logit 0.8 = 1.386294, theta - phi t = logit 0.4 = -0.405465
    #   theta = (1.386294 - 0.405465) / 2 = 0.490415, sigmoid(theta) = 0.620204
    # while the plain win rate is 24 / 40 = 0.6.
    scores = [1.0] * 16 + [0.0] * 4 + [1.0] * 8 + [0.0] * 12
    lengths = [300] * 20 + [-300] * 20
    assert at_equal_length(scores, lengths) == pytest.approx(0.620204, abs=1e-3)


def test_what_length_alone_wins_is_no_win() -> None:
    # The longer answer wins 9 of 10, whosever it is, and the candidate's is longer in 80 of 100:
    # 72 wins of 80 and 2 of 20, a plain win rate of 0.74. theta = (logit 0.9 + logit 0.1) / 2 = 0.
    scores = [1.0] * 72 + [0.0] * 8 + [1.0] * 2 + [0.0] * 18
    rate = at_equal_length(scores, [100] * 80 + [-100] * 20)
    assert rate == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_won_or_lost_stays_finite(score: float) -> None:
    assert at_equal_length([score] * 50, list(range(50))) == pytest.approx(score, abs=2e-3)


def test_figures_and_differences_by_hand() -> None:
    # Six wins, two ties, two losses of ten, each its own group: (6 + 1) / 10 = 0.7;
    # against the reference's 0.3 a difference of 0.4. Jackknife error of a mean: s / sqrt(n) with
    # s^2 = (6 * 0.3^2 + 2 * 0.2^2 + 2 * 0.7^2) / 9 = 1.6 / 9, so sqrt(0.17778 / 10) = 0.13333,
    # and twice that for won minus lost.
    scored = [
        Scored(score, 0, str(number))
        for number, score in enumerate([1.0] * 6 + [0.5] * 2 + [0.0] * 2)
    ]
    estimates, differences = win_rates(scored)
    assert estimates[PLAIN].value == pytest.approx(0.7)
    assert estimates[PLAIN].n == 10
    assert differences[PLAIN].value == pytest.approx(0.4)
    assert differences[PLAIN].standard_error == pytest.approx(2 * 0.133333, abs=1e-5)
    assert differences[PLAIN].groups == 10
    low, high = estimates[PLAIN].low, estimates[PLAIN].high
    assert low < 0.7 < high
    assert (differences[PLAIN].low, differences[PLAIN].high) == pytest.approx(
        (2 * low - 1, 2 * high - 1)
    )
    assert estimates[CONTROLLED].value == pytest.approx(0.7, abs=1e-3)


def test_questions_of_one_group_are_no_more_evidence_than_one() -> None:
    single = win_rates([Scored(float(n % 3 > 0), 0, str(n)) for n in range(30)])
    doubled = win_rates([Scored(float(n % 3 > 0), 0, str(n)) for n in range(30) for _ in range(4)])
    for figure in (PLAIN, CONTROLLED):
        assert doubled[1][figure].standard_error == pytest.approx(
            single[1][figure].standard_error, rel=1e-2
        )
    assert doubled[0][PLAIN].n == 120


def test_the_interval_covers_what_made_the_verdicts() -> None:
    # theta = 0.5 and phi = 1: at equal length the candidate wins sigmoid(0.5) = 62.2 %.
    draw = np.random.default_rng(3)
    covered = 0
    for _ in range(20):
        lengths = draw.normal(80, 200, 150).round()
        chance = 1 / (1 + np.exp(-(0.5 + np.tanh(lengths / lengths.std()))))
        wins = draw.random(150) < chance
        scored = [
            Scored(float(w), int(d), str(n))
            for n, (w, d) in enumerate(zip(wins, lengths, strict=True))
        ]
        found = win_rates(scored)[0][CONTROLLED]
        covered += found.low <= 1 / (1 + math.exp(-0.5)) <= found.high
    # 95 % of 20 is 19; below 16 has a probability of 0.3 %.
    assert covered >= 16


def test_one_group_has_no_spread() -> None:
    assert win_rates([Scored(1.0, 3, "same"), Scored(0.0, 1, "same")]) == ({}, {})
