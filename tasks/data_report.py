"""The data report of prepared data as a page, with an estimate for this machine."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from orpo_pipeline.data.publication import REPORT
from orpo_pipeline.data.reading.files import find_files
from orpo_pipeline.data.report.page import Estimate, render_report
from orpo_pipeline.planning.duration import UTILISATION, seconds_per_epoch
from orpo_pipeline.planning.plan import plan_training, predict_memory
from schemas.config import DataConfig, RunConfig
from schemas.data_report import DataReport
from schemas.errors import EnvironmentFault, PipelineError, UserError
from schemas.plan import TrainingPlan
from schemas.results import PreparedData
from tasks.probe import probe_in_child
from tasks.stage_process import child_environment

DATA_REPORT = "data/report.html"
"""The page's place among an MLflow run's artifacts."""
MEASURE_SECONDS = 300
TERA = 1e12
# An estimate is an extra: what hinders it must hinder neither a report nor a training.
NO_ESTIMATE = (PipelineError, subprocess.SubprocessError, OSError, ValueError, IndexError)

log = logging.getLogger(__name__)


def report_files(data: DataConfig, output: Path) -> tuple[Path, Path]:
    """The page that `output` names and the JSON beside it, before anything is written.

    Raises UserError when either is a file of the data source.
    """
    page = output if output.suffix == ".html" else output.parent / f"{output.name}.html"
    figures = page.with_name(f"{page.stem}.report.json")
    for files in find_files(data).values():
        for file in files:
            for target in (page, figures):
                if _is_same(target, file.path):
                    raise UserError(
                        f"The report would overwrite {target}, a file of the data source.",
                        "a page and a JSON file that are not part of the data.",
                        "Name another page with --output.",
                    )
    return page, figures


def _is_same(target: Path, source: Path) -> bool:
    try:
        return target.samefile(source)
    except OSError:  # a target that is not there yet
        return False


def write_report(config: RunConfig, prepared: PreparedData, page: Path, figures: Path) -> None:
    """Write the page, and its figures as JSON. Raises UserError when they cannot be written."""
    text = report_page(config, prepared, _plan(config, prepared))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
        shutil.copyfile(prepared.path / REPORT, figures)
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {page}: {error}.",
            "a place where a file can be written.",
            "Name another one with --output.",
        ) from error


def report_page(config: RunConfig, prepared: PreparedData, plan: TrainingPlan | None) -> str:
    """The HTML page of the prepared data, with what training on it will take by this plan.

    Without the estimate where there is no plan, nothing to train on, or no timing of the device.
    """
    report = DataReport.model_validate_json((prepared.path / REPORT).read_text(encoding="utf-8"))
    return render_report(report, _estimate(config, prepared, plan, report))


def _plan(config: RunConfig, prepared: PreparedData) -> TrainingPlan | None:
    if not prepared.train_pairs:
        return None
    shape = prepared.base_model.shape
    try:
        return plan_training(config, probe_in_child(), shape, prepared.longest)
    except NO_ESTIMATE as error:
        log.warning("The data report has no estimate of a training: %s", error)
        return None


def _estimate(
    config: RunConfig, prepared: PreparedData, plan: TrainingPlan | None, report: DataReport
) -> Estimate | None:
    if plan is None or not report.kept_train:
        return None
    try:
        flops = _measure_flops(plan)
    except NO_ESTIMATE as error:
        log.warning("The data report has no estimate of a training: %s", error)
        return None
    kept = report.kept_train + report.kept_eval
    # TRL reads the prompt with either answer, the packed engine once.
    sides = {"prompt": 2 if plan.engine.value == "trl" else 1, "chosen": 1, "rejected": 1}
    tokens = sum(times * report.tokens[side].total for side, times in sides.items())
    share = report.kept_train / kept
    seconds = seconds_per_epoch(tokens * share, plan, prepared.base_model.shape, flops)
    return Estimate(
        hours_per_epoch=seconds / 3600,
        pairs_per_second=report.kept_train / seconds,
        because=(
            f"a {plan.dtype.value} matrix product on this machine's {plan.device.value} ran at "
            f"{flops / TERA:.2f} TFLOP/s, of which a training step is assumed to reach "
            f"{UTILISATION[plan.engine.value]:.0%}"
        ),
        peak_memory=predict_memory(config, plan, prepared.base_model.shape, prepared.longest).total,
        steps_per_epoch=-(-report.kept_train // config.training.batch_size),
    )


def _measure_flops(plan: TrainingPlan) -> float:
    command = [sys.executable, "-m", "orpo_pipeline.planning.duration"]
    finished = subprocess.run(
        [*command, plan.device.value, plan.dtype.value],
        capture_output=True,
        text=True,
        timeout=MEASURE_SECONDS,
        env=child_environment(),
    )
    if finished.returncode != 0:
        raise EnvironmentFault(
            f"Timing a matrix product failed: {finished.stderr.strip()[-800:]}",
            "torch that can compute on the planned device.",
            f"Run `python -m orpo_pipeline.planning.duration {plan.device.value} "
            f"{plan.dtype.value}` and mend what it reports.",
        )
    return float(finished.stdout.strip().splitlines()[-1])
