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
        verdicts: list[list[float]] = [[], []]
        for answer in (pair.chosen, pair.rejected):
            divergence, means = _answer(reference, merged, pair.prompt, answer)
            kl += divergence
            tokens += len(answer)
            for side, mean in zip(verdicts, means, strict=True):
                side.append(mean)
        flips += len({chosen > rejected for chosen, rejected in verdicts}) - 1
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


def _answer(
    reference: Any, merged: Any, prompt: Sequence[int], answer: Sequence[int]
) -> tuple[float, tuple[float, float]]:
    """The summed KL over an answer's tokens, and both models' mean log-prob per token of it."""
    ids = torch.tensor([[*prompt, *answer]])  # (1, T)
    targets = torch.tensor(answer)[:, None]  # (A, 1)
    ours, theirs = (_logps(model, ids, len(answer)) for model in (reference, merged))
    kl = float((ours.exp() * (ours - theirs)).sum())
    return kl, (float(ours.gather(-1, targets).mean()), float(theirs.gather(-1, targets).mean()))


def _logps(model: Any, ids: torch.Tensor, last: int) -> torch.Tensor:
    """fp32 log-probs of every token at the `last` positions of `ids`, (A, V)."""
    output = model(input_ids=ids.to(model.device), logits_to_keep=last + 1, use_cache=False)
    return torch.log_softmax(output.logits[0, :-1].float(), -1).cpu()


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
