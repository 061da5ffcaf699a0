"""Training again when it is worth it: on a schedule, on an event, or when somebody asks."""

import logging
import time

from prefect import flow
from prefect.states import Completed

from flows.pipeline import refuse_early, train_to_promotion
from orpo_pipeline.retention.use import in_use
from orpo_pipeline.retraining.snapshots import on_snapshot
from schemas.config import RunConfig
from schemas.retraining import RetrainingResult
from tasks.evaluate import warn_of_closed_gate
from tasks.home import state_home
from tasks.prepare import prepare
from tasks.retention.prune import prune
from tasks.retraining import decide, look, remember
from tasks.warm_start.choosing import choose_start

log = logging.getLogger(__name__)


@flow(name="orpo-retrain", persist_result=True, result_serializer="json")
def orpo_retrain(
    config: RunConfig = RunConfig(),  # noqa: B008 -- frozen
    force: bool = False,
) -> RetrainingResult:
    """Look at the sources, prepare what is new, and train again if the decision says so.

    Args:
        config: every knob of the run; `retraining` says what is watched and when it is worth it.
        force: train whatever the decision would be.
    """
    with in_use(state_home()):
        result = _retrain(config, force)
    # Its failure is a failed task and no failed run: what was trained and promoted stands.
    pruned = prune(config, return_state=True)
    if pruned.is_completed():
        result = result.model_copy(update={"pruned": pruned.result()})
    else:
        log.warning("Nothing was pruned: %s", pruned.message)
    # The message stands beside the run in the Prefect UI; who calls the flow gets the result.
    return Completed(message=result.decision.because, data=result)  # type: ignore[return-value]


def _retrain(config: RunConfig, force: bool) -> RetrainingResult:
    started = time.monotonic()
    refuse_early(config)
    warn_of_closed_gate(config)
    snapshot = look(config)
    config = on_snapshot(config, snapshot)
    prepared = prepare(config)
    decision = decide(config, prepared, force)
    if decision.verdict.trains:
        start = choose_start(config, prepared)
        pipeline = train_to_promotion(config, prepared, started, start)
        # Only now: a run that ends before has seen nothing, and the next one trains on its rows.
        remember(config, snapshot, prepared, decision, pipeline.version)
    else:
        start, pipeline = None, None
    return RetrainingResult(
        snapshot=snapshot, prepared=prepared, decision=decision, start=start, pipeline=pipeline
    )
