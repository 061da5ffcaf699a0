"""The train stage in two ranks: as one process, and however they end."""

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from stage_processes import Cancelled, steps_in, work_folder, workers

from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.train import read_metrics, train
from schemas.errors import PipelineError
from schemas.jobs import Event, Metrics, TrainJob
from schemas.results import TrainedAdapter
from tasks.stage_process import run_stage

MakeJob = Callable[..., TrainJob]
STEPS = 6
TRAINING: dict[str, Any] = {
    "max_steps": STEPS,
    "batch_size": 4,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "token_budget": 100,
    "eval_pairs": 4,
}
WEIGHTS = "adapter_model.safetensors"


def ranks(first: psutil.Process) -> list[psutil.Process]:
    return [p for p in first.children() if "orpo_pipeline.training.ranks" in p.cmdline()]


def adapter(job: TrainJob) -> TrainedAdapter:
    return run_stage(job, TrainedAdapter, lambda _: None)


@pytest.fixture
def in_two(train_job: MakeJob) -> MakeJob:
    """A job of two ranks."""

    def make(home: str, sharding: str = "off") -> TrainJob:
        model = {"quantization": "nf4", "dequantised_cache": "off"}
        asked = TRAINING | {"processes": 2, "sharding": sharding}
        job = train_job(home, model=model if sharding == "on" else {}, training=asked)
        assert job.plan.processes.value == 2
        assert job.plan.sharding.value == (sharding == "on")
        return job

    return make


def test_two_ranks_train_and_publish_as_one_process(train_job: MakeJob, in_two: MakeJob) -> None:
    alone = train(train_job("one", training=TRAINING), lambda *_: None, lambda: False)
    events: list[Event] = []
    shared = run_stage(in_two("two"), TrainedAdapter, events.append)
    assert shared.adapter_id != alone.adapter_id  # sums round otherwise
    assert steps_in(events) == list(range(1, STEPS + 1))
    points, expected = (read_metrics(one.path / "metrics.jsonl") for one in (shared, alone))
    for point, alone_point in zip(points, expected, strict=True):
        assert point["values"] == pytest.approx(alone_point["values"], rel=1e-5, abs=1e-5)
    found, weights = (load_file(one.path / WEIGHTS) for one in (shared, alone))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert (found[name] - value).abs().max() <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["off", "on"])
def test_a_lost_rank_is_named_and_the_training_continues(in_two: MakeJob, sharding: str) -> None:
    undisturbed = adapter(in_two("undisturbed", sharding))
    job = in_two("disturbed", sharding)

    def kill_the_other(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 3:
            (first,) = workers(os.getpid())
            (other,) = ranks(first)
            other.kill()

    with pytest.raises(PipelineError, match="Rank 1 of the training ended with exit code -9"):
        run_stage(job, TrainedAdapter, kill_the_other)
    assert workers(os.getpid()) == []
    assert newest_step(work_folder(job)) in (2, 4)
    continued = adapter(job)
    assert continued.resumed_from in (2, 4)
    assert (continued.path / WEIGHTS).read_bytes() == (undisturbed.path / WEIGHTS).read_bytes()
    assert read_metrics(continued.path / "metrics.jsonl") == read_metrics(
        undisturbed.path / "metrics.jsonl"
    )


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_the_first(in_two: MakeJob, end: signal.Signals) -> None:
    job = in_two("stopped")
    others: list[psutil.Process] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 1:
            (first,) = workers(os.getpid())
            others.extend(ranks(first))
            first.send_signal(end)

    with pytest.raises(PipelineError, match=f"exit code {143 if end == signal.SIGTERM else -9}"):
        run_stage(job, TrainedAdapter, on_event)
    assert len(others) == 1
    psutil.wait_procs(others, timeout=20)
    assert not others[0].is_running()
    if end == signal.SIGTERM:  # rank 0 alone was told, and both stopped at one step
        assert newest_step(work_folder(job)) >= 1


@pytest.mark.slow
def test_a_cancel_ends_all_ranks_with_a_checkpoint(in_two: MakeJob) -> None:
    job = in_two("cancelled")
    others: list[psutil.Process] = []

    def cancel(event: Event) -> None:
        if isinstance(event, Metrics):
            (first,) = workers(os.getpid())
            others.extend(ranks(first))
            raise Cancelled

    with pytest.raises(Cancelled):
        run_stage(job, TrainedAdapter, cancel)
    assert workers(os.getpid()) == []
    assert not others[0].is_running()
    assert newest_step(work_folder(job)) >= 1
