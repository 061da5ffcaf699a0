"""Figures of a run, for people who look before they read."""

from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASE, CANDIDATE = "#8a8f98", "#1f6feb"
CHOSEN, REJECTED = "#1a7f37", "#cf222e"


def training_curves(points: Sequence[dict[str, Any]]) -> Figure:
    """Loss, log-probs, odds margin and pair accuracy over the optimizer steps."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _curve(axes[0, 0], points, {"train/loss": CANDIDATE, "train/nll": BASE}, "loss (nats)")
    sides = {"train/logp_chosen": CHOSEN, "train/logp_rejected": REJECTED}
    _curve(axes[0, 1], points, sides, "mean log-prob per token (nats)")
    _curve(axes[1, 0], points, {"train/log_odds_margin": CANDIDATE}, "log-odds, chosen - rejected")
    _curve(axes[1, 1], points, {"train/pair_accuracy": CANDIDATE}, "pair accuracy")
    axes[1, 1].set_ylim(0, 1.02)
    figure.suptitle("Training, one point per optimizer step, with a moving mean")
    return figure


def _curve(
    axes: Axes, points: Sequence[dict[str, Any]], colours: dict[str, str], label: str
) -> None:
    for name, colour in colours.items():
        known = [(p["step"], p["values"][name]) for p in points if name in p["values"]]
        if not known:
            continue
        steps, values = zip(*known, strict=True)
        window = max(len(values) // 10, 1)
        smooth = pl.Series(values).rolling_mean(window, min_samples=1)
        # A line through a single point would be invisible.
        style: dict[str, Any] = {"color": colour, "marker": "o" if len(values) == 1 else None}
        axes.plot(steps, values, alpha=0.3, linewidth=1, **style)
        axes.plot(steps, smooth, linewidth=2, label=name.removeprefix("train/"), **style)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False)


def margin_histogram(scores: pl.DataFrame) -> Figure:
    """How clearly each held-out pair is told apart, base model and candidate."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    both = [scores[f"{name}_log_odds_margin"].to_list() for name in ("base", "candidate")]
    axes.hist(both, bins=30, color=[BASE, CANDIDATE], label=["base model", "candidate"])
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xlabel("log-odds margin of a pair; right of 0: the chosen answer is the likelier one")
    axes.set_ylabel("held-out pairs")
    axes.set_title(f"{scores.height} held-out pairs, before and after training")
    axes.legend(frameon=False)
    return figure


def data_funnel(rows: dict[str, int]) -> Figure:
    """What became of the rows: kept for training, for evaluation, duplicates, each defect."""
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names, counts = list(rows), list(rows.values())
    kept = ("training", "evaluation")
    bars = axes.barh(names, counts, color=[CHOSEN if n in kept else REJECTED for n in names])
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlabel("rows (logarithmic above 10)")
    axes.set_title(f"{sum(counts):,} rows in: what became of them")
    axes.margins(x=0.1)
    return figure
