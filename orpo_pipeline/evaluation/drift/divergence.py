"""Mean token KL from the base model, on the data's own answers to held-out prompts."""

from collections.abc import Callable, Sequence

import torch

from orpo_pipeline.evaluation.models import BASE, Models
from orpo_pipeline.evaluation.scoring import LOGIT_CHUNK, hidden_states, logits_of
from schemas.tokens import TokenizedPair


@torch.inference_mode()
def answer_divergence(
    models: Models,
    pairs: Sequence[TokenizedPair],
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, list[float]]:
    """For each model the sum over a chosen answer's tokens of KL(model || base), in nats, by pair.

    KL_t = sum over v of P(v | prompt, y_<t) * (log P(v | ...) - log P_base(v | ...)), t over all
    tokens of the data's chosen answer y, end of turn included: both models read the same text. It
    is the quantity that RLHF penalises (Ouyang et al. 2022), but on the data's answers instead of
    the model's own, so that all models are measured at the same places.

    Args:
        models: base model and those that are compared with it.
        pairs: token ids.
        batch_size: sequences of a forward pass. Logits live for LOGIT_CHUNK positions at a time.
        progress: called with the number of pairs that are done.
    """
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].longest)
    sums = {name: [0.0] * len(pairs) for name in models.names}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = [pairs[index] for index in indices]
        for name, values in _batch_divergence(models, batch).items():
            for index, value in zip(indices, values, strict=True):
                sums[name][index] = value
        progress(start + len(indices))
    return sums


def _batch_divergence(models: Models, batch: Sequence[TokenizedPair]) -> dict[str, list[float]]:
    sequences = [pair.prompt + pair.chosen for pair in batch]
    hidden: dict[str, torch.Tensor] = {}
    for name in models.names:
        with models.as_(name) as model:
            states = hidden_states(model, sequences)  # (B, L, H)
        # What stands before a token predicts it.
        parts = [
            states[row, len(pair.prompt) - 1 : len(pair.prompt) + len(pair.chosen) - 1]
            for row, pair in enumerate(batch)
        ]
        hidden[name] = torch.cat(parts)  # (N, H)
    counts = [len(pair.chosen) for pair in batch]
    token_sums = _token_divergence(models, hidden)
    return {
        name: [float(part.sum()) for part in values.double().split(counts)]
        for name, values in token_sums.items()
    }


def _token_divergence(models: Models, hidden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """KL (N,) of each model at each position; the base model's from itself is 0."""
    places = len(hidden[BASE])
    found = {name: torch.zeros(places) for name in models.names}
    for start in range(0, places, LOGIT_CHUNK):
        part = slice(start, start + LOGIT_CHUNK)
        base = _all_logps(models, BASE, hidden[BASE][part])  # (C, V)
        for name in models.names:
            if name != BASE:
                logps = _all_logps(models, name, hidden[name][part])
                divergence = (logps.exp() * logps.sub_(base)).sum(-1)
                found[name][part] = divergence.clamp(min=0).cpu()  # below 0 only by rounding
    return found


def _all_logps(models: Models, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """fp32 log-probs (C, V) of every token; an adapter may also change the output embedding."""
    with models.as_(name) as model:
        logits = logits_of(model, hidden)
    return logits.sub_(logits.logsumexp(-1, keepdim=True))
