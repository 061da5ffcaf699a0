"""Does the gate err as rarely as it says? Simulated comparisons through the real estimators.

    python benchmarks/gate.py                     # the two rates, 1,000 comparisons each
    python benchmarks/gate.py --power             # and the power curve (some minutes)

Each comparison draws held-out pairs in prompt groups, gives base, champion and candidate log-probs
of both answers, and takes them through `pair_sample`, `model_differences` (2,000 bootstrap
replicates, the clustered error) and `decide`, as an evaluation does.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from scipy import stats

from orpo_pipeline.evaluation.gate import decide
from orpo_pipeline.evaluation.measuring import add_odds
from orpo_pipeline.evaluation.statistics.comparison import model_differences, pair_sample
from orpo_pipeline.evaluation.statistics.pair_figures import FORMULAS
from schemas.figures import Comparison, Figure
from schemas.gate_config import GateConfig

Array = NDArray[np.float64]
LAMBDA = 0.1
GUARDRAILS = {Figure.CHOSEN_NLL: 0.1}
USED = {figure: FORMULAS[figure] for figure in (Figure.ACCURACY, Figure.LOG_ODDS_MARGIN)} | {
    figure: FORMULAS[figure] for figure in GUARDRAILS
}
WORSE = -0.1
TRUE_GAINS = (0.0, 0.05, 0.1, 0.2, 0.3)
SIZES = (69, 200, 500, 1000)
COMPARISONS = 1000
POWER_COMPARISONS = 60
GATES = {
    Figure.ACCURACY: GateConfig(guardrails=GUARDRAILS),
    Figure.LOG_ODDS_MARGIN: GateConfig(
        primary=Figure.LOG_ODDS_MARGIN, margin=0.1, guardrails=GUARDRAILS
    ),
}
Curves = dict[Figure, dict[int, list[float]]]
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "gate-power.png"


@dataclass(frozen=True)
class Setting:
    """What a pair's log-odds margin is made of: standard deviations of normal parts."""

    gain: float
    """True gain of the candidate's mean log-odds margin over the champion's."""
    pairs: int
    mean: float = 0.3
    prompt: float = 0.5
    """Of a prompt, the same for both models."""
    pair: float = 0.7
    """Of a pair, the same for both."""
    model_prompt: float = 0.2
    """Of one model on a prompt: what makes the pairs of a group depend on each other."""
    model_pair: float = 0.3


def draw_groups(draw: np.random.Generator, pairs: int) -> NDArray[np.int64]:
    """The prompt group of each pair: groups of 1 to 5 pairs, two thirds of one, as real data."""
    sizes = draw.choice([1, 2, 3, 4, 5], size=pairs, p=[0.66, 0.16, 0.08, 0.05, 0.05])
    return np.repeat(np.arange(pairs), sizes)[:pairs]


def draw_scores(draw: np.random.Generator, setting: Setting) -> pl.DataFrame:
    """The frame of pairs.parquet for champion and candidate."""
    count, groups = setting.pairs, draw_groups(draw, setting.pairs)
    shared = (
        setting.mean
        + draw.normal(0, setting.prompt, count)[groups]
        + draw.normal(0, setting.pair, count)
    )
    chosen = -np.exp(draw.normal(0.2, 0.35, count))  # mean log-prob per token, about -1.3
    lengths = {
        side: np.clip(draw.lognormal(5.2, 0.7, count), 4, 900).astype(int)
        for side in ("chosen", "rejected")
    }
    columns = [pl.DataFrame({"group": groups})]
    for name, gain in (("champion", 0.0), ("candidate", setting.gain)):
        own = draw.normal(0, setting.model_prompt, count)[groups]
        margin = shared + gain + own + draw.normal(0, setting.model_pair, count)
        moved = np.minimum(chosen + draw.normal(0, 0.05, count), -0.01)
        columns.append(_model_scores(name, moved, margin, lengths))
    return pl.concat(columns, how="horizontal")


def _model_scores(
    name: str, chosen: Array, margin: Array, lengths: dict[str, NDArray[np.int64]]
) -> pl.DataFrame:
    odds = chosen - np.log1p(-np.exp(chosen)) - margin  # log-odds of the rejected answer
    rejected = odds - np.logaddexp(0, odds)
    frame = pl.DataFrame(
        {
            "chosen_logp": chosen * lengths["chosen"],
            "chosen_tokens": lengths["chosen"],
            "rejected_logp": rejected * lengths["rejected"],
            "rejected_tokens": lengths["rejected"],
            "prompt_chosen_logp": chosen * (lengths["chosen"] + 50),
            "prompt_chosen_tokens": lengths["chosen"] + 50,
        }
    )
    return add_odds(frame, LAMBDA).select(pl.all().name.prefix(f"{name}_"))


def compare(scores: pl.DataFrame) -> Comparison:
    """Candidate against champion, as the evaluate stage does it."""
    sample = pair_sample(scores, ["candidate", "champion"], LAMBDA)
    differences = model_differences(sample, "champion", USED)
    return Comparison(against="champion", version="1", differences=differences)


def verdicts(setting: Setting, comparisons: int, seed: int) -> dict[Figure, Counter[str]]:
    """How often the gate said what, by primary figure; each sees the same comparisons."""
    draw = np.random.default_rng(seed)
    counts: dict[Figure, Counter[str]] = {figure: Counter() for figure in GATES}
    for _ in range(comparisons):
        found = compare(draw_scores(draw, setting))
        for primary, gate in GATES.items():
            counts[primary][decide([found], gate, "1", "simulated").verdict.value] += 1
    return counts


def upper_bound(promoted: int, comparisons: int) -> float:
    """Of the rate, 97.5 % one-sided (Clopper and Pearson)."""
    return float(stats.beta.ppf(0.975, promoted + 1, comparisons - promoted))


def print_rates(pairs: int, seed: int) -> None:
    """Equal models, and a worse one, for both primary figures."""
    print("| primary figure | truth | comparisons | promoted | keep | inconclusive | at most |")
    print("|---|---|---|---|---|---|---|")
    for truth, gain in (("equal", 0.0), ("worse", WORSE)):
        for primary, found in verdicts(Setting(gain, pairs), COMPARISONS, seed).items():
            counts = [found[name] for name in ("promote", "keep", "inconclusive")]
            shares = " | ".join(f"{100 * count / COMPARISONS:.1f} %" for count in counts)
            most = f"{100 * upper_bound(counts[0], COMPARISONS):.1f} %"
            print(f"| {primary.value} | {truth} | {COMPARISONS} | {shares} | {most} |", flush=True)


def power_curves(seed: int) -> Curves:
    """Percent of comparisons that promote: by primary figure and pairs, for each true gain."""
    curves: Curves = {primary: {} for primary in GATES}
    for pairs in SIZES:
        for gain in TRUE_GAINS:
            found = verdicts(Setting(gain, pairs), POWER_COMPARISONS, seed + pairs)
            for primary, counts in found.items():
                percent = 100 * counts["promote"] / POWER_COMPARISONS
                curves[primary].setdefault(pairs, []).append(percent)
    return curves


def print_power(curves: Curves) -> None:
    for primary, by_size in curves.items():
        print(f"\nPromoted, {POWER_COMPARISONS} comparisons a cell, primary {primary.value}:\n")
        print("| pairs | " + " | ".join(f"{gain:+g}" for gain in TRUE_GAINS) + " |")
        print("|---" * (len(TRUE_GAINS) + 1) + "|")
        for pairs, shares in by_size.items():
            print(f"| {pairs:,} | " + " | ".join(f"{share:.0f} %" for share in shares) + " |")


def draw_power(curves: Curves) -> Picture:
    """One panel a primary figure, one line a size."""
    picture = Picture(figsize=(11, 4.5), layout="constrained")
    panels = picture.subplots(1, len(curves), sharey=True)
    shades = np.linspace(0.3, 1.0, len(SIZES))
    for axes, (primary, by_size) in zip(panels, curves.items(), strict=True):
        for shade, (pairs, shares) in zip(shades, by_size.items(), strict=True):
            colour = (0.1, 0.4, 0.9, shade)
            axes.plot(TRUE_GAINS, shares, "o-", color=colour, label=f"{pairs:,} pairs")
        axes.axhline(5, color="black", linewidth=1, linestyle=":")
        axes.axvline(0, color="black", linewidth=1)
        axes.set_title(f"primary figure {primary.value}")
        axes.set_xlabel("true gain of the mean log-odds margin over the champion")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("promoted (%); dotted: 5 %")
    panels[0].legend(frameon=False)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=500, help="of the two rates")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--power", action="store_true", help="also the power curve")
    arguments = parser.parse_args()
    print_rates(arguments.pairs, arguments.seed)
    if not arguments.power:
        return
    curves = power_curves(arguments.seed)
    print_power(curves)
    draw_power(curves).savefig(IMAGE, dpi=110)


if __name__ == "__main__":
    main()
