"""The main job: preference data in, a registered and better chat model out."""

import time

from prefect import flow

from orpo_pipeline.planning.overrides import refuse_what_cannot_be_registered
from orpo_pipeline.retention.use import in_use
from orpo_pipeline.training.out_of_memory import follow
from schemas.config import RunConfig
from schemas.results import PipelineResult, PreparedData
from schemas.training_start import FROM_BASE, TrainingStart
from tasks.evaluate import evaluate, refuse_impossible_evaluation, warn_of_closed_gate
from tasks.home import state_home
from tasks.judge import judge
from tasks.plan import plan, refuse_impossible_requests
from tasks.prepare import prepare
from tasks.promote import promote
from tasks.register import register
from tasks.tracking_store import require_tracking
from tasks.train import train


@flow(name="orpo-pipeline", persist_result=True, result_serializer="json")
def orpo_pipeline(config: RunConfig = RunConfig()) -> PipelineResult:  # noqa: B008 -- frozen
    """Prepare the data, plan for this machine, train, evaluate, register and promote.

    Args:
        config: every knob of the run; what is not given has its default.
    """
    started = time.monotonic()
    with in_use(state_home()):
        refuse_early(config)
        warn_of_closed_gate(config)
        return train_to_promotion(config, prepare(config), started)


def refuse_early(config: RunConfig) -> None:
    """Raise what can be known now, and not after hours of preparation or training."""
    require_tracking(config.registry, state_home())
    refuse_impossible_requests(config)
    refuse_impossible_evaluation(config.evaluation)
    refuse_what_cannot_be_registered(config)


def train_to_promotion(
    config: RunConfig,
    prepared: PreparedData,
    started: float,
    start: TrainingStart = FROM_BASE,
) -> PipelineResult:
    """The steps after preparation, for every flow that trains.

    Args:
        config: of the run.
        prepared: its data.
        started: when the flow began, on the monotonic clock.
        start: what the training begins from.
    """
    training_plan = plan(config, prepared)
    adapter = train(config, prepared, training_plan, start)
    if adapter.forward_pass is not None:  # memory may have run out
        training_plan = follow(training_plan, adapter.forward_pass)
    evaluation = evaluate(config, prepared, training_plan, adapter)
    if config.evaluation.judge is not None:
        evaluation = judge(config.evaluation.judge, config.registry, adapter, evaluation)
    version = register(config, prepared, training_plan, adapter, evaluation)
    promotion = promote(config, version, evaluation)
    return PipelineResult(
        prepared=prepared,
        plan=training_plan,
        adapter=adapter,
        evaluation=evaluation,
        version=version,
        promotion=promotion,
        seconds=round(time.monotonic() - started, 1),
    )
