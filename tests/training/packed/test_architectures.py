"""Every architecture that may be packed: log-probs and gradients are those of each pair alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from orpo_pipeline.evaluation.scoring import token_logps
from orpo_pipeline.planning.engines import PACKED_ARCHITECTURES
from orpo_pipeline.training.packed.attention import packed_attention
from orpo_pipeline.training.packed.batch import pack_batch
from orpo_pipeline.training.packed.forward import sum_logps
from schemas.tokens import TokenizedPair

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Attention that is far from uniform, so that a token seen too many or too few would show.
    "initializer_range": 0.15,
}
WINDOW = {"sliding_window": 6}  # of sequences with up to 24 tokens
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
LOCAL = {"use_sliding_window": True, "max_window_layers": 1}  # one layer sees all, two do not

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {}),
    "MistralForCausalLM": ("MistralConfig", WINDOW),
    "Qwen2ForCausalLM": ("Qwen2Config", WINDOW | LOCAL),
    "Qwen3ForCausalLM": ("Qwen3Config", {"head_dim": 16}),
    "Gemma2ForCausalLM": ("Gemma2Config", WINDOW | CAPS | {"head_dim": 16}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", WINDOW | {"head_dim": 16}),
    "Phi3ForCausalLM": ("Phi3Config", WINDOW),
    "SmolLM3ForCausalLM": ("SmolLM3Config", {}),
}

Gradients = dict[str, torch.Tensor]


def build(architecture: str, **changes: Any) -> Any:
    """A model of random weights, the same for the same name."""
    config, special = MODELS[architecture]
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**{**SIZES, **special, **changes})
    settings._attn_implementation = "eager"
    return getattr(transformers, architecture)(settings).eval()


def some_pairs() -> list[TokenizedPair]:
    """Shorter and longer than the window, on either side of it, and the shortest there is."""
    draw = torch.Generator().manual_seed(1)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 300, (length,), generator=draw).tolist()

    lengths = [(9, 5, 7), (3, 12, 2), (1, 1, 1), (15, 4, 9)]
    return [TokenizedPair(*map(ids, parts)) for parts in lengths]


PAIRS = some_pairs()


def alone_and_unshared(model: Any, pairs: Sequence[TokenizedPair]) -> torch.Tensor:
    """(B, 3) by the scorer: two sequences a pair, each with its own prompt."""
    sums = []
    for pair in pairs:
        (chosen,) = token_logps(model, [pair.prompt + pair.chosen])
        (rejected,) = token_logps(model, [pair.prompt + pair.rejected])
        last = len(pair.prompt) - 1
        sums.append(torch.stack([chosen[:last].sum(), chosen[last:].sum(), rejected[last:].sum()]))
    return torch.stack(sums)


def packed(model: Any, pairs: Sequence[TokenizedPair]) -> torch.Tensor:
    with packed_attention(model):
        return sum_logps(model, pack_batch(pairs))


def gradients(model: Any, sums: torch.Tensor) -> Gradients:
    """Of a mixture in which each sum has a weight of its own."""
    named = dict(model.named_parameters())
    mixture = (sums * torch.arange(1.0, 1.0 + sums.numel()).view_as(sums)).sum()
    return dict(zip(named, torch.autograd.grad(mixture, list(named.values())), strict=True))


def packed_gradients(model: Any) -> Gradients:
    with packed_attention(model):  # around the backward pass too: it may compute layers again
        return gradients(model, sum_logps(model, pack_batch(PAIRS)))


def test_each_packed_architecture_is_covered() -> None:
    assert set(PACKED_ARCHITECTURES) == set(MODELS)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def assert_sums_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """fp32 has a unit of 6e-8; a sum is over at most 14 log-probs of many roundings each."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def assert_gradients_equal(found: Gradients, expected: Gradients) -> None:
    """Relative to the largest gradient of the same parameter: single ones may be near 0."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.abs().max() > 0, name
        assert (found[name] - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


def test_sums_and_gradients_of_all_parameters(model: Any) -> None:
    expected = alone_and_unshared(model, PAIRS)
    assert_sums_equal(packed(model, PAIRS), expected)
    assert_gradients_equal(packed_gradients(model), gradients(model, expected))


@torch.no_grad()
def test_neither_company_nor_order_matters(model: Any) -> None:
    together = packed(model, PAIRS)
    assert_sums_equal(torch.cat([packed(model, [pair]) for pair in PAIRS]), together)
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        assert_sums_equal(packed(model, [PAIRS[number] for number in order]), together[order])


def test_recomputed_activations_give_the_same_gradients(model: Any) -> None:
    expected = packed_gradients(model)
    model.train().activation_checkpointing_enable({"use_reentrant": False})
    found = packed_gradients(model)
    model.eval().activation_checkpointing_disable()
    assert_gradients_equal(found, expected)


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("MistralForCausalLM", {"sliding_window": 5}),
        ("MistralForCausalLM", {"sliding_window": None}),
        ("Qwen2ForCausalLM", {"max_window_layers": 2}),
        ("Gemma2ForCausalLM", {"sliding_window": 5}),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": 1.0}),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": 2.9}),
        ("Gemma3ForCausalLM", {"sliding_window": 5}),
        ("Phi3ForCausalLM", {"sliding_window": 5}),
    ],
)
@torch.no_grad()
def test_what_makes_an_architecture_special_counts(
    architecture: str, change: dict[str, Any]
) -> None:
    """So strongly that these tests would see it missing: 100 times their tolerance."""
    sums = packed(build(architecture), PAIRS)
    others = packed(build(architecture, **change), PAIRS)
    assert (sums - others).abs().max() > 1e-3 * sums.abs().max()


def test_the_attention_of_before_comes_back() -> None:
    model = build("LlamaForCausalLM")
    with pytest.raises(ZeroDivisionError), packed_attention(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "eager"
