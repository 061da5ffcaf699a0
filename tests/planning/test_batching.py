"""Batch and checkpointing follow the memory that there is; a model that cannot fit is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import (
    AVX2,
    H100,
    L4,
    LLAMA_70B,
    MISTRAL_7B,
    SMOLLM2,
    T4,
    configure,
    cpu,
    cuda,
    plan,
)

from orpo_pipeline.planning.batching import choose_dequantised_layers, token_sizes
from orpo_pipeline.planning.memory import GIB, Setup
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import Choice, ModelShape


def test_a_model_that_cannot_fit_is_refused_with_its_parts() -> None:
    with pytest.raises(UserError) as failure:
        plan(L4, LLAMA_70B)
    # (70,553,706,496 - 2 * 128,256 * 8192) * 0.52 + 2 * 128,256 * 8192 * 2 bytes = 37.1 GiB
    assert "weights 37.1 GiB" in failure.value.found
    assert "19.1 GiB (85% of 22.5 GiB) of NVIDIA L4" in failure.value.expected
    assert "model.quantization nf4" not in failure.value.fix
    with pytest.raises(UserError, match=r"model\.quantization nf4"):
        plan(L4, LLAMA_70B, model__quantization="none")
    # The weights alone exceed the GPU: no size could be tried.
    assert "token_budget" not in failure.value.fix
    with pytest.raises(UserError, match="a machine with more memory"):
        plan(L4, LLAMA_70B, training__token_budget=512)
    with pytest.raises(UserError, match="a machine with more memory"):
        plan(L4, LLAMA_70B, training__engine="trl", training__micro_batch_size=1)


@pytest.mark.parametrize(
    ("engine", "field", "smallest"),
    [("trl", "micro_batch_size", 1), ("packed", "token_budget", 4096)],
)
def test_an_explicit_size_is_tried_against_the_estimate(
    engine: str, field: str, smallest: int
) -> None:
    small = cuda("NVIDIA RTX 3050", (8, 6), 7.6)
    wish: dict[str, Any] = {"training__engine": engine, "longest_pair": 2048}
    tried = f"training.{field} {smallest}, which tries it against the estimate"
    with pytest.raises(UserError, match=tried):
        plan(small, MISTRAL_7B, **wish)
    decided = plan(small, MISTRAL_7B, **wish, **{f"training__{field}": smallest})
    assert decided.gradient_checkpointing.value is True
    assert decided.forward_pass.value == smallest
    assert "may run out of memory" in decided.forward_pass.because


@pytest.mark.parametrize(
    ("probe", "shape", "checkpointing", "micro_batch"),
    [
        (H100, SMOLLM2, False, 8),
        (L4, SMOLLM2, False, 4),
        (L4, MISTRAL_7B, True, 8),
        (H100, MISTRAL_7B, False, 4),
        (T4, MISTRAL_7B, True, 4),
        (cpu("avx2", ram=24), SMOLLM2, False, 2),
        (cpu("avx2", ram=8), SMOLLM2, False, 1),
        (cpu("avx2", ram=6), SMOLLM2, True, 2),
        (cpu("amx_bf16", "avx2", ram=48), MISTRAL_7B, False, 2),
    ],
)
def test_micro_batch_and_checkpointing_follow_memory(
    probe: Probe, shape: ModelShape, checkpointing: bool, micro_batch: int
) -> None:
    decided = plan(probe, shape, training__engine="trl")
    assert decided.gradient_checkpointing.value is checkpointing
    assert decided.forward_pass.value == micro_batch
    assert decided.forward_pass.because.startswith("pairs; estimate ")
    assert decided.forward_pass.because.endswith("; divides the batch of 8")


@pytest.mark.parametrize(
    ("probe", "shape", "checkpointing", "tokens"),
    [
        (H100, SMOLLM2, False, 16_384),
        (L4, SMOLLM2, False, 16_384),
        (T4, SMOLLM2, False, 15_872),
        (L4, MISTRAL_7B, True, 16_384),
        (H100, MISTRAL_7B, False, 10_240),
        (T4, MISTRAL_7B, True, 10_752),
        (cpu("avx2", ram=24), SMOLLM2, False, 1_024),
        (cpu("avx2", ram=4), SMOLLM2, True, 1_024),
        (cpu("amx_bf16", "avx2", ram=48), MISTRAL_7B, False, 1_024),
    ],
)
def test_token_budget_and_checkpointing_follow_memory(
    probe: Probe, shape: ModelShape, checkpointing: bool, tokens: int
) -> None:
    decided = plan(probe, shape)
    assert decided.gradient_checkpointing.value is checkpointing
    assert decided.forward_pass.value == tokens
    assert decided.forward_pass.because.startswith("tokens; estimate ")


@pytest.mark.parametrize(
    ("probe", "longest", "fields", "candidates", "worthwhile", "limit"),
    [
        # Sizes between are multiples of 512.
        (AVX2, 380, {}, [1024, 512], 512, "1024 keep the device busy"),
        (AVX2, 2048, {}, [1024, 512], 512, "1024 keep the device busy"),
        (AVX2, 200, {"batch_size": 3}, [600, 512], 512, "the batch of 3 has at most 600"),
        (H100, 380, {}, [3040, *range(2560, 0, -512)], 3040, "the batch of 8 has at most 3040"),
        (
            *(H100, 3000, {}),
            [16_384, *range(15_872, 2999, -512)],
            *(4096, "16384 keep the device busy"),
        ),
        (
            *(H100, 8192, {}),
            [16_384, *range(15_872, 8191, -512)],
            *(8192, "16384 keep the device busy"),
        ),
        (H100, 20_000, {}, [20_000], 20_000, "the longest pair has 20000"),
        (H100, 2048, {"batch_size": 1}, [2048], 2048, "the longest pair has 2048"),
        (AVX2, 1024, {"token_budget": 100}, [100], 100, None),
        (H100, 1024, {"token_budget": 100}, [100], 100, None),
        (H100, 1024, {"token_budget": 50_000}, [50_000], 50_000, None),
    ],
)
def test_token_sizes(
    probe: Probe,
    longest: int,
    fields: dict[str, int],
    candidates: list[int],
    worthwhile: int,
    limit: str | None,
) -> None:
    config = configure(**{f"training__{name}": value for name, value in fields.items()})
    sizes = token_sizes(config, probe, longest)
    assert sizes.candidates == candidates
    assert sizes.worthwhile == worthwhile
    assert sizes.requested == fields.get("token_budget")
    assert limit is None or sizes.limit == limit
    assert (sizes.field, sizes.unit) == ("training.token_budget", "tokens")


def test_checkpointing_names_what_did_not_fit_without_it() -> None:
    trl = {"training__engine": "trl"}
    because = plan(L4, MISTRAL_7B, **trl).gradient_checkpointing.because
    assert because.startswith("without it, 2 pairs a pass need 30.9 GiB; limit 19.1 GiB")
    # 2 does not divide 9, so 3 is the smallest micro batch worth a pass without checkpointing.
    because = plan(L4, MISTRAL_7B, training__batch_size=9, **trl).gradient_checkpointing.because
    assert because.startswith("without it, 3 pairs a pass")
    because = plan(L4, MISTRAL_7B).gradient_checkpointing.because
    assert because.startswith("without it, 4096 tokens a pass need 29.8 GiB; limit 19.1 GiB")


def test_unknown_memory_gets_the_smallest_batch_and_checkpointing() -> None:
    for engine, smallest in (("trl", 1), ("packed", 2048)):
        decided = plan(cuda("GPU", (8, 6), 0), training__engine=engine)
        assert decided.forward_pass.value == smallest
        assert decided.gradient_checkpointing.value is True
        assert "memory of GPU is unknown" in decided.forward_pass.because


def test_host_memory_is_not_taken_for_device_memory() -> None:
    tight = cuda("small GPU", (8, 6), 6)
    roomy = tight.model_copy(update={"ram": 1024 * GIB})
    assert plan(tight).choices() == plan(roomy).choices()


@given(
    batch=st.integers(1, 96),
    longest_pair=st.integers(16, 4096),
    memory=st.integers(8, 200),
    on_cpu=st.booleans(),
    engine=st.sampled_from(["packed", "trl"]),
)
def test_sizes_suit_the_batch_and_plans_are_pure(
    batch: int, longest_pair: int, memory: int, on_cpu: bool, engine: str
) -> None:
    probe = cpu("avx2", ram=memory) if on_cpu else cuda("GPU", (8, 6), memory)
    wishes: dict[str, Any] = {
        "training__batch_size": batch,
        "training__engine": engine,
        "longest_pair": longest_pair,
    }
    try:
        decided = plan(probe, **wishes)
    except UserError as refused:
        assert "Training needs an estimated" in refused.found
        return
    size = decided.forward_pass.value
    if engine == "trl":
        assert batch % size == 0
        assert not on_cpu or size <= 2
    elif on_cpu:  # a longer pair is computed alone
        assert size <= 1024
    else:
        assert 2 * longest_pair <= size <= max(16_384, 2 * longest_pair)
    assert plan(probe, **wishes) == decided


@pytest.mark.parametrize("engine", ["packed", "trl"])
def test_more_memory_never_gives_a_slower_plan(engine: str) -> None:
    plans = [
        plan(cuda("GPU", (8, 6), memory), MISTRAL_7B, training__engine=engine)
        for memory in range(12, 200, 4)
    ]
    ranks = [
        (not decided.gradient_checkpointing.value, decided.forward_pass.value) for decided in plans
    ]
    assert ranks == sorted(ranks)


# A layer holds (500,000 - 1,000 * 100) / 4 = 100,000 weights.
ROUND = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=500_000,
    layers=4,
    hidden_size=100,
    vocab_size=1_000,
    tied_embeddings=True,
)
NF4 = Setup(
    device="cpu",
    method="lora",
    dtype="bfloat16",
    quantization="nf4",
    optimizer="adamw",
    fused_attention=True,
    lora_rank=16,
    lora_modules=7,
)


@pytest.mark.parametrize(
    ("left", "layers"),
    # Half of what is left: 200,000 bytes a layer in bfloat16.
    [(0, 0), (399_999, 0), (400_000, 1), (1_599_999, 3), (1_600_000, 4), (10**9, 4), (-(10**9), 0)],
)
def test_dequantised_layers_take_half_of_what_a_step_leaves(left: int, layers: int) -> None:
    machine = cpu("avx2", ram=10)
    step = int(machine.ram * 0.7) - left
    choice = choose_dequantised_layers(configure(), machine, ROUND, NF4, step)
    assert choice.value == layers
    assert choice.because.startswith("of 4, 0.0 GiB in bfloat16; half of what is left is ")


def test_no_layer_is_dequantised_without_a_reason_to() -> None:
    def choose(setup: Setup = NF4, probe: Probe = H100, **fields: Any) -> Choice[int]:
        return choose_dequantised_layers(configure(**fields), probe, ROUND, setup, GIB)

    assert choose().value == 4
    for choice, because in (
        (choose(replace(NF4, quantization="none")), "the weights are not quantised"),
        (choose(model__dequantised_cache="off"), "asked for by model.dequantised_cache"),
        (choose(probe=cuda("GPU", (8, 6), 0)), "the memory of GPU is unknown"),
    ):
        assert choice == Choice(value=0, because=because)
