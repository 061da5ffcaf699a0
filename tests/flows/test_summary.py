"""The summary of a run: figures with their intervals, model beside model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows.summary import _figures
from schemas.figures import Estimate, Figure
from schemas.results import EvaluationReport, ModelFigures


def model(accuracy: float, version: str | None = None) -> ModelFigures:
    estimate = Estimate(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, n=68)
    return ModelFigures(version=version, figures={Figure.ACCURACY: estimate})


def printed(champion: ModelFigures | None, smallest: float | None) -> str:
    evaluation = EvaluationReport(
        path=Path("evaluation"),
        pairs=68,
        groups=66,
        base=model(0.5),
        candidate=model(0.625),
        champion=champion,
        comparisons=(),
        smallest_difference=smallest,
        generations=0,
    )
    result: Any = SimpleNamespace(evaluation=evaluation)
    console = Console(width=120, record=True)
    console.print(_figures(result))
    return console.export_text()


@pytest.mark.parametrize("champion", [None, model(0.6, "3")])
def test_figures_stand_beside_their_intervals(champion: ModelFigures | None) -> None:
    text = printed(champion, 0.063)
    title = " ".join(text.split("┏")[0].split())
    assert "68 held-out pairs in 66 prompt groups; a change of pair accuracy by less" in title
    assert "than 6.3 points would probably go unseen" in title
    assert "62.5% [52.5%, 72.5%]" in text
    assert ("60.0% [50.0%, 70.0%]" in text) is (champion is not None)
    (loss,) = (line for line in text.splitlines() if "ORPO loss" in line)
    assert "-" in loss.replace("ORPO loss", "")  # not estimated


def test_without_a_smallest_difference_none_is_claimed() -> None:
    assert "unseen" not in printed(None, None)
