"""May a candidate become the champion? A pure decision over measured differences.

Every requirement is a hypothesis that must be rejected, so what is missing, not finite or measured
on too little is never met. A candidate is promoted when all are met: with each tested at `alpha`,
one that truly misses any of them passes with at most that probability (Berger 1982).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orpo_pipeline.evaluation.hypotheses import (
    groups_needed,
    holm_adjusted,
    p_greater,
    p_less,
    turned,
)
from orpo_pipeline.evaluation.statistics.unit_figures import ANSWERS, DRIFT
from schemas.config import RunConfig
from schemas.figures import SHARES, Comparison, Difference, Figure
from schemas.gate_config import GateConfig
from schemas.gate_decision import GateCheck, GateDecision, Outcome, Verdict

JUDGED = (Figure.JUDGE_WIN_RATE, Figure.JUDGE_WIN_RATE_LENGTH_CONTROLLED)

ROUNDING = 1e-9
"""0.55 - 0.5 is more than 0.05 in floating point, and must not count as more."""


@dataclass(frozen=True)
class Requirement:
    """What a difference must be. Bounds are on the change for the better, whatever the figure."""

    name: Literal["gain", "no loss", "guardrail", "measured"]
    figure: Figure
    found: Difference | None
    """Candidate minus reference; None when it was not measured or is not finite."""
    more_than: float
    """For a figure without a better direction: it must not differ by as much as its negative."""
    missed_below: float
    """That the change is less than this, beyond doubt, speaks against the candidate."""
    rows: Literal["all", "new"] = "all"
    min_groups: int = 1

    @property
    def text(self) -> str:
        if self.name == "measured":
            return "measured"
        if self.figure.better == "neither":
            return f"within ±{-self.more_than:g}"
        if self.figure.better == "higher":
            return f"more than {self.more_than:+g}"
        return f"less than {0 - self.more_than:+g}"  # 0 - 0.0 has no sign, -0.0 has

    @property
    def sides(self) -> list[Difference]:
        """The changes for the better: both signs where neither direction is one."""
        if self.found is None:
            return []
        if self.figure.better == "neither":
            return [self.found, turned(self.found)]
        return [self.found if self.figure.better == "higher" else turned(self.found)]

    def p_value(self) -> float | None:
        """Of not being met; the larger of two one-sided tests where there are two sides."""
        rate = self.figure in SHARES
        return max(
            (p_greater(side, self.more_than + ROUNDING, rate) for side in self.sides), default=None
        )

    def is_missed(self, alpha: float) -> bool:
        """Whether it is beyond doubt that the change is not what it must be."""
        rate = self.figure in SHARES
        return any(p_less(side, self.missed_below, rate) <= alpha for side in self.sides)


def never_measured(config: RunConfig) -> list[Figure]:
    """Figures that the gate asks for and the configuration leaves out: nothing can be promoted."""
    left_out = {
        *(() if config.evaluation.drift_pairs else DRIFT),
        *(() if config.evaluation.generations else ANSWERS),
        *(() if config.evaluation.judge else JUDGED),
    }
    return [
        figure for figure in (config.gate.primary, *config.gate.guardrails) if figure in left_out
    ]


def decide(
    comparisons: Sequence[Comparison],
    gate: GateConfig,
    champion: str | None,
    evaluation_id: str,
    asked_for: Sequence[Figure] = (),
) -> GateDecision:
    """Hold the candidate against the champion, or against the base model where there is none.

    `champion` is the version that has the alias now. When the comparison was with another one
    (it was promoted meanwhile), nothing is decided in the candidate's favour. `asked_for` are
    figures that somebody wanted measured: one that is missing fails, whatever its value would be.
    """
    against = "base" if champion is None else "champion"
    compared = [c for c in comparisons if c.against == against and c.version == champion]
    checks: tuple[GateCheck, ...] = ()
    if compared:
        primary = [_check(r, r.p_value(), gate.alpha) for r in _on_primary(compared[0], gate)]
        missing = [f for f in asked_for if _finite(compared[0].differences.get(f)) is None]
        unmeasured = [Requirement("measured", figure, None, 0.0, 0.0) for figure in missing]
        checks = (
            *primary,
            *_check_guardrails(compared[0], gate),
            *(_check(requirement, None, gate.alpha) for requirement in unmeasured),
        )
    verdict, because = _conclude(checks, _name(champion))
    return GateDecision(
        verdict=verdict,
        because=because,
        champion=champion,
        evaluation_id=evaluation_id,
        checks=checks,
    )


def _on_primary(comparison: Comparison, gate: GateConfig) -> list[Requirement]:
    figure, groups = gate.primary, gate.min_groups
    everywhere = _finite(comparison.differences.get(figure))
    new = _finite(comparison.new_differences.get(figure))
    # Too few new rows decide nothing; a gain on all rows is then asked for instead.
    pairs = comparison.new_pairs or 0
    on_new = pairs >= groups and (new is None or new.groups >= groups)
    bound, relevant = gate.min_gain, gate.min_gain + gate.margin
    requirements = [
        Requirement("gain", figure, new, bound, relevant, "new", groups)
        if on_new
        else Requirement("gain", figure, everywhere, bound, relevant, "all", groups)
    ]
    if comparison.against == "champion":
        loss = Requirement(
            "no loss", figure, everywhere, -gate.margin, -gate.margin, min_groups=groups
        )
        requirements.append(loss)
    return requirements


def _check_guardrails(comparison: Comparison, gate: GateConfig) -> list[GateCheck]:
    requirements = [
        Requirement(
            "guardrail", figure, _finite(comparison.differences.get(figure)), -margin, -margin
        )
        for figure, margin in gate.guardrails.items()
    ]
    # What was not measured counts among the tests: without it the others would be easier.
    found = {r.figure: r.p_value() for r in requirements}
    adjusted = holm_adjusted({figure: 1.0 if p is None else p for figure, p in found.items()})
    return [
        _check(
            r,
            None if found[r.figure] is None else adjusted[r.figure],
            gate.alpha,
            len(requirements),
        )
        for r in requirements
    ]


def _finite(difference: Difference | None) -> Difference | None:
    if difference is None or not math.isfinite(difference.value + difference.standard_error):
        return None
    return difference


def _check(required: Requirement, p_value: float | None, alpha: float, tests: int = 1) -> GateCheck:
    """One of `tests` that Holm corrects for together: its own level is alpha / tests at least."""
    outcome, because = _judge(required, p_value, alpha, tests)
    return GateCheck(
        name=required.name,
        figure=required.figure,
        rows=required.rows,
        required=required.text,
        found=required.found,
        p_value=p_value,
        outcome=outcome,
        because=because,
    )


def _judge(
    required: Requirement, p_value: float | None, alpha: float, tests: int
) -> tuple[Outcome, str]:
    """The outcome, and the sentence that says it with its numbers."""
    found, name = required.found, required.figure.value
    if found is None or p_value is None:
        return Outcome.FAILED, f"{name} was not measured, or is not a finite number"
    on = f"{found.groups} prompt groups" + " of new rows" * (required.rows == "new")
    numbers = f"{name} {found.value:+.4g} [{found.low:+.4g}, {found.high:+.4g}] on {on}"
    wanted = f"it must be {required.text}"
    if found.groups < required.min_groups:
        few = f"{numbers}: {required.min_groups} groups are needed to tell anything"
        return Outcome.UNDECIDED, few
    if p_value <= alpha:
        return Outcome.PASSED, f"{numbers}: {required.text} (p = {p_value:.2g})"
    if required.is_missed(alpha):
        relevant = f"a gain of {required.missed_below:g}" if required.name == "gain" else "that"
        return Outcome.FAILED, f"{numbers}: {wanted}, and {relevant} is ruled out"
    return Outcome.UNDECIDED, f"{numbers}: {wanted}; {_what_would_decide(required, alpha / tests)}"


def _what_would_decide(required: Requirement, level: float) -> str:
    assert required.found is not None
    if required.found.standard_error == 0:
        return "nothing differed, and more prompts are needed to rule a change out"
    nearest = min(side.value for side in required.sides) - required.more_than
    # Beyond its bound a gain may still be relevant; of anything else it is to be told that it is.
    beyond = (required.missed_below - required.more_than) or -nearest
    needed = groups_needed(required.found, nearest if nearest > 0 else beyond, level)
    if needed is None:
        return "more prompts are needed to tell"
    return f"about {needed:,} prompt groups would tell"


def _conclude(checks: Sequence[GateCheck], reference: str) -> tuple[Verdict, str]:
    """The verdict, and why: the checks that stand in the way, else the gain."""
    if not checks:
        return Verdict.KEEP, (
            f"the evaluation has no comparison with {reference}; the same command measures anew"
        )
    for outcome, verdict, label in (
        (Outcome.FAILED, Verdict.KEEP, "not better than"),
        (Outcome.UNDECIDED, Verdict.INCONCLUSIVE, "not told from"),
    ):
        reasons = [check.because for check in checks if check.outcome is outcome]
        if reasons:
            return verdict, f"{label} {reference}: {'; '.join(reasons)}"
    guardrails = sum(check.name == "guardrail" for check in checks)
    return Verdict.PROMOTE, (
        f"better than {reference}: {checks[0].because}; all guardrails hold ({guardrails})"
    )


def _name(champion: str | None) -> str:
    return "the base model" if champion is None else f"champion {champion}"


def gate_rows(decision: GateDecision) -> list[tuple[str, ...]]:
    """One row a check: what, found, interval, on how much, required, p-value, outcome."""
    rows: list[tuple[str, ...]] = []
    for check in decision.checks:
        found = check.found
        numbers = ("not measured", "", "")
        if found is not None:
            interval = f"{found.low:+.4g} to {found.high:+.4g}"
            numbers = (f"{found.value:+.4g}", interval, f"{found.groups:,}")
        p_value = "" if check.p_value is None else f"{check.p_value:.2g}"
        name = f"{check.name}: {check.figure.value}" + " on new rows" * (check.rows == "new")
        rows.append((name, *numbers, check.required, p_value, check.outcome.value))
    return rows


GATE_COLUMNS = (
    *("requirement", "difference", "95 % interval", "prompt groups"),
    *("required", "p", "outcome"),
)


def gate_markdown(decision: GateDecision) -> str:
    """The verdict and its checks as a table."""
    lines = [f"**{decision.verdict.value}**: {decision.because}", ""]
    table = [GATE_COLUMNS, ("---",) * len(GATE_COLUMNS), *gate_rows(decision)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table)]) + "\n"
