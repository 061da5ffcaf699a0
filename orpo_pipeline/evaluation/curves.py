"""The curves of a training, as papers on preference training draw them.

Each optimizer step is a point of its own pairs, so what people read is the moving mean, in a band
of its 95 % interval; held-out pairs, measured now and then, are the dots.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

BASE, CANDIDATE = "#8a8f98", "#1f6feb"
CHOSEN, REJECTED = "#1a7f37", "#cf222e"
INTERVAL = 1.96  # standard errors on each side: 95 % of a normal distribution
WINDOWS = 10  # moving means in a training, end to end
FEWEST = 4  # steps of a moving mean

Points = Sequence[Mapping[str, Any]]


def training_curves(points: Points) -> Figure:
    """Loss, log-probs, odds margin and pair accuracy over the optimizer steps."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    (loss, sides), (margin, accuracy) = figure.subplots(2, 2)
    _draw(loss, points, {"loss": CANDIDATE, "nll": BASE}, "loss (nats)")
    colours = {"logp_chosen": CHOSEN, "logp_rejected": REJECTED}
    _draw(sides, points, colours, "mean log-prob per token (nats)")
    _draw(margin, points, {"log_odds_margin": CANDIDATE}, "log-odds, chosen - rejected")
    _draw(accuracy, points, {"pair_accuracy": CANDIDATE}, "pair accuracy")
    accuracy.set_ylim(0, 1.02)
    held_out = any(name.startswith("eval/") for point in points for name in point["values"])
    dots = "; dots: held-out pairs" if held_out else ""
    figure.suptitle(f"Training: moving mean over the steps, with its 95 % interval{dots}")
    return figure


def _draw(axes: Axes, points: Points, colours: dict[str, str], label: str) -> None:
    for name, colour in colours.items():
        _draw_training(axes, *_curve(points, f"train/{name}"), name, colour)
        steps, values = _curve(points, f"eval/{name}")
        if steps.size:
            axes.plot(steps, values, "o", color=colour, markersize=5, markeredgecolor="white")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)


def _draw_training(
    axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, colour: str
) -> None:
    if not steps.size:
        return
    mean, error = moving_mean(values, max(values.size // WINDOWS, FEWEST))
    # A line through a single point would be invisible.
    marker = "o" if steps.size == 1 else None
    axes.plot(steps, mean, color=colour, linewidth=2, label=name, marker=marker)
    low, high = mean - INTERVAL * error, mean + INTERVAL * error
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def _curve(points: Points, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (N,) and values (N,) of one figure; a repeated step counts with its last value."""
    known = {p["step"]: p["values"][name] for p in points if name in p["values"]}
    steps = sorted(known)
    return np.array(steps), np.array([known[step] for step in steps])


def moving_mean(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N,) of the last `window` values at each place, and its standard error (N,).

    Before the first full window fewer values count; the error of a single value is 0.
    """
    padded = np.concatenate([np.full(window - 1, np.nan), values])
    windows = sliding_window_view(padded, window)
    counts = np.minimum(np.arange(1, values.size + 1), window)
    mean = np.nansum(windows, axis=1) / counts
    squares = np.nansum((windows - mean[:, None]) ** 2, axis=1)
    return mean, np.sqrt(squares / np.maximum(counts - 1, 1) / counts)
