"""What a user asks for: done where it is possible, refused with both sides where it is not."""

import pickle
from typing import Any

import pytest
from machines import APPLE_M3, AVX2, FLASH, H100, L4, MACHINES, T4, cpu, cuda, plan, rocm

from orpo_pipeline.planning.plan import check_requests
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import TrainingPlan


def test_possible_overrides_win() -> None:
    wishes: dict[str, Any] = {
        "model__dtype": "float16",
        "model__attention": "eager",
        "model__quantization": "none",
        "training__optimizer": "adamw",
        "training__engine": "trl",
        "training__gradient_checkpointing": "on",
        "training__micro_batch_size": 4,
    }
    assert_fulfilled(plan(H100, **wishes), wishes)


def test_possible_overrides_of_packed_training_win() -> None:
    wishes: dict[str, Any] = {
        "model__attention": "sdpa",
        "training__engine": "packed",
        "training__gradient_checkpointing": "on",
        "training__token_budget": 5000,
    }
    assert_fulfilled(plan(H100, **wishes), wishes)


def assert_fulfilled(decided: TrainingPlan, wishes: dict[str, Any]) -> None:
    sizes = ("micro_batch_size", "token_budget")
    for name, wanted in wishes.items():
        field = name.split("__")[1]
        choice = decided.choices()["forward_pass" if field in sizes else field]
        assert choice.value == (True if wanted == "on" else wanted)
        assert f"asked for by {name.replace('__', '.')}" in choice.because


def test_unproven_but_possible_overrides_are_tried() -> None:
    future = MACHINES["a GPU of the future"][0]
    decided = plan(future, model__attention="flash_attention_2", model__quantization="nf4")
    assert decided.attention.value == "flash_attention_2"
    assert decided.quantization.value == "nf4"
    assert plan(AVX2, model__dtype="bfloat16").dtype.value == "bfloat16"
    assert plan(APPLE_M3, model__dtype="bfloat16").dtype.value == "bfloat16"
    mi300x = MACHINES["MI300X"][0]
    flash = plan(mi300x, model__attention="flash_attention_2").attention
    assert flash.value == "flash_attention_2"
    paged = plan(AVX2, training__optimizer="paged_adamw_8bit").optimizer
    assert paged.value == "paged_adamw_8bit"
    assert "no paging on a CPU" in paged.because


@pytest.mark.parametrize(
    ("probe", "fields", "words"),
    [
        (AVX2, {"model__device": "cuda"}, ["model.device is cuda", "cpu (a CPU)"]),
        (H100, {"model__device": "mps"}, ["model.device is mps", "cpu and cuda (NVIDIA H100)"]),
        (APPLE_M3, {"model__device": "cuda"}, ["model.device is cuda", "cpu and mps"]),
        (T4, {"model__dtype": "bfloat16"}, ["model.dtype is bfloat16", "SM 7.5", "SM 8.0"]),
        (AVX2, {"model__dtype": "float16"}, ["model.dtype is float16", "CPU"]),
        (H100, {"model__device": "cpu", "model__dtype": "float16"}, ["float16", "on a CPU"]),
        (T4, {"model__attention": "flash_attention_2"}, ["SM 7.5 is below", "SM 8.0"]),
        (
            L4,
            {"model__attention": "flash_attention_2"},
            ["not installed", "pip install flash-attn"],
        ),
        (AVX2, {"model__attention": "flash_attention_2"}, ["needs a CUDA or ROCm GPU, not cpu"]),
        (
            H100,
            {"model__attention": "flash_attention_2", "model__dtype": "float32"},
            ["the dtype is float32"],
        ),
        (
            MACHINES["an unknown GPU"][0],
            {"model__attention": "flash_attention_2"},
            ["the dtype is float32"],
        ),
        (
            rocm("AMD Radeon RX 7900 XTX", "gfx1100", 24, flash_attn=FLASH),
            {"model__attention": "flash_attention_2"},
            ["does not list gfx1100"],
        ),
        (
            cpu("avx2", bitsandbytes=None),
            {"model__quantization": "nf4"},
            ["model.quantization is nf4", "not installed", "pip install bitsandbytes"],
        ),
        (APPLE_M3, {"model__quantization": "nf4"}, ["model.quantization is nf4", "mps"]),
        (
            cuda("Tesla M40", (5, 2), 12),
            {"model__quantization": "nf4"},
            ["SM 5.2 is below the SM 6.0"],
        ),
        (
            cpu("avx2", bitsandbytes=None),
            {"training__optimizer": "adamw_8bit"},
            ["training.optimizer is adamw_8bit", "not installed"],
        ),
        (APPLE_M3, {"training__optimizer": "paged_adamw_8bit"}, ["no 8-bit optimizers on mps"]),
        (
            H100,
            {"training__micro_batch_size": 3, "training__batch_size": 8},
            ["micro_batch_size is 3", "batch_size of 8", "one of 1, 2, 4, 8"],
        ),
    ],
)
def test_impossible_overrides_name_both_sides(
    probe: Probe, fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as failure:
        plan(probe, **fields)
    for word in words:
        assert word in str(failure.value)
    for sentence in (failure.value.found, failure.value.expected, failure.value.fix):
        assert sentence.endswith(".")


def test_all_impossible_overrides_come_in_one_error() -> None:
    with pytest.raises(UserError) as failure:
        plan(
            T4.model_copy(update={"bitsandbytes": None}),
            model__dtype="bfloat16",
            model__attention="flash_attention_2",
            model__quantization="nf4",
            training__optimizer="adamw_8bit",
            training__micro_batch_size=5,
        )
    for field in ("dtype", "attention", "quantization", "optimizer", "micro_batch_size"):
        assert f".{field} is " in failure.value.found
    assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


def with_galore(probe: Probe) -> Probe:
    return probe.model_copy(update={"galore_torch": "1.0"})


@pytest.mark.parametrize("machine", ["AVX2", "H100", "MI300X", "Apple M3"])
def test_every_weight_is_trained_unquantised(machine: str) -> None:
    decided = plan(with_galore(MACHINES[machine][0]), training__method="full")
    assert decided.quantization.value == "none"
    assert "trains the weights themselves" in decided.quantization.because
    assert decided.dequantised_layers.value == 0
    assert decided.engine.value == "packed"
    galore = {"training__optimizer": "galore_adamw"}
    decided = plan(with_galore(MACHINES[machine][0]), training__method="full", **galore)
    assert_fulfilled(decided, galore)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"training__optimizer": "galore_adamw"}, "of low rank already"),
        ({"training__galore_rank": 8}, "galore_rank is set, but training.optimizer is auto"),
        (
            {"training__method": "full", "model__quantization": "nf4"},
            "a weight of 4 bits cannot be trained",
        ),
        ({"training__method": "full", "lora__r": 8}, "lora has settings"),
        (
            {
                "training__method": "full",
                "training__optimizer": "galore_adamw",
                "training__weight_decay": 0.1,
            },
            "no weight decay",
        ),
    ],
)
def test_settings_of_another_method_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        plan(with_galore(H100), **fields)


def test_galore_is_asked_for_by_name() -> None:
    asked = {"training__method": "full", "training__optimizer": "galore_adamw"}
    with pytest.raises(UserError, match=r"galore-torch is not installed.*orpo-pipeline\[galore\]"):
        plan(H100, **asked)


@pytest.mark.parametrize(
    ("wishes", "found"),
    [
        ({"processes": 3}, "this machine has 2 cores"),
        ({"processes": 2, "batch_size": 1}, "a step has 1 pairs"),
        ({"processes": 2, "method": "full"}, "method full trains in one process"),
        ({"processes": 2, "engine": "trl"}, "engine trl trains in one process"),
    ],
)
def test_processes_that_could_not_share_a_step_are_refused(
    wishes: dict[str, Any], found: str
) -> None:
    machine = cpu("avx2", cpu_cores=2)
    with pytest.raises(UserError, match=found):
        plan(machine, **{f"training__{name}": value for name, value in wishes.items()})
    four = H100.model_copy(update={"devices": 4})
    with pytest.raises(UserError, match="4 GPUs"):
        plan(four, training__processes=8)


def test_a_configuration_that_names_every_default_asks_for_nothing() -> None:
    """As `orpo-pipeline config` prints it, for a file or for a deployment's parameters."""
    named = RunConfig.model_validate_json(RunConfig().model_dump_json())
    check_requests(named, H100)
