"""A real file system runs full in each stage: a clear error, and afterwards as if undisturbed."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prepared import content_of
from rows import pair_row, write_rows
from small_disk import SmallDisk, small_disk

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.evaluation.evaluate import evaluate
from orpo_pipeline.retraining.snapshots import take_snapshot
from orpo_pipeline.training.checkpoints import WRITING, newest_step
from orpo_pipeline.training.train import train
from schemas.config import RegistryConfig, RunConfig
from schemas.errors import EnvironmentFault
from schemas.jobs import EvaluateJob, TrainJob
from schemas.results import TrainedAdapter
from tasks.tracking import recorded_run

WEIGHTS = "adapter_model.safetensors"
STEPS: dict[str, Any] = {"max_steps": 4, "batch_size": 2, "save_steps": 1, "eval_pairs": 0}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def quiet(*_: Any) -> None:
    """No progress."""


def assert_clear(error: EnvironmentFault, path: Path) -> None:
    """It names the path, what is free and what is needed, and exits with 3."""
    assert error.exit_code == 3
    assert str(path) in error.found and "No space left on device" in error.found
    assert re.search(r"\d+\.\d MB are free there", error.found)
    assert re.search(r"about [\d,]+\.\d MB for this", error.expected)


def test_preparation(
    tiny_config: Callable[..., RunConfig], disk: SmallDisk, tmp_path: Path
) -> None:
    config, home = tiny_config(), disk.path / "home"
    disk.fill(leave=200_000)
    with pytest.raises(EnvironmentFault) as caught:
        prepare(config, home, quiet)
    assert_clear(caught.value, home)
    disk.free()
    found = prepare(config, home, quiet)
    undisturbed = prepare(config, tmp_path / "undisturbed", quiet)
    assert not found.reused and content_of(found.path) == content_of(undisturbed.path)


@pytest.mark.slow
def test_a_checkpoint(train_job: Callable[..., TrainJob], disk: SmallDisk) -> None:
    undisturbed = train(train_job("undisturbed", training=STEPS), quiet, lambda: False)
    job = train_job("disk/home", training=STEPS)

    def fill_at_step_3(step: int, *_: Any) -> None:
        if step == 3:
            disk.fill(leave=100_000)

    with pytest.raises(EnvironmentFault) as caught:
        train(job, fill_at_step_3, lambda: False)
    work = job.home / "training" / job.adapter_id
    assert caught.value.exit_code == 3
    assert f"Training in {work} failed" in caught.value.found
    assert re.search(r"about [\d,]+\.\d MB for this", caught.value.expected)
    assert newest_step(work) == 2  # and the torn one does not take up space any more
    assert not (work / WRITING).exists()
    disk.free()
    adapter = train(job, quiet, lambda: False)
    assert (adapter.steps, adapter.resumed_from) == (4, 2)
    for name in (WEIGHTS, "metrics.jsonl"):
        assert (adapter.path / name).read_bytes() == (undisturbed.path / name).read_bytes()


@pytest.mark.slow
def test_evaluation(train_job: Callable[..., TrainJob], disk: SmallDisk) -> None:
    few = {"evaluation": {"generations": 0, "max_pairs": 4}}
    plain = train_job("disk/home", training={**STEPS, "max_steps": 1}, **few)
    adapter: TrainedAdapter = train(plain, quiet, lambda: False)
    job = EvaluateJob(
        config=plain.config,
        home=plain.home,
        prepared=plain.prepared,
        plan=plain.plan,
        adapter=adapter,
    )
    disk.fill()
    with pytest.raises(EnvironmentFault) as caught:
        evaluate(job, quiet)
    assert_clear(caught.value, job.home / "evaluating")
    disk.free()
    report = evaluate(job, quiet)
    elsewhere = evaluate(job.model_copy(update={"home": disk.path / "elsewhere"}), quiet)
    assert report.candidate == elsewhere.candidate and report.comparisons == elsewhere.comparisons


def test_a_snapshot_of_the_sources(disk: SmallDisk, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [pair_row(n, note="x" * 999) for n in range(300)])
    config = RunConfig.model_validate({"data": {"source": str(source)}})
    home = disk.path / "home"
    disk.fill(leave=100_000)
    with pytest.raises(EnvironmentFault) as caught:
        take_snapshot(config, home)
    assert_clear(caught.value, home / "snapshots")
    disk.free()
    found = take_snapshot(config, home)
    undisturbed = take_snapshot(config, tmp_path / "undisturbed")
    assert content_of(found.path.parent) == content_of(undisturbed.path.parent)


def test_registration(disk: SmallDisk) -> None:
    """MLflow's database and artifacts lie there, too."""
    config, home = RegistryConfig(experiment="tests"), disk.path / "home"
    with recorded_run(config, home, "adapter") as (tracker, run_id):
        pass
    points = [{"step": step, "values": {"train/loss": 1.0 / step}} for step in range(1, 2001)]
    disk.fill()
    with (
        pytest.raises(EnvironmentFault, match="Recording the run in MLflow") as caught,
        recorded_run(config, home, "adapter") as (again, same),
    ):
        assert same == run_id
        again.points.deliver(run_id, points)  # there may be room in SQLite's own log
        again.client.log_text(run_id, "x" * 100_000, "note.txt")
    assert caught.value.exit_code == 3 and str(home) in caught.value.found
    disk.free()
    with recorded_run(config, home, "adapter") as (again, same):
        again.points.deliver(run_id, points)
    history = tracker.client.get_metric_history(run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(1, 2001))
