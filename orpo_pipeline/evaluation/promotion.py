"""May a candidate become the champion? A pure decision, with its reason."""

from schemas.gate_config import GateConfig
from schemas.plan import Choice
from schemas.results import EvaluationReport

ROUNDING = 1e-9
"""0.55 - 0.5 is more than 0.05 in floating point, and must not count as more."""


def should_promote(
    evaluation: EvaluationReport, gate: GateConfig, champion: str | None
) -> Choice[bool]:
    """Whether the candidate becomes the first champion.

    `champion` is the version that has the alias now. It must beat the base model by more than
    `gate.min_accuracy_gain`; NaN beats nothing. A champion that is there is never replaced here.
    """
    base, candidate = evaluation.base, evaluation.candidate
    compared = (
        f"pair accuracy {candidate.accuracy:.1%} against the base model's {base.accuracy:.1%} "
        f"on {candidate.pairs} pairs"
    )
    if champion is not None:
        return Choice(value=False, because=f"version {champion} is the champion; {compared}")
    gain = candidate.accuracy - base.accuracy
    if gain > gate.min_accuracy_gain + ROUNDING:
        return Choice(value=True, because=f"no champion yet; {compared}")
    return Choice(
        value=False,
        because="no champion yet, but it does not beat the base model by more than "
        f"{gate.min_accuracy_gain:.1%}: {compared}",
    )
