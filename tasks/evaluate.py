"""Task `evaluate`: base model and candidate on the same held-out pairs."""

from datetime import timedelta

from prefect import task

from orpo_pipeline.evaluation.evaluate import evaluation_folder, load_evaluation
from schemas.config import RunConfig
from schemas.jobs import EvaluateJob, Event, Progress
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PreparedData, TrainedAdapter
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.stage_process import run_stage
from tasks.tracking import recorded_run


@task(**stage_task("evaluate", timedelta(days=1), retries=2, delay=timedelta(seconds=30)))
def evaluate(
    config: RunConfig, prepared: PreparedData, plan: TrainingPlan, adapter: TrainedAdapter
) -> EvaluationReport:
    """Measure both models by the same code; or reuse what was measured."""
    home = state_home()
    done = load_evaluation(evaluation_folder(config, prepared, plan, adapter, home))
    if done is not None:
        return done
    job = EvaluateJob(config=config, home=home, prepared=prepared, plan=plan, adapter=adapter)
    with (
        recorded_run(config.registry, home, adapter.adapter_id),
        StageProgress("evaluate") as progress,
    ):

        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                progress(event.what, event.done, event.total)

        return run_stage(job, EvaluationReport, on_event)
