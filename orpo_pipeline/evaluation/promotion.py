"""May a candidate become the champion? A pure decision, with its reason."""

from schemas.figures import Figure
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
    base = evaluation.base.figures.get(Figure.ACCURACY)
    candidate = evaluation.candidate.figures.get(Figure.ACCURACY)
    if base is None or candidate is None:
        return Choice(value=False, because="pair accuracy could not be estimated")
    compared = (
        f"pair accuracy {candidate.value:.1%} against the base model's {base.value:.1%} "
        f"on {candidate.n} pairs"
    )
    if champion is not None:
        return Choice(value=False, because=f"version {champion} is the champion; {compared}")
    gain = candidate.value - base.value
    if gain > gate.min_accuracy_gain + ROUNDING:
        return Choice(value=True, because=f"no champion yet; {compared}")
    return Choice(
        value=False,
        because="no champion yet, but it does not beat the base model by more than "
        f"{gate.min_accuracy_gain:.1%}: {compared}",
    )
