"""The same figures on parts of the pairs, and how well confidence is calibrated."""

import math

import numpy as np
import polars as pl

from orpo_pipeline.evaluation.statistics.comparison import (
    model_differences,
    model_figures,
    pair_sample,
    scores_of,
)
from orpo_pipeline.evaluation.statistics.pair_figures import BINS, FORMULAS, confidence
from orpo_pipeline.evaluation.statistics.resampling import Array
from schemas.figures import CalibrationBin, Figure, Slice

SHOWN_SOURCES = 20  # those with the most pairs; the rest is one slice
FIGURES = (
    *(Figure.ACCURACY, Figure.ACCURACY_LENGTH_CONTROLLED, Figure.LOG_ODDS_MARGIN),
    Figure.CHOSEN_NLL,
)
SLICE_FORMULAS = {figure: FORMULAS[figure] for figure in FIGURES}

LENGTHS = {
    64: "up to 64 tokens",
    256: "65 to 256",
    1024: "257 to 1,024",
    math.inf: "over 1,024",
}
"""Tokens of the prompt and the longer answer."""

LENGTH_RATIOS = {0.8: "chosen is shorter", 1.25: "about equal", math.inf: "chosen is longer"}
"""Tokens of chosen / tokens of rejected."""


def with_slices(scores: pl.DataFrame) -> pl.DataFrame:
    """Add the column of each way to slice: by source, lengths, new or old."""
    chosen = scores["candidate_chosen_tokens"].to_numpy()
    rejected = scores["candidate_rejected_tokens"].to_numpy()
    longest = scores["prompt_tokens"].to_numpy() + np.maximum(chosen, rejected)
    often = scores["source"].value_counts(sort=True).head(SHOWN_SOURCES)["source"]
    return scores.with_columns(
        by_source=pl.when(pl.col("source").is_in(often.implode()))
        .then("source")
        .otherwise(pl.lit("all other sources")),
        by_length=_bins(longest, LENGTHS),
        by_length_ratio=_bins(chosen / rejected, LENGTH_RATIOS),
        by_novelty=pl.when("new").then(pl.lit("new")).when(~pl.col("new")).then(pl.lit("old")),
    )


def _bins(values: Array, bins: dict[float, str]) -> pl.Series:
    """The name of the first bin whose upper bound a value does not exceed."""
    names = list(bins.values())
    return pl.Series([names[n] for n in np.digitize(values, list(bins)[:-1], right=True)])


def measure_slices(scores: pl.DataFrame, models: list[str], orpo_lambda: float) -> list[Slice]:
    """Figures and differences of every slice, the largest of each kind first."""
    sliced = with_slices(scores)
    found = []
    for by in ("source", "length", "length_ratio", "novelty"):
        known = sliced.filter(pl.col(f"by_{by}").is_not_null())
        for part in known.partition_by(f"by_{by}", maintain_order=True):
            sample = pair_sample(part, models, orpo_lambda)
            found.append(
                Slice(
                    by=by,
                    name=str(part[f"by_{by}"][0]),
                    pairs=part.height,
                    groups=sample.groups,
                    figures={m: model_figures(sample, m, SLICE_FORMULAS) for m in models},
                    differences={
                        m: model_differences(sample, m, SLICE_FORMULAS)
                        for m in models
                        if m != "candidate"
                    },
                )
            )
    return sorted(found, key=lambda one: (one.by, -one.pairs, one.name))


def calibration_bins(scores: pl.DataFrame, model: str) -> list[CalibrationBin]:
    """A reliability diagram's points: mean confidence against share right, bin by bin.

    Bins without a pair are left out. See `pair_figures.confidence`.
    """
    margin = scores_of(scores, model)["log_odds_margin"].to_numpy()
    sure, right, bin_of = confidence(margin)
    width = 0.5 / BINS
    return [
        CalibrationBin(
            low=0.5 + number * width,
            high=0.5 + (number + 1) * width,
            pairs=int((bin_of == number).sum()),
            confidence=float(sure[bin_of == number].mean()),
            right=float(right[bin_of == number].mean()),
        )
        for number in range(BINS)
        if (bin_of == number).any()
    ]
