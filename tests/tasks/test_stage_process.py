"""Stages in real child processes: their events, their errors, and every way in which they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_processes import Cancelled, steps_in, work_folder, workers

from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.train import read_metrics, train
from schemas.config import RunConfig
from schemas.errors import PipelineError, UserError
from schemas.jobs import Event, Metrics, PrepareJob, Progress, TrainJob
from schemas.results import PreparedData, TrainedAdapter
from tasks.stage_process import run_stage

MakeJob = Callable[..., TrainJob]
STEPS: dict[str, Any] = {"max_steps": 10, "batch_size": 2, "save_steps": 2, "learning_rate": 1e-3}
ENDLESS: dict[str, Any] = {**STEPS, "max_steps": 100_000, "save_steps": 100_000}
LORA: dict[str, Any] = {"dropout": 0.1, "r": 4}
PARENT = """
import sys
from pathlib import Path
from schemas.jobs import JOB
from schemas.results import TrainedAdapter
from tasks.stage_process import run_stage
job = JOB.validate_json(Path(sys.argv[1]).read_text())
run_stage(job, TrainedAdapter, lambda event: print(event.kind, flush=True))
"""


def assert_clean_end(home: Path) -> None:
    """No process is left, and the interpreter of none was aborted."""
    assert workers(os.getpid()) == []
    for log in (home / "logs").iterdir():
        assert "Fatal Python error" not in log.read_text("utf-8")


def signal_at(step: int, number: signal.Signals, events: list[Event]) -> Callable[[Event], None]:
    """Record the events, and send the child a signal when it reports `step`."""

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, Metrics) and event.step == step:
            (child,) = workers(os.getpid())
            os.kill(child.pid, number)

    return on_event


def test_prepare_reports_and_returns_its_record(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    events: list[Event] = []
    config = tiny_config()
    job = PrepareJob(config=config, home=tmp_path)
    prepared = run_stage(job, PreparedData, events.append)
    assert prepared.rows_in == 60
    assert prepared.path.parent == tmp_path / "prepared"
    progress = [event for event in events if isinstance(event, Progress)]
    done = [event.done for event in progress if event.what == "rows checked"]
    assert done == sorted(done)
    assert done[-1] == 60
    assert events[-1].kind == "done"
    assert_clean_end(tmp_path)


def test_the_child_s_user_error_is_ours(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny_config(data={"source": str(tmp_path / "missing.jsonl")})
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        run_stage(PrepareJob(config=config, home=tmp_path), PreparedData, lambda _: None)
    assert_clean_end(tmp_path)


@pytest.mark.slow
def test_killed_then_stopped_then_finished_equals_undisturbed(train_job: MakeJob) -> None:
    undisturbed = train(
        train_job("undisturbed", training=STEPS, lora=LORA), lambda *_: None, lambda: False
    )
    job = train_job("disturbed", training=STEPS, lora=LORA)

    first: list[Event] = []
    with pytest.raises(PipelineError, match="exit code -9"):
        run_stage(job, TrainedAdapter, signal_at(3, signal.SIGKILL, first))
    assert first[0] == Progress(what="loading the model")
    assert steps_in(first) == list(range(1, steps_in(first)[-1] + 1))
    saved = newest_step(work_folder(job))
    assert saved >= 2
    assert saved % 2 == 0
    assert_clean_end(job.home)

    second: list[Event] = []
    (job.home / "logs" / "train.log").write_text("the end of the attempt before\n")
    with pytest.raises(PipelineError, match="exit code 143") as stopped:
        run_stage(job, TrainedAdapter, signal_at(saved + 1, signal.SIGTERM, second))
    assert steps_in(second)[0] == saved + 1
    assert "training stopped; checkpoints are in" in stopped.value.found
    assert "the attempt before" not in stopped.value.found
    assert newest_step(work_folder(job)) == steps_in(second)[-1]  # nothing is lost by SIGTERM
    assert_clean_end(job.home)

    third: list[Event] = []
    adapter = run_stage(job, TrainedAdapter, third.append)
    assert steps_in(third) == list(range(steps_in(second)[-1] + 1, 11))
    assert third[-1].kind == "done"
    progress = [(e.done, e.total) for e in third if isinstance(e, Progress) and e.total]
    assert progress[-1] == (10, 10)
    assert (adapter.steps, adapter.resumed_from) == (10, steps_in(second)[-1])
    weights = "adapter_model.safetensors"
    assert (adapter.path / weights).read_bytes() == (undisturbed.path / weights).read_bytes()
    points = read_metrics(adapter.path / "metrics.jsonl")
    assert points == read_metrics(undisturbed.path / "metrics.jsonl")
    assert_clean_end(job.home)


def test_a_cancel_leaves_a_checkpoint_and_no_process(train_job: MakeJob) -> None:
    job = train_job(training=ENDLESS, lora=LORA)

    def cancel_at_first_step(event: Event) -> None:
        if isinstance(event, Metrics):
            raise Cancelled

    with pytest.raises(Cancelled):
        run_stage(job, TrainedAdapter, cancel_at_first_step)
    assert newest_step(work_folder(job)) >= 1
    assert_clean_end(job.home)


def test_a_killed_parent_takes_its_child_along(train_job: MakeJob, tmp_path: Path) -> None:
    job = train_job(training=ENDLESS, lora=LORA)
    job_file = tmp_path / "job.json"
    job_file.write_text(job.model_dump_json())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(job_file)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.startswith("metrics"):
            break
    (child,) = workers(parent.pid)
    parent.kill()
    killed = time.monotonic()
    parent.wait()
    child.wait(timeout=60)
    assert time.monotonic() - killed < 30
    parent.stdout.close()
    assert newest_step(work_folder(job)) >= 1
    assert_clean_end(job.home)
