"""The model in memory: what is kept dequantised, where layers lie, what an adapter needs."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import GPT2Config, GPT2LMHeadModel

from orpo_pipeline.training.qlora import attach_new_adapter, keep_dequantised, load_base
from schemas.config import ALL_LINEAR_PROJECTIONS, LoraConfig
from schemas.errors import UserError
from schemas.jobs import TrainJob
from schemas.plan import Choice, Engine, ModelShape, TrainingPlan
from schemas.results import BaseModelRecord

MakeJob = Callable[..., TrainJob]

LAYERS = 2  # of the tiny model
IDS = torch.arange(3, 3 + 2 * 30).view(2, 30)


def planned(job: TrainJob, **values: Any) -> TrainingPlan:
    """The job's plan with other values."""
    chosen: dict[str, Any] = {
        name: Choice(value=value, because="a test") for name, value in values.items()
    }
    return job.plan.model_copy(update=chosen)


def in_nf4(job: TrainJob, dtype: str, layers: int) -> Any:
    plan = planned(job, quantization="nf4", dtype=dtype, dequantised_layers=layers)
    return load_base(job.prepared.base_model, plan)


def nf4_projections(layer: torch.nn.Module) -> int:
    return sum(isinstance(module, Linear4bit) for module in layer.modules())


def loss_and_gradients(model: Any, job: TrainJob, engine: Engine) -> dict[str, torch.Tensor]:
    """Of language modelling, with an adapter as if trained; in autocast, as trainings run."""
    torch.manual_seed(7)
    wrapped = attach_new_adapter(model, job.config.lora, job.prepared.base_model, engine)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        loss = wrapped(input_ids=IDS, labels=IDS).loss
    loss.backward()
    gradients = {n: p.grad for n, p in wrapped.named_parameters() if p.grad is not None}
    assert len(gradients) == 2 * LAYERS * len(ALL_LINEAR_PROJECTIONS)
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize("engine", ["packed", "trl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dequantised_layers_change_no_bit(train_job: MakeJob, dtype: str, engine: Engine) -> None:
    job = train_job()
    expected = loss_and_gradients(in_nf4(job, dtype, 0), job, engine)
    for layers in (1, LAYERS):
        found = loss_and_gradients(in_nf4(job, dtype, layers), job, engine)
        assert found.keys() == expected.keys()
        for name, wanted in expected.items():
            assert torch.equal(found[name], wanted), (layers, name)


@pytest.mark.parametrize("layers", [0, 1, LAYERS])
def test_only_the_first_layers_are_kept_dequantised(train_job: MakeJob, layers: int) -> None:
    model = in_nf4(train_job(), "bfloat16", layers)
    decoder = model.model.layers
    quantised = [nf4_projections(layer) for layer in decoder]
    each = len(ALL_LINEAR_PROJECTIONS)
    assert quantised == [0] * layers + [each] * (LAYERS - layers)
    for layer in decoder[:layers]:
        kept = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
        assert len(kept) == each
        assert {linear.weight.dtype for linear in kept} == {torch.bfloat16}
        assert {linear.weight.device.type for linear in kept} == {"cpu"}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


@pytest.fixture
def tiny_gpt2(tmp_path: Path) -> BaseModelRecord:
    """A GPT-2 of random weights: its layers lie in `.h`, and their products are Conv1D."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=300))
    model.save_pretrained(tmp_path / "gpt2")
    shape = ModelShape(
        architecture="GPT2LMHeadModel", parameters=1, layers=2, hidden_size=32, vocab_size=300
    )
    return BaseModelRecord(path=tmp_path / "gpt2", name="gpt2", revision="0", shape=shape)


@torch.no_grad()
def test_another_architecture_loads_unquantised(
    train_job: MakeJob, tiny_gpt2: BaseModelRecord
) -> None:
    plan = planned(train_job(), quantization="none", dequantised_layers=0)
    model = load_base(tiny_gpt2, plan)
    saved = GPT2LMHeadModel.from_pretrained(tiny_gpt2.path).eval()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert torch.equal(model(IDS).logits, saved(IDS).logits)


@torch.no_grad()
def test_layers_of_another_architecture_are_found(
    train_job: MakeJob, tiny_gpt2: BaseModelRecord
) -> None:
    plan = planned(train_job(), quantization="nf4", dtype="float32", dequantised_layers=0)
    model = load_base(tiny_gpt2, plan)
    expected = model(IDS).logits
    assert all(nf4_projections(layer) for layer in model.transformer.h)
    keep_dequantised(model, 1)
    first, second = model.transformer.h
    assert nf4_projections(first) == 0
    assert nf4_projections(second) > 0
    assert torch.equal(model(IDS).logits, expected)


@pytest.mark.parametrize("engine", ["packed", "trl"])
def test_names_that_no_layer_has_are_told(
    train_job: MakeJob, tiny_gpt2: BaseModelRecord, engine: Engine
) -> None:
    plan = planned(train_job(), quantization="none", dequantised_layers=0)
    lora = LoraConfig(target_modules=("nowhere",))
    with pytest.raises(UserError, match=r"gpt2.*nowhere") as caught:
        attach_new_adapter(load_base(tiny_gpt2, plan), lora, tiny_gpt2, engine)
    assert "lora.target_modules" in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nf4_computes_the_same_in_evaluation_as_in_training(train_job: MakeJob, dtype: str) -> None:
    """CPUs with AVX-512 bf16 have kernels in bitsandbytes that pack and round the weights."""
    model = in_nf4(train_job(), dtype, 0)
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    evaluated = model(IDS).logits
    assert torch.equal(evaluated, model.train()(IDS).logits)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_quantised_model_keeps_no_weights_file_mapped(train_job: Callable[..., TrainJob]) -> None:
    job = train_job()
    weights = str(job.prepared.base_model.path / "model.safetensors")

    def mapped() -> int:  # other tests' models may be there still
        gc.collect()
        return Path("/proc/self/maps").read_text().count(weights)

    before = mapped()
    model = load_base(
        job.prepared.base_model, planned(job, quantization="nf4", dequantised_layers=0)
    )
    assert mapped() == before
    assert next(model.parameters()).isfinite().all()
    plain = load_base(
        job.prepared.base_model, planned(job, quantization="none", dequantised_layers=0)
    )
    assert mapped() > before  # so it can be seen
    del plain
