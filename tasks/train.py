"""Task `train`: the adapter, trained in a child process, its figures live in MLflow."""

import shutil
from datetime import timedelta

from prefect import task
from prefect.artifacts import create_markdown_artifact

from orpo_pipeline.training.train import adapter_id, load_adapter, require_idle
from schemas.config import RunConfig
from schemas.jobs import Event, Metrics, Progress, TrainJob
from schemas.plan import TrainingPlan
from schemas.results import BaseModelRecord, PreparedData, TrainedAdapter
from schemas.training_start import FROM_BASE, TrainingStart
from tasks.champion import find_champion, require_same_base
from tasks.data_report import DATA_REPORT, report_page
from tasks.home import state_home
from tasks.links import mlflow_address, run_link
from tasks.plan import show_plan
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.promotion import lost_champion
from tasks.promotion_history import read_history
from tasks.tracking import Tracker, recorded_run
from tasks.train_child import train_in_child

FORWARD_PASS_TAG = "orpo.forward_pass"
"""How much a forward pass holds, where memory ran out and it became less than the plan's."""
START_TAG = "orpo.start"
"""Of a run: what its training began from, and why."""


def refuse_champion(tracker: Tracker, candidate: str, base: BaseModelRecord) -> None:
    """Raise UserError now for a champion that would stop the run after its training.

    That is one whose alias was deleted, and one that was made for another base model.
    """
    lost = lost_champion(tracker, read_history(tracker))
    if lost is not None:
        raise lost
    champion = find_champion(tracker, candidate)
    if champion is not None:
        require_same_base(champion, base.name, base.revision)


@task(**stage_task("train", timedelta(days=7)))
def train(
    config: RunConfig,
    prepared: PreparedData,
    plan: TrainingPlan,
    start: TrainingStart = FROM_BASE,
) -> TrainedAdapter:
    """Train, or continue after a crash, or reuse the finished adapter of the very same inputs."""
    home = state_home()
    identity = adapter_id(config, prepared, plan, start.warm)
    done = load_adapter(home, identity)
    if done is not None:
        # What a crash between publishing and tidying up has left.
        shutil.rmtree(home / "training" / identity, ignore_errors=True)
        return done
    require_idle(home, identity)  # before the run is opened, which another process may be filling
    job = TrainJob(
        config=config,
        home=home,
        prepared=prepared,
        plan=plan,
        adapter_id=identity,
        start=start.warm,
    )
    with (
        recorded_run(config.registry, home, identity) as (tracker, run_id),
        StageProgress("train") as progress,
    ):
        refuse_champion(tracker, identity, prepared.base_model)
        tracker.describe_run(run_id, config, prepared, plan)
        tracker.client.set_tag(run_id, START_TAG, start.because)
        link = run_link(mlflow_address(tracker.uri, home), tracker.experiment_id(), run_id)
        create_markdown_artifact(f"Curves, data report and plan: {link}", key="mlflow-run")
        page = report_page(config, prepared, plan)
        tracker.client.log_text(run_id, page, DATA_REPORT)
        figures = ""

        def on_event(event: Event) -> None:
            nonlocal figures
            if isinstance(event, Progress):
                progress(event.what, event.done, event.total, figures)
            elif isinstance(event, Metrics):
                figures = _in_words(event)
                tracker.points.log_live(run_id, event.step, event.values)

        def on_smaller(followed: TrainingPlan) -> None:
            chosen, layers = followed.forward_pass, followed.dequantised_layers
            note = f"{chosen.value:,} {chosen.because}"
            if layers.value < plan.dequantised_layers.value:
                note += f"; dequantised layers {layers.because}"
            progress(f"forward passes of {note}")
            show_plan(followed)
            tracker.note(run_id, FORWARD_PASS_TAG, note)

        # `register` delivers what the tracking server missed.
        with tracker.system_metrics(run_id):
            return train_in_child(
                job, on_event, lambda: tracker.close_run(run_id, "KILLED"), on_smaller
            )


def _in_words(metrics: Metrics) -> str:
    shown = {"loss": "train/loss", "pair accuracy": "train/pair_accuracy"}
    known = {label: metrics.values.get(name) for label, name in shown.items()}
    return ", ".join(f"{label} {value:.3f}" for label, value in known.items() if value is not None)
