"""Figures of several models on the same units, and the differences between them."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from orpo_pipeline.evaluation.statistics.pair_figures import (
    FALLING,
    model_columns,
    shared_columns,
    wins,
)
from orpo_pipeline.evaluation.statistics.resampling import (
    Array,
    Formula,
    Sample,
    difference,
    estimate,
    ratio,
    resample,
)
from schemas.figures import Difference, Estimate, Figure

Formulas = Mapping[Figure, tuple[Formula, str]]

POWER_FACTOR = 2.8
"""1.96 + 0.84: a two-sided test at 5 % finds a difference of so many standard errors in 80 % of
all cases."""


def pair_sample(scores: pl.DataFrame, models: list[str], orpo_lambda: float) -> Sample:
    """Sums over pairs of all models; `scores` is the frame of pairs.parquet."""
    columns = shared_columns(
        scores.select(pl.col("^candidate_(chosen|rejected)_tokens$").name.replace("candidate_", ""))
    )
    for name in models:
        for column, values in model_columns(scores_of(scores, name), orpo_lambda).items():
            columns[f"{name}/{column}"] = values
    return resample(columns, scores["group"].to_numpy())


def scores_of(scores: pl.DataFrame, name: str) -> pl.DataFrame:
    """One model's columns, without its prefix."""
    return scores.select(pl.col(f"^{name}_.*$").name.replace(f"^{name}_", ""))


def model_figures(sample: Sample, name: str, formulas: Formulas) -> dict[Figure, Estimate]:
    """Every figure of one model that can be estimated."""
    own = sample.view(f"{name}/")
    found = {figure: estimate(own, *formula) for figure, formula in formulas.items()}
    return {figure: value for figure, value in found.items() if value is not None}


def model_differences(
    sample: Sample, reference: str, formulas: Formulas
) -> dict[Figure, Difference]:
    """Candidate minus reference of every figure that can be estimated."""
    candidate, other = sample.view("candidate/"), sample.view(f"{reference}/")
    found = {figure: difference(candidate, other, *formula) for figure, formula in formulas.items()}
    return {figure: value for figure, value in found.items() if value is not None}


def longer_wins(sample: Sample) -> Estimate | None:
    """Accuracy of preferring the longer answer, in tokens; a tie counts half."""
    return estimate(sample, lambda sums: ratio(sums["longer_wins"], sums["pairs"]), "pairs")


def smallest_difference(scores: pl.DataFrame, reference: str) -> float | None:
    """Of accuracy, that these pairs would have shown in 80 % of all cases.

    2.8 * sqrt(sum over groups of D_g^2) / N with D_g the sum of a group's changes of side (1 or -1;
    a half to or from a tie). With one pair a group it is 2.8 * sqrt(d / N), d the share of pairs
    that changed sides (McNemar 1947; Connor 1987 for its power). None where no pair has.
    """
    changes = _won(scores, "candidate") - _won(scores, reference)
    _, group_of = np.unique(scores["group"].to_numpy(), return_inverse=True)
    by_group = np.bincount(group_of, changes)
    if not by_group.any():
        return None
    return float(POWER_FACTOR * np.sqrt((by_group**2).sum()) / len(changes))


def _won(scores: pl.DataFrame, name: str) -> Array:
    own = scores_of(scores, name).select(
        chosen=pl.col("chosen_logp") / pl.col("chosen_tokens"),
        rejected=pl.col("rejected_logp") / pl.col("rejected_tokens"),
    )
    return wins(own["chosen"].to_numpy(), own["rejected"].to_numpy())


def pair_alarms(sample: Sample, reference: str) -> list[str]:
    """What is suspicious about the candidate's log-probs."""
    candidate, other = sample.view("candidate/"), sample.view(f"{reference}/")
    falls = {side: difference(candidate, other, f, "pairs") for side, f in FALLING.items()}
    if any(fall is None or fall.high >= 0 for fall in falls.values()):
        return []
    listed = ", ".join(f"{side} by {-fall.value:.3f}" for side, fall in falls.items() if fall)
    return [
        "The log-probs of both answers fell against the base model "
        f"({listed} nats a token): training.orpo_lambda or the learning rate is too high."
    ]
