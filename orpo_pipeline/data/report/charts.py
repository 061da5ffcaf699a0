"""Charts of the data report as plain geometry, which the page's template draws as inline SVG.

Horizontal places and widths are per cent of the chart, so that a chart fills a phone, a screen or a
sheet while its letters keep their size; heights are pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orpo_pipeline.data.report.contents import REMOVING
from orpo_pipeline.data.report.defect_words import DEFECT_WORDS, GROUPS
from schemas.data_report import Bias, DataReport, Histogram

PLOT_HEIGHT = 84.0
LEAST_BAR = 1.5  # pixels; a bin with one row among a million is still seen
NO_BIAS = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """One bar of the funnel: what is left after it, and the piece that it took away or is."""

    label: str
    kind: str
    """in, lost, train or eval."""
    rows: int
    rest: float
    start: float
    width: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and what stands there."""

    x: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin: place, size, and the words that a pointer shows."""

    x: float
    width: float
    y: float
    height: float
    words: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram; `limit` is the place of max_length where that is in sight."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    median: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Whisker:
    """One row of the forest plot."""

    name: str
    low: float
    value: float
    high: float
    kind: str
    """none, chosen or rejected: which answers have more of it beyond doubt."""
    verdict: str
    bias: Bias


@dataclass(frozen=True, slots=True)
class Forest:
    """All biases on one axis."""

    whiskers: tuple[Whisker, ...]
    ticks: tuple[Tick, ...]


def draw_funnel(report: DataReport) -> tuple[Step, ...]:
    """Rows in, what each group of rules took, exact duplicates, and what is kept."""
    removing = [defect for defect in report.defects if defect.severity in REMOVING]
    losses: list[tuple[str, int, str]] = []
    for group in GROUPS:
        inside = [d for d in removing if DEFECT_WORDS[d.code].group == group]
        note = ", ".join(f"{DEFECT_WORDS[d.code].title.lower()} {d.rows:,}" for d in inside)
        losses.append((group, sum(defect.rows for defect in inside), note))
    # Exact duplicates are found before the other rules about several rows.
    losses.insert(GROUPS.index("Repetition"), ("Exact duplicates", report.duplicates, ""))
    total = max(report.rows_in, 1)
    left = report.rows_in
    steps = [Step("Rows in", "in", left, 0.0, 0.0, _percent(left, total))]
    for label, rows, note in losses:
        if rows:
            left -= rows
            rest = _percent(left, total)
            steps.append(Step(label, "lost", rows, rest, rest, _percent(rows, total), note))
    train, held_out = _percent(report.kept_train, total), _percent(report.kept_eval, total)
    steps.append(Step("Kept to train on", "train", report.kept_train, 0.0, 0.0, train))
    steps.append(Step("Kept to evaluate", "eval", report.kept_eval, 0.0, train, held_out))
    return tuple(steps)


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 3)


def draw_tokens(histogram: Histogram, max_length: int) -> Bars:
    """Token counts on a common axis; up to max_length when that is not far beyond the longest."""
    end = histogram.edges[-1]
    limit = max_length if max_length <= 1.5 * end else None
    end = max(end, limit or 0.0)
    bars = _bars(histogram, [_percent(edge, end) for edge in histogram.edges], "tokens")
    return Bars(
        bars=bars,
        ticks=_axis(0.0, end),
        median=_percent(histogram.median, end) if sum(histogram.counts) else None,
        limit=None if limit is None else _percent(limit, end),
    )


def draw_margins(histogram: Histogram) -> Bars:
    """Score margins, one slot a bin: the last bin may be far wider than the others."""
    edges, count = histogram.edges, len(histogram.counts)
    places = [_percent(number, count) for number in range(count + 1)]
    open_ended = count > 1 and edges[-1] - edges[-2] > 1.001 * (edges[1] - edges[0])
    step = max(1, math.ceil(count / 8))
    inner = range(0, count + 1, step)
    ticks = [_tick(places[number], _number(edges[number])) for number in inner]
    if open_ended:
        # The words are wider than a bin: they need the last quarter of a phone's width.
        ticks = [tick for tick in ticks if tick.x <= 75]
        ticks.append(Tick(100.0, f"{_number(edges[-2])} and more", "end"))
    return Bars(bars=_bars(histogram, places, ""), ticks=tuple(ticks))


def _bars(histogram: Histogram, places: Sequence[float], unit: str) -> tuple[Bar, ...]:
    highest = max(histogram.counts, default=0) or 1
    bars = []
    for number, count in enumerate(histogram.counts):
        if not count:
            continue
        height = round(max(LEAST_BAR, PLOT_HEIGHT * count / highest), 2)
        low, high = histogram.edges[number], histogram.edges[number + 1]
        words = f"{_number(low)} to under {_number(high)} {unit}".strip() + f": {count:,} pairs"
        width = round(places[number + 1] - places[number], 3)
        bars.append(Bar(places[number], width, round(PLOT_HEIGHT - height, 2), height, words))
    return tuple(bars)


def _axis(start: float, end: float) -> tuple[Tick, ...]:
    """Five or so round whole numbers between start and end."""
    rough = (end - start) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(1.0, next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999))
    numbers = range(math.ceil(start / step), math.floor(end / step + 1e-9) + 1)
    return tuple(
        _tick(_percent(number * step - start, end - start), _number(number * step))
        for number in numbers
    )


def _number(value: float) -> str:
    """Whole numbers in full; of others, and of huge ones, six digits."""
    return f"{value:,.0f}" if value == round(value, 0) and abs(value) < 1e12 else f"{value:,g}"


def _tick(x: float, label: str) -> Tick:
    return Tick(x, label, "start" if x < 2 else "end" if x > 97 else "middle")


def draw_biases(biases: Sequence[Bias]) -> Forest:
    """A forest plot around 0.5, as wide as the widest interval needs."""
    farthest = max(
        (abs(end - NO_BIAS) for b in biases for end in (b.auc.low, b.auc.high)), default=0
    )
    half = next(step for step in (0.05, 0.1, 0.2, 0.3, 0.5) if step >= farthest - 1e-9)

    def place(auc: float) -> float:
        return round(50 + 48 * (auc - NO_BIAS) / half, 3)

    whiskers = tuple(
        Whisker(
            name=bias.name,
            low=place(bias.auc.low),
            value=place(bias.auc.value),
            high=place(bias.auc.high),
            kind=lean(bias),
            verdict=bias_verdict(bias),
            bias=bias,
        )
        for bias in biases
    )
    marks = [NO_BIAS + half * part for part in (-1, -0.5, 0, 0.5, 1)]
    return Forest(whiskers, tuple(Tick(place(auc), f"{auc:.3g}") for auc in marks))


def lean(bias: Bias) -> str:
    """`chosen` or `rejected` where the interval leaves 0.5 out, else `none`."""
    if bias.auc.low > NO_BIAS:
        return "chosen"
    return "rejected" if bias.auc.high < NO_BIAS else "none"


def bias_verdict(bias: Bias) -> str:
    """The figure in words; the steps are ours, for orientation."""
    if not bias.pairs:
        return "never differs"
    side, size = lean(bias), round(abs(bias.auc.value - NO_BIAS), 6)
    if side == "none":
        return "no clear lean"
    degree = "strongly" if size >= 0.1 else "clearly" if size >= 0.04 else "slightly"
    return f"{degree} more in {side}"
