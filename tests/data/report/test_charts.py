"""Charts of the data report: places worked out by hand."""

from itertools import pairwise

import pytest

from orpo_pipeline.data.report.charts import (
    PLOT_HEIGHT,
    Tick,
    bias_verdict,
    draw_biases,
    draw_funnel,
    draw_margins,
    draw_tokens,
)
from orpo_pipeline.data.report.defect_words import DEFECT_WORDS, GROUPS, SEVERITY_WORDS
from orpo_pipeline.data.report.page import describe_hours, describe_share
from schemas.data_report import Bias, DataReport, DefectSummary, Histogram, Interval
from schemas.pairs import DefectCode, Severity


def histogram(edges: tuple[float, ...], counts: tuple[int, ...], median: float = 0.0) -> Histogram:
    return Histogram(edges=edges, counts=counts, median=median, p95=0, longest=0, total=0)


def report(**defects: int) -> DataReport:
    """1,000 rows, 50 of them copies, 100 kept for evaluation, the rest for training."""
    codes = {DefectCode(name): rows for name, rows in defects.items()}
    removing = (Severity.DROP, Severity.QUARANTINE)
    removed = sum(rows for code, rows in codes.items() if code.severity in removing)
    return DataReport(
        prepared_id="",
        dataset_id="",
        tokenizer="",
        max_length=1024,
        rows_in=1000,
        kept_train=850 - removed,
        kept_eval=100,
        duplicates=50,
        quarantined=removed,
        files=(),
        defects=tuple(
            DefectSummary(code=code, severity=code.severity, rows=rows, examples=())
            for code, rows in codes.items()
        ),
        tokens={},
        score_margins=None,
        biases=(),
        sources=(),
        prompts=0,
        prompt_groups=0,
        largest_groups=(),
    )


def test_each_step_of_the_funnel_begins_where_the_last_one_ended() -> None:
    steps = draw_funnel(report(near_duplicate=30, empty_text=20, broken_row=100, wrong_type=40))
    assert [(s.label, s.kind, s.rows) for s in steps] == [
        ("Rows in", "in", 1000),
        ("Reading", "lost", 140),
        ("Text", "lost", 20),
        ("Exact duplicates", "lost", 50),
        ("Repetition", "lost", 30),
        ("Kept to train on", "train", 660),
        ("Kept to evaluate", "eval", 100),
    ]
    assert steps[1].note == "unreadable row 100, wrong type of value 40"
    lost = steps[1:-2]
    assert lost[0].rest + lost[0].width == 100
    for before, after in pairwise(lost):
        assert after.rest + after.width == pytest.approx(before.rest)
    assert lost[-1].rest == pytest.approx(steps[-1].start + steps[-1].width) == 76


def test_repaired_and_reported_rows_are_not_lost() -> None:
    steps = draw_funnel(report(truncated=200, small_score_margin=10))
    assert [s.label for s in steps if s.kind == "lost"] == ["Exact duplicates"]


def test_token_bars_by_hand() -> None:
    bars = draw_tokens(histogram((0, 64, 128, 192), (30, 0, 10), median=48), 240)
    # max_length 240 is within 1.5 x 192, so the axis ends there: 64 is 26.667 %.
    assert bars.limit == 100
    assert bars.median == 20
    first, last = bars.bars
    assert (first.x, first.width, first.height, first.y) == (0, 26.667, PLOT_HEIGHT, 0)
    assert (last.x, last.height) == (53.333, PLOT_HEIGHT / 3)
    assert last.words == "128 to under 192 tokens: 10 pairs"
    assert [(t.x, t.label) for t in bars.ticks] == [(0, "0"), (41.667, "100"), (83.333, "200")]


def test_a_limit_far_away_is_not_in_sight() -> None:
    bars = draw_tokens(histogram((0, 64, 128), (1, 1)), 1024)
    assert bars.limit is None
    assert bars.bars[-1].x + bars.bars[-1].width == 100


def test_one_pair_among_a_million_is_seen() -> None:
    bars = draw_tokens(histogram((0, 64, 128), (999_999, 1)), 128).bars
    assert bars[1].height == 1.5


@pytest.mark.parametrize("end", [1, 2, 3, 7, 8, 26, 40, 41, 999, 1024, 32_768, 1_000_000])
def test_axes_have_a_few_whole_numbers(end: int) -> None:
    ticks = draw_tokens(histogram((0, float(end)), (1,)), 10**9).ticks
    assert 2 <= len(ticks) <= 6
    assert all(tick.label.replace(",", "").isdigit() for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks)


def test_an_open_last_bin_takes_one_place_and_says_so() -> None:
    edges = (*(float(n) for n in range(11)), 5000.0)
    bars = draw_margins(histogram(edges, (*[10] * 10, 1)))
    assert bars.bars[-1].width == pytest.approx(100 / 11, abs=0.01)
    assert bars.ticks[-1] == Tick(100, "10 and more", "end")
    assert [t.label for t in bars.ticks][:3] == ["0", "2", "4"]


def test_equal_bins_end_with_their_last_edge() -> None:
    bars = draw_margins(histogram((-0.2, 0.0, 0.2), (1, 2)))
    assert [t.label for t in bars.ticks] == ["-0.2", "0", "0.2"]
    assert [t.anchor for t in bars.ticks] == ["start", "middle", "end"]


def bias(low: float, value: float, high: float, pairs: int = 9) -> Bias:
    return Bias(name="length", auc=Interval(value=value, low=low, high=high), pairs=pairs)


def test_forest_plot_by_hand() -> None:
    forest = draw_biases([bias(0.52, 0.55, 0.58), bias(0.49, 0.5, 0.51)])
    # The farthest end is 0.08 from 0.5, so the axis is 0.4 to 0.6, from 2 % to 98 %.
    assert [t.label for t in forest.ticks] == ["0.4", "0.45", "0.5", "0.55", "0.6"]
    assert [t.x for t in forest.ticks] == [2, 26, 50, 74, 98]
    first = forest.whiskers[0]
    assert (first.low, first.value, first.high) == (59.6, 74, 88.4)
    assert [w.kind for w in forest.whiskers] == ["chosen", "none"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (bias(0.59, 0.6, 0.62), "strongly more in chosen"),
        (bias(0.42, 0.44, 0.46), "clearly more in rejected"),
        (bias(0.501, 0.51, 0.52), "slightly more in chosen"),
        (bias(0.49, 0.58, 0.67), "no clear lean"),
        (bias(0.5, 0.5, 0.5, pairs=0), "never differs"),
    ],
)
def test_biases_in_words(found: Bias, words: str) -> None:
    assert bias_verdict(found) == words


def test_a_bias_at_the_end_of_the_scale_is_on_the_chart() -> None:
    forest = draw_biases([bias(1, 1, 1), bias(0, 0, 0)])
    assert [w.value for w in forest.whiskers] == [98, 2]


def test_every_code_and_severity_has_words() -> None:
    assert set(DEFECT_WORDS) == set(DefectCode)
    assert set(SEVERITY_WORDS) == set(Severity)
    assert {words.group for words in DEFECT_WORDS.values()} == set(GROUPS)
    titles = [words.title for words in DEFECT_WORDS.values()]
    assert len(set(titles)) == len(titles)
    assert all(words.meaning.endswith(".") for words in DEFECT_WORDS.values())


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (0.0, "1 s"),
        (0.02, "72 s"),
        (0.4, "24 min"),
        (2.0, "2 h"),
        (2.25, "2 h 15 min"),
        (48.0, "2 days"),
        (100.2, "4 days 4 h"),
    ],
)
def test_durations(hours: float, words: str) -> None:
    assert describe_hours(hours) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (0, 0, "0 %"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 8, "12.5 %"),
        (1, 10**6, "< 0.1 %"),
        (10**6 - 1, 10**6, "> 99.9 %"),
    ],
)
def test_shares(part: int, whole: int, words: str) -> None:
    assert describe_share(part, whole) == words
