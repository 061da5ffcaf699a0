"""Drift of merged weights, by numbers that can be worked out by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from orpo_pipeline.export.drift import (
    MOST_FLIPS,
    MOST_KL,
    _answer_logps,
    measure_drift,
    require_small,
)
from schemas.errors import UserError
from schemas.model_card import Drift
from schemas.tokens import TokenizedPair


class Fixed:
    """A model over two tokens that predicts the same whatever came before."""

    device = torch.device("cpu")

    def __init__(self, *probabilities: float) -> None:
        self.logits = torch.tensor(probabilities).log()

    def __call__(self, input_ids: torch.Tensor, logits_to_keep: int, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.logits.expand(len(input_ids), logits_to_keep, 2))


PAIR = TokenizedPair([0], [0, 0], [1])


def test_a_model_has_no_drift_from_itself() -> None:
    drift = measure_drift(Fixed(0.6, 0.4), Fixed(0.6, 0.4), [PAIR], "of a test")
    assert (drift.pairs, drift.tokens, drift.mean_kl, drift.verdict_flips) == (1, 3, 0, 0)


def test_kl_and_flips_by_hand() -> None:
    # KL((.6, .4) || (.3, .7)) = .6 ln(.6/.3) + .4 ln(.4/.7) = .41589 - .22385 = .19204 per token.
    # The first model prefers token 0, so the chosen answer; the second prefers token 1.
    drift = measure_drift(Fixed(0.6, 0.4), Fixed(0.3, 0.7), [PAIR], "of a test")
    assert drift.mean_kl == pytest.approx(0.6 * math.log(2) + 0.4 * math.log(4 / 7), abs=1e-6)
    assert drift.verdict_flips == 1
    # Both prefer token 0: other probabilities, the same verdict.
    near = measure_drift(Fixed(0.6, 0.4), Fixed(0.7, 0.3), [PAIR], "of a test")
    assert near.verdict_flips == 0 and near.mean_kl > 0


def test_padding_of_the_shorter_answer_changes_nothing(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    pair = TokenizedPair([5, 6, 7], [8, 9, 10, 11], [12, 13])
    for logps, answer in zip(_answer_logps(model, pair), (pair.chosen, pair.rejected), strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*pair.prompt, *answer]])).logits[0, 2:-1]
        assert torch.allclose(logps, logits.log_softmax(-1), atol=1e-5)


def drift_of(kl: float, flips: float) -> Drift:
    return Drift(pairs=64, tokens=1000, mean_kl=kl, verdict_flips=flips, pairs_from="of a test")


def test_the_bounds_themselves_are_allowed() -> None:
    require_small(drift_of(MOST_KL, MOST_FLIPS))


@pytest.mark.parametrize(("kl", "flips"), [(0.283, 0.0), (0.001, 0.15), (math.inf, 0.0)])
def test_more_is_refused_with_both_numbers(kl: float, flips: float) -> None:
    with pytest.raises(UserError, match=f"mean KL {kl:.4f}.*{flips:.1%} of 64") as caught:
        require_small(drift_of(kl, flips))
    assert "--force" in caught.value.fix


def test_nan_is_an_error_and_no_figure() -> None:
    with pytest.raises(UserError, match="not finite"):
        measure_drift(Fixed(0.6, 0.4), Fixed(math.nan, 0.5), [PAIR], "of a test")
