"""Scores that are equal, the wrong way round, or close."""

import math

import pytest
from rule_pairs import make

from orpo_pipeline.data.rules.scores import score_inverted, score_tie, small_score_margin
from schemas.pairs import Defect, DefectCode

UNSCORED = [(None, None), (None, 5), (5, None), (math.nan, 1), (1, math.nan), (math.nan, math.nan)]


@pytest.mark.parametrize("score", [5, 0, -1.5, math.inf])
def test_score_tie(score: float) -> None:
    assert score_tie(make(scores=(score, score))) == Defect(
        DefectCode.SCORE_TIE, f"chosen and rejected both score {score:g}"
    )


@pytest.mark.parametrize("scores", [(5.001, 5), (4, 5), (0, -1), (math.inf, 1), *UNSCORED])
def test_no_score_tie(scores: tuple[float | None, float | None]) -> None:
    assert score_tie(make(scores=scores)) is None


@pytest.mark.parametrize("scores", [(4, 5), (-1, 0), (1, math.inf)])
def test_score_inverted(scores: tuple[float, float]) -> None:
    assert score_inverted(make(scores=scores)) == Defect(
        DefectCode.SCORE_INVERTED, f"chosen scores {scores[0]:g}, rejected {scores[1]:g}"
    )


@pytest.mark.parametrize("scores", [(5, 5), (5.001, 5), (0, -1), *UNSCORED])
def test_no_score_inverted(scores: tuple[float | None, float | None]) -> None:
    assert score_inverted(make(scores=scores)) is None


def test_small_score_margin() -> None:
    assert small_score_margin(make(scores=(8.25, 8)), 0.5) == Defect(
        DefectCode.SMALL_SCORE_MARGIN,
        "chosen scores 8.25, rejected 8: 0.25 apart, less than 0.5",
    )


@pytest.mark.parametrize(
    ("scores", "smallest"),
    [
        ((8.25, 8), 0.0),  # the default: nothing is small
        ((8.5, 8), 0.5),
        ((8.1, 8.0), 0.1),  # 8.1 - 8.0 = 0.09999999999999964
        ((8, 8), 0.5),  # a tie has a rule of its own
        ((7, 8), 0.5),  # and so has an inversion
        *((scores, 0.5) for scores in UNSCORED),
    ],
)
def test_no_small_score_margin(scores: tuple[float | None, float | None], smallest: float) -> None:
    assert small_score_margin(make(scores=scores), smallest) is None
