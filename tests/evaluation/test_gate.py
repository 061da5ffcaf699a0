"""The gate: what must hold, what is missing fails, what is unclear promotes nothing."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from orpo_pipeline.evaluation.gate import decide, gate_markdown, never_measured
from schemas.config import RunConfig
from schemas.figures import Comparison, Difference, Figure
from schemas.gate_config import GateConfig
from schemas.gate_decision import GateDecision, Outcome, Verdict

NLL, TOKENS, ENDS = Figure.CHOSEN_NLL, Figure.ANSWER_TOKENS, Figure.END_OF_TURN_RATE
GATE = GateConfig(primary=Figure.LOG_ODDS_MARGIN, alpha=0.05, guardrails={NLL: 0.1, TOKENS: 30})


def measured(value: float, error: float = 0.01, groups: int = 100) -> Difference:
    low, high = value - 2 * error, value + 2 * error
    return Difference(
        value=value, low=low, high=high, n=groups, groups=groups, standard_error=error
    )


GOOD = {GATE.primary: measured(0.3), NLL: measured(0.0), TOKENS: measured(2.0, error=1.0)}


def against_base(**changes: Difference | None) -> Comparison:
    """A good candidate, but for figures given by the name of their enum member."""
    found = {**GOOD, **{Figure[name]: value for name, value in changes.items()}}
    kept = {figure: value for figure, value in found.items() if value is not None}
    return Comparison(against="base", differences=kept)


def against_champion(**fields: Any) -> Comparison:
    return Comparison(against="champion", version="3", **{"differences": GOOD, **fields})


def outcomes(decision: GateDecision) -> list[str]:
    return [check.outcome.value for check in decision.checks]


def first(comparison: Comparison, gate: GateConfig = GATE) -> GateDecision:
    return decide([comparison], gate, champion=None, evaluation_id="e")


def test_a_first_version_that_beats_the_base_model() -> None:
    decision = first(against_base())
    assert decision.verdict is Verdict.PROMOTE
    assert [check.name for check in decision.checks] == ["gain", "guardrail", "guardrail"]
    assert "better than the base model: pairs/log_odds_margin +0.3" in decision.because
    assert "all guardrails hold (2)" in decision.because


@pytest.mark.parametrize(
    ("gain", "error", "verdict"),
    [
        (0.3, 0.01, Verdict.PROMOTE),
        # One error from 0: t = 1 with 99 degrees of freedom, p = 0.16.
        (0.1, 0.1, Verdict.INCONCLUSIVE),
        (0.0, 0.1, Verdict.INCONCLUSIVE),
        # margin 0.02 is 4 errors away: a gain that matters is ruled out.
        (0.0, 0.005, Verdict.KEEP),
        (-0.3, 0.01, Verdict.KEEP),
    ],
)
def test_the_gain_must_be_beyond_doubt(gain: float, error: float, verdict: Verdict) -> None:
    assert first(against_base(LOG_ODDS_MARGIN=measured(gain, error))).verdict is verdict


def test_more_than_the_gain_is_more() -> None:
    exact = against_base(LOG_ODDS_MARGIN=measured(0.5, 1e-12))
    assert first(exact, GATE.model_copy(update={"min_gain": 0.5})).verdict is not Verdict.PROMOTE
    assert first(exact, GATE.model_copy(update={"min_gain": 0.4999})).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("figure", ["LOG_ODDS_MARGIN", "CHOSEN_NLL", "ANSWER_TOKENS"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_figure_that_is_missing_or_not_finite_fails(figure: str, value: float | None) -> None:
    broken = None if value is None else measured(value)
    decision = first(against_base(**{figure: broken}))
    assert decision.verdict is Verdict.KEEP
    assert f"{Figure[figure].value} was not measured, or is not a finite number" in decision.because


def test_an_error_that_is_not_finite_fails() -> None:
    assert first(against_base(CHOSEN_NLL=measured(0.0, math.nan))).verdict is Verdict.KEEP


@pytest.mark.parametrize(
    ("figure", "value", "outcome"),
    [
        ("CHOSEN_NLL", 0.5, Outcome.FAILED),
        ("CHOSEN_NLL", -0.5, Outcome.PASSED),  # lower is better
        ("CHOSEN_NLL", 0.095, Outcome.UNDECIDED),
        ("ANSWER_TOKENS", 50.0, Outcome.FAILED),  # neither direction is better
        ("ANSWER_TOKENS", -50.0, Outcome.FAILED),
        ("ANSWER_TOKENS", -29.99, Outcome.UNDECIDED),
    ],
)
def test_guardrails_in_their_direction(figure: str, value: float, outcome: Outcome) -> None:
    decision = first(against_base(**{figure: measured(value)}))
    (check,) = [c for c in decision.checks if c.figure is Figure[figure]]
    assert check.outcome is outcome
    assert (decision.verdict is Verdict.PROMOTE) is (outcome is Outcome.PASSED)


def test_a_judge_that_was_asked_and_failed_promotes_nothing() -> None:
    asked = (Figure.JUDGE_WIN_RATE,)
    failed = decide([against_base()], GATE, None, "e", asked)
    assert failed.verdict is Verdict.KEEP
    assert "judge/win_rate was not measured" in failed.because
    judged = against_base(JUDGE_WIN_RATE=measured(-0.1))
    assert decide([judged], GATE, None, "e", asked).verdict is Verdict.PROMOTE


def test_guardrails_are_held_to_holm() -> None:
    # t = 1.9 with 99 degrees of freedom: p = 0.030; alone it passes, as the smaller of two equal
    # ones it is doubled to 0.060.
    near = measured(0.1 - 0.019)
    assert first(against_base(CHOSEN_NLL=near)).verdict is Verdict.PROMOTE
    both = against_base(CHOSEN_NLL=near, DRIFT_KL=near)
    gate = GATE.model_copy(update={"guardrails": {NLL: 0.1, Figure.DRIFT_KL: 0.1}})
    decision = first(both, gate)
    assert outcomes(decision) == ["passed", "undecided", "undecided"]
    assert decision.checks[1].p_value == pytest.approx(0.0604, abs=5e-4)


def test_few_answers_decide_nothing_about_a_rate() -> None:
    few = against_base(END_OF_TURN_RATE=measured(0.0, 0.0, groups=4))
    gate = GATE.model_copy(update={"guardrails": {ENDS: 0.15}})
    decision = first(few, gate)
    assert decision.verdict is Verdict.INCONCLUSIVE  # 0.85^4 = 0.52
    assert "more prompts are needed" in decision.because
    many = against_base(END_OF_TURN_RATE=measured(0.0, 0.0, groups=19))
    assert first(many, gate).verdict is Verdict.PROMOTE  # 0.85^19 = 0.0456


def test_three_rows_are_too_few() -> None:
    decision = first(against_base(LOG_ODDS_MARGIN=measured(0.3, 0.001, groups=3)))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "on 3 prompt groups: 30 groups are needed" in decision.because


def test_all_ties_are_told_from_nothing() -> None:
    decision = first(against_base(LOG_ODDS_MARGIN=measured(0.0, 0.0)))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "nothing differed" in decision.because


def test_what_would_decide_is_said() -> None:
    # Distance 0.1 of error 0.1: 100 * 6.1826 = 618.3 groups.
    decision = first(against_base(LOG_ODDS_MARGIN=measured(0.1, 0.1)))
    assert "about 619 prompt groups would tell" in decision.because


def test_what_would_decide_a_guardrail_counts_holm_s_correction() -> None:
    # 0.05 from its margin, of error 0.05, at 0.05 / 2: 100 * (1.95996 + 0.84162)^2 = 784.9 groups.
    decision = first(against_base(CHOSEN_NLL=measured(0.05, 0.05)))
    assert "about 785 prompt groups would tell" in decision.because


def test_beyond_a_margin_but_not_beyond_doubt_it_is_not_said_that_nothing_differed() -> None:
    # 0.15 is 0.05 beyond the margin of 0.1, t = 0.5.
    decision = first(against_base(CHOSEN_NLL=measured(0.15, 0.1)))
    assert decision.verdict is Verdict.INCONCLUSIVE
    # 100 * (2.80158 * 0.1 / 0.05)^2 = 3139.6
    assert "about 3,140 prompt groups would tell" in decision.because


def test_a_champion_must_be_beaten_on_its_new_rows_and_matched_on_all() -> None:
    better = {GATE.primary: measured(0.3, groups=40)}
    decision = decide(
        [against_base(), against_champion(new_pairs=40, new_differences=better)], GATE, "3", "e"
    )
    assert decision.verdict is Verdict.PROMOTE and decision.champion == "3"
    checks = [(c.name, c.rows, c.required) for c in decision.checks[:2]]
    assert checks == [("gain", "new", "more than +0"), ("no loss", "all", "more than -0.02")]
    no_better = {GATE.primary: measured(0.0, 0.05, groups=40)}
    kept = decide([against_champion(new_pairs=40, new_differences=no_better)], GATE, "3", "e")
    assert outcomes(kept)[:2] == ["undecided", "passed"]
    forgets = {**GOOD, GATE.primary: measured(-0.1)}
    lost = against_champion(differences=forgets, new_pairs=40, new_differences=better)
    assert outcomes(decide([lost], GATE, "3", "e"))[:2] == ["passed", "failed"]


@pytest.mark.parametrize("new", [None, 0, 29])
def test_without_enough_new_rows_it_must_be_better_on_all(new: int | None) -> None:
    few = {GATE.primary: measured(-5.0, groups=new)} if new else {}
    decision = decide([against_champion(new_pairs=new, new_differences=few)], GATE, "3", "e")
    assert decision.verdict is Verdict.PROMOTE
    assert decision.checks[0].rows == "all"


def test_a_single_new_row_of_which_nothing_can_be_estimated_is_too_few_as_well() -> None:
    decision = decide([against_champion(new_pairs=1)], GATE, "3", "e")
    assert decision.verdict is Verdict.PROMOTE and decision.checks[0].rows == "all"


def test_what_a_configuration_leaves_out_is_known_before_it_runs() -> None:
    def missing(**sections: Any) -> list[str]:
        return [f.value for f in never_measured(RunConfig.model_validate(sections))]

    assert missing() == []
    assert missing(evaluation={"drift_pairs": 0}) == ["drift/kl"]
    answers = ["generation/tokens", "generation/end_of_turn_rate", "generation/refusal_rate"]
    assert missing(evaluation={"generations": 0}) == answers
    assert missing(gate={"primary": "judge/win_rate"}) == ["judge/win_rate"]
    only_nll = {"guardrails": {"pairs/chosen_nll": 0.1}}
    assert missing(evaluation={"generations": 0, "drift_pairs": 0}, gate=only_nll) == []


def test_a_requirement_of_zero_has_no_minus() -> None:
    gate = GATE.model_copy(update={"primary": NLL, "min_gain": 0.0})
    assert first(against_base(), gate).checks[0].required == "less than +0"


def test_new_rows_that_were_not_measured_fail() -> None:
    decision = decide([against_champion(new_pairs=40)], GATE, "3", "e")
    assert decision.verdict is Verdict.KEEP
    assert decision.checks[0].rows == "new" and decision.checks[0].outcome is Outcome.FAILED


@pytest.mark.parametrize("champion", ["4", None])
def test_a_comparison_with_another_champion_decides_nothing(champion: str | None) -> None:
    decision = decide([against_champion()], GATE, champion, "e")
    assert decision.verdict is Verdict.KEEP and decision.checks == ()
    assert "no comparison with" in decision.because


def test_the_table_has_every_check() -> None:
    text = gate_markdown(first(against_base(CHOSEN_NLL=None)))
    assert "**keep**" in text
    assert (
        "| guardrail: pairs/chosen_nll | not measured |  |  | less than +0.1 |  | failed |" in text
    )
    assert "| gain: pairs/log_odds_margin | +0.3 | +0.28 to +0.32 | 100 | more than +0 |" in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"primary": "generation/tokens"}, "no better direction"),
        ({"guardrails": {"generation/refusal_rate": 1.0}}, "must be below 1"),
        ({"guardrails": {"pairs/chosen_nll": math.inf}}, "finite"),
        ({"min_gain": math.nan}, "finite"),
    ],
)
def test_a_gate_that_could_not_fail_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GateConfig.model_validate(fields)
