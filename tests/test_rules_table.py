"""docs/rules.md says how many tests name each code, and docs/rules.py counts them rightly."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.pairs import DefectCode

SAMPLE = """
BEFORE = DefectCode.HELD_OUT_BEFORE.value
CASES = {DefectCode.SECRET: 1, "secret": 2, DefectCode.BROKEN_ROW: 3}

def test_once():
    assert removed == {1: "score_tie", 2: "score_tie", 3: BEFORE}

@pytest.mark.parametrize("row", [1, 2])
def test_once_for_all_cases(row):
    assert found(row) is DefectCode.SCORE_TIE

@pytest.mark.parametrize("code", CASES)
def test_each_case(code):
    assert "secret" in found(code)

@pytest.mark.parametrize(("row", "code"), [(1, DefectCode.SECRET), (2, "a secret")])
def test_some_cases(row, code):
    prepare(row, too_long="drop", chat={"too_long": "drop"})

def helper():
    return DefectCode.TOO_LONG
"""


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[1] / "docs" / "rules.py"))


def test_the_table_of_tests_is_up_to_date(script: dict[str, Any]) -> None:
    table: Callable[[], str] = script["table"]
    written = script["PAGE"].read_text(encoding="utf-8").partition(script["BEGIN"])[2]
    assert written.strip() == table().strip(), "run `python docs/rules.py`"


def test_tests_are_counted_by_the_codes_that_they_name(
    script: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    assert script["count_tests"](tmp_path.iterdir()) == {
        DefectCode.SCORE_TIE: 2,
        DefectCode.HELD_OUT_BEFORE: 1,
        DefectCode.SECRET: 3,
        DefectCode.BROKEN_ROW: 1,
    }
