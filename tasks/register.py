"""Task `register`: the run's record in MLflow, the model version, and what speaks for it."""

from datetime import timedelta

from prefect import task
from prefect.artifacts import create_markdown_artifact

from schemas.config import RunConfig
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PreparedData, RegisteredVersion, TrainedAdapter
from tasks.data_report import DATA_REPORT, report_page
from tasks.evidence import fixed_pair, store_evidence
from tasks.home import state_home
from tasks.links import mlflow_address, run_link, version_link
from tasks.locks import one_at_a_time
from tasks.policies import stage_task
from tasks.registry import describe_version, record_run, register_version, registered
from tasks.tracking import recorded_run


@task(**stage_task("register", timedelta(hours=1)))
def register(
    config: RunConfig,
    prepared: PreparedData,
    plan: TrainingPlan,
    adapter: TrainedAdapter,
    evaluation: EvaluationReport,
) -> RegisteredVersion:
    """Record the run and register the adapter; doing it twice changes nothing."""
    home = state_home()
    with (
        # Two runs that end in the same adapter would both find no version of it.
        one_at_a_time(home / "registering.lock"),
        recorded_run(config.registry, home, adapter.adapter_id) as (tracker, run_id),
    ):
        tracker.describe_run(run_id, config, prepared, plan)
        new = record_run(tracker, run_id, prepared, plan, adapter, evaluation)
        if new and adapter.reused:  # a training that ran has logged it at its beginning
            tracker.client.log_text(run_id, report_page(config, prepared, plan), DATA_REPORT)
        version, known = register_version(tracker, run_id, prepared, plan, adapter, evaluation)
        pair = fixed_pair(prepared, plan, evaluation)
        store_evidence(tracker, run_id, version, adapter, pair)
        tracker.finish_run(run_id)
        record = registered(tracker, run_id, version, reused=known)
    summary = describe_version(prepared, adapter, evaluation)
    address = mlflow_address(record.tracking_uri, home)
    title = version_link(address, record.model_name, version)
    run = run_link(address, record.experiment_id, run_id)
    text = f"## {title}\n\n{summary}\n\n{run}\n"
    create_markdown_artifact(text, key="registered-version")
    return record
