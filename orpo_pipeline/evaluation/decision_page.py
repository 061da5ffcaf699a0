"""The gate's decision on one page, for those who decide without reading statistics."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Template

from orpo_pipeline.pages.rendering import page_template
from schemas.figures import Figure, in_words
from schemas.gate_config import GateConfig
from schemas.gate_decision import GateCheck, GateDecision, Outcome, Verdict
from schemas.record import Record
from schemas.results import EvaluationReport

HEADLINES = (
    Figure.ACCURACY,
    Figure.ACCURACY_LENGTH_CONTROLLED,
    Figure.LOG_ODDS_MARGIN,
    Figure.CHOSEN_NLL,
    Figure.DRIFT_KL,
    Figure.DRIFT_NEUTRAL_NLL,
    Figure.ANSWER_TOKENS,
    Figure.END_OF_TURN_RATE,
    Figure.REFUSAL_RATE,
)
ROOM = 1.15
"""How much wider a chart is than what is drawn in it."""

QUESTIONS = {
    "gain": "Is it better?",
    "no loss": "Is nothing lost?",
    "guardrail": "Does it still behave?",
}


class Evidence(Record):
    """What a decision is about, by the names under which it is found again."""

    model_name: str
    version: str
    run_id: str
    dataset_id: str
    base_model: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One check as geometry, in per cent of the chart's width; right is better."""

    check: GateCheck
    question: str
    low: float
    value: float
    high: float
    zero: float
    bounds: tuple[float, ...]
    """Where the interval must not reach: one line, or one on each side."""


def render_decision(
    decision: GateDecision, report: EvaluationReport, gate: GateConfig, evidence: Evidence
) -> str:
    """The page. The same decision gives the same characters."""
    models = report.models
    figures = [figure for figure in HEADLINES if figure in report.candidate.figures]
    return _template().render(
        decision=decision,
        headline=headline(decision, evidence),
        evidence=evidence,
        report=report,
        gate=gate,
        bars=[draw_check(check, gate) for check in decision.checks],
        models=[_titled(name, report) for name in models],
        rows=[
            (figure, [in_words(figure, model.figures.get(figure)) for model in models.values()])
            for figure in figures
        ],
        outcomes={outcome.name.lower(): outcome for outcome in Outcome},
    )


def headline(decision: GateDecision, evidence: Evidence) -> str:
    """The answer in one line."""
    version = f"version {evidence.version}"
    in_use = f"version {decision.champion}" if decision.champion else "the base model"
    if decision.verdict is Verdict.PROMOTE:
        return f"{version.capitalize()} of {evidence.model_name} is better than {in_use}."
    if decision.verdict is Verdict.INCONCLUSIVE:
        return f"Not enough evidence for {version} of {evidence.model_name}: {in_use} stays."
    return f"{version.capitalize()} of {evidence.model_name} is not promoted: {in_use} stays."


def draw_check(check: GateCheck, gate: GateConfig) -> Bar | None:
    """The check's interval and bounds on an axis of its own; None when nothing was measured."""
    if check.found is None:
        return None
    found, bounds = check.found, _bounds(check, gate)
    sign = -1 if check.figure.better == "lower" else 1
    span = ROOM * max(abs(place) for place in (found.low, found.high, *bounds)) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * sign * value / span, 3)

    low, high = sorted((place(found.low), place(found.high)))
    return Bar(
        check=check,
        question=QUESTIONS[check.name],
        low=low,
        value=place(found.value),
        high=high,
        zero=place(0),
        bounds=tuple(place(bound) for bound in bounds),
    )


def _bounds(check: GateCheck, gate: GateConfig) -> tuple[float, ...]:
    """In the figure's own unit."""
    worse = 1 if check.figure.better == "lower" else -1
    if check.name == "gain":
        return (-worse * gate.min_gain,)
    margin = gate.margin if check.name == "no loss" else gate.guardrails[check.figure]
    return (-margin, margin) if check.figure.better == "neither" else (worse * margin,)


def _titled(name: str, report: EvaluationReport) -> str:
    version = report.models[name].version
    titles = {"base": "base model", "candidate": "this version", "champion": "champion"}
    return f"{titles[name]} {version}" if name == "champion" and version else titles[name]


@cache
def _template() -> Template:
    return page_template(Path(__file__).parent / "templates", "decision.html.jinja")
