"""The memory estimate: worked by hand, and the directions in which it must move."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import MISTRAL_7B, SMOLLM2

from orpo_pipeline.planning.memory import (
    GIB,
    RUNTIME_BYTES,
    Setup,
    layer_width,
    packed_pass,
    predict_step,
    trl_pass,
)
from schemas.plan import ModelShape
from schemas.tokens import Longest


def setup(**changes: Any) -> Setup:
    fields: dict[str, Any] = {
        "device": "cuda",
        "method": "lora",
        "dtype": "bfloat16",
        "quantization": "nf4",
        "optimizer": "adamw",
        "fused_attention": True,
        "lora_rank": 16,
        "lora_modules": 7,
        **changes,
    }
    return Setup(**fields)


# A shape for arithmetic in the head: V H = 1,000 * 100 = 100,000; the 4 layers hold 400,000, so
# W = 400,000 / 4 / 100 = 1,000.
ROUND = ModelShape(
    architecture="Round",
    parameters=500_000,
    layers=4,
    hidden_size=100,
    vocab_size=1_000,
    tied_embeddings=True,
)
TEN = Longest(10, 15)


def test_prediction_by_hand() -> None:
    assert layer_width(ROUND) == 1_000
    need = predict_step(ROUND, setup(), trl_pass(ROUND, 1, TEN), checkpointing=False)
    # 100,000 of the embedding at 2 bytes; 400,000 * 0.52
    assert need.weights == 200_000 + 208_000
    # 4 * 16 * (7 * 100 + 1,000) = 108,800 weights of 4 + 4 + 8 bytes
    assert need.trained == 108_800 * 16
    # T = 2 * 1 * 10 = 20 tokens. A layer saves 8/3 * 1,000 + 12.7 * 100 = 3,936.67 bytes of each,
    # four of them 314,933.3; behind the last 20 * 100 * 10 = 20,000.
    assert need.activations == 334_933
    # 20 tokens, 1,000 logits, 14.4 bytes: more than the gradients of one layer, 78,733
    assert need.working == 288_000
    assert need.runtime == GIB
    assert need.total == 408_000 + 1_740_800 + 334_933 + 288_000 + GIB


def test_prediction_by_hand_with_checkpointing_in_float32_without_fused_attention() -> None:
    changed = setup(
        dtype="float32",
        quantization="none",
        optimizer="adamw_8bit",
        fused_attention=False,
    )
    few_words = ROUND.model_copy(update={"vocab_size": 10, "parameters": 401_000})
    need = predict_step(few_words, changed, trl_pass(few_words, 2, TEN), checkpointing=True)
    assert need.weights == 401_000 * 4
    assert need.trained == 108_800 * (4 + 4 + 2)
    # T = 40. Inputs of the layers 4 * 40 * 100 * 4 = 64,000; behind the last 40 * 100 * 16 = 64,000
    assert need.activations == 128_000
    # A layer saves 40 * (16/3 * 1,000 + 17.3 * 100) = 282,533.3 and scores
    # 40 * (100 / 64) * 10 * 8 = 5,000; computed again, and as much as gradients. Logits 5,760.
    assert need.working == 575_066
    assert need.runtime == GIB


def test_a_heap_has_holes() -> None:
    held = packed_pass(ROUND, 20, TEN)
    on_cpu = predict_step(ROUND, setup(device="cpu"), held, checkpointing=False)
    on_gpu = predict_step(ROUND, setup(), held, checkpointing=False)
    # 334,933.3 * 1.6
    assert on_cpu.activations == 535_893
    assert on_cpu.runtime == RUNTIME_BYTES["cpu"]
    assert (on_cpu.weights, on_cpu.trained, on_cpu.working) == (
        on_gpu.weights,
        on_gpu.trained,
        on_gpu.working,
    )
    alike = predict_step(ROUND, setup(device="cpu"), trl_pass(ROUND, 1, TEN), checkpointing=False)
    assert alike.activations == 334_933


def test_large_blocks_leave_no_holes() -> None:
    """16-bit blocks of 4 MiB: 2,097,152 numbers."""

    def activations(tokens: int, device: str) -> int:
        held = packed_pass(ROUND, tokens, TEN)
        return predict_step(ROUND, setup(device=device), held, checkpointing=False).activations

    def holes(tokens: int) -> float:
        return activations(tokens, "cpu") / activations(tokens, "cuda") - 1

    # A projection has T * (1,000 - 300) / 3 numbers: large from T = 8,988 on. Then four of them
    # go, 1,866.7 bytes a token of 3,936.7 in each layer, and of 250 a layer behind the last.
    assert holes(8_987) == pytest.approx(0.6)
    assert holes(8_988) == pytest.approx(0.6 * (1 - 1_866.67 / 4_186.67), rel=1e-4)
    # A norm's float32 input has 100 T: from T = 10,486 on, two of them.
    assert holes(10_486) == pytest.approx(0.6 * (1 - 2_666.67 / 4_186.67), rel=1e-4)
    assert holes(20_972) == 0  # all that is as wide as the hidden state


def test_packed_prediction_by_hand() -> None:
    held = packed_pass(ROUND, 30, TEN)
    need = predict_step(ROUND, setup(), held, checkpointing=False)
    # a chunk of 64 MiB, its cast copies, and the slopes of the one before
    assert need.working == 2.5 * 64 * 1024**2
    # 30 * 3,936.67 bytes in each of 4 layers, and 30 * 100 * 10
    assert need.activations == 472_400 + 30_000
    assert (need.weights, need.trained) == (408_000, 108_800 * 16)


def test_a_packed_pass_holds_the_longest_pair_whatever_the_budget() -> None:
    assert packed_pass(ROUND, 5, TEN).tokens == 15
    assert packed_pass(ROUND, 5, TEN) == packed_pass(ROUND, 15, TEN)
    assert packed_pass(ROUND, 16, TEN).tokens == 16


def test_logits_of_a_large_vocabulary_by_hand() -> None:
    """256 tokens a chunk at least; capped, with the slopes of that."""
    words = ROUND.model_copy(update={"vocab_size": 256_000})
    assert packed_pass(words, 30, TEN).logit_bytes == 2.5 * 256 * 256_000 * 4
    capped = words.model_copy(update={"architecture": "Gemma2ForCausalLM"})
    assert packed_pass(capped, 30, TEN).logit_bytes == 4.5 * 256 * 256_000 * 4


def test_every_weight_trained_by_hand() -> None:
    def need(**changes: Any) -> Any:
        made = setup(method="full", quantization="none", galore_rank=8, **changes)
        return predict_step(ROUND, made, packed_pass(ROUND, 30, TEN), checkpointing=False)

    assert need().weights == 500_000 * 4  # float32, whatever the dtype of the computation
    # gradients 4, moments 8, autocast's copies 2
    assert need().trained == 500_000 * 14
    assert need(dtype="float32").trained == 500_000 * 12
    assert need(optimizer="paged_adamw_8bit").trained == 500_000 * 8
    # 4 layers * rank 8 * (7 * 100 + 1,000) = 54,400 of 12 bytes; the embedding's 100,000 of 8
    assert need(optimizer="galore_adamw").trained == 500_000 * 6 + 652_800 + 800_000
    # gradients of the output layer: a product and their sum, 100,000 in float32 each
    assert need().working == 2.5 * 64 * 1024**2 + 800_000


def test_a_matrix_of_its_own_behind_the_layers() -> None:
    untied = ROUND.model_copy(update={"parameters": 600_000, "tied_embeddings": False})
    assert layer_width(untied) == 1_000
    held = packed_pass(untied, 30, TEN)
    assert predict_step(untied, setup(), held, checkpointing=False).weights == 400_000 + 208_000


def test_embedded_model_by_hand() -> None:
    # Parameters of a layer over H = 576: q and o 576 each, k and v 192 each, gate, up and down 1536
    # each, and two norms of 576 parameters.
    assert layer_width(SMOLLM2) == pytest.approx(2 * 576 + 2 * 192 + 3 * 1536 + 2, abs=0.1)


positive = st.integers(min_value=1, max_value=4096)


@given(pairs=st.integers(1, 64), tokens=positive, more=positive, checkpointing=st.booleans())
def test_prediction_grows_with_pairs_and_tokens(
    pairs: int, tokens: int, more: int, checkpointing: bool
) -> None:
    def total(pairs: int, tokens: int, checkpointing: bool = checkpointing) -> int:
        held = trl_pass(SMOLLM2, pairs, Longest(tokens, 2 * tokens))
        return predict_step(SMOLLM2, setup(), held, checkpointing=checkpointing).total

    assert total(pairs, tokens) < total(pairs + more, tokens)
    assert total(pairs, tokens) < total(pairs, tokens + more)
    assert total(pairs, tokens, True) < total(pairs, tokens, False)


@given(budget=positive, longest=positive, more=positive, checkpointing=st.booleans())
def test_packed_prediction_never_shrinks_with_budget_and_length(
    budget: int, longest: int, more: int, checkpointing: bool
) -> None:
    def total(budget: int, longest: int, checkpointing: bool = checkpointing) -> int:
        held = packed_pass(SMOLLM2, budget, Longest(longest, 2 * longest))
        return predict_step(SMOLLM2, setup(), held, checkpointing=checkpointing).total

    assert total(budget, longest) <= total(budget + more, longest)
    assert total(budget, longest) <= total(budget, longest + more)
    assert total(budget, longest) < total(budget + 2 * longest, longest)
    assert total(budget, longest, True) < total(budget, longest, False)


@given(pairs=st.integers(1, 64), longest=st.integers(64, 4096))
def test_the_same_tokens_need_less_packed(pairs: int, longest: int) -> None:
    tokens, longer = 2 * pairs * longest, Longest(longest, 2 * longest)
    packed = packed_pass(SMOLLM2, tokens, longer)
    trl = trl_pass(SMOLLM2, pairs, longer)
    assert packed.tokens == trl.tokens
    # 2.5 chunks of logits are 167,772,160 bytes; TRL's are 49,152 * 14.4 a token: 237.03 tokens
    assert (packed.logit_bytes < trl.logit_bytes) is (tokens > 237)


def test_prediction_shrinks_with_quantization_and_8bit_states() -> None:
    totals = [
        predict_step(
            MISTRAL_7B, held, trl_pass(MISTRAL_7B, 1, Longest(512, 1024)), checkpointing=True
        ).total
        for held in (
            setup(dtype="float32", quantization="none"),
            setup(quantization="none"),
            setup(),
            setup(optimizer="adamw_8bit"),
        )
    ]
    assert all(larger > smaller for larger, smaller in pairwise(totals))
