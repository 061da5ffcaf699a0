"""Judge and benchmarks as flat numbers by name, for a tracker."""

from schemas.figures import Estimate
from schemas.judgement import Judgement
from schemas.results import EvaluationReport


def optional_metrics(evaluation: EvaluationReport) -> dict[str, float]:
    """`judge/...` and `MODEL/benchmarks/TASK/METRIC`; `_low` and `_high` end the intervals."""
    found = _judge_metrics(evaluation.judgement) if evaluation.judgement else {}
    for benchmark in evaluation.benchmarks:
        for model, estimate in benchmark.models.items():
            found |= _interval(f"{model}/{benchmark.name}", estimate)
        for reference, difference in benchmark.differences.items():
            found |= _interval(f"difference_to_{reference}/{benchmark.name}", difference)
    return found


def _judge_metrics(judgement: Judgement) -> dict[str, float]:
    found: dict[str, float] = {
        "judge/prompt_tokens": judgement.prompt_tokens,
        "judge/completion_tokens": judgement.completion_tokens,
    }
    for rate in judgement.win_rates:
        for figure, estimate in rate.figures.items():
            found |= _interval(f"{figure}/against_{rate.against}", estimate)
        counts = {"judged": rate.judged, "failed": sum(rate.failures.values())}
        counts |= {"ties": rate.ties, "orders_disagreed": rate.orders_disagreed}
        found |= {f"judge/{name}/against_{rate.against}": n for name, n in counts.items()}
    return found


def _interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
