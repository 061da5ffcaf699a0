"""Log-probabilities of answers: the slow, obvious reference, the same for every model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from orpo_pipeline.training.packed.forward import causal_lm_of
from schemas.tokens import TokenizedPair

LOGIT_CHUNK = 512
"""Positions whose logits are alive at a time: 512 x 49,152 fp32 values are 100 MB."""


@dataclass(frozen=True, slots=True)
class PairScore:
    """Sums of log-probs in nats, with the number of tokens that each is over."""

    chosen_logp: float
    chosen_tokens: int
    rejected_logp: float
    rejected_tokens: int
    prompt_chosen_logp: float
    """Over prompt + chosen, without the very first token, which nothing predicts."""
    prompt_chosen_tokens: int


def score_pairs(
    model: Any,
    pairs: Sequence[TokenizedPair],
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[PairScore]:
    """Score pairs in the order given; batches are of similar length, to pad little.

    Args:
        model: a causal language model (PEFT-wrapped or not) in eval mode.
        pairs: token ids; every answer has at least one token.
        batch_size: pairs per forward pass (two sequences each).
        progress: called with the number of pairs that are done.
    """
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].longest)
    scores: dict[int, PairScore] = {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = [pairs[index] for index in indices]
        scores.update(zip(indices, _score_batch(model, batch), strict=True))
        progress(len(scores))
    return [scores[index] for index in range(len(pairs))]


@torch.inference_mode()
def _score_batch(model: Any, batch: Sequence[TokenizedPair]) -> Iterator[PairScore]:
    sequences = [pair.prompt + answer for pair in batch for answer in (pair.chosen, pair.rejected)]
    logps = token_logps(model, sequences)
    for index, pair in enumerate(batch):
        prompt = len(pair.prompt)
        chosen, rejected = logps[2 * index], logps[2 * index + 1]  # (T - 1,) each
        yield PairScore(
            chosen_logp=chosen[prompt - 1 :].sum().item(),
            chosen_tokens=len(pair.chosen),
            rejected_logp=rejected[prompt - 1 :].sum().item(),
            rejected_tokens=len(pair.rejected),
            prompt_chosen_logp=chosen.sum().item(),
            prompt_chosen_tokens=chosen.numel(),
        )


def token_logps(model: Any, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
    """fp32 log-prob of each token given those before it, (T - 1,) for a sequence of T tokens."""
    hidden = hidden_states(model, sequences)
    return [
        _sequence_logps(
            model, hidden[row, : len(sequence) - 1], torch.tensor(sequence[1:]).to(hidden.device)
        )
        for row, sequence in enumerate(sequences)
    ]


def hidden_states(model: Any, sequences: Sequence[list[int]]) -> torch.Tensor:
    """Final hidden states (B, L, H); a sequence shorter than L is padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    device = next(model.parameters()).device
    ids = torch.zeros(len(sequences), width, dtype=torch.long)  # (B, L); the mask hides the padding
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    ids, mask = ids.to(device), mask.to(device)
    decoder = causal_lm_of(model).get_decoder()
    hidden: torch.Tensor = decoder(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return hidden


def _sequence_logps(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probs of `targets` (T,) from `hidden` (T, H), a chunk of logits at a time."""
    parts = []
    for chunk, target in zip(hidden.split(LOGIT_CHUNK), targets.split(LOGIT_CHUNK), strict=True):
        logits = logits_of(model, chunk)  # (C, V)
        chosen = logits.gather(-1, target[:, None])[:, 0]
        parts.append(chosen - logits.logsumexp(-1))
    return torch.cat(parts)


def logits_of(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """fp32 logits (C, V) of `hidden` (C, H), as the model's own forward pass gives them."""
    causal_lm = causal_lm_of(model)
    head, config = causal_lm.get_output_embeddings(), causal_lm.config
    logits = head(hidden.to(head.weight.dtype)).float()
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor *= getattr(config, "lm_head_multiplier", 1.0)  # Falcon H1
    scaling = getattr(config, "logits_scaling", 1.0)  # a divisor in Granite only
    factor *= 1 / scaling if config.model_type.startswith("granite") else scaling
    logits = logits * factor
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
    return softcap * torch.tanh(logits / softcap) if softcap else logits
