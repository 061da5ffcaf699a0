"""The judge's figures in the evaluation's record and among a run's metrics."""

import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from flows.summary import _benchmarks, _judged
from orpo_pipeline.evaluation.judge.judge import with_judgement
from orpo_pipeline.evaluation.judge.questions import Question, read_questions
from orpo_pipeline.evaluation.optional_metrics import optional_metrics
from schemas.benchmark_results import BenchmarkFigure
from schemas.figures import Comparison, Difference, Estimate, Figure
from schemas.judgement import Judgement, WinRate
from schemas.results import EvaluationReport, ModelFigures

WON = Estimate(value=0.6, low=0.5, high=0.7, n=10)
GAINED = Difference(value=0.2, low=0.0, high=0.4, n=10, groups=10, standard_error=0.1)


def report(path: Path = Path("evaluations/e1")) -> EvaluationReport:
    return EvaluationReport(
        path=path,
        pairs=10,
        groups=10,
        base=ModelFigures(figures={}),
        candidate=ModelFigures(figures={}),
        comparisons=(Comparison(against="base", differences={Figure.ACCURACY: GAINED}),),
        smallest_difference=None,
        generations=10,
    )


def judged(**fields: object) -> Judgement:
    counts = {"questions": 10, "judged": 10, "wins": 4, "ties": 4, "losses": 2}
    counts |= {"identical": 0, "orders_disagreed": 3, **fields}
    rate = WinRate.model_validate({"against": "base", **counts})
    return Judgement(
        path=Path("judgements/j1"),
        model="judge-1",
        template="pairwise-1",
        win_rates=(rate,),
        asked=20,
        prompt_tokens=2000,
        completion_tokens=20,
    )


def test_questions_are_the_kept_answers_with_their_groups(tmp_path: Path) -> None:
    common = {"decoding": "greedy", "chosen in the data": "-"}
    rows = [
        {**common, "prompt": "user: a", "base": "no", "candidate": "yes"},
        {**common, "prompt": "user: b", "base": "0", "candidate": "1"},
        {**common, "prompt": "user: a", "base": "?", "candidate": "!", "decoding": "sample 1"},
    ]
    (tmp_path / "generations.json").write_text(json.dumps(rows))
    pl.DataFrame({"group": [7, 9, 7]}).write_parquet(tmp_path / "answers.parquet")
    # Group 7 has a pair that the champion's data had.
    pairs = pl.DataFrame({"group": [7, 7, 9], "new": [True, False, True]})
    pairs.write_parquet(tmp_path / "pairs.parquet")
    assert read_questions(tmp_path, "base") == [
        Question("user: a", "yes", "no", "7", is_new=False),
        Question("user: b", "1", "0", "9", is_new=True),
    ]
    # Where it is not known which are new, none counts as new.
    pairs.with_columns(new=pl.lit(None, pl.Boolean)).write_parquet(tmp_path / "pairs.parquet")
    assert not any(question.is_new for question in read_questions(tmp_path, "base"))


def test_the_figure_joins_the_comparison() -> None:
    judgement = judged(
        figures={Figure.JUDGE_WIN_RATE: WON}, differences={Figure.JUDGE_WIN_RATE: GAINED}
    )
    found = with_judgement(report(), judgement)
    assert found.comparison("base").differences == {  # type: ignore[union-attr]
        Figure.ACCURACY: GAINED,
        Figure.JUDGE_WIN_RATE: GAINED,
    }
    assert found.alarms == ()
    assert found.identity == "e1 j1"
    metrics = optional_metrics(found)
    assert metrics["judge/win_rate/against_base"] == 0.6
    assert metrics["judge/win_rate/against_base_high"] == 0.7
    assert metrics["judge/orders_disagreed/against_base"] == 3
    assert metrics["judge/prompt_tokens"] == 2000


def test_new_questions_count_where_it_is_known_which_are_new() -> None:
    differences = {Figure.JUDGE_WIN_RATE: GAINED}
    judgement = judged(differences=differences, new_differences=differences)
    new = Comparison(against="base", new_pairs=4, differences={})
    known = with_judgement(report().model_copy(update={"comparisons": (new,)}), judgement)
    assert known.comparisons[0].new_differences == differences
    assert with_judgement(report(), judgement).comparisons[0].new_differences == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"judged": 0, "failures": {"http 401": 1, "not asked": 9}},
            "10 of 10 questions have no verdict (http 401: 1, not asked: 9)",
        ),
        ({}, "10 questions are too few, or all of one prompt group"),
    ],
)
def test_a_missing_figure_is_missing_and_an_alarm(fields: dict[str, object], words: str) -> None:
    found = with_judgement(report(), judged(**fields))
    assert Figure.JUDGE_WIN_RATE not in found.comparison("base").differences  # type: ignore[union-attr]
    assert len(found.alarms) == 1 and words in found.alarms[0]
    assert found.identity == "e1"  # recorded anew once there is a win rate
    assert "judge/win_rate/against_base" not in optional_metrics(found)


def test_benchmarks_are_metrics_by_task() -> None:
    figure = BenchmarkFigure(
        task="arc:easy",
        metric="acc",
        models={"base": WON, "candidate": WON},
        differences={"base": GAINED},
    )
    metrics = optional_metrics(report().model_copy(update={"benchmarks": (figure,)}))
    assert metrics["candidate/benchmarks/arc_easy/acc"] == 0.6
    assert metrics["candidate/benchmarks/arc_easy/acc_low"] == 0.5
    assert metrics["difference_to_base/benchmarks/arc_easy/acc_high"] == 0.4


def test_the_summary_names_both() -> None:
    figures = {Figure.JUDGE_WIN_RATE: WON, Figure.JUDGE_WIN_RATE_LENGTH_CONTROLLED: WON}
    benchmark = BenchmarkFigure(task="arc_easy", metric="acc", models={"base": WON})
    with_both = with_judgement(report(), judged(figures=figures)).model_copy(
        update={"benchmarks": (benchmark,)}
    )
    console = Console(width=200, record=True)
    for line in (*_judged(with_both), *_benchmarks(with_both), *_judged(report())):
        console.print(line)
    judge, tasks = console.export_text().splitlines()
    assert "60.0% [50.0%, 70.0%] of 10 answers won against the base; 60.0%" in judge
    assert "arc_easy acc: base 0.600 [0.500, 0.700]" in tasks
