"""The evaluation's record from what was measured."""

from pathlib import Path

import polars as pl

from orpo_pipeline.evaluation.measuring import Measured
from orpo_pipeline.evaluation.statistics.comparison import (
    Formulas,
    longer_wins,
    model_differences,
    model_figures,
    pair_alarms,
    pair_sample,
    smallest_difference,
)
from orpo_pipeline.evaluation.statistics.pair_figures import FORMULAS
from orpo_pipeline.evaluation.statistics.resampling import Sample
from orpo_pipeline.evaluation.statistics.unit_figures import ANSWERS, DRIFT, NEUTRAL, unit_sample
from schemas.figures import Comparison, Difference, Estimate, Figure
from schemas.jobs import EvaluateJob
from schemas.results import EvaluationReport, ModelFigures

FEW_GROUPS = 20
"""Below so many groups a percentile interval of the bootstrap is too narrow."""

Samples = list[tuple[Sample, Formulas]]


def build_report(folder: Path, job: EvaluateJob, measured: Measured) -> EvaluationReport:
    """Figures of each model, the candidate's differences, and what is alarming.

    Args:
        folder: where the stage is going to lie.
        job: what was asked for.
        measured: what the models gave.
    """
    champion, orpo_lambda = job.champion, job.config.training.orpo_lambda
    names = ["base", "candidate", *(["champion"] if champion else [])]
    pairs = pair_sample(measured.pairs, names, orpo_lambda)
    samples: Samples = [
        (pairs, FORMULAS),
        (unit_sample(measured.drift, names), DRIFT),
        (unit_sample(measured.neutral, names), NEUTRAL),
        (unit_sample(measured.answers, names), ANSWERS),
    ]
    models = {
        name: ModelFigures(
            version=champion.version if champion and name == "champion" else None,
            figures=_all_figures(samples, name),
        )
        for name in names
    }
    comparisons = [Comparison(against="base", differences=_all_differences(samples, "base"))]
    if champion:
        new = _new_pairs(measured.pairs, names, orpo_lambda)
        comparisons.append(
            Comparison(
                against="champion",
                version=champion.version,
                differences=_all_differences(samples, "champion"),
                new_pairs=new[0],
                new_differences=new[1],
            )
        )
    against = "champion" if champion else "base"
    return EvaluationReport(
        path=folder,
        pairs=measured.pairs.height,
        groups=pairs.groups,
        base=models["base"],
        candidate=models["candidate"],
        champion=models.get("champion"),
        comparisons=tuple(comparisons),
        smallest_difference=smallest_difference(measured.pairs, against),
        longer_wins=longer_wins(pairs),
        alarms=(*_alarms(samples, comparisons, models["candidate"]), *pair_alarms(pairs, "base")),
        generations=_prompts(measured),
    )


def _all_figures(samples: Samples, name: str) -> dict[Figure, Estimate]:
    found: dict[Figure, Estimate] = {}
    for sample, formulas in samples:
        found.update(model_figures(sample, name, formulas))
    return found


def _all_differences(samples: Samples, reference: str) -> dict[Figure, Difference]:
    found: dict[Figure, Difference] = {}
    for sample, formulas in samples:
        found.update(model_differences(sample, reference, formulas))
    return found


def _new_pairs(
    pairs: pl.DataFrame, names: list[str], orpo_lambda: float
) -> tuple[int | None, dict[Figure, Difference]]:
    """How many pairs the champion's data did not have, and the pair figures over them alone."""
    if pairs["new"].null_count():
        return None, {}
    new = pairs.filter("new")
    if new.is_empty():
        return 0, {}
    sample = pair_sample(new, names, orpo_lambda)
    return new.height, model_differences(sample, "champion", FORMULAS)


def _alarms(samples: Samples, comparisons: list[Comparison], candidate: ModelFigures) -> list[str]:
    """What is missing, and what the intervals rest on."""
    alarms = []
    groups = samples[0][0].groups
    if groups < FEW_GROUPS:
        alarms.append(
            f"Only {groups} prompt groups are held out: from fewer than {FEW_GROUPS} the intervals "
            "are too narrow, and from one there are none."
        )
    measured = [figure for sample, formulas in samples if sample.groups for figure in formulas]
    missing = [figure.value for figure in measured if figure not in candidate.figures]
    if missing:
        alarms.append(f"Not estimated, for want of pairs or answers: {', '.join(missing)}.")
    new = comparisons[-1]
    if new.against == "champion" and new.new_pairs is None:
        alarms.append(
            "Which pairs are new to the champion is unknown: the data that it was trained on is "
            "not in the state folder."
        )
    elif new.against == "champion" and not new.new_differences:
        alarms.append(f"Of the held-out pairs {new.new_pairs} are new to the champion: too few.")
    return alarms


def _prompts(measured: Measured) -> int:
    return len({row["prompt"] for row in measured.table})
