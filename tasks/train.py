"""Task `train`: the adapter, trained in a child process, its figures live in MLflow."""

from datetime import timedelta

from prefect import task

from orpo_pipeline.training import adapter_id, load_adapter, read_metrics
from schemas.config import RunConfig
from schemas.jobs import Event, Metrics, Progress, TrainJob
from schemas.plan import TrainingPlan
from schemas.results import PreparedData, TrainedAdapter
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.stage_process import run_stage
from tasks.tracking import Tracker


@task(**stage_task("train", timedelta(days=7), retries=2, delay=timedelta(seconds=30)))
def train(config: RunConfig, prepared: PreparedData, plan: TrainingPlan) -> TrainedAdapter:
    """Train, or continue after a crash, or reuse the finished adapter of the very same inputs."""
    home = state_home()
    identity = adapter_id(config, prepared, plan)
    done = load_adapter(home, identity)
    if done is not None:
        return done
    tracker = Tracker(config.registry, home)
    run_id = tracker.open_run(identity)
    tracker.describe_run(run_id, config, prepared, plan)
    job = TrainJob(config=config, home=home, prepared=prepared, plan=plan, adapter_id=identity)
    with StageProgress("train") as progress, tracker.failure_recorded(run_id):

        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                progress(event.what, event.done, event.total)
            elif isinstance(event, Metrics):
                tracker.log_point_live(run_id, event.step, event.values)

        adapter = run_stage(job, TrainedAdapter, on_event)
    tracker.deliver_points(run_id, read_metrics(adapter.path / "metrics.jsonl"))
    return adapter
