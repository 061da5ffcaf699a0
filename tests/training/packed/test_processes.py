"""Two processes that share each step's pairs train as one does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engines import build_model, idle_run, run_engine
from safetensors.torch import load_file

from orpo_pipeline.training.checkpoints import WRITING, newest_checkpoint, newest_step
from orpo_pipeline.training.non_finite import StepGuard
from orpo_pipeline.training.trainer_setup import _reporting
from schemas.jobs import TrainJob
from schemas.plan import Choice

SCRIPT = Path(__file__).with_name("train_on_ranks.py")
RANKS = 2
STEPS = 4

TRAINING = {
    "engine": "packed",
    "max_steps": STEPS,
    "batch_size": 4,
    "token_budget": 100,
    "learning_rate": 1e-3,
    "optimizer": "adamw",
    "save_steps": 2,
    "eval_pairs": 0,
}


def train_on_ranks(job: TrainJob, output: Path) -> None:
    """By torchrun with gloo; every process has one thread, as this one has."""
    output.mkdir()
    job_file = output / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    finished = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(job_file), str(output)],
        env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]


@pytest.fixture
def job(train_job: Callable[..., TrainJob], few_rows: Path) -> TrainJob:
    made = train_job(data={"source": str(few_rows)}, training=TRAINING)
    assert made.prepared.train_pairs == 9  # steps of 4, 4 and 1: then a rank has none
    return made


@pytest.mark.slow
def test_two_processes_train_as_one(
    job: TrainJob,
    tmp_path: Path,
) -> None:
    model = build_model(job)
    expected = run_engine(job, model, tmp_path / "one")
    train_on_ranks(job, tmp_path / "two")

    adapters = []
    for rank in range(RANKS):
        found = json.loads((tmp_path / f"two/points-{rank}.json").read_text(encoding="utf-8"))
        assert found["ranks"] == RANKS
        assert [step for step, _, _ in found["points"]] == list(range(1, STEPS + 1))
        for (_, _, values), (_, _, alone) in zip(found["points"], expected, strict=True):
            # fp32 sums in another order.
            assert values == pytest.approx(alone, rel=1e-5, abs=1e-5)
        adapters.append(load_file(tmp_path / f"two/adapter-{rank}.safetensors"))

    weights = {n: p.detach() for n, p in model.named_parameters() if "lora_" in n}
    assert adapters[0].keys() == adapters[1].keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(adapters[0][name], adapters[1][name]), name
        assert (adapters[0][name] - value).abs().max() <= 1e-5, name
    assert newest_step(tmp_path / "two/work") == STEPS
    manifest = (tmp_path / "two" / "work" / f"checkpoint-{STEPS}" / "manifest.json").read_text(
        "utf-8"
    )
    files = json.loads(manifest)["files"]
    assert {f"rng_state_{rank}.pth" for rank in range(RANKS)} <= files.keys()


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("none", marks=pytest.mark.slow)])
def test_shares_of_layers_train_as_whole_ones(
    train_job: Callable[..., TrainJob], few_rows: Path, tmp_path: Path, quantization: str
) -> None:
    """Recomputed activations, held-out pairs, a rank without a pair in the last step."""
    asked = TRAINING | {"eval_pairs": 4, "gradient_checkpointing": "on"}
    job = train_job(
        data={"source": str(few_rows)},
        model={"quantization": quantization, "dequantised_cache": "off"},
        training=asked,
    )
    whole = build_model(job)
    expected = run_engine(job, whole, tmp_path / "one")
    sharded = {
        "sharding": Choice(value=True, because="a test"),
        "processes": Choice(value=RANKS, because="a test"),
    }
    train_on_ranks(
        job.model_copy(update={"plan": job.plan.model_copy(update=sharded)}), tmp_path / "two"
    )
    frozen = {
        name: weight
        for name, weight in whole.named_parameters()
        if ".layers." in name and not weight.requires_grad
    }
    assert frozen
    adapters = []
    for rank in range(RANKS):
        found = json.loads((tmp_path / f"two/points-{rank}.json").read_text(encoding="utf-8"))
        for (_, _, values), (_, _, alone) in zip(found["points"], expected, strict=True):
            assert values == pytest.approx(alone, rel=1e-5, abs=1e-5)
        assert found["shares"].keys() == frozen.keys()
        for name, weight in frozen.items():
            # NF4 values are kept as numbers of float32, eight in each.
            rows = weight.numel() // 4 if weight.dtype == torch.uint8 else weight.shape[0]
            assert found["shares"][name] == [rows // RANKS, *weight.shape[1:]]
        adapters.append(load_file(tmp_path / f"two/adapter-{rank}.safetensors"))
    for name, weight in whole.named_parameters():
        if weight.requires_grad:
            assert torch.equal(adapters[0][name], adapters[1][name]), name
            assert (adapters[0][name] - weight.detach()).abs().max() <= 1e-5, name
    checkpoint = newest_checkpoint(tmp_path / "two/work")
    assert checkpoint is not None
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert len(saved) == len(adapters[0])
    assert all("lora_" in name for name in saved)


def test_only_the_first_rank_publishes_a_checkpoint(
    job: TrainJob,
    tmp_path: Path,
) -> None:
    """A manifest by a rank that is not the first may be of half-written files, and both prune."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    model = build_model(job)
    run_engine(job, model, tmp_path)
    checkpoint = tmp_path / f"checkpoint-{STEPS}"
    written = checkpoint.rename(tmp_path / WRITING / checkpoint.name)
    run = idle_run(job, tmp_path)
    state = TrainerState(global_step=STEPS, is_world_process_zero=False)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    guard = StepGuard(run.training, run.pairs)
    _reporting(run, guard).on_save(arguments, state, TrainerControl(), model=model)
    assert written.is_dir() and not checkpoint.exists()
