"""The ORPO objective (Hong, Lee, Thorne 2024, arXiv 2403.07691, eq. 3-7), as pure functions."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - e^x) for x <= 0, accurate at both ends; -inf at 0. Any shape.

    Maechler 2012, "Accurately computing log(1 - exp(-|a|))": two forms that meet at -log 2.
    """
    near = x > -math.log(2)
    # `where` also differentiates the form that it does not take, whose gradient at the other end is
    # infinite: each form gets only arguments that suit it.
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, x))),
    )


def log_odds(mean_logp: torch.Tensor) -> torch.Tensor:
    """Log-odds of an answer, eq. 4: p - log(1 - e^p), p its mean log-prob per token. Any shape.

    A certain answer (p = 0) has infinite odds; it gets those of the smallest doubt that the dtype
    can tell from 1, so that two certain answers are a tie and not inf - inf.
    """
    mean_logp = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)
    return mean_logp - log1mexp(mean_logp)


def odds_ratio_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(log-odds(chosen) - log-odds(rejected)), eq. 7, one value a pair.

    Args:
        chosen: (B,) mean log-prob per token of the chosen answers, fp32, <= 0.
        rejected: (B,) the same of the rejected answers.
    """
    return -F.logsigmoid(log_odds(chosen) - log_odds(rejected))


def orpo_loss(
    nll: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor, orpo_lambda: float
) -> torch.Tensor:
    """NLL(prompt + chosen) + lambda * odds-ratio loss, eq. 6, one value a pair, shape (B,).

    Args:
        nll: (B,) mean negative log-prob per token over prompt and chosen answer.
        chosen: (B,) mean log-prob per token of the chosen answers.
        rejected: (B,) the same of the rejected answers.
        orpo_lambda: the paper's lambda, TRL's `beta`.
    """
    return nll + orpo_lambda * odds_ratio_loss(chosen, rejected)


@dataclass(frozen=True)
class StepSize:
    """What an optimizer step averages over: every micro-batch, on every rank."""

    tokens: int
    """Tokens of the NLL."""
    pairs: int


FIGURES = (
    "loss",
    "nll_loss",
    "log_odds_ratio",
    "log_odds_chosen",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
"""TRL's names for the figures of a step."""


def share_of_step(
    sums: torch.Tensor, counts: torch.Tensor, size: StepSize, orpo_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What B pairs add to an optimizer step's loss, eq. 6, and to its figures.

    The step's loss is the mean NLL over its tokens + lambda * the mean odds-ratio loss over its
    pairs. Shares add up to it however the pairs are split, which a mean of micro-batch means does
    not.

    Args:
        sums: (B, 3) summed log-probs of prompt, chosen, rejected, fp32.
        counts: (B, 3) how many tokens each is over; a prompt outside the NLL has 0 and 0.
        size: of the whole step.
        orpo_lambda: the paper's lambda, TRL's `beta`.

    Returns:
        The share of the loss, and of the means in FIGURES, shape (7,), detached.
    """
    nll = -sums[:, :2].sum() / size.tokens
    chosen, rejected = sums[:, 1] / counts[:, 1], sums[:, 2] / counts[:, 2]  # (B,) mean log-probs
    odds_ratio = odds_ratio_loss(chosen, rejected)
    loss = nll + orpo_lambda * odds_ratio.sum() / size.pairs
    with torch.no_grad():
        pairs = torch.stack(
            [
                -odds_ratio,
                log_odds(chosen) - log_odds(rejected),
                (chosen > rejected).float(),
                chosen,
                rejected,
            ]
        )
        figures = torch.cat([loss.detach()[None], nll[None], pairs.sum(1) / size.pairs])
    return loss, figures
