"""The ORPO objective against hand-worked numbers, TRL's, and its limits."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orpo_pipeline.training.loss import log1mexp, log_odds, odds_ratio_loss, orpo_loss

LOG_PROBS = [-1e-6, -1e-3, -0.5, -0.6931, -0.6932, -1.0, -4.0, -30.0, -200.0]


def of(*probabilities: float) -> torch.Tensor:
    """Mean log-probs of answers with these mean probabilities a token, fp64."""
    return torch.tensor([math.log(p) for p in probabilities], dtype=torch.float64)


def test_log_odds_by_hand() -> None:
    # 0.5: 0.5 / 0.5 = 1, log 0.  0.8: 0.8 / 0.2 = 4, log 1.386294.  0.2: 0.2 / 0.8 = 1/4.
    expected = torch.tensor([0.0, 1.386294, -1.386294], dtype=torch.float64)
    torch.testing.assert_close(log_odds(of(0.5, 0.8, 0.2)), expected, atol=1e-6, rtol=0)


def test_odds_ratio_loss_by_hand() -> None:
    # Pair 1: odds 4 against 1: -log sigmoid(log 4) = -log(4 / (1 + 4)) = log 1.25 = 0.223144.
    # Pair 2: the other way round: -log(0.25 / 1.25) = log 5 = 1.609438.
    # Pair 3: equal: -log(1 / 2) = 0.693147.
    losses = odds_ratio_loss(of(0.8, 0.5, 0.3), of(0.5, 0.8, 0.3))
    expected = torch.tensor([0.223144, 1.609438, 0.693147], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=0)


def test_orpo_loss_by_hand() -> None:
    # 2 + 0.1 * 0.223144 = 2.0223144 and 0.5 + 0.1 * 1.609438 = 0.6609438.
    nll = torch.tensor([2.0, 0.5], dtype=torch.float64)
    losses = orpo_loss(nll, of(0.8, 0.5), of(0.5, 0.8), orpo_lambda=0.1)
    expected = torch.tensor([2.0223144, 0.6609438], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("orpo_lambda", [0.1, 1.0])
def test_equals_trl(orpo_lambda: float) -> None:
    from trl.experimental.orpo import ORPOTrainer

    chosen = torch.tensor(LOG_PROBS).repeat_interleave(len(LOG_PROBS))
    rejected = torch.tensor(LOG_PROBS).repeat(len(LOG_PROBS))
    what_trl_reads = SimpleNamespace(
        beta=orpo_lambda, accelerator=SimpleNamespace(device=torch.device("cpu"))
    )
    gains, *_, log_sigmoid, margin = ORPOTrainer.odds_ratio_loss(what_trl_reads, chosen, rejected)

    ours = odds_ratio_loss(chosen, rejected)
    torch.testing.assert_close(orpo_lambda * ours, -gains)  # TRL subtracts its gain from the NLL
    torch.testing.assert_close(-ours.mean(), log_sigmoid)
    torch.testing.assert_close((log_odds(chosen) - log_odds(rejected)).mean(), margin)


def test_accurate_where_the_plain_formula_is_not() -> None:
    # log(1 - e^-1e-12) = log(1e-12) = -27.631021; in fp64 1 - exp(-1e-12) has 4 good digits.
    # log(1 - e^-50) = -e^-50 = -1.9287498e-22; in fp64 1 - exp(-50) is 1.
    found = log1mexp(torch.tensor([-1e-12, -50.0], dtype=torch.float64))
    expected = torch.tensor([-27.631021115928547, -1.9287498479639178e-22], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


def test_far_away_the_odds_are_the_probability() -> None:
    far = torch.tensor([-200.0, -1000.0])
    assert log_odds(far).tolist() == [-200.0, -1000.0]
    # A hopeless chosen answer against an even one: -log sigmoid(-1000 - 0) = 1000.
    assert odds_ratio_loss(far[1:], torch.tensor([math.log(0.5)])).item() == pytest.approx(1000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_answers_are_finite(dtype: torch.dtype) -> None:
    certain = torch.tensor([0.0, -1e-30], dtype=dtype)
    assert log_odds(certain).isfinite().all()
    # Two certain answers are a tie, log 2 = 0.693147, not inf - inf.
    assert odds_ratio_loss(certain, certain).tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere(dtype: torch.dtype) -> None:
    ends = [0.0, -1e-30, -1e-9, -1e-4, -math.log(2), -0.7, -20.0, -120.0, -1e4]
    chosen = torch.tensor(ends, dtype=dtype, requires_grad=True)
    rejected = torch.tensor(ends[::-1], dtype=dtype, requires_grad=True)
    orpo_loss(-chosen, chosen, rejected, 0.5).sum().backward()
    for side in (chosen, rejected):
        assert side.grad is not None
        assert side.grad.isfinite().all()


def test_gradient_is_the_derivative() -> None:
    chosen = torch.tensor([-0.01, -0.5, -0.69, -0.70, -3.0, -12.0], dtype=torch.float64)
    rejected = chosen.flip(0).clone()
    nll = torch.rand(6, dtype=torch.float64)
    for tensor in (nll, chosen, rejected):
        tensor.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda *t: orpo_loss(*t, 0.3), (nll, chosen, rejected))


@given(st.floats(-50, -1e-3), st.floats(-50, -1e-3))
def test_swapping_the_answers_swaps_the_sign(first: float, second: float) -> None:
    a = torch.tensor([first], dtype=torch.float64)
    b = torch.tensor([second], dtype=torch.float64)
    # log sigmoid(x) - log sigmoid(-x) = x
    margin = odds_ratio_loss(b, a) - odds_ratio_loss(a, b)
    torch.testing.assert_close(margin, log_odds(a) - log_odds(b), atol=1e-9, rtol=1e-9)
    assert (odds_ratio_loss(a, b) > 0).all()
