"""Training of every weight: each optimizer, resuming bit for bit, a model that loads elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import run_engine

from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.qlora import load_base, load_trainable, load_trained_weights
from orpo_pipeline.training.train import train
from schemas.errors import EnvironmentFault
from schemas.jobs import TrainJob

MakeJob = Callable[..., TrainJob]
STEPS = {"method": "full", "max_steps": 3, "batch_size": 4, "save_steps": 2, "learning_rate": 1e-3}
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit", "galore_adamw")


@pytest.fixture
def full_job(train_job: MakeJob, few_rows: Path) -> MakeJob:
    """Jobs that train every weight on nine pairs."""

    def make(home: str = "home", model: dict[str, Any] | None = None, **training: Any) -> TrainJob:
        if training.get("optimizer") == "galore_adamw":
            training = {"galore_rank": 8, **training}
        sections = {"training": {**STEPS, **training}, "model": model or {}}
        return train_job(home, data={"source": str(few_rows)}, **sections)

    return make


def new_model(job: TrainJob) -> Any:
    torch.manual_seed(7)
    return load_trainable(job.config, job.prepared.base_model, job.plan)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("optimizer", "engine", "dtype"),
    [
        *((optimizer, "packed", "float32") for optimizer in OPTIMIZERS),
        ("galore_adamw", "packed", "bfloat16"),
        pytest.param("adamw", "trl", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_every_optimizer_takes_steps(
    full_job: MakeJob, tmp_path: Path, optimizer: str, engine: str, dtype: str
) -> None:
    job = full_job(model={"dtype": dtype}, optimizer=optimizer, engine=engine)
    assert job.plan.quantization.value == "none"
    model = new_model(job)
    before = weights_of(model)
    assert {weight.dtype for weight in before.values()} == {torch.float32}
    points = run_engine(job, model, tmp_path / "work")
    losses = [values["train/loss"] for _, _, values in points]
    assert losses[-1] < losses[0]
    for name, weight in weights_of(model).items():
        assert weight.isfinite().all(), name
        assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "galore_adamw"])
def test_resumed_is_bit_equal(full_job: MakeJob, tmp_path: Path, optimizer: str) -> None:
    job = full_job(optimizer=optimizer)
    expected = new_model(job)
    run_engine(job, expected, tmp_path / "whole")
    run_engine(job, new_model(job), tmp_path / "cut", stop_after=2)
    assert newest_step(tmp_path / "cut") == 2
    found = new_model(job)
    run_engine(job, found, tmp_path / "cut")
    for name, weight in weights_of(found).items():
        assert torch.equal(weight, dict(expected.named_parameters())[name]), name
    # Its last checkpoint is the end of training: the weights come back, and no step is added.
    again = new_model(job)
    run_engine(job, again, tmp_path / "cut")
    assert torch.equal(next(again.parameters()), next(expected.parameters()))


def test_galore_keeps_less(full_job: MakeJob, tmp_path: Path) -> None:
    """The states of a projected weight are of rank 8, those of the embedding of full size."""
    sizes = {}
    for optimizer in ("adamw", "galore_adamw"):
        job = full_job(optimizer=optimizer, max_steps=2)
        run_engine(job, new_model(job), tmp_path / optimizer)
        saved = tmp_path / optimizer / "checkpoint-2" / "optimizer.pt"
        states = torch.load(saved, weights_only=optimizer == "adamw")["state"]
        sizes[optimizer] = sorted(tuple(state["exp_avg"].shape) for state in states.values())
    assert (64, 64) in sizes["adamw"]
    # q_proj and o_proj of two layers, 64 x 64: projected on the right to 64 x 8.
    assert sizes["galore_adamw"].count((64, 8)) >= 4
    assert (64, 64) not in sizes["galore_adamw"]
    assert (49_152, 64) in sizes["galore_adamw"]


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_the_published_model_is_an_ordinary_one(full_job: MakeJob, dtype: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = full_job(model={"dtype": dtype})
    adapter = train(job, lambda *_: None, lambda: False)
    loaded = AutoModelForCausalLM.from_pretrained(adapter.path, dtype="auto")
    assert next(loaded.parameters()).dtype == getattr(torch, dtype)
    assert AutoTokenizer.from_pretrained(adapter.path).chat_template
    base = load_base(job.prepared.base_model, job.plan)
    assert not torch.equal(next(loaded.parameters()), next(base.parameters()))
    load_trained_weights(base, adapter.path)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, dict(base.named_parameters())[name]), name


def test_a_missing_weight_is_told(full_job: MakeJob, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "model.safetensors")
    job = full_job()
    with pytest.raises(EnvironmentFault, match=r"lacks 19 of the model's weights"):
        load_trained_weights(load_base(job.prepared.base_model, job.plan), tmp_path)
