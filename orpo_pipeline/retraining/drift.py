"""Whether new rows are unlike those that the last training saw: three figures, each with its doubt.

A distance between two samples is never 0, and the smaller they are the larger it is by chance. So
each figure comes with the probability of one as large if both samples were drawn alike.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from schemas.retraining import DriftFigure
from schemas.retraining_config import RetrainingConfig


def drift_figures(
    new: pl.DataFrame, before: pl.DataFrame, config: RetrainingConfig
) -> tuple[DriftFigure, ...]:
    """The figures that the rows (columns: SEEN) allow: none without new or without known rows."""
    accepted, known = new.filter("accepted"), before.filter("accepted")
    alpha = config.drift_alpha
    figures = []
    if not accepted.is_empty() and not known.is_empty():
        value, p_value = length_distance(accepted["prompt_tokens"], known["prompt_tokens"])
        figures.append(_figure("prompt length", value, p_value, config.max_length_drift, alpha))
        value, p_value = stability_index(_mix(accepted), _mix(known))
        figures.append(_figure("source mix", value, p_value, config.max_mix_drift, alpha))
    if not new.is_empty() and not before.is_empty():
        rates = (accepted.height, new.height), (known.height, before.height)
        value, p_value = rate_difference(*rates)
        figures.append(_figure("acceptance", value, p_value, config.max_acceptance_drift, alpha))
    return tuple(figures)


def _figure(
    name: Literal["prompt length", "source mix", "acceptance"],
    value: float,
    p_value: float,
    limit: float,
    alpha: float,
) -> DriftFigure:
    return DriftFigure(name=name, value=value, p_value=p_value, limit=limit, alpha=alpha)


def length_distance(new: pl.Series, known: pl.Series) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance sup |F_new - F_known| of two samples, and its p-value.

    Two-sided (`scipy.stats.ks_2samp`); with ties, as token counts have, the p-value is too large
    rather than too small.
    """
    found = stats.ks_2samp(new.to_numpy(), known.to_numpy())
    return float(found.statistic), float(found.pvalue)


def stability_index(new: Mapping[str, int], known: Mapping[str, int]) -> tuple[float, float]:
    """Population stability index of two counts by category, and its p-value.

    PSI = sum over categories of (p - q) ln(p / q), with the shares p and q of the new and the known
    rows; each count has 1/2 added, so that a category that one side lacks stays finite. Below 0.1
    is read as stable and above 0.25 as a shift (Siddiqi, Credit Risk Scorecards, 2006). By chance
    alone PSI / (1/n + 1/m) follows chi-square with categories - 1 degrees of freedom (Yurdakul and
    Naranjo, Statistical properties of the population stability index, 2020).
    """
    names = sorted({*new, *known})
    if len(names) < 2:
        return 0.0, 1.0
    counts = np.array([[side.get(name, 0) + 0.5 for name in names] for side in (new, known)])
    p, q = counts / counts.sum(axis=1, keepdims=True)
    index = float(((p - q) * np.log(p / q)).sum())
    chance = 1 / sum(new.values()) + 1 / sum(known.values())
    return index, float(stats.chi2.sf(index / chance, len(names) - 1))


def rate_difference(new: tuple[int, int], known: tuple[int, int]) -> tuple[float, float]:
    """|p - q| of two shares, each given as (how many, of how many), and its p-value.

    The two-sided z-test of two proportions with a pooled standard error,
    z = (p - q) / sqrt(r (1 - r) (1/n + 1/m)), r the share of both together.
    """
    (a, n), (b, m) = new, known
    pooled = (a + b) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    difference = abs(a / n - b / m)
    return difference, float(2 * stats.norm.sf(difference / error)) if error else 1.0


def _mix(rows: pl.DataFrame) -> dict[str, int]:
    return dict(rows["label"].value_counts().iter_rows())
