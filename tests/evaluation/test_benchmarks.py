"""Benchmarks by lm-evaluation-harness on the loaded models: a local task, offline."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.evaluation import benchmarks
from orpo_pipeline.evaluation.benchmarks import Measured, load_tasks, require_benchmarks
from orpo_pipeline.evaluation.evaluate import evaluate, evaluation_folder, load_evaluation
from orpo_pipeline.evaluation.models import load_models
from orpo_pipeline.evaluation.scoring import token_logps
from schemas.errors import EnvironmentFault, UserError
from schemas.evaluation_config import EvaluationConfig
from schemas.jobs import EvaluateJob

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra `benchmarks` is not installed"
)

TASK = """\
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/capitals.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: What is the capital of {{{{country}}}}?\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

CAPITALS = {
    **{"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Cuba": "Havana"},
    **{"Egypt": "Cairo", "Peru": "Lima", "Norway": "Oslo", "Kenya": "Nairobi", "Greece": "Athens"},
}
OTHER = dict(zip(CAPITALS, [*list(CAPITALS.values())[1:], "Paris"], strict=True))


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"country": country, "choices": [city, OTHER[country]], "answer": 0}
        for country, city in CAPITALS.items()
    ]
    (folder / "capitals.yaml").write_text(TASK.format(folder=folder))
    (folder / "capitals.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def benchmark_job(
    evaluate_job: Callable[..., EvaluateJob], task_folder: Path
) -> Callable[..., EvaluateJob]:
    """`benchmark_job(benchmark_limit=3)`: the task `capitals`, and nothing else but pairs."""

    def make(**fields: Any) -> EvaluateJob:
        nothing_else = {"generations": 0, "drift_pairs": 0}
        asked = {"benchmarks": ["capitals"], "benchmark_folder": str(task_folder)}
        return evaluate_job(seed=5, evaluation={**nothing_else, **asked, **fields})

    return make


def quiet(*_: object) -> None:
    return None


def right_by_hand(model: Any, tokenizer: Any) -> list[bool]:
    """Whether the right answer has the higher log-prob, for the first eight documents."""
    found = []
    for country, city in list(CAPITALS.items())[:8]:
        context = f"Question: What is the capital of {country}?\nAnswer:"
        start = len(tokenizer(context)["input_ids"])
        texts = [f"{context} {answer}" for answer in (city, OTHER[country])]
        logps = token_logps(model, [tokenizer(text)["input_ids"] for text in texts])
        right, wrong = (logp[start - 1 :].sum().item() for logp in logps)
        found.append(right > wrong)
    return found


@needs_harness
def test_both_models_by_a_local_task_as_by_hand(
    benchmark_job: Callable[..., EvaluateJob],
) -> None:
    job = benchmark_job(benchmark_limit=8)
    report = evaluate(job, quiet)
    (figure,) = report.benchmarks
    assert (figure.name, figure.higher_is_better) == ("benchmarks/capitals/acc", True)

    models = load_models(job)
    tokenizer = load_chat_format(job.prepared.path / "tokenizer", template=None).tokenizer
    by_hand = {}
    for name in ("base", "candidate"):
        with models.as_(name) as model, torch.inference_mode():
            by_hand[name] = right_by_hand(model, tokenizer)
    assert by_hand["base"] != by_hand["candidate"]
    for name, right in by_hand.items():
        share = sum(right) / 8
        # The harness's error of a mean: sqrt(p (1 - p) / (n - 1)).
        error = math.sqrt(share * (1 - share) / 7)
        found = figure.models[name]
        assert (found.value, found.n) == (pytest.approx(share), 8)
        assert found.high - found.value == pytest.approx(1.96 * error)
    changes = [
        float(c) - float(b) for b, c in zip(by_hand["base"], by_hand["candidate"], strict=True)
    ]
    difference = figure.differences["base"]
    assert difference.value == pytest.approx(sum(changes) / 8)
    mean = sum(changes) / 8
    spread = math.sqrt(sum((change - mean) ** 2 for change in changes) / 7)
    assert difference.standard_error == pytest.approx(spread / math.sqrt(8))
    assert load_evaluation(report.path) == report.model_copy(update={"reused": True})


@needs_harness
def test_a_changed_task_is_another_evaluation(
    benchmark_job: Callable[..., EvaluateJob], task_folder: Path
) -> None:
    job = benchmark_job()
    where = (job.config, job.prepared, job.plan, job.adapter, job.home)
    before = evaluation_folder(*where)
    assert evaluation_folder(*where) == before
    with (task_folder / "capitals.jsonl").open("a") as file:
        file.write('\n{"country": "Chad", "choices": ["N\'Djamena", "Paris"], "answer": 0}')
    assert evaluation_folder(*where) != before


@needs_harness
def test_missing_data_is_one_sentence(task_folder: Path) -> None:
    (task_folder / "capitals.jsonl").unlink()
    settings = EvaluationConfig(benchmarks=("capitals",), benchmark_folder=str(task_folder))
    with pytest.raises(EnvironmentFault, match="data of benchmark capitals cannot be loaded"):
        load_tasks(settings)


@needs_harness
@pytest.mark.slow  # it reads the harness's own thousands of task files
def test_an_unknown_task_is_named(task_folder: Path) -> None:
    settings = EvaluationConfig(benchmarks=("no_such_task",), benchmark_folder=str(task_folder))
    with pytest.raises(UserError, match="names no_such_task, which is no task"):
        load_tasks(settings)


def test_a_missing_package_is_one_sentence_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmarks, "PACKAGE", "a-package-that-is-not-there")
    require_benchmarks(EvaluationConfig())
    with pytest.raises(UserError, match=r"pip install .*\[benchmarks\]"):
        require_benchmarks(EvaluationConfig(benchmarks=("arc_easy",)))


@needs_harness
def test_a_missing_folder_is_named() -> None:
    settings = EvaluationConfig(benchmarks=("arc_easy",), benchmark_folder="nowhere")
    with pytest.raises(UserError, match="nowhere, which is no folder"):
        require_benchmarks(settings)


def test_differences_by_hand() -> None:
    # Four documents, two of which change for the better: changes 1, 1, 0, 0 with mean 0.5;
    # s^2 = 4 * 0.25 / 3, error sqrt(0.3333 / 4) = 0.288675.
    better = Measured(0.75, 0.25, 4, {0: 1, 1: 1, 2: 1, 3: 0})
    base = Measured(0.25, 0.25, 4, {0: 0, 1: 0, 2: 1, 3: 0})
    paired = better.minus(base)
    assert (paired.value, paired.n) == (0.5, 4)
    assert paired.standard_error == pytest.approx(0.288675, abs=1e-6)
    assert paired.low == pytest.approx(0.5 - 1.96 * 0.288675, abs=1e-6)
    # Without values of documents the errors add up: sqrt(0.25^2 + 0.25^2) = 0.353553.
    apart = better.minus(Measured(0.25, 0.25, 4, {}))
    assert apart.standard_error == pytest.approx(0.353553, abs=1e-6)
