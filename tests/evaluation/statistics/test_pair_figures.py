"""Figures of pairs by hand."""

import math

import numpy as np
import pytest
from scored import scored_pairs

from orpo_pipeline.evaluation.statistics.comparison import (
    longer_wins,
    model_figures,
    pair_alarms,
    pair_sample,
    scores_of,
    smallest_difference,
)
from orpo_pipeline.evaluation.statistics.pair_figures import FORMULAS, model_columns
from orpo_pipeline.evaluation.statistics.resampling import resample
from schemas.figures import Figure

# (chosen sum, tokens, rejected sum, tokens): averages -1 : -2, a win; -1 : -1, a tie;
# -2 : -1, a loss; -1 : -3, a win.
PAIRS = [(-2.0, 2, -6.0, 3), (-3.0, 3, -2.0, 2), (-4.0, 2, -1.0, 1), (-1.0, 1, -6.0, 2)]


def test_figures_by_hand() -> None:
    """The four pairs ten times over, so that every replicate has some of each."""
    sample = pair_sample(scored_pairs({"candidate": PAIRS * 10}), ["candidate"], orpo_lambda=0.5)
    found = {f: e.value for f, e in model_figures(sample, "candidate", FORMULAS).items()}
    assert set(found) == set(FORMULAS)
    assert found[Figure.ACCURACY] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    # Sums: -2 > -6, -3 < -2, -4 < -1, -1 > -6.
    assert found[Figure.ACCURACY_SUMMED] == pytest.approx(2 / 4)
    # Chosen shorter (pairs 1 and 4): 2/2; longer (2 and 3): 0.5/2. Mean of 1 and 0.25.
    assert found[Figure.ACCURACY_LENGTH_CONTROLLED] == pytest.approx(0.625)
    # By tokens: (2 + 3 + 4 + 1) / (2 + 3 + 2 + 1) = 10/8.
    assert found[Figure.CHOSEN_NLL] == pytest.approx(1.25)
    assert found[Figure.CHOSEN_PERPLEXITY] == pytest.approx(math.exp(1.25))
    # TRL: beta * average log-prob. Chosen -5/4, rejected -7/4, beta 0.5.
    assert found[Figure.REWARDS_CHOSEN] == pytest.approx(0.5 * -1.25)
    assert found[Figure.REWARDS_REJECTED] == pytest.approx(0.5 * -1.75)
    assert found[Figure.REWARDS_MARGINS] == pytest.approx(0.25)
    # Longer is chosen in pairs 2 and 3 of 4.
    longer = longer_wins(sample)
    assert longer is not None and longer.value == pytest.approx(0.5)
    # log-odds(p) = p - log(1 - e^p): -1: -0.541325, -2: -1.854587, -3: -2.948931.
    # (1.313262 + 0 - 1.313262 + 2.407606) / 4
    assert found[Figure.LOG_ODDS_MARGIN] == pytest.approx(0.601902, abs=1e-6)


def test_calibration_error_by_hand() -> None:
    # Confidence sigmoid|m|: log 4 -> 0.8 and right; -log 4 -> 0.8 and wrong; log 1.5 -> 0.6 and
    # right; 0 -> 0.5, half right. Bins: |0.8 + 0.8 - 1| = 0.6, |0.6 - 1| = 0.4, |0.5 - 0.5| = 0.
    # ECE (0.6 + 0.4 + 0) / 4 = 0.25.
    frame = scores_of(scored_pairs({"candidate": PAIRS}), "candidate").with_columns(
        log_odds_margin=np.array([math.log(4), -math.log(4), math.log(1.5), 0.0])
    )
    columns = {**model_columns(frame, 0.5), "pairs": np.ones(4)}
    formula, _ = FORMULAS[Figure.CALIBRATION_ERROR]
    assert float(formula(resample(columns, np.arange(4)).total)) == pytest.approx(0.25)


def test_without_a_longer_chosen_answer_there_is_no_length_control() -> None:
    pairs = scored_pairs({"candidate": [(-2.0, 2, -6.0, 3)] * 5})
    figures = model_figures(pair_sample(pairs, ["candidate"], 0.5), "candidate", FORMULAS)
    assert Figure.ACCURACY_LENGTH_CONTROLLED not in figures
    assert figures[Figure.ACCURACY].value == 1


WIN, LOSS = (-1.0, 1, -2.0, 1), (-2.0, 1, -1.0, 1)


def test_the_smallest_difference_by_hand() -> None:
    models = {"base": [LOSS, WIN, WIN, LOSS], "candidate": [WIN, LOSS, WIN, LOSS]}
    # Two of four pairs changed sides: 2.8 * sqrt(0.5 / 4).
    alone = smallest_difference(scored_pairs(models), "base")
    assert alone == pytest.approx(2.8 * math.sqrt(0.5 / 4))
    # Both gains in one group count as one change of 2: 2.8 * sqrt(2^2) / 4.
    models = {"base": [LOSS, LOSS, WIN, LOSS], "candidate": [WIN, WIN, WIN, LOSS]}
    grouped = smallest_difference(scored_pairs(models, groups=[1, 1, 2, 3]), "base")
    assert grouped == pytest.approx(1.4)


def test_without_a_change_of_side_the_smallest_difference_is_unknown() -> None:
    assert smallest_difference(scored_pairs({"base": [WIN], "candidate": [WIN]}), "base") is None


@pytest.mark.parametrize(
    ("candidate", "alarms"),
    [
        ((-1.5, 1, -3.0, 1), 1),  # both fell
        ((-0.5, 1, -3.0, 1), 0),  # only rejected fell: what training is for
        ((-1.5, 1, -1.5, 1), 0),
    ],
)
def test_the_alarm_for_a_collapse_of_chosen(candidate: tuple[float, ...], alarms: int) -> None:
    pairs = scored_pairs({"base": [WIN] * 30, "candidate": [candidate] * 30})  # type: ignore[list-item]
    found = pair_alarms(pair_sample(pairs, ["base", "candidate"], 0.5), "base")
    assert len(found) == alarms
    if alarms:
        # -1.5 - -1 and -3 - -2
        assert "chosen by 0.500, rejected by 1.000" in found[0]
