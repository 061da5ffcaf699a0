"""Figures of one model on pairs, as formulas of sums over pairs.

For an answer y of |y| tokens (the end of turn included) let s(y) be the sum of its tokens'
log-probs in nats and p(y) = s(y) / |y|. `log_odds_margin` is log-odds(chosen) - log-odds(rejected),
eq. 4 of the ORPO paper (arXiv 2403.07691).
"""

import numpy as np
import polars as pl

from orpo_pipeline.evaluation.statistics.resampling import Array, Formula, Sums, ratio
from schemas.figures import Figure

BINS = 10
"""Equally wide bins of confidence between 0.5 and 1."""


def shared_columns(pairs: pl.DataFrame) -> dict[str, Array]:
    """Columns (N,) that no model changes. `pairs`: chosen_tokens, rejected_tokens."""
    chosen, rejected = pairs["chosen_tokens"].to_numpy(), pairs["rejected_tokens"].to_numpy()
    return {
        "pairs": np.ones(pairs.height),
        "shorter": (chosen < rejected).astype(np.float64),
        "longer": (chosen > rejected).astype(np.float64),
        "longer_wins": wins(chosen, rejected),
        "chosen_tokens": chosen.astype(np.float64),
    }


def model_columns(scores: pl.DataFrame, orpo_lambda: float) -> dict[str, Array]:
    """Columns (N,) of one model, from the sums that `PairScore` has and `add_odds` adds."""
    values = {name: scores[name].to_numpy().astype(np.float64) for name in scores.columns}
    chosen = values["chosen_logp"] / values["chosen_tokens"]
    rejected = values["rejected_logp"] / values["rejected_tokens"]
    won = wins(chosen, rejected)
    shorter = values["chosen_tokens"] < values["rejected_tokens"]
    longer = values["chosen_tokens"] > values["rejected_tokens"]
    return {
        "won": won,
        "won_summed": wins(values["chosen_logp"], values["rejected_logp"]),
        "won_shorter": won * shorter,
        "won_longer": won * longer,
        "margin": values["log_odds_margin"],
        "orpo_loss": values["orpo_loss"],
        "chosen_nll": -values["chosen_logp"],
        "chosen_logp": chosen,
        "rejected_logp": rejected,
        "reward_chosen": orpo_lambda * chosen,
        "reward_rejected": orpo_lambda * rejected,
        **_overconfidence(values["log_odds_margin"]),
    }


def wins(first: Array, second: Array) -> Array:
    """1 where `first` is larger, a half for a tie, else 0."""
    return (first > second) + 0.5 * (first == second)


def confidence(margin: Array) -> tuple[Array, Array, Array]:
    """Of each pair: confidence in the preferred answer, whether it is the chosen one, and the bin.

    sigmoid(margin) is the model's probability that chosen is the better answer. All pairs have that
    outcome, so confidence is counted in the answer that the model prefers, as for a classifier.
    """
    sure = 1 / (1 + np.exp(-np.abs(margin)))
    bin_of = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return sure, wins(margin, np.zeros_like(margin)), bin_of


def _overconfidence(margin: Array) -> dict[str, Array]:
    """Confidence minus outcome of each pair, a column for each bin."""
    sure, right, bin_of = confidence(margin)
    return {f"over_{n}": np.where(bin_of == n, sure - right, 0.0) for n in range(BINS)}


def _mean(column: str) -> Formula:
    return lambda sums: ratio(sums[column], sums["pairs"])


def _accuracy_length_controlled(sums: Sums) -> Array:
    """Mean of the accuracy where chosen is shorter and where it is longer: no length wins."""
    shorter = ratio(sums["won_shorter"], sums["shorter"])
    return (shorter + ratio(sums["won_longer"], sums["longer"])) / 2


def _calibration_error(sums: Sums) -> Array:
    """ECE = sum over bins of |sum (confidence - right)| / N (Guo et al. 2017).

    Chance differences add up, so it is above 0 for a perfect model, the more so the fewer pairs.
    """
    gaps = sum((np.abs(sums[f"over_{n}"]) for n in range(BINS)), np.zeros_like(sums["pairs"]))
    return ratio(gaps, sums["pairs"])


def _chosen_nll(sums: Sums) -> Array:
    return ratio(sums["chosen_nll"], sums["chosen_tokens"])


FORMULAS: dict[Figure, tuple[Formula, str]] = {
    Figure.ACCURACY: (_mean("won"), "pairs"),
    Figure.ACCURACY_SUMMED: (_mean("won_summed"), "pairs"),
    Figure.ACCURACY_LENGTH_CONTROLLED: (_accuracy_length_controlled, "pairs"),
    Figure.LOG_ODDS_MARGIN: (_mean("margin"), "pairs"),
    Figure.CALIBRATION_ERROR: (_calibration_error, "pairs"),
    Figure.ORPO_LOSS: (_mean("orpo_loss"), "pairs"),
    Figure.CHOSEN_NLL: (_chosen_nll, "chosen_tokens"),
    Figure.CHOSEN_PERPLEXITY: (lambda sums: np.exp(_chosen_nll(sums)), "chosen_tokens"),
    Figure.REWARDS_CHOSEN: (_mean("reward_chosen"), "pairs"),
    Figure.REWARDS_REJECTED: (_mean("reward_rejected"), "pairs"),
    Figure.REWARDS_MARGINS: (
        lambda sums: ratio(sums["reward_chosen"] - sums["reward_rejected"], sums["pairs"]),
        "pairs",
    ),
}
"""Each figure and what it is over. `rewards/*` are TRL's: beta (our lambda) times the mean log-prob
(`ORPOTrainer.odds_ratio_loss`, TRL 1.16); its `rewards/accuracies` is our accuracy, but that a tie
counts half here."""

FALLING: dict[str, Formula] = {
    "chosen": _mean("chosen_logp"),
    "rejected": _mean("rejected_logp"),
}
"""Mean log-prob per token of both sides, for the chosen-collapse alarm."""
