"""The data report of prepared data as a page, with an estimate for this machine."""

import shutil
import subprocess
import sys
from pathlib import Path

from orpo_pipeline.data.publication import REPORT
from orpo_pipeline.data.report_page import Estimate, render_report
from orpo_pipeline.planning.duration import seconds_per_epoch
from orpo_pipeline.planning.plan import plan_training, step_memory
from schemas.config import RunConfig
from schemas.data_report import DataReport
from schemas.errors import EnvironmentFault, UserError
from schemas.plan import TrainingPlan
from schemas.results import PreparedData
from tasks.plan import probe_in_child
from tasks.stage_process import child_environment

DATA_REPORT = "data/report.html"
"""The page's place among an MLflow run's artifacts."""
MEASURE_SECONDS = 300
TERA = 1e12


def write_report(config: RunConfig, prepared: PreparedData, output: Path) -> Path:
    """Write the page to `output` and the JSON beside it; the page's path.

    Raises UserError when the file cannot be written, or the configured device is not there.
    """
    plan = plan_training(config, probe_in_child(), prepared.base_model.shape, prepared.longest_pair)
    page = report_page(config, prepared, plan)
    output = output.with_suffix(".html")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
        shutil.copyfile(prepared.path / REPORT, output.with_suffix(".json"))
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {output}: {error}.",
            "a place where a file can be written.",
            "Name another one with --output.",
        ) from error
    return output


def report_page(config: RunConfig, prepared: PreparedData, plan: TrainingPlan) -> str:
    """The HTML page of the prepared data, with what training on it will take by this plan."""
    report = DataReport.model_validate_json((prepared.path / REPORT).read_text(encoding="utf-8"))
    return render_report(report, _estimate(config, prepared, plan, report))


def _estimate(
    config: RunConfig, prepared: PreparedData, plan: TrainingPlan, report: DataReport
) -> Estimate:
    flops = _measure_flops(plan)
    kept = report.kept_train + report.kept_eval
    # TRL reads the prompt with either answer.
    sides = {"prompt": 2, "chosen": 1, "rejected": 1}
    tokens = sum(times * report.tokens[side].total for side, times in sides.items())
    share = report.kept_train / kept
    seconds = seconds_per_epoch(tokens * share, plan, prepared.base_model.shape, flops)
    return Estimate(
        hours_per_epoch=seconds / 3600,
        pairs_per_second=report.kept_train / seconds,
        because=(
            f"a {plan.dtype.value} matrix product on this machine's {plan.device.value} ran at "
            f"{flops / TERA:.2f} TFLOP/s, of which a training step is assumed to reach 35 %"
        ),
        peak_memory=step_memory(config, plan, prepared.base_model.shape, prepared.longest_pair),
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
