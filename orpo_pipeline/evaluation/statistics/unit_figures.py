"""Figures of drift and of answers, as formulas of sums over pairs, paragraphs or answers."""

import numpy as np
import polars as pl

from orpo_pipeline.evaluation.statistics.resampling import (
    Array,
    Formula,
    Sample,
    Sums,
    ratio,
    resample,
)
from schemas.figures import Figure


def unit_sample(frame: pl.DataFrame, models: list[str]) -> Sample:
    """Sums over the units of `frame`: `units`, `tokens` where it has them, and those of each model.

    Where a quantity does not apply to a unit (null), it is 0 and not counted in `QUANTITY_n`.
    """
    columns: dict[str, Array] = {"units": np.ones(frame.height)}
    if "tokens" in frame.columns:
        columns["tokens"] = frame["tokens"].to_numpy().astype(np.float64)
    for model in models:
        for column in (name for name in frame.columns if name.startswith(f"{model}_")):
            quantity = f"{model}/{column.removeprefix(f'{model}_')}"
            columns[quantity] = frame[column].fill_null(0.0).to_numpy().astype(np.float64)
            columns[f"{quantity}_n"] = frame[column].is_not_null().to_numpy().astype(np.float64)
    return resample(columns, frame["group"].to_numpy())


def _a_token(quantity: str) -> tuple[Formula, str]:
    def formula(sums: Sums) -> Array:
        return ratio(sums[quantity], sums["tokens"])

    return formula, "tokens"


def _a_unit(quantity: str) -> tuple[Formula, str]:
    def formula(sums: Sums) -> Array:
        return ratio(sums[quantity], sums[f"{quantity}_n"])

    return formula, f"{quantity}_n"


DRIFT: dict[Figure, tuple[Formula, str]] = {Figure.DRIFT_KL: _a_token("kl")}
"""Sum of KL / tokens, see `drift.divergence`."""

NEUTRAL: dict[Figure, tuple[Formula, str]] = {Figure.DRIFT_NEUTRAL_NLL: _a_token("nll")}
"""Sum of -log P / tokens; paragraphs are the independent units."""

ANSWERS: dict[Figure, tuple[Formula, str]] = {
    Figure.ANSWER_TOKENS: _a_unit("tokens"),
    Figure.END_OF_TURN_RATE: _a_unit("ended"),
    Figure.DISTINCT_2: _a_unit("distinct_2"),
    Figure.REPETITION: _a_unit("repetition"),
    Figure.REFUSAL_RATE: _a_unit("refused"),
    Figure.FORMAT_RATE: _a_unit("format"),
}
"""Means over answers, greedy and sampled together, that the quantity applies to."""
