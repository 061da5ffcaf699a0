"""Budgets: how many rows may be set aside before preparation stops and says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prepared import BROKEN, EMPTY, GOOD, answer, check_account, frame
from rows import pair_row

from orpo_pipeline.data.preparation import check_usable
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.pairs import DefectCode
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]
SIDES_CHANGED = [pair_row(200 + n, score_chosen=1, score_rejected=2) for n in range(3)]


@pytest.fixture
def use_rows(
    prepare_rows: Callable[..., PreparedData], tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> Prepare:
    """Prepare rows as a run does."""

    def use(rows: list[Any], **data: Any) -> PreparedData:
        prepared = prepare_rows(rows, **data)
        source = str(tmp_path / "rows.jsonl")
        check_usable(prepared, tiny_config(data={"source": source, **data}))
        return prepared

    return use


def test_too_many_quarantined_rows_fail_with_figures_and_examples(use_rows: Prepare) -> None:
    rows = [*GOOD, *[EMPTY] * 8, *["[]"] * 3]
    with pytest.raises(UserError) as raised:
        use_rows(rows)
    error = raised.value
    assert error.found == (
        "11 of 51 rows are quarantined (21.6%): empty_text 8, broken_row 3. "
        "For example empty_text at rows.jsonl:41 (chosen has a message without text); "
        "rows.jsonl:42 (chosen has a message without text); "
        "rows.jsonl:43 (chosen has a message without text)."
    )
    assert error.expected == "at most 20.0% (data.max_quarantined_share)."
    assert error.fix == "Correct the rows, or raise the limit if this share is meant."
    assert use_rows(rows, max_quarantined_share=11 / 51).rows_quarantined == 11
    with pytest.raises(UserError, match=r"11 of 51 rows are quarantined .* rows.jsonl:43 "):
        use_rows(rows)  # what is done already is held against the budget as well


def test_a_rule_has_a_budget_of_its_own(use_rows: Prepare) -> None:
    rows = [*GOOD, *SIDES_CHANGED]
    with pytest.raises(UserError) as raised:
        use_rows(rows)
    error = raised.value
    assert error.found.startswith("3 of 43 rows have the defect score_inverted (7.0%). For example")
    assert "rows.jsonl:41" in error.found
    assert error.expected == "at most 0.5% (data.max_rule_share)."
    assert "data.max_rule_share.score_inverted" in error.fix
    allowed = {DefectCode.SCORE_INVERTED: 0.07}
    assert use_rows(rows, max_rule_share=allowed).quarantined == {"score_inverted": 3}
    with pytest.raises(UserError, match=r"score_inverted \(7.0%\). For example .*rows.jsonl:43 "):
        use_rows(rows, max_rule_share={DefectCode.SCORE_INVERTED: 0.069})


def test_drops_are_outside_the_budget_but_not_outside_a_rule_s(use_rows: Prepare) -> None:
    ties = [pair_row(50 + n, score_chosen=2, score_rejected=2) for n in range(30)]
    long = [pair_row(100 + n, chosen=answer("word " * 200)) for n in range(10)]
    prepared = use_rows([*GOOD, *ties, *long, BROKEN], max_quarantined_share=1 / 81)
    assert prepared.quarantined == {"score_tie": 30, "too_long": 10, "broken_row": 1}
    with pytest.raises(UserError, match=r"30 of 81 rows have the defect score_tie"):
        use_rows([*GOOD, *ties, *long, BROKEN], max_rule_share={DefectCode.SCORE_TIE: 0.1})
    with pytest.raises(UserError, match=r"1 of 81 rows are quarantined \(1.2%\): broken_row 1\."):
        use_rows([*GOOD, *ties, *long, BROKEN], max_quarantined_share=0.01)


@pytest.mark.parametrize("rows", [[BROKEN, EMPTY], GOOD[:1]])
def test_an_empty_side_is_prepared_but_not_used(
    rows: list[Any], use_rows: Prepare, prepare_rows: Prepare
) -> None:
    with pytest.raises(UserError, match=r"Of \d rows in .*rows.jsonl [01] are usable") as raised:
        use_rows(rows, max_quarantined_share=1.0)
    assert raised.value.expected == "at least one usable pair on each side."
    prepared = prepare_rows(rows)
    assert prepared.reused
    assert prepared.train_pairs + prepared.eval_pairs == rows.count(GOOD[0])
    assert (prepared.longest_pair > 0) == (GOOD[0] in rows)
    check_account(prepared)
    assert frame(prepared, "train").schema == frame(prepared, "eval").schema
