"""The train stage in child processes: one, or more where memory runs out."""

from collections.abc import Callable

from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.out_of_memory import keep_plan, kept_plan, need_less
from schemas.errors import EnvironmentFault, OutOfMemory
from schemas.jobs import LOADING, Event, Metrics, Progress, TrainJob
from schemas.plan import TrainingPlan
from schemas.results import TrainedAdapter
from tasks.stage_process import run_stage


def train_in_child(
    job: TrainJob,
    on_event: Callable[[Event], None],
    on_interrupt: Callable[[], None] = lambda: None,
    on_smaller: Callable[[TrainingPlan], None] = lambda _: None,
) -> TrainedAdapter:
    """Train; when memory runs out, go on from the last checkpoint with half as much in a pass.

    `on_smaller` gets the plan that is followed then: at once where an earlier attempt came to it.
    Raises OutOfMemory when a pass cannot hold less, EnvironmentFault when the kernel killed the
    process for memory while the model was loaded, and else what `run_stage` raises.
    """
    work = job.home / "training" / job.adapter_id
    plan = kept_plan(work, job.plan)
    if plan != job.plan:
        on_smaller(plan)
    while True:
        step, loading = newest_step(work), True

        def watched(event: Event) -> None:
            nonlocal step, loading
            if isinstance(event, Metrics):
                step = event.step
            elif isinstance(event, Progress):
                loading = event.what == LOADING
            on_event(event)

        try:
            attempt = job.model_copy(update={"plan": plan})
            return run_stage(attempt, TrainedAdapter, watched, on_interrupt)
        except OutOfMemory as error:
            if loading:
                raise EnvironmentFault(
                    f"{error.found} It was loading the model.", error.expected, error.fix
                ) from error
            config, longest = job.config.training, job.prepared.longest.whole
            smaller = need_less(plan, config.batch_size, longest, step + 1)
            if smaller is None:
                raise _at_the_smallest(error, plan, step + 1) from error
            plan = smaller
            keep_plan(work, plan)
            on_smaller(plan)


def _at_the_smallest(error: OutOfMemory, plan: TrainingPlan, step: int) -> OutOfMemory:
    holds = "the longest pair alone" if plan.engine.value == "packed" else "one pair"
    return OutOfMemory(
        f"{error.found} That was at step {step} with a forward pass of {holds}.",
        error.expected,
        error.fix,
    )
