"""Curves of a training: what is drawn, and the moving mean with its error by hand."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pictures import size_of_png

from orpo_pipeline.evaluation.curves import moving_mean, training_curves

NAMES = ("loss", "nll", "logp_chosen", "logp_rejected", "log_odds_margin", "pair_accuracy")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """An empty legend or a mean of nothing shows as a warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def points(count: int, group: str = "train") -> list[dict[str, Any]]:
    return [
        {"step": step, "values": {f"{group}/{name}": 1 / step for name in NAMES}}
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_training_curves(count: int) -> None:
    figure = training_curves(points(count))
    assert size_of_png(figure) == (550, 350)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "loss (nats)",
        "mean log-prob per token (nats)",
        "log-odds, chosen - rejected",
        "pair accuracy",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"optimizer step"}
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["logp_chosen", "logp_rejected"]
    mean = figure.axes[0].lines[0]
    assert list(mean.get_xdata()) == list(range(1, count + 1))
    assert len(figure.axes[0].collections) == 2  # a band for each of loss and nll


def test_a_single_point_can_be_seen() -> None:
    for axes in training_curves(points(1)).axes:
        assert {line.get_marker() for line in axes.lines} == {"o"}


def test_held_out_pairs_are_dots_at_their_steps() -> None:
    measured = [{"step": step, "values": {"eval/loss": float(step)}} for step in (5, 10)]
    figure = training_curves([*points(10), *measured])
    dots = figure.axes[0].lines[1]
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([5, 10], [5.0, 10.0])
    assert "held-out" in figure.get_suptitle()
    assert "held-out" not in training_curves(points(10)).get_suptitle()


def test_a_repeated_step_counts_with_its_last_value() -> None:
    repeated = [*points(2), {"step": 2, "values": {"train/loss": 9.0}}]
    assert list(training_curves(repeated).axes[0].lines[0].get_ydata()) == [1.0, 5.0]  # (1 + 9)/2


def test_moving_mean_by_hand() -> None:
    # Windows of 2 over 1, 1/2, 1/4: means 1, 3/4, 3/8.
    # Errors s / sqrt(2) with s = |difference| / sqrt(2): 0, 1/4, 1/8.
    mean, error = moving_mean(np.array([1, 0.5, 0.25]), 2)
    assert mean.tolist() == pytest.approx([1, 0.75, 0.375])
    assert error.tolist() == pytest.approx([0, 0.25, 0.125])


def test_moving_mean_with_a_window_of_one_is_the_values() -> None:
    mean, error = moving_mean(np.array([3.0, -1.0]), 1)
    assert mean.tolist() == [3.0, -1.0] and error.tolist() == [0, 0]


def test_the_band_holds_the_mean_of_noise() -> None:
    noise = np.random.default_rng(0).normal(2.0, 1.0, 1000)
    mean, error = moving_mean(noise, 100)
    assert math.isclose(error[-1], 0.1, rel_tol=0.2)  # sigma / sqrt(100)
    full = slice(99, None)
    assert np.mean(np.abs(mean[full] - 2.0) < 1.96 * error[full]) > 0.8


def test_curves_without_their_figures_are_empty() -> None:
    figure = training_curves([{"step": 1, "values": {"train/loss": 2.0}}])
    assert size_of_png(figure) == (550, 350)
    assert [len(axes.lines) for axes in figure.axes] == [1, 0, 0, 0]
    assert size_of_png(training_curves([])) == (550, 350)
