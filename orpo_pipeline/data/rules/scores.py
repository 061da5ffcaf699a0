"""Rules about the answers' scores, where the data has them."""

import math

from schemas.pairs import Defect, DefectCode, Pair


def score_tie(pair: Pair) -> Defect | None:
    """Equal scores do not say which answer is better."""
    if score_margin(pair) != 0:
        return None
    return Defect(DefectCode.SCORE_TIE, f"chosen and rejected both score {pair.score_chosen:g}")


def score_inverted(pair: Pair) -> Defect | None:
    """Scores that prefer the rejected answer."""
    margin = score_margin(pair)
    if margin is None or margin >= 0:
        return None
    return Defect(
        DefectCode.SCORE_INVERTED,
        f"chosen scores {pair.score_chosen:g}, rejected {pair.score_rejected:g}",
    )


def small_score_margin(pair: Pair, smallest: float) -> Defect | None:
    """Reported: a margin above 0 and below `smallest`, in the data's own units."""
    margin = score_margin(pair)
    # 8.1 - 8.0 is a little less than 0.1 in floating point, and meant to be 0.1.
    if margin is None or not 0 < margin < smallest or math.isclose(margin, smallest):
        return None
    return Defect(
        DefectCode.SMALL_SCORE_MARGIN,
        f"chosen scores {pair.score_chosen:g}, rejected {pair.score_rejected:g}: "
        f"{margin:g} apart, less than {smallest:g}",
    )


def score_margin(pair: Pair) -> float | None:
    """chosen - rejected; None without two scores. NaN, pandas' missing value, is no score."""
    chosen, rejected = pair.score_chosen, pair.score_rejected
    if chosen is None or rejected is None or math.isnan(chosen) or math.isnan(rejected):
        return None
    return 0.0 if chosen == rejected else chosen - rejected
