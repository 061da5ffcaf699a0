"""An optimizer step is the same however its pairs are ordered, packed and shared out."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orpo_pipeline.training.loss import StepSize
from orpo_pipeline.training.packed.steps import Step
from schemas.tokens import TokenizedPair

Collate = Callable[..., Step]
ComputeStep = Callable[..., tuple[dict[str, float], dict[str, torch.Tensor]]]

LENGTHS = [
    (9, 5, 7),
    (3, 12, 2),
    (1, 1, 1),
    (15, 4, 9),
    (6, 2, 2),
    (2, 8, 11),
    (4, 4, 4),
    (7, 1, 3),
]
# For `unigram_model`: 0 has probability 1/2, 1 has 1/4, 2 and 3 have 1/8.
FIRST = TokenizedPair(prompt=[3, 1], chosen=[0, 0], rejected=[2])
SECOND = TokenizedPair(prompt=[0], chosen=[1], rejected=[0, 0])

IDS = st.lists(st.integers(0, 99), min_size=1, max_size=6)
PAIRS = st.lists(st.builds(TokenizedPair, IDS, IDS, IDS), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def pairs(random_pairs: Callable[..., list[TokenizedPair]]) -> list[TokenizedPair]:
    return random_pairs(LENGTHS)


@pytest.fixture(scope="module")
def model(with_adapter: Callable[[Any], Any]) -> Any:
    """Adapters in fp64, so that only the fp32 log-probs round."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 300}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return with_adapter(LlamaForCausalLM(LlamaConfig(**sizes, **heads))).double()


def assert_same_step(
    found: tuple[dict[str, float], dict[str, torch.Tensor]],
    expected: tuple[dict[str, float], dict[str, torch.Tensor]],
) -> None:
    """1e-6: of a figure, and of the largest gradient of the same tensor. fp32 has a unit of 6e-8,
    and a step adds up some 80 log-probs in an order of its own."""
    assert found[0] == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, wanted in expected[1].items():
        assert (found[1][name] - wanted).abs().max() <= 1e-6 * wanted.abs().max(), name


# One pair a pass (8 x 1), two or three, and all at once (1 x 8: they have 123 tokens together).
@pytest.mark.parametrize(("budget", "passes"), [(1, 8), (30, 5), (50, 3), (122, 2), (123, 1)])
def test_token_budgets(
    model: Any,
    pairs: list[TokenizedPair],
    collate: Collate,
    compute_step: ComputeStep,
    budget: int,
    passes: int,
) -> None:
    for prompt_targets in (True, False):
        whole = collate(pairs, prompt_targets=prompt_targets)
        step = collate(pairs, prompt_targets=prompt_targets, budget=budget)
        assert (len(whole.batches), len(step.batches)) == (1, passes)
        assert_same_step(compute_step(model, step), compute_step(model, whole))


@pytest.mark.parametrize("order", [[7, 6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 7, 5, 1, 4]])
def test_orders(
    model: Any,
    pairs: list[TokenizedPair],
    collate: Collate,
    compute_step: ComputeStep,
    order: list[int],
) -> None:
    step = collate([pairs[number] for number in order], budget=40)
    assert_same_step(compute_step(model, step), compute_step(model, collate(pairs)))


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_shares_of_ranks_add_up(
    model: Any,
    pairs: list[TokenizedPair],
    collate: Collate,
    compute_step: ComputeStep,
    ranks: int,
) -> None:
    """With 9 ranks for 8 pairs, one computes nothing."""
    shares = [
        compute_step(model, collate(pairs, budget=40, rank=rank, ranks=ranks))
        for rank in range(ranks)
    ]
    whole = compute_step(model, collate(pairs))
    figures = {name: math.fsum(share[0][name] for share in shares) for name in whole[0]}
    gradients = {
        name: sum((s[1][name] for s in shares if name in s[1]), torch.zeros(1)) for name in whole[1]
    }
    assert_same_step((figures, gradients), whole)


def test_a_micro_batch_of_another_size_would_not_add_up(
    model: Any, pairs: list[TokenizedPair], collate: Collate, compute_step: ComputeStep
) -> None:
    """What the Trainer's accumulation does: the mean of the means of two halves."""
    means = [compute_step(model, collate(half))[0]["loss"] for half in (pairs[:4], pairs[4:])]
    whole = compute_step(model, collate(pairs))[0]["loss"]
    assert abs(sum(means) / 2 - whole) > 5e-4  # these tests hold figures to 6e-6


def test_loss_by_hand(unigram_model: Any, collate: Collate, compute_step: ComputeStep) -> None:
    step = collate([FIRST, SECOND])
    assert step.size == StepSize(tokens=4, pairs=2)
    figures, _ = compute_step(unigram_model, step, orpo_lambda=0.5)
    # NLL of 1, 0, 0 (the first prompt's second token and answer): 2 + 1 + 1 = 4 log 2;
    # of the second answer's 1: 2 log 2. 6 log 2 over 4 tokens = 1.039721.
    assert figures["nll_loss"] == pytest.approx(1.039721, abs=2e-6)
    # First: odds 1/2 : 1/2 = 1 against 1/8 : 7/8 = 1/7, so 7: -log(7 / 8) = 0.133531.
    # Second: 1/4 : 3/4 = 1/3 against 1: -log(1/3 : 4/3) = log 4 = 1.386294. Mean 0.759913.
    assert figures["log_odds_ratio"] == pytest.approx(-0.759913, abs=2e-6)
    # 1.039721 + 0.5 * 0.759913 = 1.419677.
    assert figures["loss"] == pytest.approx(1.419677, abs=2e-6)
    # (log 7 - log 3) / 2 = (1.945910 - 1.098612) / 2.
    assert figures["log_odds_chosen"] == pytest.approx(0.423649, abs=2e-6)
    assert figures["rewards/accuracies"] == 0.5
    # (log 1/2 + log 1/4) / 2 = -1.5 log 2; (log 1/8 + log 1/2) / 2 = -2 log 2.
    assert figures["logps/chosen"] == pytest.approx(-1.5 * math.log(2), abs=2e-6)
    assert figures["logps/rejected"] == pytest.approx(-2 * math.log(2), abs=2e-6)


def test_loss_of_the_response_alone_by_hand(
    unigram_model: Any, collate: Collate, compute_step: ComputeStep
) -> None:
    step = collate([FIRST, SECOND], prompt_targets=False)
    assert step.size == StepSize(tokens=3, pairs=2)
    figures, _ = compute_step(unigram_model, step, orpo_lambda=0.5)
    # NLL of 0, 0 and 1: 4 log 2 over 3 tokens = 0.924196; the odds ratios stay: + 0.379957.
    assert figures["nll_loss"] == pytest.approx(0.924196, abs=2e-6)
    assert figures["loss"] == pytest.approx(1.304153, abs=2e-6)


def parts(step: Step) -> Counter[tuple[int, ...]]:
    """How often each row of token ids of a pair stands in a step."""
    found: Counter[tuple[int, ...]] = Counter()
    for batch in step.batches:
        lengths = [sum(segment) for segment in batch.layout.segments]
        found.update(tuple(ids.tolist()) for ids in batch.input_ids[0].split(lengths))
    return found


@given(PAIRS, st.integers(1, 4), st.integers(1, 40), st.booleans())
def test_ranks_have_each_pair_once_and_one_size(
    collate: Collate,
    pairs: list[TokenizedPair],
    ranks: int,
    budget: int,
    prompt_targets: bool,
) -> None:
    fields = {"budget": budget, "prompt_targets": prompt_targets, "ranks": ranks}
    steps = [collate(pairs, rank=rank, **fields) for rank in range(ranks)]
    rows = Counter(tuple(pair.prompt + pair.chosen + pair.rejected) for pair in pairs)
    assert sum((parts(step) for step in steps), Counter()) == rows
    targets = sum(len(p.chosen) + prompt_targets * (len(p.prompt) - 1) for p in pairs)
    assert {step.size for step in steps} == {StepSize(targets, len(pairs))}
    for step in steps:
        for batch in step.batches:
            assert len(batch.layout.segments) == 1 or batch.input_ids.numel() <= budget


@given(drawn=PAIRS, ranks=st.integers(1, 4), budget=st.integers(1, 40))
def test_ranks_compute_as_many_passes_when_asked(
    collate: Collate, drawn: list[TokenizedPair], ranks: int, budget: int
) -> None:
    plain, equal = (
        [
            collate(drawn, budget=budget, rank=rank, ranks=ranks, as_many_passes=asked)
            for rank in range(ranks)
        ]
        for asked in (False, True)
    )
    assert len({len(step.batches) + len(step.idle) for step in equal}) == 1
    assert any(not step.idle for step in equal)
    assert all(len(step.idle) == (not step.batches) for step in plain)
    assert [step.pairs for step in equal] == [step.pairs for step in plain]
