"""The shorter LoRA layer: PEFT's numbers, names and saved adapter."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners import lora
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config, Qwen2ForCausalLM

from orpo_pipeline.training.packed.lora import LeanLoraLinear, use_lean_layers
from orpo_pipeline.training.qlora import attach_new_adapter
from schemas.config import ALL_LINEAR_PROJECTIONS, LoraConfig
from schemas.plan import ModelShape
from schemas.results import BaseModelRecord

WIDTH_IN, WIDTH_OUT, RANK = 64, 96, 4

IN_FP32 = 1e-6
"""A unit is 6e-8, and no sum here has more than 192 terms."""

IN_BF16 = 2**-6
"""A rounding is at most 2**-8. Either layer rounds two products and their sum, PEFT's the scaled
update too; half of these seven fall one way."""

Run = Callable[[nn.Module, torch.Tensor], torch.Tensor]
Numbers = dict[str, torch.Tensor]


def make_linear(bias: bool = False) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(WIDTH_IN, WIDTH_OUT, bias=bias)


def make_nf4(bias: bool = False, compute_dtype: torch.dtype = torch.float32) -> Linear4bit:
    linear = make_linear(bias)
    quantised = Linear4bit(
        WIDTH_IN, WIDTH_OUT, bias=bias, compute_dtype=compute_dtype, quant_type="nf4"
    )
    quantised.load_state_dict(linear.state_dict())
    quantised = quantised.to("cpu")
    assert quantised.weight.quant_state is not None
    return quantised


def with_peft(base: nn.Module, lean: bool, **fields: Any) -> nn.Module:
    """The base layer in PEFT's layer or in ours, as if trained: B is not 0."""
    model: Any = nn.Sequential(copy.deepcopy(base))
    model.is_loaded_in_4bit = isinstance(base, Linear4bit)  # as transformers marks its models
    config = peft.LoraConfig(r=RANK, target_modules=["0"], **{"lora_alpha": 6, **fields})
    if lean:
        use_lean_layers(config)
    layer = peft.get_peft_model(model, config).base_model.model[0]
    draw = torch.Generator().manual_seed(4)
    for weights in (layer.lora_A, layer.lora_B):
        nn.init.normal_(weights["default"].weight, std=0.2, generator=draw)
    return layer


def both(base: nn.Module, **fields: Any) -> tuple[Any, Any]:
    """PEFT's own layer and the lean one, of the same weights."""
    plain, lean = (with_peft(base, lean, **fields) for lean in (False, True))
    expected = lora.bnb.Linear4bit if isinstance(base, Linear4bit) else lora.Linear
    assert type(plain) is expected
    assert type(lean) is LeanLoraLinear
    return plain, lean


def call(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x)


def in_bf16(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """As in a model whose hidden states are bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x.bfloat16())


def in_bf16_from_fp32(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x)


def recomputed(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(layer, x, use_reentrant=False)


def recomputed_in_bf16(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return checkpoint(layer, x.bfloat16(), use_reentrant=False)


def numbers(layer: nn.Module, run: Run = call, x_needs_gradient: bool = True) -> Numbers:
    """Output and gradients of a weighted sum of it. x has two leading dimensions, (2, 96, in)."""
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(2, 96, WIDTH_IN, generator=draw).requires_grad_(x_needs_gradient)
    y = run(layer, x)
    weights = torch.randn(y.shape, generator=draw)
    (y * weights).sum().backward()
    found = {"y": y.detach()}
    found |= {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    if x.grad is not None:
        found["x"] = x.grad
    return found


def assert_close(found: Numbers, expected: Numbers, bound: float) -> None:
    """Relative to the largest number of the same tensor: single ones may be near 0."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype, name
        assert found[name].shape == wanted.shape, name
        largest = wanted.abs().max()
        assert largest > 0, name
        assert (found[name] - wanted).abs().max() <= bound * largest, name


EVERYTHING = {"y", "x", "lora_A.default.weight", "lora_B.default.weight"}


@pytest.mark.parametrize(
    ("run", "bound"),
    [
        (call, IN_FP32),
        (recomputed, IN_FP32),
        (in_bf16, IN_BF16),
        (recomputed_in_bf16, IN_BF16),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("make", [make_linear, make_nf4])
def test_output_and_gradients_are_pefts(
    make: Callable[..., nn.Module], bias: bool, run: Run, bound: float
) -> None:
    plain, lean = both(make(bias))
    expected = numbers(plain, run)
    assert set(expected) == EVERYTHING
    assert_close(numbers(lean, run), expected, bound)


def test_nf4_that_computes_in_bf16() -> None:
    plain, lean = both(make_nf4(compute_dtype=torch.bfloat16))
    assert_close(numbers(lean, in_bf16), numbers(plain, in_bf16), IN_BF16)


def test_autocast_takes_an_fp32_input_and_returns_its_gradient_in_fp32() -> None:
    plain, lean = both(make_linear())
    expected = numbers(plain, in_bf16_from_fp32)
    assert (expected["y"].dtype, expected["x"].dtype) == (torch.bfloat16, torch.float32)
    assert_close(numbers(lean, in_bf16_from_fp32), expected, IN_BF16)


@pytest.mark.parametrize(("alpha", "ratio"), [(RANK, 1.05), (6, 2**0.5)])
def test_bf16_is_as_near_to_the_true_numbers_as_pefts(alpha: int, ratio: float) -> None:
    """A scale that is no power of 2 rounds twice what PEFT rounds once: sqrt(2) of its error."""
    plain, lean = both(make_linear(), lora_alpha=alpha)
    true = numbers(plain)
    plain.zero_grad()
    theirs, ours = numbers(plain, in_bf16), numbers(lean, in_bf16)
    for name, wanted in true.items():
        error, theirs_error = ((n[name].float() - wanted).norm() for n in (ours, theirs))
        assert error <= ratio * theirs_error, name


def test_rank_stabilised_scaling() -> None:
    plain, lean = both(make_linear(), use_rslora=True)
    assert lean.scaling["default"] == 6 / RANK**0.5  # alpha / sqrt(r)
    assert_close(numbers(lean), numbers(plain), IN_FP32)


@pytest.mark.parametrize("run", [call, recomputed])
def test_an_input_that_needs_no_gradient(run: Run) -> None:
    """As the first layer's, whose input comes from frozen embeddings."""
    plain, lean = both(make_linear())
    expected = numbers(plain, run, x_needs_gradient=False)
    assert set(expected) == EVERYTHING - {"x"}
    assert_close(numbers(lean, run, x_needs_gradient=False), expected, IN_FP32)


@pytest.mark.parametrize("frozen", ["lora_A", "lora_B"])
def test_a_frozen_half_gets_no_gradient(frozen: str) -> None:
    plain, lean = both(make_linear())
    for layer in (plain, lean):
        getattr(layer, frozen).requires_grad_(False)
    expected = numbers(plain)
    assert set(expected) == EVERYTHING - {f"{frozen}.default.weight"}
    assert_close(numbers(lean), expected, IN_FP32)


def test_a_base_layer_that_is_trained_gets_its_gradient() -> None:
    plain, lean = both(make_linear())
    for layer in (plain, lean):
        layer.base_layer.requires_grad_(True)
    expected = numbers(plain)
    assert "base_layer.weight" in expected
    assert_close(numbers(lean), expected, IN_FP32)


IDS = torch.arange(3, 3 + 2 * 20).view(2, 20)


def tiny_qwen() -> Any:
    """Two layers whose q, k and v have a bias, the same at each call."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, initializer_range=0.15))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False).eval()


def attach(engine: str, base_path: Path = Path("tiny"), **fields: Any) -> Any:
    """The tiny model with a new adapter, as if trained."""
    shape = ModelShape(
        architecture="Qwen2ForCausalLM", parameters=1, layers=2, hidden_size=32, vocab_size=300
    )
    base = BaseModelRecord(path=base_path, name="tiny", revision="0", shape=shape)
    torch.manual_seed(1)
    model = attach_new_adapter(tiny_qwen(), LoraConfig(r=4, **fields), base, engine)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    return model


def adapter_layers(model: Any) -> list[lora.LoraLayer]:
    return [module for module in model.modules() if isinstance(module, lora.LoraLayer)]


def gradients(model: Any) -> Numbers:
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_a_model_with_biases_has_pefts_gradients() -> None:
    expected = gradients(attach("trl"))
    assert len(expected) == 2 * 2 * len(ALL_LINEAR_PROJECTIONS)  # A and B, two layers
    # Two layers of attention and norms multiply the roundings of one.
    assert_close(gradients(attach("packed")), expected, 10 * IN_FP32)


def test_names_and_shapes_of_parameters_are_pefts() -> None:
    def shapes(model: Any) -> list[tuple[str, torch.Size, torch.dtype, bool]]:
        return [(n, p.shape, p.dtype, p.requires_grad) for n, p in model.named_parameters()]

    assert shapes(attach("packed")) == shapes(attach("trl"))


@pytest.mark.parametrize(
    ("engine", "fields", "lean"),
    [
        ("packed", {}, True),
        ("packed", {"use_rslora": True}, True),
        ("packed", {"dropout": 0.1}, False),
        ("packed", {"use_dora": True}, False),
        ("trl", {}, False),
    ],
)
def test_which_adapters_are_lean(engine: str, fields: dict[str, Any], lean: bool) -> None:
    layers = adapter_layers(attach(engine, **fields))
    assert len(layers) == 2 * len(ALL_LINEAR_PROJECTIONS)
    assert {type(layer) for layer in layers} == {LeanLoraLinear if lean else lora.Linear}


@torch.no_grad()
def test_without_the_adapter_it_is_the_base_model() -> None:
    model = attach("packed")
    expected = tiny_qwen()(IDS).logits
    adapted = model(IDS).logits
    assert (adapted - expected).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, expected)
    assert torch.equal(model(IDS).logits, adapted)


@torch.no_grad()
def test_a_merged_adapter_is_added_once() -> None:
    model = attach("packed")
    expected = model(IDS).logits
    model.merge_adapter()
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_saved_adapter_loads_into_plain_peft(tmp_path: Path) -> None:
    tiny_qwen().save_pretrained(tmp_path / "base")
    model = attach("packed", tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(tiny_qwen(), tmp_path / "adapter")
    assert {type(layer) for layer in adapter_layers(loaded)} == {lora.Linear}
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)
