"""The record of small, odd and large evaluations: no NaN, and what is missing is said."""

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scored import Scored, measured, scored_pairs

from orpo_pipeline.evaluation.statistics.comparison import model_figures, pair_sample
from orpo_pipeline.evaluation.statistics.pair_figures import FORMULAS
from orpo_pipeline.evaluation.statistics.report import build_report
from orpo_pipeline.evaluation.statistics.slices import calibration_bins, measure_slices
from schemas.figures import Figure
from schemas.results import Champion, EvaluationReport

WIN, LOSS, TIE = (-1.0, 1, -4.0, 2), (-2.0, 2, -0.5, 1), (-1.0, 1, -1.0, 1)
CHAMPION = Champion(
    version="7", path=Path("champion"), adapter_id="c", base_model="b", base_revision="r"
)


def report_of(pairs: pl.DataFrame, champion: Champion | None = None) -> EvaluationReport:
    config: Any = SimpleNamespace(training=SimpleNamespace(orpo_lambda=0.5))
    job: Any = SimpleNamespace(config=config, champion=champion)
    return build_report(Path("evaluation"), job, measured(pairs))


def check_finite(report: EvaluationReport) -> None:
    """No NaN reaches the record: JSON would turn it into null."""
    again = EvaluationReport.model_validate_json(report.model_dump_json())
    assert again == report
    for model in report.models.values():
        for estimate in model.figures.values():
            assert all(map(math.isfinite, (estimate.value, estimate.low, estimate.high)))
            assert estimate.low <= estimate.value <= estimate.high
    for comparison in report.comparisons:
        for one in comparison.differences.values():
            assert math.isfinite(one.standard_error)


def test_three_rows() -> None:
    report = report_of(scored_pairs({"base": [WIN, LOSS, LOSS], "candidate": [WIN, WIN, LOSS]}))
    check_finite(report)
    assert (report.pairs, report.groups) == (3, 3)
    assert report.candidate.figures[Figure.ACCURACY].n == 3
    assert any("Only 3 prompt groups" in alarm for alarm in report.alarms)


def test_all_ties() -> None:
    report = report_of(scored_pairs({"base": [TIE] * 30, "candidate": [TIE] * 30}))
    check_finite(report)
    assert report.candidate.figures[Figure.ACCURACY].value == 0.5
    assert report.smallest_difference is None
    assert Figure.ACCURACY_LENGTH_CONTROLLED not in report.candidate.figures
    assert any("pairs/accuracy_length_controlled" in alarm for alarm in report.alarms)


def test_one_group_only() -> None:
    pairs = {"base": [WIN, LOSS], "candidate": [WIN, WIN]}
    report = report_of(scored_pairs(pairs, groups=[4, 4]))
    check_finite(report)
    assert report.candidate.figures == {} == report.comparisons[0].differences
    assert any("Not estimated" in alarm for alarm in report.alarms)


def test_new_pairs_of_the_champion_are_measured_alone() -> None:
    models = {
        "base": [LOSS] * 40,
        "candidate": [WIN] * 30 + [LOSS] * 10,
        "champion": [LOSS] * 20 + [WIN] * 10 + [LOSS] * 10,
    }
    pairs = scored_pairs(models)
    unknown = report_of(pairs, CHAMPION).comparison("champion")
    assert unknown is not None
    assert (unknown.new_pairs, unknown.new_differences) == (None, {})
    new = pairs.with_columns(new=pl.Series([True] * 10 + [False] * 30))
    known = report_of(new, CHAMPION).comparison("champion")
    assert known is not None and known.new_pairs == 10 and known.version == "7"
    # Over all: candidate 30/40, champion 10/40. New ones: 10/10 against 0/10.
    assert known.differences[Figure.ACCURACY].value == pytest.approx(0.5)
    assert known.new_differences[Figure.ACCURACY].value == pytest.approx(1.0)
    assert known.new_differences[Figure.ACCURACY].n == 10


def test_slices_hold_every_pair_once_a_kind() -> None:
    pairs = scored_pairs({"base": [WIN, LOSS, TIE] * 10, "candidate": [WIN, WIN, TIE] * 10})
    pairs = pairs.with_columns(source=pl.Series(["a", "b"] * 15))
    slices = measure_slices(pairs, ["base", "candidate"], orpo_lambda=0.5)
    for by in ("source", "length", "length_ratio"):
        assert sum(one.pairs for one in slices if one.by == by) == 30
    ratios = {one.name: one for one in slices if one.by == "length_ratio"}
    # WIN: 1 token against 2; LOSS (the base's second of three): 2 against 1; the lengths that
    # count are the candidate's, WIN there.
    assert ratios["chosen is shorter"].pairs == 20 and ratios["about equal"].pairs == 10
    assert ratios["chosen is shorter"].figures["candidate"][Figure.ACCURACY].value == 1
    assert not [one for one in slices if one.by == "novelty"]


def test_an_empty_slice_kind_or_one_row_has_no_figures() -> None:
    pairs = scored_pairs({"base": [WIN], "candidate": [WIN]})
    slices = measure_slices(pairs, ["base", "candidate"], orpo_lambda=0.5)
    assert [one.figures for one in slices] == [{"base": {}, "candidate": {}}] * 3


def test_calibration_bins_by_hand() -> None:
    # TIE: margin 0, confidence 0.5, half right. WIN: log-odds(-1) - log-odds(-2) = 1.313262,
    # sigmoid 0.788058, right.
    pairs = scored_pairs({"candidate": [TIE, TIE, WIN]})
    low, high = calibration_bins(pairs, "candidate")
    assert (low.pairs, low.confidence, low.right) == (2, 0.5, 0.5)
    assert (high.pairs, high.right) == (1, 1.0)
    assert high.confidence == pytest.approx(0.788058, abs=1e-6)
    assert high.low == pytest.approx(0.75) and high.high == pytest.approx(0.8)


def test_a_hundred_thousand_pairs_take_seconds() -> None:
    """2.6 s for all figures of two models on a busy 2-core machine."""
    draw = np.random.default_rng(0)
    logps = -draw.gamma(2, 10, (2, 100_000, 2))
    scores: dict[str, list[Scored]] = {
        name: [(float(c), 20, float(r), 25) for c, r in logps[number]]
        for number, name in enumerate(("base", "candidate"))
    }
    pairs = scored_pairs(scores)
    started = time.perf_counter()
    sample = pair_sample(pairs, ["base", "candidate"], 0.5)
    model_figures(sample, "candidate", FORMULAS)
    taken = time.perf_counter() - started
    print(f"{taken:.2f} s")  # -s shows it
    assert taken < 20
