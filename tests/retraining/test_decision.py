"""Every way to a training, and the sentences that say why."""

from datetime import timedelta

import pytest
from seen import frame, seen, watermark

from orpo_pipeline.retraining.decision import decide_retraining
from orpo_pipeline.retraining.watermark import Watermark
from schemas.retraining import RetrainingDecision, RetrainingVerdict
from schemas.retraining_config import RetrainingConfig

KNOWN = [seen(f"k{i}", i, prompt_tokens=10 + i % 5) for i in range(100)]
LAST = watermark(KNOWN)


def new(count: int, **other: object) -> list[dict[str, object]]:
    """New rows like the known ones."""
    return [seen(f"n{i}", 100 + i, **{"prompt_tokens": 10 + i % 5, **other}) for i in range(count)]


def decide(
    rows: list[dict[str, object]],
    last: Watermark | None = LAST,
    days: float | None = 3,
    forced: bool = False,
    dataset_id: str = "new",
) -> RetrainingDecision:
    config = RetrainingConfig(min_new_rows=40, max_age_days=30)
    age = timedelta(days=days) if days is not None else None
    return decide_retraining(frame(rows), dataset_id, last, config, age, forced)


def test_too_few_new_rows_are_skipped_with_every_number() -> None:
    decision = decide(KNOWN + new(35))
    assert decision.verdict is RetrainingVerdict.SKIPPED and not decision.verdict.trains
    assert decision.because == (
        "skipped: 35 new rows < 40, 3.0 days old < 30, prompt length 0.00 < 0.1, "
        "source mix 0.00 < 0.2, acceptance 0.00 < 0.1"
    )
    assert (decision.new_rows, decision.age_days, decision.last) == (35, 3.0, LAST.trained)
    assert [(c.added, c.changed, c.removed) for c in decision.changes] == [(35, 0, 0)]


@pytest.mark.parametrize(
    ("count", "verdict"), [(39, RetrainingVerdict.SKIPPED), (40, RetrainingVerdict.NEW_ROWS)]
)
def test_enough_new_rows_train(count: int, verdict: RetrainingVerdict) -> None:
    assert decide(KNOWN + new(count)).verdict is verdict


def test_the_sentence_of_new_rows() -> None:
    assert decide(KNOWN + new(45)).because == "trains: 45 new rows >= 40"


def test_rows_that_are_not_accepted_are_not_counted() -> None:
    decision = decide(KNOWN + new(3) + [seen(f"x{i}", accepted=False) for i in range(60)])
    assert decision.new_rows == 3


def test_longer_prompts_are_a_drift() -> None:
    decision = decide(KNOWN + new(20, prompt_tokens=500))
    assert decision.verdict is RetrainingVerdict.DRIFT
    assert decision.because == "trains: drift, prompt length 1.00 >= 0.1 (20 new rows < 40)"


def test_another_source_is_a_drift_and_so_are_refused_rows() -> None:
    assert decide(KNOWN + new(20, label="forum")).because.startswith("trains: drift, source mix ")
    refused = [seen(f"x{i}", accepted=False, prompt_tokens=None) for i in range(20)]
    assert decide(KNOWN + refused).because.startswith("trains: drift, acceptance 1.00 >= 0.1")


def test_a_difference_that_may_be_chance_is_said_and_does_not_train() -> None:
    # One row of 14 tokens among 10 to 14: 4/5 of the known ones are shorter, as for one row in 5.
    decision = decide(KNOWN + new(1, prompt_tokens=14))
    assert decision.verdict is RetrainingVerdict.SKIPPED
    assert "prompt length 0.80 >= 0.1 but by chance in " in decision.because


def test_age_trains_when_anything_has_changed() -> None:
    decision = decide(KNOWN[1:], days=30)
    assert decision.verdict is RetrainingVerdict.AGE
    assert decision.because == (
        "trains: 30.0 days old >= 30, and the data has changed (0 new rows < 40)"
    )
    assert decide(KNOWN[1:], days=29.9).verdict is RetrainingVerdict.SKIPPED


def test_the_same_data_is_never_trained_on_again_unless_forced() -> None:
    decision = decide(KNOWN, days=300, dataset_id="old")
    assert decision.because == "skipped: the data is that of version 1"
    assert decide(KNOWN, forced=True, dataset_id="old").verdict is RetrainingVerdict.FORCED


def test_the_first_training_needs_no_number() -> None:
    decision = decide(new(3), last=None, days=None)
    assert decision.verdict is RetrainingVerdict.FIRST
    assert decision.because == "trains: the first time, on 3 accepted rows"
    assert (decision.drift, decision.age_days, decision.last) == ((), None, None)


def test_a_clock_that_was_put_back_makes_no_negative_age() -> None:
    assert decide(KNOWN + new(1), days=-2).age_days == 0
