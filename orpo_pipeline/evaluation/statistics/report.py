"""The evaluation's record from what was scored."""

from pathlib import Path

import polars as pl

from orpo_pipeline.evaluation.statistics.comparison import (
    longer_wins,
    model_differences,
    model_figures,
    pair_alarms,
    pair_sample,
    smallest_difference,
)
from orpo_pipeline.evaluation.statistics.pair_figures import FORMULAS
from schemas.figures import Comparison, Estimate, Figure
from schemas.jobs import EvaluateJob
from schemas.results import EvaluationReport, ModelFigures


def build_report(
    folder: Path, job: EvaluateJob, scores: pl.DataFrame, generations: int
) -> EvaluationReport:
    """Figures of each model, the candidate's differences, and what is alarming.

    Args:
        folder: where the stage is going to lie.
        job: what was asked for.
        scores: the frame of pairs.parquet.
        generations: prompts that were answered.
    """
    champion = job.champion
    names = ["base", "candidate", *(["champion"] if champion else [])]
    sample = pair_sample(scores, names, job.config.training.orpo_lambda)
    figures = {name: model_figures(sample, name, FORMULAS) for name in names}
    comparisons = [
        Comparison(against="base", differences=model_differences(sample, "base", FORMULAS))
    ]
    if champion:
        comparisons.append(
            Comparison(
                against="champion",
                version=champion.version,
                differences=model_differences(sample, "champion", FORMULAS),
            )
        )
    return EvaluationReport(
        path=folder,
        pairs=scores.height,
        groups=sample.groups,
        base=ModelFigures(figures=figures["base"]),
        candidate=ModelFigures(figures=figures["candidate"]),
        champion=ModelFigures(version=champion.version, figures=figures["champion"])
        if champion
        else None,
        comparisons=tuple(comparisons),
        smallest_difference=smallest_difference(scores, names[-1] if champion else "base"),
        longer_wins=longer_wins(sample),
        alarms=(*_missing(figures), *pair_alarms(sample, "base")),
        generations=generations,
    )


def _missing(figures: dict[str, dict[Figure, Estimate]]) -> list[str]:
    """Which figures could not be estimated, in one sentence."""
    missing = [figure for figure in FORMULAS if figure not in figures["candidate"]]
    if not missing:
        return []
    listed = ", ".join(missing)
    return [f"Not estimated, for want of pairs or of prompt groups: {listed}."]
