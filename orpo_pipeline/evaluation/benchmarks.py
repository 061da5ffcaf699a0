"""Public benchmarks, or local tasks of their form, by EleutherAI's lm-evaluation-harness.

The models are those that the evaluate stage has loaded: same weights, precision and process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from orpo_pipeline.evaluation.models import BASE, CANDIDATE, CHAMPION, Models
from orpo_pipeline.stages import file_sha256
from schemas.benchmark_results import BenchmarkFigure
from schemas.errors import EnvironmentFault, UserError
from schemas.evaluation_config import EvaluationConfig
from schemas.figures import Difference, Estimate

PACKAGE = "lm-eval"
ERRORS_RESAMPLED = 1000  # bootstrap samples for metrics that have no formula for their error
BATCH = 8  # sequences of a forward pass where nothing else is said
Z = 1.96

Progress = Callable[[str, int, int], None]


def require_benchmarks(settings: EvaluationConfig) -> None:
    """Raise UserError when benchmarks are asked for and cannot be run here."""
    if not settings.benchmarks:
        return
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        raise UserError(
            f"evaluation.benchmarks names {', '.join(settings.benchmarks)}, and the package "
            f"{PACKAGE} is not installed.",
            "lm-evaluation-harness, an optional extra.",
            "pip install -c constraints.txt 'orpo-pipeline[benchmarks]', or remove "
            "evaluation.benchmarks.",
        ) from None
    folder = settings.benchmark_folder
    if folder is not None and not Path(folder).is_dir():
        raise UserError(
            f"evaluation.benchmark_folder is {folder}, which is no folder.",
            "a folder with task files (.yaml) of lm-evaluation-harness.",
            "Correct the path; a relative one starts at the current folder.",
        )


def benchmark_inputs(settings: EvaluationConfig) -> dict[str, Any] | None:
    """What decides the results beside the configuration: the package, and the local task files."""
    if not settings.benchmarks:
        return None
    require_benchmarks(settings)
    folder = settings.benchmark_folder
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file()) if folder else []
    return {
        "lm-eval": version(PACKAGE),
        "files": {str(p.relative_to(Path(folder or "."))): file_sha256(p) for p in files},
    }


def load_tasks(settings: EvaluationConfig) -> Any:
    """The harness's task manager, once every task and its data could be loaded.

    None where no benchmark is asked for.
    Raises UserError for an unknown name, EnvironmentFault for data that is not to be had.
    """
    if not settings.benchmarks:
        return None
    from lm_eval.tasks import TaskManager

    names, folder = settings.benchmarks, settings.benchmark_folder
    manager = TaskManager(include_path=folder, include_defaults=False) if folder else None
    if manager is None or not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folder)  # reads thousands of files: half a minute
    unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise UserError(
            f"evaluation.benchmarks names {', '.join(unknown)}, which is no task of "
            f"lm-evaluation-harness {version(PACKAGE)}" + (f" or of {folder}." if folder else "."),
            "names that `lm_eval ls tasks` lists, or task files in evaluation.benchmark_folder.",
            "Correct the name.",
        )
    for name in names:
        try:
            manager.load([name])
        # Missing files, no network, data sets of another form.
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EnvironmentFault(
                f"The data of benchmark {name} cannot be loaded: {' '.join(str(error).split())}.",
                "its data set in the cache of Hugging Face datasets, on the hub, or in local files "
                "that its task file names.",
                "Load it once where there is a network, correct data_files, or remove the task.",
            ) from error
    return manager


@dataclass(frozen=True)
class Measured:
    """One metric of one model."""

    value: float
    error: float
    """Standard error."""
    documents: int
    by_document: Mapping[int, float]
    """The metric of each document, by its number; empty where the value is not their mean."""

    def estimate(self) -> Estimate:
        low, high = self.value - Z * self.error, self.value + Z * self.error
        return Estimate(value=self.value, low=low, high=high, n=self.documents)

    def minus(self, reference: "Measured") -> Difference:
        """Paired by document where both have values for each; else the errors of both add up."""
        error = float(np.hypot(self.error, reference.error))
        if self.by_document and self.by_document.keys() == reference.by_document.keys():
            changes = [self.by_document[n] - reference.by_document[n] for n in self.by_document]
            error = float(np.std(changes, ddof=1) / np.sqrt(len(changes)))
        value = self.value - reference.value
        return Difference(
            value=value,
            low=value - Z * error,
            high=value + Z * error,
            n=self.documents,
            groups=self.documents,
            standard_error=error,
        )


Metrics = dict[tuple[str, str], Measured]
"""By task and metric."""


def run_benchmarks(
    models: Models, tokenizer: Any, tasks: Any, settings: EvaluationConfig, progress: Progress
) -> tuple[BenchmarkFigure, ...]:
    """Every task with every model. A metric without a standard error is left out.

    Args:
        models: see `load_models`.
        tokenizer: the harness's own copy: it may set a padding token.
        tasks: see `load_tasks`.
        settings: names, limit, batch size.
        progress: called before each task of each model.
    """
    if not settings.benchmarks:
        return ()
    from lm_eval.models.huggingface import HFLM

    batch_size = settings.batch_size or BATCH
    measured: dict[str, Metrics] = {name: {} for name in models.names}
    better: dict[str, dict[str, bool]] = {}
    for number, model_name in enumerate(models.names):
        with models.as_(model_name) as model:
            harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
            for place, task in enumerate(settings.benchmarks):
                done = number * len(settings.benchmarks) + place
                total = len(models.names) * len(settings.benchmarks)
                progress(f"benchmark {task}, {model_name} model", done, total)
                results = _evaluate(harness, task, tasks, settings)
                measured[model_name].update(_metrics(results, task))
                better.update(results["higher_is_better"])
    return tuple(
        _figure(task, metric, measured, better.get(task, {}).get(metric.partition(".")[0]))
        for task, metric in measured[CANDIDATE]
    )


def _evaluate(harness: Any, task: str, tasks: Any, settings: EvaluationConfig) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    results: dict[str, Any] = simple_evaluate(
        harness,
        tasks=[task],
        task_manager=tasks,
        limit=settings.benchmark_limit,
        bootstrap_iters=ERRORS_RESAMPLED,
    )
    return results


def _metrics(results: dict[str, Any], asked: str) -> Metrics:
    """The asked task's metrics; of a tag, which has none of its own, those of its tasks."""
    own = {name: values for name, values in results["results"].items() if name == asked}
    found = {
        (task, key.removesuffix(",none").replace(",", ".")): _measured(results, task, key)
        for task, values in (own or results["results"]).items()
        for key in values
    }
    return {key: one for key, one in found.items() if one is not None}


def _measured(results: dict[str, Any], task: str, key: str) -> Measured | None:
    """The metric of a `METRIC,FILTER` of one task, or None where it has no standard error."""
    values = results["results"][task]
    metric, _, chosen = key.partition(",")
    value, error = values[key], values.get(f"{metric}_stderr,{chosen}")
    if not isinstance(error, int | float) or not np.isfinite([value, error]).all():
        return None
    samples = [s for s in results["samples"].get(task, []) if s["filter"] == chosen]
    count = results["n-samples"].get(task, {}).get("effective", values.get("sample_len"))
    numbers = {s["doc_id"]: s[metric] for s in samples if isinstance(s.get(metric), int | float)}
    is_mean = len(numbers) == count and np.isclose(np.mean(list(numbers.values())), value)
    return Measured(float(value), float(error), int(count), numbers if is_mean else {})


def _figure(
    task: str, metric: str, measured: dict[str, Metrics], higher_is_better: bool | None
) -> BenchmarkFigure:
    known = {name: metrics.get((task, metric)) for name, metrics in measured.items()}
    models = {name: one for name, one in known.items() if one is not None}
    candidate = models[CANDIDATE]
    references = {name: models[name] for name in (BASE, CHAMPION) if name in models}
    return BenchmarkFigure(
        task=task,
        metric=metric,
        higher_is_better=higher_is_better,
        models={name: one.estimate() for name, one in models.items()},
        differences={name: candidate.minus(one) for name, one in references.items()},
    )
