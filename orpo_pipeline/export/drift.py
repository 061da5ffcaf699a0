"""How far merged weights have moved from the base + adapter that was evaluated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from schemas.errors import UserError
from schemas.model_card import Drift
from schemas.tokens import TokenizedPair

MOST_KL = 0.02
"""Nats per token. Rounding to bf16 gives about 0.005, a wrong base 0.03 (re-quantised) to 0.4."""
MOST_FLIPS = 0.05
"""Share of pairs."""


@torch.inference_mode()
def measure_drift(
    reference: Any,
    merged: Any,
    pairs: Sequence[TokenizedPair],
    pairs_from: str,
    progress: Callable[[int], None] = lambda done: None,
) -> Drift:
    """Mean KL(reference || merged) over the tokens of all answers, and the share of pairs whose
    verdict (which answer has the higher mean log-prob per token) is not the same.

    Both models are in eval mode. Raises UserError when a log-prob is not finite.
    """
    kl, tokens, flips = 0.0, 0, 0
    for number, pair in enumerate(pairs, 1):
        verdicts = set()
        logps = [_answer_logps(model, pair) for model in (reference, merged)]
        for ours, theirs in zip(*logps, strict=True):
            kl += float((ours.exp() * (ours - theirs)).sum())
            tokens += len(ours)
        for answers in logps:
            chosen, rejected = (
                float(each.gather(-1, torch.tensor(answer)[:, None]).mean())
                for each, answer in zip(answers, (pair.chosen, pair.rejected), strict=True)
            )
            verdicts.add(chosen > rejected)
        flips += len(verdicts) - 1
        progress(number)
    if not torch.isfinite(torch.tensor(kl)):
        raise UserError(
            "The merged model's log-probs are not finite.",
            "finite log-probs on every held-out pair.",
            "Export the adapter without --merge; the weights do not fit bfloat16.",
        )
    return Drift(
        pairs=len(pairs),
        tokens=tokens,
        mean_kl=kl / tokens,
        verdict_flips=flips / len(pairs),
        pairs_from=pairs_from,
    )


def _answer_logps(model: Any, pair: TokenizedPair) -> list[torch.Tensor]:
    """fp32 log-probs of every token at the positions of each answer, (A, V) for chosen and
    rejected."""
    answers = (pair.chosen, pair.rejected)
    width = max(map(len, answers))
    # Padding on the right: nothing that counts attends to it.
    ids = torch.tensor([[*pair.prompt, *a, *[0] * (width - len(a))] for a in answers])  # (2, T)
    output = model(input_ids=ids.to(model.device), logits_to_keep=width + 1, use_cache=False)
    return [
        torch.log_softmax(logits[: len(answer)].float(), -1).cpu()
        for logits, answer in zip(output.logits, answers, strict=True)
    ]


def require_small(drift: Drift) -> None:
    """Raise UserError when merged weights are another model than the one that was evaluated."""
    if drift.mean_kl <= MOST_KL and drift.verdict_flips <= MOST_FLIPS:
        return
    raise UserError(
        f"The merged weights differ from base + adapter: mean KL {drift.mean_kl:.4f} nats per "
        f"token, {drift.verdict_flips:.1%} of {drift.pairs} verdicts changed.",
        f"at most {MOST_KL} nats and {MOST_FLIPS:.0%}.",
        "Export the adapter without --merge, or accept it with --force.",
    )
