"""The gate's decision as a page: the answer in words, each check as geometry, nothing foreign."""

import re
from pathlib import Path

import pytest
from html_page import Page

from orpo_pipeline.evaluation.decision_page import (
    Subject,
    draw_check,
    explain_check,
    render_decision,
)
from orpo_pipeline.evaluation.gate import decide
from schemas.figures import Comparison, Difference, Estimate, Figure
from schemas.gate_config import GateConfig
from schemas.gate_decision import GateDecision, Verdict
from schemas.results import EvaluationReport, ModelFigures

SUBJECT = Subject(
    model_name="orpo-chat",
    version="7",
    run_id="run",
    dataset_id="data",
    base_model="<script>alert(1)</script>",
)
GATE = GateConfig(guardrails={Figure.CHOSEN_NLL: 0.1, Figure.ANSWER_TOKENS: 32.0})


def difference(value: float, error: float) -> Difference:
    low, high = value - 2 * error, value + 2 * error
    return Difference(value=value, low=low, high=high, n=400, groups=400, standard_error=error)


def report(differences: dict[Figure, Difference], alarms: tuple[str, ...] = ()) -> EvaluationReport:
    def model(accuracy: float, version: str | None = None) -> ModelFigures:
        estimate = Estimate(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05, n=400)
        return ModelFigures(version=version, figures={Figure.ACCURACY: estimate})

    return EvaluationReport(
        path=Path("evaluations/e1"),
        pairs=400,
        groups=400,
        base=model(0.6),
        candidate=model(0.7),
        champion=model(0.65, "5"),
        comparisons=(Comparison(against="champion", version="5", differences=differences),),
        smallest_difference=0.031,
        alarms=alarms,
        generations=8,
    )


BETTER = {
    Figure.ACCURACY: difference(0.05, 0.01),
    Figure.CHOSEN_NLL: difference(-0.1, 0.01),
    Figure.ANSWER_TOKENS: difference(4.0, 2.0),
}
UNCLEAR = {**BETTER, Figure.ACCURACY: difference(0.005, 0.01)}
WORSE = {**BETTER, Figure.CHOSEN_NLL: difference(0.3, 0.01)}
MISSING = {figure: BETTER[figure] for figure in (Figure.ACCURACY, Figure.ANSWER_TOKENS)}


def decision_on(differences: dict[Figure, Difference]) -> GateDecision:
    return decide(report(differences).comparisons, GATE, "5", "e1")


@pytest.mark.parametrize(
    ("differences", "verdict", "headline"),
    [
        (BETTER, Verdict.PROMOTE, "Version 7 of orpo-chat is better than version 5."),
        (UNCLEAR, Verdict.INCONCLUSIVE, "Not enough evidence for version 7 of orpo-chat"),
        (WORSE, Verdict.KEEP, "Version 7 of orpo-chat is not promoted: version 5 stays."),
        (MISSING, Verdict.KEEP, "Version 7 of orpo-chat is not promoted: version 5 stays."),
    ],
)
def test_the_answer_comes_first(
    differences: dict[Figure, Difference], verdict: Verdict, headline: str
) -> None:
    decision = decision_on(differences)
    assert decision.verdict is verdict
    page = Page(render_decision(decision, report(differences), GATE, SUBJECT))
    assert headline in page.texts["header"][0]
    assert page.unclosed == []


def test_what_stands_in_the_way_is_said_in_words() -> None:
    decision = decision_on({**WORSE, Figure.ANSWER_TOKENS: difference(float("nan"), 1.0)})
    (header,) = Page(render_decision(decision, report(WORSE), GATE, SUBJECT)).texts["header"]
    assert "NLL of chosen (nats a token): +0.300 on 400 prompts" in header
    assert "Length of answers (tokens): not measured" in header
    assert "Pair accuracy:" not in header  # it passed


def test_a_gain_in_words() -> None:
    sentence = explain_check(decision_on(BETTER).checks[0], GATE)
    assert sentence == (
        "Pair accuracy: +5.0 points on 400 prompts, with 95 % confidence between +3.0 points and "
        "+7.0 points."
    )


def test_what_is_required_has_the_unit_of_what_was_found() -> None:
    unclear = explain_check(decision_on(UNCLEAR).checks[0], GATE)
    assert unclear.startswith("Pair accuracy: +0.5 points on 400 prompts")
    assert "It must be more than +0.0 points. That is not certain yet." in unclear
    gate = GateConfig(primary=Figure.CHOSEN_NLL, guardrails={Figure.ANSWER_TOKENS: 1.0})
    checks = decide(report(WORSE).comparisons, gate, "5", "e1").checks
    sentences = [explain_check(check, gate) for check in checks]
    assert "It must be less than +0.000. It is not." in sentences[0]  # the gain
    assert "It must be less than +0.020. It is not." in sentences[1]  # no loss
    assert "It must be within ±1.000. That is not certain yet." in sentences[2]


def test_a_check_as_geometry_by_hand() -> None:
    # NLL, lower is better: turned. The largest of |-0.12|, |-0.08| and the bound 0.1 is 0.12, so
    # the half width is 1.15 * 0.12 = 0.138. Value -0.1: 50 + 50 * 0.1 / 0.138 = 86.232.
    # The bound +0.1 (worse): 50 - 36.232 = 13.768.
    checks = {check.figure: check for check in decision_on(BETTER).checks}
    bar = draw_check(checks[Figure.CHOSEN_NLL], GATE)
    assert bar is not None
    assert (bar.value, bar.zero, bar.bounds) == (86.232, 50.0, (13.768,))
    assert (bar.low, bar.high) == pytest.approx((78.986, 93.478), abs=1e-3)
    both = draw_check(checks[Figure.ANSWER_TOKENS], GATE)
    assert both is not None and len(both.bounds) == 2


def test_a_check_without_a_number_has_no_bar() -> None:
    (missing,) = [c for c in decision_on(MISSING).checks if c.figure is Figure.CHOSEN_NLL]
    assert draw_check(missing, GATE) is None


def test_every_check_stands_on_the_page_with_its_outcome() -> None:
    page = Page(render_decision(decision_on(MISSING), report(MISSING), GATE, SUBJECT))
    table = page.texts["table"][-1]
    assert "pairs/chosen_nll" in table and "not measured" in table
    assert len(re.findall("passed", table)) == 3  # the gain, no loss, the length


def test_nothing_foreign_runs() -> None:
    alarm = "<img src=x onerror=alert(2)>\u202e"
    html = render_decision(decision_on(BETTER), report(BETTER, (alarm,)), GATE, SUBJECT)
    page = Page(html)
    assert "script" not in page.texts and "img" not in page.texts
    assert "<script>alert(1)</script>" in page.texts["body"][0]
    assert "[U+202E]" in page.texts["body"][0]
    assert "default-src 'none'" in html


def test_the_same_decision_gives_the_same_page() -> None:
    decision = decision_on(BETTER)
    pages = {render_decision(decision, report(BETTER), GATE, SUBJECT) for _ in range(2)}
    assert len(pages) == 1
