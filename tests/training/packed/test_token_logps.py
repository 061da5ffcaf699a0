"""Log-probs by chunks against a plain log-softmax in fp64, with every gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from orpo_pipeline.training.packed import token_logps as module
from orpo_pipeline.training.packed.token_logps import token_logps

TOKENS, WIDTH, VOCABULARY = 37, 16, 50


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """hidden (N, H), head (V, H), targets (N,), upstream gradient (N,): logits of about 4."""
    draw = torch.Generator().manual_seed(5)
    hidden = torch.randn(TOKENS, WIDTH, generator=draw).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, WIDTH, generator=draw).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draw)
    return hidden, head, targets, torch.randn(TOKENS, generator=draw)


def plain(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    logits = hidden @ head.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def reference(softcap: float | None, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Log-probs and gradients for hidden and head in fp64, from the values that `dtype` holds."""
    hidden, head, targets, upstream = inputs(dtype)
    hidden, head = (tensor.detach().double().requires_grad_() for tensor in (hidden, head))
    logps = plain(hidden, head, targets, softcap)
    return [logps.detach(), *torch.autograd.grad(logps, (hidden, head), upstream.double())]


def chunks_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of so many tokens, worked on by pieces of two."""
    monkeypatch.setattr(module, "LEAST_ROWS", rows)
    monkeypatch.setattr(module, "CACHED_BYTES", 2 * 4 * VOCABULARY)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Relative to the largest value: single ones may be near 0."""
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


# Below, at and above the number of tokens, dividing it or not.
@pytest.mark.parametrize("rows", [1, 5, 36, 37, 1000])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_equals_a_plain_log_softmax(
    rows: int, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks_of(rows, monkeypatch)
    hidden, head, targets, upstream = inputs()
    logps = token_logps(hidden, head, targets, softcap)
    assert logps.dtype == torch.float32
    found = [logps.detach(), *torch.autograd.grad(logps, (hidden, head), upstream)]
    # fp32 has a unit of 6e-8; the sums are over at most 50 terms of both signs.
    for one, expected in zip(found, reference(softcap), strict=True):
        assert_close(one, expected, 2e-6)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_bf16_within_its_rounding(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks_of(5, monkeypatch)
    hidden, head, targets, upstream = inputs(torch.bfloat16)
    logps = token_logps(hidden, head, targets, softcap)
    assert logps.dtype == torch.float32
    gradients = torch.autograd.grad(logps, (hidden, head), upstream)
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 2
    expected = reference(softcap, torch.bfloat16)
    # A logit is rounded once, to 2^-9 of itself; a log-prob is the difference of two.
    largest = (hidden.double() @ head.double().T).abs().max().item()
    assert (logps.double() - expected[0]).abs().max() <= 2 * 2**-9 * largest
    # A gradient is also off by the error of p, and rounded as p, as product and when scaled.
    for gradient, wanted in zip(gradients, expected[1:], strict=True):
        assert_close(gradient, wanted, 2**-6)


def test_a_certain_and_a_hopeless_target_are_finite() -> None:
    head = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    hidden = torch.tensor([[200.0], [200.0]], requires_grad=True)
    logps = token_logps(hidden, head, torch.tensor([0, 1]))
    assert logps.tolist() == [0.0, -400.0]
    for_hidden, for_head = torch.autograd.grad(logps.sum(), (hidden, head))
    # Token 0 is certain, so nothing moves; for token 1: W[1] - W[0] = -2, and -+ hidden.
    assert for_hidden.tolist() == [[0.0], [-2.0]]
    assert for_head.tolist() == [[-200.0], [200.0]]


def test_a_large_vocabulary_biases_no_log_prob() -> None:
    """torch's fp32 log-softmax adds up 49,152 terms plainly and loses 1e-5 of them on a CPU;
    its logsumexp adds them up by halves and loses 2e-7."""
    draw = torch.Generator().manual_seed(5)
    hidden, targets = torch.eye(64), torch.full((64,), 7)
    head = 3 * torch.randn(49_152, 64, generator=draw)  # each column has the logits of a token
    head[7] = head.max() + 2  # a likely target before a broad tail
    expected = plain(hidden.double(), head.double(), targets, None)
    error = token_logps(hidden, head, targets).double() - expected
    assert abs(error.mean().item()) < 2e-6


@contextmanager
def saved_shapes() -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what is kept for the backward pass inside the `with` block."""
    shapes: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield shapes


class LargestTensor(TorchDispatchMode):
    """Values of the largest tensor that any operation makes inside the `with` block."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor):
                self.values = max(self.values, made.numel())
        return result


def test_a_frozen_head_gets_no_gradient_and_is_not_kept() -> None:
    hidden, head, targets, upstream = inputs()
    head.requires_grad_(False)
    with saved_shapes() as shapes:
        logps = token_logps(hidden, head, targets)
    assert shapes == [(TOKENS, WIDTH)]
    logps.backward(upstream)
    assert head.grad is None
    assert hidden.grad is not None
    assert_close(hidden.grad, reference(None)[1], 2e-6)


def test_a_trained_head_on_frozen_states() -> None:
    hidden, head, targets, upstream = inputs()
    token_logps(hidden.detach(), head, targets).backward(upstream)
    assert hidden.grad is None
    assert head.grad is not None
    assert_close(head.grad, reference(None)[2], 2e-6)


def test_without_gradients_nothing_is_kept() -> None:
    hidden, head, targets, _ = inputs()
    with torch.no_grad(), saved_shapes() as shapes:
        logps = token_logps(hidden.detach(), head, targets)
    assert shapes == []
    assert not logps.requires_grad


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_no_more_than_a_chunk_of_logits_lives(
    softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 20  # more values than the head's gradient has, 20 * 50 > 50 * 16
    chunks_of(rows, monkeypatch)
    hidden, head, targets, upstream = inputs()
    with LargestTensor() as largest, saved_shapes() as shapes:
        token_logps(hidden, head, targets, softcap).backward(upstream)
    assert largest.values == rows * VOCABULARY < TOKENS * VOCABULARY
    assert (TOKENS, VOCABULARY) not in shapes
    assert len(shapes) == 4  # the gradient made ahead, hidden, head, targets
