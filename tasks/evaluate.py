"""Task `evaluate`: base model, candidate and champion on the same held-out pairs."""

from datetime import timedelta

from prefect import task

from orpo_pipeline.evaluation.evaluate import evaluation_folder, load_evaluation
from schemas.config import RunConfig
from schemas.jobs import EvaluateJob, Event, Progress
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PreparedData, TrainedAdapter
from tasks.champion import fetch_champion, find_champion, require_same_base
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.stage_process import run_stage
from tasks.tracking import recorded_run


@task(**stage_task("evaluate", timedelta(days=1), retries=2, delay=timedelta(seconds=30)))
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
