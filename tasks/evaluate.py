"""Task `evaluate`: base model, candidate and champion on the same held-out pairs."""

import logging
from datetime import timedelta

from prefect import task

from orpo_pipeline.evaluation.benchmarks import require_benchmarks
from orpo_pipeline.evaluation.evaluate import evaluation_folder, load_evaluation
from orpo_pipeline.evaluation.gate import never_measured
from orpo_pipeline.evaluation.judge.judge import read_key
from schemas.config import RunConfig
from schemas.evaluation_config import EvaluationConfig
from schemas.jobs import EvaluateJob, Event, Progress
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PreparedData, TrainedAdapter
from tasks.champion import (
    fetch_champion,
    find_champion,
    require_same_base,
    require_same_template,
)
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.stage_process import run_stage
from tasks.tracking import recorded_run

log = logging.getLogger(__name__)


def refuse_impossible_evaluation(settings: EvaluationConfig) -> None:
    """Raise the error of a missing package or key now, not after the training."""
    require_benchmarks(settings)
    if settings.judge is not None:
        read_key(settings.judge)


def warn_of_closed_gate(config: RunConfig) -> None:
    """Say now, not after the training, that the gate is going to fail for want of a figure."""
    missing = never_measured(config)
    if missing:
        log.warning(
            "The gate will promote nothing: it asks for %s, which this configuration does not "
            "measure. See evaluation.drift_pairs, evaluation.generations and evaluation.judge, or "
            "gate.primary and gate.guardrails.",
            ", ".join(figure.value for figure in missing),
        )


@task(**stage_task("evaluate", timedelta(days=1)))
def evaluate(
    config: RunConfig, prepared: PreparedData, plan: TrainingPlan, adapter: TrainedAdapter
) -> EvaluationReport:
    """Measure all models by the same code; or reuse what was measured."""
    home = state_home()
    with (
        recorded_run(config.registry, home, adapter.adapter_id) as (tracker, _),
        StageProgress("evaluate") as progress,
    ):
        champion = find_champion(tracker, adapter.adapter_id)
        folder = evaluation_folder(config, prepared, plan, adapter, home, champion)
        done = load_evaluation(folder)
        if done is not None:
            return done
        if champion is not None:
            require_same_base(champion, prepared.base_model.name, prepared.base_model.revision)
            progress("fetching the champion", 0, 0)
            fetch_champion(tracker, champion)
            require_same_template(champion, prepared.path / "tokenizer")
        job = EvaluateJob(
            config=config,
            home=home,
            prepared=prepared,
            plan=plan,
            adapter=adapter,
            champion=champion,
        )

        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                progress(event.what, event.done, event.total)

        return run_stage(job, EvaluationReport, on_event)
