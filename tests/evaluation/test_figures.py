"""Figures render, say what they show, and cope with little data."""

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from matplotlib.figure import Figure

from orpo_pipeline.evaluation.figures import data_funnel, margin_histogram, training_curves


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """An empty legend or an impossible scale shows as a warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def size_of_png(figure: Figure) -> tuple[int, int]:
    """Pixels, read back from the rendered file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    data = buffer.getvalue()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def points(count: int) -> list[dict[str, Any]]:
    names = ("loss", "nll", "logp_chosen", "logp_rejected", "log_odds_margin", "pair_accuracy")
    return [
        {"step": step, "values": {f"train/{name}": 1 / step for name in names}}
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_training_curves(count: int) -> None:
    figure = training_curves(points(count))
    assert size_of_png(figure) == (550, 350)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [
        "loss (nats)",
        "mean log-prob per token (nats)",
        "log-odds, chosen - rejected",
        "pair accuracy",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"optimizer step"}
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["logp_chosen", "logp_rejected"]
    raw = figure.axes[0].lines[0]
    assert list(raw.get_xdata()) == list(range(1, count + 1))


def test_a_single_point_can_be_seen() -> None:
    figure = training_curves(points(1))
    for axes in figure.axes:
        assert {line.get_marker() for line in axes.lines} == {"o"}


def test_the_moving_mean_by_hand() -> None:
    # 20 points: the mean of the last 2. Values 1, 1/2, 1/3: 1, 0.75, 0.41667.
    mean = training_curves(points(20)).axes[0].lines[1]
    assert list(mean.get_ydata())[:3] == pytest.approx([1, 0.75, 0.4166667])


def test_curves_without_their_figures_are_empty() -> None:
    figure = training_curves([{"step": 1, "values": {"train/loss": 2.0}}])
    assert size_of_png(figure) == (550, 350)
    assert [len(axes.lines) for axes in figure.axes] == [2, 0, 0, 0]
    assert size_of_png(training_curves([])) == (550, 350)


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
