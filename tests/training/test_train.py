"""The train stage: what names it, what it publishes, and that a stop or a crash changes nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo_pipeline.stages import is_complete
from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.train import Interrupted, adapter_id, load_adapter, read_metrics, train
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault
from schemas.jobs import TrainJob
from schemas.plan import TrainingPlan
from schemas.results import PreparedData, TrainedAdapter

MakeJob = Callable[..., TrainJob]
WEIGHTS = "adapter_model.safetensors"
# Dropout and a decaying rate, so that random state and schedule count; 3 checkpoints: 2, 4 and 5.
STEPS: dict[str, Any] = {"max_steps": 5, "batch_size": 2, "save_steps": 2, "learning_rate": 1e-3}
SECTIONS: dict[str, dict[str, Any]] = {"training": STEPS, "lora": {"dropout": 0.1, "r": 4}}


def run(job: TrainJob) -> TrainedAdapter:
    return train(job, lambda *_: None, lambda: False)


def stop_after(job: TrainJob, step: int) -> None:
    """Train until `step` is done: its end sees the figures of the step before."""
    seen: list[int] = []
    with pytest.raises(Interrupted):
        train(job, lambda done, *_: seen.append(done), lambda: len(seen) >= step - 1)


def work_folder(job: TrainJob) -> Path:
    return job.home / "training" / job.adapter_id


def steps_of(adapter: TrainedAdapter) -> list[int]:
    return [point["step"] for point in read_metrics(adapter.path / "metrics.jsonl")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, list[Any]]]:
    """Weights and figures of the training that nothing disturbed; filled by the first test."""
    return {}


@pytest.fixture
def expected(
    train_job: MakeJob, undisturbed: dict[str, tuple[bytes, list[Any]]]
) -> tuple[bytes, list[Any]]:
    if not undisturbed:
        adapter = run(train_job("undisturbed", **SECTIONS))
        assert (adapter.steps, adapter.resumed_from, adapter.reused) == (5, 0, False)
        weights = (adapter.path / WEIGHTS).read_bytes()
        undisturbed["it"] = weights, read_metrics(adapter.path / "metrics.jsonl")
    return undisturbed["it"]


def assert_equal(adapter: TrainedAdapter, expected: tuple[bytes, list[Any]]) -> None:
    """Bit-equal weights, and every step's figures once and the same."""
    assert (adapter.path / WEIGHTS).read_bytes() == expected[0]
    assert read_metrics(adapter.path / "metrics.jsonl") == expected[1]
    assert steps_of(adapter) == [1, 2, 3, 4, 5]
    assert adapter.steps == 5


def test_published_adapter_is_complete_and_safe(train_job: MakeJob) -> None:
    from safetensors.torch import load_file

    job = train_job(**{**SECTIONS, "training": {**STEPS, "max_steps": 1}})
    adapter = run(job)
    assert is_complete(adapter.path)
    names = {path.name for path in adapter.path.iterdir()}
    assert names >= {WEIGHTS, "adapter_config.json", "metrics.jsonl", "record.json"}
    assert names >= {"tokenizer.json", "chat_template.jinja"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".md"))]
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["revision"] == job.prepared.base_model.revision
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 16, 0.1)
    weights = load_file(adapter.path / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert len(weights) == 2 * 7 * 2  # A and B, seven projections, two layers
    assert not work_folder(job).exists()


def test_equal_inputs_are_trained_once(train_job: MakeJob) -> None:
    job = train_job(**{**SECTIONS, "training": {**STEPS, "max_steps": 1}})
    assert load_adapter(job.home, job.adapter_id) is None
    first = run(job)
    again = train(job, lambda *_: pytest.fail("a step was trained"), lambda: False)
    assert again == first.model_copy(update={"reused": True})
    assert load_adapter(job.home, job.adapter_id) == again
    assert not work_folder(job).exists()


def test_stopped_and_resumed_equals_undisturbed(
    train_job: MakeJob, expected: tuple[bytes, list[Any]]
) -> None:
    job = train_job(**SECTIONS)
    stop_after(job, 3)
    assert is_complete(work_folder(job) / "checkpoint-3")  # between two planned checkpoints
    assert load_adapter(job.home, job.adapter_id) is None
    adapter = run(job)
    assert adapter.resumed_from == 3
    assert_equal(adapter, expected)


@pytest.mark.parametrize("damage", ["a byte less", "no manifest", "a flipped bit"])
def test_a_torn_checkpoint_is_not_used(
    train_job: MakeJob, expected: tuple[bytes, list[Any]], damage: str
) -> None:
    job = train_job(**SECTIONS)
    stop_after(job, 4)
    torn = work_folder(job) / "checkpoint-4"
    content = (torn / WEIGHTS).read_bytes()
    if damage == "no manifest":
        (torn / "manifest.json").unlink()
    elif damage == "a byte less":
        (torn / "optimizer.pt").write_bytes((torn / "optimizer.pt").read_bytes()[:-1])
    else:
        (torn / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    adapter = run(job)
    assert adapter.resumed_from == 2
    assert_equal(adapter, expected)


def test_a_crash_between_the_last_checkpoint_and_publishing(
    train_job: MakeJob, expected: tuple[bytes, list[Any]]
) -> None:
    job = train_job(**SECTIONS)
    stop_after(job, 5)
    assert newest_step(work_folder(job)) == 5
    adapter = run(job)
    assert adapter.resumed_from == 5
    assert_equal(adapter, expected)


def test_lost_figures_lose_no_training(
    train_job: MakeJob, expected: tuple[bytes, list[Any]]
) -> None:
    job = train_job(**SECTIONS)
    stop_after(job, 4)
    metrics = work_folder(job) / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:2]) + lines[2][:20])  # torn by a crash in the third line
    adapter = run(job)
    assert (adapter.steps, steps_of(adapter)) == (5, [1, 2, 5])
    assert (adapter.path / WEIGHTS).read_bytes() == expected[0]


def test_another_process_training_the_same_is_an_environment_fault(train_job: MakeJob) -> None:
    job = train_job(**SECTIONS)
    work_folder(job).mkdir(parents=True)
    hold = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    fcntl.flock(file, fcntl.LOCK_EX)\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(work_folder(job) / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(EnvironmentFault, match="Another process"):
            run(job)
    finally:
        holder.communicate()


def test_identity_follows_what_decides_the_weights(
    tiny_config: Callable[..., RunConfig],
    plan_for: Callable[[RunConfig, PreparedData], TrainingPlan],
    train_job: MakeJob,
) -> None:
    job = train_job(**SECTIONS)
    other_data = job.prepared.model_copy(update={"prepared_id": "0" * 20})

    def identity(prepared: PreparedData = job.prepared, **sections: dict[str, Any]) -> str:
        merged = {
            name: {**SECTIONS.get(name, {}), **sections.get(name, {})}
            for name in {**SECTIONS, **sections}
        }
        config = tiny_config(**merged)
        return adapter_id(config, prepared, plan_for(config, prepared))

    same = [
        identity(),
        identity(training={"save_steps": 50}),
        identity(training={"eval_pairs": 5}),
        identity(training={"gradient_checkpointing": "on"}),
        identity(training={"optimizer": "adamw"}),  # what the plan chooses by itself
        identity(model={"dtype": "float32"}),
        identity(evaluation={"max_pairs": 3}),
        identity(registry={"model_name": "another"}),
    ]
    assert set(same) == {job.adapter_id}
    others = [
        identity(other_data),
        identity(training={"learning_rate": 2e-3}),
        identity(training={"orpo_lambda": 0.2}),
        identity(training={"seed": 1}),
        identity(training={"max_steps": 6}),
        identity(training={"token_budget": 100}),
        identity(training={"engine": "trl"}),
        identity(training={"nll_scope": "response"}),
        identity(training={"optimizer": "adamw_8bit"}),
        identity(lora={"r": 8}),
        identity(lora={"use_dora": True}),
        identity(model={"dtype": "bfloat16"}),
        identity(model={"quantization": "nf4"}),
        identity(model={"attention": "eager"}),
    ]
    assert len({job.adapter_id, *others}) == 1 + len(others)


def test_seed_decides_the_weights(train_job: MakeJob, expected: tuple[bytes, list[Any]]) -> None:
    again = run(train_job("again", **SECTIONS))
    assert_equal(again, expected)
    shutil.rmtree(again.path)
    other = run(train_job("other", **{**SECTIONS, "training": {**STEPS, "seed": 1}}))
    assert (other.path / WEIGHTS).read_bytes() != expected[0]


def test_eight_bit_states_and_nf4_resume_alike(train_job: MakeJob) -> None:
    """Rank 64 makes tensors large enough for 8-bit states."""
    training = {**STEPS, "max_steps": 3, "optimizer": "adamw_8bit"}
    sections = {"training": training, "model": {"quantization": "nf4"}, "lora": {"r": 64}}
    undisturbed = run(train_job("undisturbed", **sections))
    job = train_job("stopped", **sections)
    stop_after(job, 2)
    resumed = run(job)
    assert resumed.resumed_from == 2
    assert (resumed.path / WEIGHTS).read_bytes() == (undisturbed.path / WEIGHTS).read_bytes()


def test_a_metrics_file_torn_by_a_crash_ends_at_the_tear(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1, "values": {"train/loss": 2.5}}\n{"step": 2, "val')
    assert read_metrics(path) == [{"step": 1, "values": {"train/loss": 2.5}}]
