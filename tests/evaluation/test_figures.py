"""Figures render, say what they show, and cope with little data."""

import warnings
from collections.abc import Iterator

import polars as pl
import pytest
from pictures import size_of_png

from orpo_pipeline.evaluation.figures import data_funnel, margin_histogram


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """An empty legend or an impossible scale shows as a warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("margins", [[0.5], [0.5, 0.5], [-1.0, 0.0, 2.5]])
def test_margin_histogram(margins: list[float]) -> None:
    scores = pl.DataFrame(
        {"base_log_odds_margin": margins, "candidate_log_odds_margin": [m + 1 for m in margins]}
    )
    figure = margin_histogram(scores)
    assert size_of_png(figure) == (450, 225)
    (axes,) = figure.axes
    assert axes.get_title() == f"{len(margins)} held-out pairs, before and after training"
    assert axes.get_ylabel() == "held-out pairs"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["base model", "candidate"]
    # Every pair once for each model.
    assert sum(patch.get_height() for patch in axes.patches) == 2 * len(margins)


@pytest.mark.parametrize(
    "rows", [{"training": 1}, {"training": 1200, "evaluation": 130, "duplicates": 0, "too_long": 7}]
)
def test_data_funnel(rows: dict[str, int]) -> None:
    figure = data_funnel(rows)
    width, height = size_of_png(figure)
    assert width == 450
    assert height == pytest.approx((1.2 + 0.35 * len(rows)) * 50, abs=1)
    (axes,) = figure.axes
    assert axes.get_title() == f"{sum(rows.values()):,} rows in: what became of them"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rows)
    assert [patch.get_width() for patch in axes.patches] == list(rows.values())
    assert axes.get_xscale() == "symlog"
