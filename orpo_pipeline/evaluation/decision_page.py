"""The gate's decision on one page, for those who decide without reading statistics."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Template

from orpo_pipeline.pages.rendering import page_template
from schemas.figures import HEADLINES, SHARES, Figure, in_words
from schemas.gate_config import GateConfig
from schemas.gate_decision import GateCheck, GateDecision, Outcome, Verdict
from schemas.record import Record
from schemas.results import EvaluationReport

TITLES = {
    **HEADLINES,
    Figure.DRIFT_KL: "drift from the base model (nats a token)",
    Figure.DRIFT_NEUTRAL_NLL: "NLL of neutral text (nats a token)",
    Figure.ANSWER_TOKENS: "length of answers (tokens)",
    Figure.END_OF_TURN_RATE: "answers that come to an end",
    Figure.REFUSAL_RATE: "answers that refuse",
}
"""What a reader compares models by, in words."""

ROOM = 1.15
"""How much wider a chart is than what is drawn in it."""


class Subject(Record):
    """What a decision is about, by the names under which it is found again."""

    model_name: str
    version: str
    run_id: str
    dataset_id: str
    base_model: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One check as geometry, in per cent of the chart's width; right is better."""

    low: float
    value: float
    high: float
    zero: float
    bounds: tuple[float, ...]
    """Where the interval must not reach: one line, or one on each side."""


def render_decision(
    decision: GateDecision, report: EvaluationReport, gate: GateConfig, subject: Subject
) -> str:
    """The page. The same decision gives the same characters."""
    models = report.models
    figures = [figure for figure in TITLES if figure in report.candidate.figures]
    return _template().render(
        decision=decision,
        headline=headline(decision, subject),
        reasons=[explain_check(check, gate) for check in decisive_checks(decision)],
        subject=subject,
        report=report,
        gate=gate,
        bars=[draw_check(check, gate) for check in decision.checks],
        models=[_titled(name, report) for name in models],
        rows=[
            (TITLES[figure], [in_words(figure, m.figures.get(figure)) for m in models.values()])
            for figure in figures
        ],
        titles=TITLES,
        change=change,
    )


def headline(decision: GateDecision, subject: Subject) -> str:
    """The answer in one line."""
    version = f"version {subject.version}"
    in_use = f"version {decision.champion}" if decision.champion else "the base model"
    if decision.verdict is Verdict.PROMOTE:
        return f"{version.capitalize()} of {subject.model_name} is better than {in_use}."
    if decision.verdict is Verdict.INCONCLUSIVE:
        return f"Not enough evidence for {version} of {subject.model_name}: {in_use} stays."
    return f"{version.capitalize()} of {subject.model_name} is not promoted: {in_use} stays."


def decisive_checks(decision: GateDecision) -> list[GateCheck]:
    """What stands in the way of a promotion; when nothing does, the gain."""
    hindering = [check for check in decision.checks if check.outcome is not Outcome.PASSED]
    return hindering or [check for check in decision.checks if check.name == "gain"]


def explain_check(check: GateCheck, gate: GateConfig) -> str:
    """One check in a sentence without statistics' words."""
    title = TITLES.get(check.figure, check.figure.value)
    title, found = title[0].upper() + title[1:], check.found
    if found is None:
        return f"{title}: not measured, and what is not measured fails."
    on = f"{found.groups:,} {'new ' * (check.rows == 'new')}prompts"
    measured = (
        f"{title}: {change(check.figure, found.value)} on {on}, with 95 % confidence "
        f"between {change(check.figure, found.low)} and {change(check.figure, found.high)}"
    )
    if check.outcome is Outcome.PASSED:
        return f"{measured}."
    doubt = "That is not certain yet" if check.outcome is Outcome.UNDECIDED else "It is not"
    return f"{measured}. It must be {_required(check, gate)}. {doubt}."


def _required(check: GateCheck, gate: GateConfig) -> str:
    """What a check asks for, in the unit of what was found."""
    bound = change(check.figure, _bounds(check, gate)[-1])
    if check.figure.better == "neither":
        return f"within ±{bound.removeprefix('+')}"
    return f"more than {bound}" if check.figure.better == "higher" else f"less than {bound}"


def change(figure: Figure, value: float) -> str:
    """`+5.2 points` of a share, `-0.120` of anything else."""
    return f"{100 * value:+.1f} points" if figure in SHARES else f"{value:+.3f}"


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
        return (0.0 - worse * gate.min_gain,)  # without a minus before 0
    margin = gate.margin if check.name == "no loss" else gate.guardrails[check.figure]
    return (-margin, margin) if check.figure.better == "neither" else (worse * margin,)


def _titled(name: str, report: EvaluationReport) -> str:
    version = report.models[name].version
    titles = {"base": "base model", "candidate": "this version", "champion": "champion"}
    return f"{titles[name]} {version}" if name == "champion" and version else titles[name]


@cache
def _template() -> Template:
    return page_template(Path(__file__).parent / "templates", "decision.html.jinja")
