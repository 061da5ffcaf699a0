"""Scored pairs for tests of the figures."""

from collections.abc import Sequence

import polars as pl

from orpo_pipeline.evaluation.measuring import Measured, add_odds

Scored = tuple[float, int, float, int]
"""Sum of log-probs and tokens of chosen, the same of rejected."""


def scored_pairs(
    models: dict[str, Sequence[Scored]],
    groups: Sequence[int] | None = None,
    orpo_lambda: float = 0.5,
) -> pl.DataFrame:
    """The frame of pairs.parquet; a prompt has one token before it and a log-prob of -1."""
    count = len(next(iter(models.values())))
    columns = [
        pl.DataFrame(
            {
                "row_id": [f"{number:064x}" for number in range(count)],
                "prompt_id": [f"{number:064x}" for number in range(count)],
                "group": list(groups or range(count)),
                "source": ["tests"] * count,
                "prompt_tokens": [2] * count,
                "new": pl.Series([None] * count, dtype=pl.Boolean),
            }
        )
    ]
    for name, scores in models.items():
        frame = pl.DataFrame(
            {
                "chosen_logp": [float(one[0]) for one in scores],
                "chosen_tokens": [one[1] for one in scores],
                "rejected_logp": [float(one[2]) for one in scores],
                "rejected_tokens": [one[3] for one in scores],
                "prompt_chosen_logp": [one[0] - 1.0 for one in scores],
                "prompt_chosen_tokens": [one[1] + 1 for one in scores],
            }
        )
        frame = add_odds(frame, orpo_lambda)
        columns.append(frame.select(pl.all().name.prefix(f"{name}_")))
    return pl.concat(columns, how="horizontal")


def measured(pairs: pl.DataFrame) -> Measured:
    """Pairs alone: no drift, no neutral text, no answers."""
    empty = {"group": pl.UInt32, "tokens": pl.Int64}
    models = [name for name in ("base", "candidate", "champion") if f"{name}_orpo_loss" in pairs]
    drift = pl.DataFrame(schema={**empty, **{f"{name}_kl": pl.Float64 for name in models}})
    neutral = pl.DataFrame(schema={**empty, **{f"{name}_nll": pl.Float64 for name in models}})
    names = ("tokens", "ended", "distinct_2", "repetition", "refused", "format")
    answers = {f"{model}_{name}": pl.Float64 for model in models for name in names}
    frame = pl.DataFrame(schema={"group": pl.UInt32, **answers})
    return Measured(pairs=pairs, drift=drift, neutral=neutral, answers=frame, table=[])
