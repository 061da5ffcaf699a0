"""Figures of a run, for people who look before they read."""

import polars as pl
from matplotlib.figure import Figure

from orpo_pipeline.evaluation.curves import BASE, CANDIDATE, CHOSEN, REJECTED


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
