"""Scores of pairs by the packed engine's forward pass: the same figures with less work."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from orpo_pipeline.evaluation.scoring import PairScore
from orpo_pipeline.training.packed.attention import attention_name, packed_attention
from orpo_pipeline.training.packed.batch import pack_batch
from orpo_pipeline.training.packed.forward import causal_lm_of, sum_logps
from orpo_pipeline.training.packed.packing import pack_pairs
from schemas.tokens import TokenizedPair

WINDOW = 64
"""Pairs that are packed together; progress is told after each."""


@torch.inference_mode()
def score_packed(
    model: Any,
    pairs: Sequence[TokenizedPair],
    token_budget: int,
    attention: str = "sdpa",
    most: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[PairScore]:
    """Score pairs in the order given, as `scoring.score_pairs` does.

    Args:
        model: a causal language model (PEFT-wrapped or not) in eval mode.
        pairs: token ids; every answer has at least one token.
        token_budget: tokens of a forward pass; a longer pair is computed alone.
        attention: the plan's.
        most: pairs of a forward pass, where the budget would hold more. Unset: no limit.
        progress: called with the number of pairs that are done.
    """
    device = next(model.parameters()).device
    scores: dict[int, PairScore] = {}
    with packed_attention(causal_lm_of(model), attention_name(attention)):
        for start in range(0, len(pairs), WINDOW):
            window = range(start, min(start + WINDOW, len(pairs)))
            packs = pack_pairs([pairs[index].length for index in window], token_budget)
            for part in (part for pack in packs for part in _parts(pack, most)):
                indices = [window[number] for number in part]
                batch = pack_batch([pairs[index] for index in indices]).to(device)
                sums = sum_logps(model, batch).tolist()
                scores.update(zip(indices, map(_score, sums, batch.counts), strict=True))
            progress(len(scores))
    return [scores[index] for index in range(len(pairs))]


def _parts(pack: list[int], most: int | None) -> list[list[int]]:
    size = most or len(pack)
    return [pack[start : start + size] for start in range(0, len(pack), size)]


def _score(sums: Sequence[float], counts: Sequence[int]) -> PairScore:
    prompt, chosen, rejected = sums
    prompt_tokens, chosen_tokens, rejected_tokens = counts
    return PairScore(
        chosen_logp=chosen,
        chosen_tokens=chosen_tokens,
        rejected_logp=rejected,
        rejected_tokens=rejected_tokens,
        prompt_chosen_logp=prompt + chosen,
        prompt_chosen_tokens=prompt_tokens + chosen_tokens,
    )
