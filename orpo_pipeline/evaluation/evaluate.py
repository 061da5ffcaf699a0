"""The evaluate stage: base model, candidate and champion on the held-out pairs, by one code."""

import json
from pathlib import Path

from orpo_pipeline.data.prepared_files import EVAL
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.evaluation.benchmarks import benchmark_inputs, load_tasks, run_benchmarks
from orpo_pipeline.evaluation.drift.neutral import neutral_paragraphs
from orpo_pipeline.evaluation.held_out import read_index
from orpo_pipeline.evaluation.measuring import Measured, Measuring, Progress
from orpo_pipeline.evaluation.models import Models, load_models
from orpo_pipeline.evaluation.parts import Parts
from orpo_pipeline.evaluation.statistics.report import build_report
from orpo_pipeline.evaluation.statistics.slices import calibration_bins, measure_slices
from orpo_pipeline.stages import (
    code_version,
    fingerprint,
    is_complete,
    manifest_entries,
    new_stage,
)
from schemas.config import RunConfig
from schemas.figures import Slices
from schemas.jobs import EvaluateJob
from schemas.plan import TrainingPlan
from schemas.results import Champion, EvaluationReport, PreparedData, TrainedAdapter

RECORD = "record.json"
SCORES = "pairs.parquet"
DRIFT, NEUTRAL, ANSWERS = "drift.parquet", "neutral.parquet", "answers.parquet"
SLICES = "slices.json"
GENERATIONS = "generations.json"

DECISIVE_CHOICES = (
    *("device", "dtype", "attention", "quantization", "engine", "forward_pass"),
    "dequantised_layers",
)
"""Choices of the plan that change a score, if only by rounding: outside of training bitsandbytes
has other kernels for NF4."""


def evaluation_folder(
    config: RunConfig,
    prepared: PreparedData,
    plan: TrainingPlan,
    adapter: TrainedAdapter,
    home: Path,
    champion: Champion | None = None,
) -> Path:
    """Folder of the evaluation of one adapter on one evaluation split, against one champion."""
    against = champion and champion.model_dump(include={"adapter_id", "version", "prepared_id"})
    inputs = {
        "adapter": adapter.adapter_id,
        "champion": against,
        "prepared": prepared.prepared_id,
        # Groups and sources of the same rows may change with what else the data holds.
        "index": manifest_entries(prepared.path)[f"{EVAL}.parquet"]["sha256"],
        "evaluation": config.evaluation.model_dump(exclude={"judge"}),
        "benchmarks": benchmark_inputs(config.evaluation),
        "orpo_lambda": config.training.orpo_lambda,
        "plan": {name: plan.choices()[name].value for name in DECISIVE_CHOICES},
        "neutral": neutral_paragraphs(),
        "code": code_version("orpo_pipeline.evaluation.evaluate"),
    }
    return home / "evaluations" / fingerprint(inputs)


def load_evaluation(folder: Path) -> EvaluationReport | None:
    """The record of a complete stage, or None."""
    if not is_complete(folder):
        return None
    record = EvaluationReport.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    return record.model_copy(update={"reused": True, "path": folder})


def evaluate(job: EvaluateJob, progress: Progress) -> EvaluationReport:
    """Score every held-out pair and answer a few prompts: base model, candidate and champion.

    Raises UserError when an adapter is unusable or a score is NaN or infinite.
    """
    where = (job.config, job.prepared, job.plan, job.adapter, job.home, job.champion)
    folder = evaluation_folder(*where)
    done = load_evaluation(folder)
    if done is not None:
        return done
    tasks = load_tasks(job.config.evaluation)
    progress("loading the models", 0, 0)
    models = load_models(job)
    parts = Parts(job.home, folder)
    measured = Measuring(models, job, read_index(job), parts, progress).measure()
    tokenizer = load_chat_format(job.prepared.path / "tokenizer", template=None).tokenizer
    benchmarks = run_benchmarks(models, tokenizer, tasks, job.config.evaluation, progress)
    progress("estimating intervals", 0, 0)
    report = build_report(folder, job, measured).model_copy(update={"benchmarks": benchmarks})
    with new_stage(folder) as temporary:
        _write(temporary, measured, models, job)
        (temporary / RECORD).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    parts.remove()
    return report


def _write(folder: Path, measured: Measured, models: Models, job: EvaluateJob) -> None:
    """The files behind the report."""
    names = list(models.names)
    measured.pairs.write_parquet(folder / SCORES)
    measured.drift.write_parquet(folder / DRIFT)
    measured.neutral.write_parquet(folder / NEUTRAL)
    measured.answers.write_parquet(folder / ANSWERS)
    slices = Slices(
        slices=tuple(measure_slices(measured.pairs, names, job.config.training.orpo_lambda)),
        calibration={name: tuple(calibration_bins(measured.pairs, name)) for name in names},
    )
    (folder / SLICES).write_text(slices.model_dump_json(indent=1), encoding="utf-8")
    table = json.dumps(measured.table, indent=1, ensure_ascii=False)
    (folder / GENERATIONS).write_text(table, encoding="utf-8")
