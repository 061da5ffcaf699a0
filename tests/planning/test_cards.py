"""What cards of common sizes could train."""

import pytest
from machines import LLAMA_70B, MISTRAL_7B, configure, cpu

from orpo_pipeline.planning.cards import CARDS, fit_on_cards
from schemas.errors import UserError


def test_larger_cards_do_no_less() -> None:
    fits = fit_on_cards(configure(), MISTRAL_7B, cpu("avx2"))
    assert [fit.gib for fit in fits] == list(CARDS)
    assert all(fit.fits for fit in fits)
    # 7 billion weights take 3.9 GiB in NF4; a card of 8 GiB just holds the longest pair.
    assert fits[0].how == "packed, 2,048 tokens a pass; gradient checkpointing"
    assert "gradient checkpointing" not in fits[-1].how
    assert "of 32 layers kept dequantised" in fits[-1].how


def test_a_model_for_no_card() -> None:
    fits = fit_on_cards(configure(), LLAMA_70B, cpu("avx2"))
    # Its weights alone take 37.1 GiB.
    assert [fit.gib for fit in fits if fit.fits] == [80]
    assert fits[0].how.startswith("Training needs an estimated ")


def test_settings_that_contradict_each_other_are_no_matter_of_memory() -> None:
    config = configure(training__engine="trl", training__token_budget=512)
    with pytest.raises(UserError, match="counts pairs, not tokens"):
        fit_on_cards(config, MISTRAL_7B, cpu("avx2"))


def test_the_configuration_of_this_machine_does_not_hinder() -> None:
    config = configure(model__device="cpu", training__engine="trl")
    assert "pairs a pass" in fit_on_cards(config, MISTRAL_7B, cpu("avx2"))[-1].how
    ranks = configure(training__processes=2, training__sharding="on")
    assert fit_on_cards(ranks, MISTRAL_7B, cpu("avx2")) == fit_on_cards(
        configure(), MISTRAL_7B, cpu("avx2")
    )
