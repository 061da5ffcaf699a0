"""Tasks of `orpo-retrain`: look at the sources, decide, and remember what was trained on."""

from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.artifacts import create_markdown_artifact

from orpo_pipeline.retraining.decision import decide_retraining
from orpo_pipeline.retraining.rows import rows_of
from orpo_pipeline.retraining.snapshots import take_snapshot
from orpo_pipeline.retraining.watermark import Watermark, commit_watermark, read_watermark
from schemas.config import RunConfig
from schemas.results import PreparedData, RegisteredVersion
from schemas.retraining import RetrainingDecision, Snapshot, Trained
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.promotion_history import now_utc
from tasks.retraining_page import decision_markdown
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.version_tags import CHAMPION
from tasks.versions import known_versions, read_aliases

DECISION_TAG = "orpo.retraining"
"""Of the experiment: when `orpo-retrain` last decided, and what. Of a run: why it was made."""


@task(**stage_task("look", timedelta(hours=6), waits=(30, 30)))
def look(config: RunConfig) -> Snapshot:
    """What the watched sources hold now, as files that nothing changes any more."""
    return take_snapshot(config, state_home())


@task(**stage_task("decide", timedelta(hours=1)))
def decide(config: RunConfig, prepared: PreparedData, forced: bool) -> RetrainingDecision:
    """Is a training worth it? The answer is an artifact here and a tag of the experiment."""
    home = state_home()
    rows = rows_of(prepared.path)
    with registry(config.registry, home) as tracker:
        last = last_training(tracker)
        decision = decide_retraining(
            rows, prepared.dataset_id, last, config.retraining, age_of(tracker, last), forced
        )
        said = f"{now_utc():%F %T} UTC: {decision.because}"
        tracker.client.set_experiment_tag(tracker.experiment_id(), DECISION_TAG, said)
    text = decision_markdown(decision, config.retraining, home, tracker.uri)
    create_markdown_artifact(text, key="retraining-decision")
    return decision


@task(**stage_task("remember", timedelta(hours=1)))
def remember(
    config: RunConfig,
    snapshot: Snapshot,
    prepared: PreparedData,
    decision: RetrainingDecision,
    version: RegisteredVersion,
) -> Trained:
    """Take the rows for seen, now that a registered version has been trained on them."""
    home = state_home()
    with registry(config.registry, home) as tracker:
        tracker.client.set_tag(version.run_id, DECISION_TAG, decision.because)
    trained = Trained(
        when=now_utc(),
        snapshot_id=snapshot.snapshot_id,
        dataset_id=prepared.dataset_id,
        model_name=version.model_name,
        version=version.version,
        experiment_id=version.experiment_id,
        run_id=version.run_id,
    )
    commit_watermark(home, Watermark(trained, rows_of(prepared.path)))
    return trained


def last_training(tracker: Tracker) -> Watermark | None:
    """What was last trained on; None when nothing was, or somebody has deleted its version since.

    In a new registry, or without that version, no model that is left has seen the rows.
    """
    last = read_watermark(tracker.home, tracker.config.model_name)
    return last if last and last.trained.version in known_versions(tracker) else None


def age_of(tracker: Tracker, last: Watermark | None) -> timedelta | None:
    """Since the champion was registered, or the last training ended, whichever is later.

    The champion's alone would train every night while candidates are rejected.
    """
    born = [last.trained.when] if last else []
    versions = known_versions(tracker)
    champion = read_aliases(tracker).get(CHAMPION) if versions else None
    if champion in versions:
        milliseconds = versions[champion].creation_timestamp
        born.append(datetime.fromtimestamp(milliseconds / 1000, UTC))
    # A clock that was set back must not make it negative; the age is then that of a new model.
    return max(datetime.now(UTC) - max(born), timedelta(0)) if born else None
