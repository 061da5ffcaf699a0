"""Task `plan`: look at the machine, decide how to train."""

import subprocess
import sys
from datetime import timedelta
from functools import cache

from prefect import task
from prefect.artifacts import create_table_artifact

from orpo_pipeline.planning.plan import check_requests, plan_table, plan_training
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault
from schemas.hardware import Probe
from schemas.plan import TrainingPlan
from schemas.results import PreparedData
from tasks.policies import stage_task
from tasks.stage_process import child_environment

PROBE_SECONDS = 300


@task(**stage_task("plan", timedelta(minutes=10), waits=(5,)))
def plan(config: RunConfig, prepared: PreparedData) -> TrainingPlan:
    """Every hardware-dependent choice with its reason, for this machine and this data."""
    decided = plan_training(config, probe_in_child(), prepared.base_model.shape, prepared.longest)
    show_plan(decided)
    return decided


def show_plan(decided: TrainingPlan) -> None:
    """The plan as a table of the Prefect run; a later one is its next version."""
    rows = [{"choice": n, "value": v, "because": why} for n, v, why in plan_table(decided)]
    create_table_artifact(rows, key="training-plan", description="What was decided, and why")


def refuse_impossible_requests(config: RunConfig) -> None:
    """Raise UserError when this machine cannot run what the configuration asks for."""
    check_requests(config, probe_in_child())


@cache
def probe_in_child() -> Probe:
    """Probe in a process of its own, so that this one never holds a GPU context. Done once."""
    command = [sys.executable, "-m", "orpo_pipeline.planning.hardware"]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=PROBE_SECONDS, env=child_environment()
    )
    if finished.returncode != 0:
        raise EnvironmentFault(
            f"The hardware probe failed: {finished.stderr.strip()[-800:]}",
            "torch that can be imported and a working driver.",
            "Run `python -m orpo_pipeline.planning.hardware` and mend what it reports.",
        )
    return Probe.model_validate_json(finished.stdout.strip().splitlines()[-1])
