"""Log-probabilities of answers against a log-softmax over the model's own logits."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo_pipeline.evaluation import scoring
from orpo_pipeline.evaluation.packed_scoring import score_packed
from orpo_pipeline.evaluation.scoring import score_pairs, token_logps
from schemas.tokens import TokenizedPair

SEQUENCES = [[1, 9, 200, 31], [5, 6], [40000, 3, 77, 12, 9, 9, 1024, 8, 2]]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def some_pairs(count: int) -> list[TokenizedPair]:
    """Pairs of many lengths, not in order of length."""
    draw = torch.Generator().manual_seed(3)

    def ids(most: int) -> list[int]:
        length = int(torch.randint(1, most, (1,), generator=draw))
        return torch.randint(3, 49_000, (length,), generator=draw).tolist()

    return [TokenizedPair(ids(20), ids(12), ids(30)) for _ in range(count)]


@torch.no_grad()
def naive_logps(model: Any, sequence: list[int]) -> torch.Tensor:
    """(T - 1,) from a log-softmax over all logits of one unpadded sequence."""
    ids = torch.tensor([sequence])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


def assert_naive(model: Any, sequences: Sequence[list[int]]) -> None:
    with torch.no_grad():
        found = token_logps(model, sequences)
    assert [logps.dtype for logps in found] == [torch.float32] * len(sequences)
    for logps, sequence in zip(found, sequences, strict=True):
        torch.testing.assert_close(logps, naive_logps(model, sequence), atol=2e-5, rtol=1e-5)


def with_adapter(model: Any) -> Any:
    """The model in a PEFT wrapper whose update is not zero."""
    import peft

    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return wrapped.eval()


def test_token_logps_equal_the_naive_way(model: Any) -> None:
    assert_naive(model, SEQUENCES)


@pytest.mark.parametrize("positions", [1, 3, 8, 9])
def test_logits_in_chunks(model: Any, monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    """The longest sequence has 8 predicted tokens: below, at and above a chunk's border."""
    monkeypatch.setattr(scoring, "LOGIT_CHUNK", positions)
    assert_naive(model, SEQUENCES)


def test_pair_score_sums_and_counts(model: Any) -> None:
    pair = TokenizedPair(prompt=[1, 7, 8], chosen=[20, 21], rejected=[30, 31, 32])
    (score,) = score_pairs(model, [pair], batch_size=1)
    chosen = naive_logps(model, [1, 7, 8, 20, 21])  # of tokens 7, 8, 20, 21
    rejected = naive_logps(model, [1, 7, 8, 30, 31, 32])
    assert (score.chosen_tokens, score.rejected_tokens, score.prompt_chosen_tokens) == (2, 3, 4)
    assert score.chosen_logp == pytest.approx(chosen[2:].sum().item(), rel=1e-5)
    assert score.rejected_logp == pytest.approx(rejected[2:].sum().item(), rel=1e-5)
    assert score.prompt_chosen_logp == pytest.approx(chosen.sum().item(), rel=1e-5)


def test_neither_padding_nor_batch_size_matters_and_order_is_kept(model: Any) -> None:
    pairs = some_pairs(11)
    reported: list[int] = []
    batched = score_pairs(model, pairs, batch_size=4, progress=reported.append)
    assert reported == [4, 8, 11]
    for pair, score in zip(pairs, batched, strict=True):
        (alone,) = score_pairs(model, [pair], batch_size=1)
        assert score.chosen_tokens == len(pair.chosen)
        assert score.rejected_tokens == len(pair.rejected)
        assert score.chosen_logp == pytest.approx(alone.chosen_logp, rel=1e-5)
        assert score.rejected_logp == pytest.approx(alone.rejected_logp, rel=1e-5)
        assert score.prompt_chosen_logp == pytest.approx(alone.prompt_chosen_logp, rel=1e-5)


def test_adapter_counts_and_can_be_switched_off(tiny_model: Path, model: Any) -> None:
    from transformers import AutoModelForCausalLM

    wrapped = with_adapter(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32))
    assert_naive(wrapped, SEQUENCES)
    with wrapped.disable_adapter():
        assert_naive(wrapped, SEQUENCES)
        off = token_logps(wrapped, SEQUENCES)
    for bare, without, adapted in zip(
        token_logps(model, SEQUENCES), off, token_logps(wrapped, SEQUENCES), strict=True
    ):
        assert torch.equal(bare, without)
        assert (bare - adapted).abs().max() > 1e-3


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.5))


def granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=0.1))


def cohere() -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=5.0))


@pytest.mark.parametrize("build", [gemma2, granite, cohere])
def test_heads_that_change_their_logits(build: Any) -> None:
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():  # so strong that leaving it out would show
        model.get_output_embeddings().weight.mul_(20)
    assert_naive(model, [[5, 9, 33, 2], [7, 8]])


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_packed_scores_are_those_of_the_reference(model: Any, budget: int) -> None:
    pairs = some_pairs(70)
    reported: list[int] = []
    packed = score_packed(model, pairs, budget, progress=reported.append)
    for found, expected in zip(packed, score_pairs(model, pairs, batch_size=4), strict=True):
        assert asdict(found) == pytest.approx(asdict(expected), rel=1e-5)
    assert reported == [64, 70]
