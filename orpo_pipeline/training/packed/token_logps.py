"""Log-probs of target tokens without keeping logits, and their gradients."""

from collections.abc import Iterator
from typing import Any

import torch

from orpo_pipeline.planning.memory import LEAST_ROWS, LOGIT_CHUNK_BYTES

CACHED_BYTES = 4 * 1024**2
"""float32 logits that a CPU works on at a time: they stay in its cache over all passes."""


def token_logps(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    softcap: float | None = None,
) -> torch.Tensor:
    """fp32 log-prob (N,) of each target given the hidden state before it.

    The gradient of a log-prob with respect to its own hidden state does not depend on the loss
    behind it: d logp / d h = W[target] - sum_v p_v W[v]. So it is made while the logits are there,
    (N, H), and the backward pass only scales it. Logits cost two matrix products in all, not three
    as when they are computed again, and never more than a chunk of memory.

    Args:
        hidden: (N, H) final hidden states.
        head: (V, H) the output embedding W. Its gradient is computed only when it is trained.
        targets: (N,) token ids.
        softcap: logits z become softcap * tanh(z / softcap) (Gemma 2).
    """
    return _TokenLogps.apply(hidden, head, targets, softcap)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        softcap: float | None,
    ) -> torch.Tensor:
        logps = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part, logits in _chunks(hidden, head):
            logps[part] = _turn_into_slopes(logits, targets[part, None], softcap)
            if slopes is not None:
                slopes[part] = logits @ head
        ctx.softcap = softcap
        kept = (hidden, head, targets) if ctx.needs_input_grad[1] else (None, None, None)
        ctx.save_for_backward(slopes, *kept)
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        (upstream,) = gradients  # (N,)
        slopes, hidden, head, targets = ctx.saved_tensors
        for_hidden = None if slopes is None else (slopes * upstream[:, None]).to(slopes.dtype)
        if head is None:
            return for_hidden, None, None, None
        for_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for part, logits in _chunks(hidden, head):
            _turn_into_slopes(logits, targets[part, None], ctx.softcap)
            logits *= upstream[part, None]
            for_head += logits.T @ hidden[part].to(head.dtype)
        return for_hidden, for_head.to(head.dtype), None, None


def _chunks(hidden: torch.Tensor, head: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Logits (C, V) of some hidden states at a time, all in the same memory.

    New memory for each would cost a CPU more than the product itself: the system clears its pages.
    """
    rows = _chunk_rows(head)
    memory = head.new_empty(min(rows, len(hidden)), len(head))
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        states = hidden[part].to(head.dtype)
        yield part, torch.mm(states, head.T, out=memory[: len(states)])


def _chunk_rows(head: torch.Tensor) -> int:
    if head.device.type == "cpu":
        return LEAST_ROWS
    return max(LEAST_ROWS, LOGIT_CHUNK_BYTES // (4 * len(head)))  # each as float32, too


def _turn_into_slopes(
    logits: torch.Tensor, target: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """Log-probs (C,) of `target` (C, 1); in place of the logits (C, V) their slopes."""
    rows = len(logits)
    if logits.device.type == "cpu":
        rows = max(1, CACHED_BYTES // (4 * logits.shape[1]))
    logps = []
    for some, their in zip(logits.split(rows), target.split(rows), strict=True):
        logp, slope = _log_prob(some.float(), their, softcap)
        some.copy_(slope)
        logps.append(logp)
    return torch.cat(logps)


def _log_prob(
    logits: torch.Tensor, target: torch.Tensor, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob (C,) of `target` (C, 1), and its slope onehot(target) - p by each logit, (C, V).

    In the memory of the logits, which are float32. Not by `log_softmax`: on a CPU in float32 it is
    off by 1e-5 nats over a vocabulary of 49,152; this is by 2e-7.
    """
    cap_slope = None
    if softcap is not None:
        bent = logits.div_(softcap).tanh_()
        cap_slope = 1 - bent * bent
        logits = bent.mul_(softcap)
    largest = logits.amax(-1, keepdim=True)
    chosen = logits.gather(-1, target) - largest
    p = logits.sub_(largest).exp_()
    total = p.sum(-1, keepdim=True)
    slope = p.div_(-total)
    slope.scatter_add_(-1, target, torch.ones_like(chosen))
    if cap_slope is not None:
        slope.mul_(cap_slope)
    return (chosen - total.log())[:, 0], slope
