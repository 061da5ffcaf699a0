"""The memory estimate: worked by hand, and the directions in which it must move."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import MISTRAL_7B, SMOLLM2

from orpo_pipeline.planning.memory import (
    GIB,
    Layout,
    estimate_memory,
    layer_width,
    packed_pass,
    trl_pass,
)
from schemas.plan import ModelShape


def layout(**changes: Any) -> Layout:
    fields: dict[str, Any] = {
        "dtype": "bfloat16",
        "quantization": "nf4",
        "optimizer": "adamw",
        "fused_attention": True,
        "lora_rank": 16,
        "lora_modules": 7,
        **changes,
    }
    return Layout(**fields)


# A shape for arithmetic in the head: V H = 1,000 * 100 = 100,000; the 4 layers hold 400,000, so
# W = 400,000 / 4 / 100 = 1,000.
ROUND = ModelShape(
    architecture="Round", parameters=500_000, layers=4, hidden_size=100, vocab_size=1_000
)


def test_estimate_by_hand() -> None:
    assert layer_width(ROUND) == 1_000
    need = estimate_memory(ROUND, layout(), trl_pass(ROUND, 1, 10), checkpointing=False)
    # E = 2 * 1,000 * 100 = 200,000 at 2 bytes; 300,000 * 0.52
    assert need.weights == 400_000 + 156_000
    # 4 * 16 * (7 * 100 + 1,000) = 108,800 weights of 4 + 4 + 8 bytes
    assert need.adapter == 108_800 * 16
    # T = 2 * 1 * 10 = 20 tokens, 1,000 logits, 16 bytes
    assert need.logits == 320_000
    # a layer saves 20 * 1,000 * 5 = 100,000; 4 + 1 of them
    assert need.activations == 500_000
    assert need.total == 556_000 + 1_740_800 + 320_000 + 500_000 + GIB


def test_estimate_by_hand_with_checkpointing_in_float32_without_fused_attention() -> None:
    changed = layout(
        dtype="float32", quantization="none", optimizer="adamw_8bit", fused_attention=False
    )
    need = estimate_memory(ROUND, changed, trl_pass(ROUND, 2, 10), checkpointing=True)
    assert need.weights == 500_000 * 4
    assert need.adapter == 108_800 * (4 + 4 + 2)
    # T = 40. A layer saves 40 * 1,000 * 8 = 320,000 and scores 40 * (100 / 64) * 10 * 8 = 5,000;
    # inputs of the layers 4 * 40 * 100 * 4 = 64,000
    assert need.activations == 64_000 + 2 * 325_000


def test_packed_estimate_by_hand() -> None:
    held = packed_pass(ROUND, token_budget=30, longest_pair=10)
    need = estimate_memory(ROUND, layout(), held, checkpointing=False)
    # a chunk of 64 MiB and its log-softmax; for each of 30 tokens a gradient of 100 float32
    assert need.logits == 2 * 64 * 1024**2 + 30 * 100 * 4
    # a layer saves 30 * 1,000 * 5 = 150,000; 4 + 1 of them
    assert need.activations == 750_000
    # as with TRL
    assert need.weights == 556_000
    assert need.adapter == 108_800 * 16


def test_packed_estimate_by_hand_with_checkpointing_without_fused_attention() -> None:
    held = packed_pass(ROUND, token_budget=30, longest_pair=10)
    need = estimate_memory(ROUND, layout(fused_attention=False), held, checkpointing=True)
    # A layer saves 30 * 1,000 * 5 = 150,000 and scores, of prompt + answer at most,
    # 30 * (100 / 64) * 10 * 8 = 3,750; inputs of the layers 4 * 30 * 100 * 4 = 48,000
    assert need.activations == 48_000 + 2 * 153_750


def test_a_packed_pass_holds_the_longest_pair_whatever_the_budget() -> None:
    # A prompt without a token and two answers of 10 are the most that 10 a side can be.
    assert packed_pass(ROUND, 5, 10).tokens == 20
    assert packed_pass(ROUND, 5, 10) == packed_pass(ROUND, 20, 10)
    assert packed_pass(ROUND, 21, 10).tokens == 21


def test_embedded_model_by_hand() -> None:
    # Parameters of a layer over H = 576: q and o 576 each, k and v 192 each, gate, up and down 1536
    # each, and two norms of 576 parameters.
    assert layer_width(SMOLLM2) == pytest.approx(2 * 576 + 2 * 192 + 3 * 1536 + 2, abs=0.1)


positive = st.integers(min_value=1, max_value=4096)


@given(pairs=st.integers(1, 64), tokens=positive, more=positive, checkpointing=st.booleans())
def test_estimate_grows_with_pairs_and_tokens(
    pairs: int, tokens: int, more: int, checkpointing: bool
) -> None:
    def total(pairs: int, tokens: int, checkpointing: bool = checkpointing) -> int:
        held = trl_pass(SMOLLM2, pairs, tokens)
        return estimate_memory(SMOLLM2, layout(), held, checkpointing=checkpointing).total

    assert total(pairs, tokens) < total(pairs + more, tokens)
    assert total(pairs, tokens) < total(pairs, tokens + more)
    assert total(pairs, tokens, True) < total(pairs, tokens, False)


@given(budget=positive, longest=positive, more=positive, checkpointing=st.booleans())
def test_packed_estimate_never_shrinks_with_budget_and_length(
    budget: int, longest: int, more: int, checkpointing: bool
) -> None:
    def total(budget: int, longest: int, checkpointing: bool = checkpointing) -> int:
        held = packed_pass(SMOLLM2, budget, longest)
        return estimate_memory(SMOLLM2, layout(), held, checkpointing=checkpointing).total

    assert total(budget, longest) <= total(budget + more, longest)
    assert total(budget, longest) <= total(budget, longest + more)
    assert total(budget, longest) < total(budget + 2 * longest, longest)
    assert total(budget, longest, True) < total(budget, longest, False)


@given(pairs=st.integers(1, 64), longest=st.integers(64, 4096))
def test_the_same_tokens_need_less_packed(pairs: int, longest: int) -> None:
    tokens = 2 * pairs * longest
    packed = packed_pass(SMOLLM2, tokens, longest)
    trl = trl_pass(SMOLLM2, pairs, longest)
    assert packed.tokens == trl.tokens
    # Two chunks of logits are 2,097,152 floats at 16 bytes of TRL's: 171 tokens of this vocabulary
    assert (packed.logit_bytes < trl.logit_bytes) is (tokens > 171)


def test_estimate_shrinks_with_quantization_and_8bit_states() -> None:
    totals = [
        estimate_memory(MISTRAL_7B, held, trl_pass(MISTRAL_7B, 1, 512), checkpointing=True).total
        for held in (
            layout(dtype="float32", quantization="none"),
            layout(quantization="none"),
            layout(),
            layout(optimizer="adamw_8bit"),
        )
    ]
    assert all(larger > smaller for larger, smaller in pairwise(totals))
