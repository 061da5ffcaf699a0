"""Memory that runs out in a real training process: half as much a pass, and the same steps.

The kernel refuses the process more memory than it has (RLIMIT_DATA), from some step on.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from orpo_pipeline.training import out_of_memory
from orpo_pipeline.training.out_of_memory import (
    follow,
    keep_plan,
    kept_plan,
    memory_faults,
    need_less,
)
from orpo_pipeline.training.ranks import OtherRanks
from orpo_pipeline.training.train import read_metrics, train
from schemas.errors import EnvironmentFault, OutOfMemory, PipelineError
from schemas.jobs import LOADING, Event, Metrics, PrepareJob, Progress, TrainJob
from schemas.plan import Choice, TrainingPlan
from schemas.results import PreparedData
from tasks.stage_process import run_stage
from tasks.train_child import train_in_child

MakeJob = Callable[..., TrainJob]
HEADROOM = 8 * 2**20  # for what Python itself needs; the logits of a pass are 64 MiB
STEPS: dict[str, Any] = {
    "max_steps": 8,
    "batch_size": 8,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "eval_pairs": 0,
}
# What a pass holds at first, and after halving: 8 pairs have some 500 tokens.
PASSES = {"packed": ("token_budget", 480, 240), "trl": ("micro_batch_size", 8, 4)}


def training_process() -> psutil.Process:
    """The child that trains; there is one."""
    found = psutil.Process().children()
    (process,) = [child for child in found if "orpo_pipeline.worker" in child.cmdline()]
    return process


def refuse_more_memory(process: psutil.Process) -> None:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (data,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmData")]
    limit = int(data) * 1024 + HEADROOM
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit, limit))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["packed", "trl"])
def test_half_a_pass_trains_on_and_the_losses_are_those_of_an_undisturbed_training(
    train_job: MakeJob, engine: str
) -> None:
    field, whole, half = PASSES[engine]
    training = {**STEPS, "engine": engine, field: whole}
    undisturbed = train(train_job("undisturbed", training=training), lambda *_: None, lambda: False)
    job = train_job("disturbed", training=training)
    limited: list[int] = []
    plans: list[TrainingPlan] = []

    def limit_the_first_process(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 2 and not limited:
            limited.append(event.step)
            refuse_more_memory(training_process())

    adapter = train_in_child(job, limit_the_first_process, on_smaller=plans.append)
    assert limited and adapter.adapter_id == job.adapter_id and adapter.steps == 8
    assert adapter.resumed_from >= 2
    (plan,) = plans
    assert adapter.forward_pass == plan.forward_pass and plan.forward_pass.value == half
    because = plan.forward_pass.because
    assert f"halved after out of memory at step {adapter.resumed_from + 1} with {whole}" in (
        because.replace(f"step {adapter.resumed_from + 2} ", f"step {adapter.resumed_from + 1} ")
    )
    assert follow(job.plan, adapter.forward_pass).forward_pass == plan.forward_pass

    # TRL averages the NLL by tokens within a pass, so another pass weighs them a little otherwise.
    within = {"packed": 1e-5, "trl": 2e-2}[engine]
    expected = read_metrics(undisturbed.path / "metrics.jsonl")
    found = read_metrics(adapter.path / "metrics.jsonl")
    assert [point["step"] for point in found] == list(range(1, 9))
    for one, other in zip(found, expected, strict=True):
        assert one["values"]["train/loss"] == pytest.approx(
            other["values"]["train/loss"], rel=within
        )
    assert not (job.home / "training" / job.adapter_id).exists()


@pytest.mark.slow
def test_half_a_pass_also_where_another_rank_has_no_memory_left(train_job: MakeJob) -> None:
    job = train_job(training={**STEPS, "token_budget": 480, "processes": 2})
    limited: list[int] = []
    plans: list[TrainingPlan] = []

    def limit_the_other_rank(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 2 and not limited:
            (other,) = training_process().children()
            limited.append(other.pid)
            refuse_more_memory(other)

    adapter = train_in_child(job, limit_the_other_rank, on_smaller=plans.append)
    assert limited and adapter.steps == 8 and adapter.resumed_from >= 2
    assert [plan.forward_pass.value for plan in plans] == [240]


@pytest.mark.slow
def test_at_the_smallest_pass_it_is_an_error_that_says_what_helps(train_job: MakeJob) -> None:
    """A later attempt begins with the pass that the one before came down to."""
    # Many steps: a busy machine may let some pass before the limit is set.
    steps = {"max_steps": 60, "save_steps": 60}
    job = train_job(training={**STEPS, **steps, "token_budget": 100})
    longest = job.prepared.longest.whole
    assert longest < 100 < 2 * longest
    plans: list[TrainingPlan] = []

    def limit_every_process(event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 1:
            refuse_more_memory(training_process())

    with pytest.raises(OutOfMemory) as caught:
        train_in_child(job, limit_every_process, on_smaller=plans.append)
    assert [plan.forward_pass.value for plan in plans] == [longest]
    assert "Training ran out of memory: " in caught.value.found
    assert "with a forward pass of the longest pair alone" in caught.value.found
    assert "gradient_checkpointing" in caught.value.fix
    work = job.home / "training" / job.adapter_id
    assert kept_plan(work, job.plan).forward_pass == plans[0].forward_pass


def test_a_process_that_the_kernel_killed_for_memory_had_no_memory(
    train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own counter tells that from somebody's kill -9."""
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(out_of_memory, "KERNEL_COUNTERS", counters)
    job = PrepareJob(config=train_job().config, home=tmp_path / "killed")

    def kill(kills_after: int) -> Callable[[Event], None]:
        killed: list[int] = []

        def on_first_event(_: Event) -> None:
            if killed:  # what it had said before it died is still read
                return
            counters.write_text(f"pgfault 7\noom_kill {kills_after}\n")
            killed.append(training_process().pid)
            os.kill(killed[0], signal.SIGKILL)

        return on_first_event

    counters.write_text("pgfault 3\noom_kill 4\n")
    with pytest.raises(OutOfMemory, match="The system killed the stage's process"):
        run_stage(job, PreparedData, kill(5))
    with pytest.raises(PipelineError, match="exit code -9") as caught:
        run_stage(job, PreparedData, kill(5))
    assert not isinstance(caught.value, OutOfMemory)


@pytest.mark.slow
def test_killed_while_it_loads_no_smaller_pass_is_tried(
    train_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And killed in its first pass, one is."""
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(out_of_memory, "KERNEL_COUNTERS", counters)
    job = train_job(training={**STEPS, "max_steps": 2, "token_budget": 480})
    plans: list[TrainingPlan] = []

    def train_killed(when: str) -> None:
        counters.write_text("oom_kill 4\n")
        killed: list[str] = []

        def kill(event: Event) -> None:
            if isinstance(event, Progress) and event.what == when and not killed:
                counters.write_text("oom_kill 5\n")
                killed.append(when)
                os.kill(training_process().pid, signal.SIGKILL)

        train_in_child(job, kill, on_smaller=plans.append)
        assert killed

    with pytest.raises(EnvironmentFault, match=r"memory had run out\. It was loading the model"):
        train_killed(LOADING)
    assert plans == [] and not (job.home / "training" / job.adapter_id / "plan.json").exists()
    train_killed("training")
    assert [plan.forward_pass.value for plan in plans] == [240]


def test_so_had_a_rank_that_the_kernel_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(out_of_memory, "KERNEL_COUNTERS", counters)

    def killed(kills_after: int) -> PipelineError | None:
        counters.write_text("pgfault 3\noom_kill 4\n")
        ranks = OtherRanks([[sys.executable, "-c", "input()"]])
        counters.write_text(f"pgfault 7\noom_kill {kills_after}\n")
        os.kill(ranks.processes[0].pid, signal.SIGKILL)
        try:
            return ranks.first_lost(10)
        finally:
            ranks.end()

    assert isinstance(killed(5), OutOfMemory)
    other = killed(4)
    assert other is not None and not isinstance(other, OutOfMemory)
    assert "Rank 1 of the training ended with exit code -9" in other.found


@pytest.mark.parametrize(
    ("engine", "size", "smaller"),
    [
        ("packed", 8192, 4096),
        ("packed", 1000, 600),  # the longest pair
        ("packed", 600, 600),
        ("packed", 512, 512),  # a longer pair has been alone already
        ("trl", 12, 6),
        ("trl", 6, 3),
        ("trl", 3, 1),
        ("trl", 1, 1),
    ],
)
@pytest.mark.parametrize("layers", [3, 0])
def test_half_a_pass_and_no_dequantised_layer(
    train_job: MakeJob, tmp_path: Path, engine: Any, size: int, smaller: int, layers: int
) -> None:
    plan = train_job().plan.model_copy(
        update={
            "engine": Choice(value=engine, because=""),
            "forward_pass": Choice(value=size, because=""),
            "dequantised_layers": Choice(value=layers, because=""),
        }
    )
    less = need_less(plan, batch_size=12, longest=600, step=7)
    if smaller == size and not layers:
        assert less is None
        return
    assert less is not None
    assert (less.forward_pass.value, less.dequantised_layers.value) == (smaller, 0)
    keep_plan(tmp_path, less)
    assert kept_plan(tmp_path, plan) == less
    halved = f"halved after out of memory at step 7 with {size:,}" in less.forward_pass.because
    assert halved == (smaller < size)


def test_a_kept_plan_that_is_torn_is_not_used(train_job: MakeJob, tmp_path: Path) -> None:
    plan = train_job().plan
    halved = plan.model_copy(update={"forward_pass": Choice(value=1, because="halved")})
    assert kept_plan(tmp_path, plan) == plan
    keep_plan(tmp_path, halved)
    assert kept_plan(tmp_path, plan).forward_pass == halved.forward_pass
    (tmp_path / "plan.json").write_text("{")
    assert kept_plan(tmp_path, plan) == plan


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
    ],
)
def test_only_memory_is_memory(error: Exception, is_memory: bool) -> None:
    kind: type[Exception] = EnvironmentFault if is_memory else RuntimeError
    with pytest.raises(kind), memory_faults("Training", EnvironmentFault):
        raise error
