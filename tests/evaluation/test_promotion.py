"""The gate: a first champion must beat the base model; what is unclear promotes nothing."""

import math
from pathlib import Path

import pytest

from orpo_pipeline.evaluation.promotion import should_promote
from schemas.figures import Estimate, Figure
from schemas.gate_config import GateConfig
from schemas.results import EvaluationReport, ModelFigures


def report(base: float, candidate: float) -> EvaluationReport:
    """An evaluation on 20 pairs with these accuracies."""

    def model(accuracy: float) -> ModelFigures:
        estimate = Estimate(value=accuracy, low=accuracy, high=accuracy, n=20)
        return ModelFigures(figures={Figure.ACCURACY: estimate})

    return EvaluationReport(
        path=Path("evaluation"),
        pairs=20,
        groups=20,
        base=model(base),
        candidate=model(candidate),
        comparisons=(),
        smallest_difference=None,
        generations=0,
    )


@pytest.mark.parametrize(
    ("base", "candidate", "gain", "promoted"),
    [
        (0.5, 0.55, 0.0, True),
        (0.5, 0.5, 0.0, False),
        (0.5, 0.45, 0.0, False),
        (0.5, 0.65, 0.1, True),
        # Exactly the gain is not more than it: 0.55 - 0.5 is 0.050000000000000044 in binary.
        (0.5, 0.55, 0.05, False),
        (0.0, 1.0, 1.0, False),
        (0.5, math.nan, 0.0, False),
        (math.nan, 0.9, 0.0, False),
        (math.nan, math.nan, 0.0, False),
    ],
)
def test_the_first_champion(base: float, candidate: float, gain: float, promoted: bool) -> None:
    choice = should_promote(report(base, candidate), GateConfig(min_accuracy_gain=gain), None)
    assert choice.value is promoted
    assert "no champion yet" in choice.because
    assert ("does not beat" in choice.because) is not promoted


def test_a_champion_is_never_replaced() -> None:
    choice = should_promote(report(0.1, 1.0), GateConfig(), champion="7")
    assert choice.value is False
    assert "version 7 is the champion" in choice.because


def test_the_reason_says_both_figures_and_how_many_pairs() -> None:
    because = should_promote(report(0.5, 0.55), GateConfig(), None).because
    assert "55.0% against the base model's 50.0% on 20 pairs" in because


def test_the_reason_says_the_gain_that_was_asked_for() -> None:
    because = should_promote(report(0.5, 0.55), GateConfig(min_accuracy_gain=0.1), None).because
    assert "by more than 10.0%" in because
