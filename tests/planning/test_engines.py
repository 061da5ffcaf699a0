"""Which engine a plan takes, what it says about the other, and requests that it refuses."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from machines import H100, SMOLLM2, configure, plan

from orpo_pipeline.planning.engines import (
    PACKED_ARCHITECTURES,
    PACKED_ROPE,
    can_pack,
    choose_engine,
)
from schemas.errors import UserError
from schemas.plan import ModelShape

GPT2 = SMOLLM2.model_copy(update={"architecture": "GPT2LMHeadModel"})


def with_rope(rope: str) -> ModelShape:
    return SMOLLM2.model_copy(update={"rope": rope})


# (model, configuration, why it cannot be packed)
REFUSALS: dict[str, tuple[ModelShape, dict[str, Any], str]] = {
    "architecture": (GPT2, {}, "packed attention is not proven for GPT2LMHeadModel"),
    "positions": (
        with_rope("dynamic"),
        {},
        "dynamic positions depend on the longest sequence of a forward pass",
    ),
    "positions of one kind of layers": (
        with_rope("default, longrope"),
        {},
        "longrope positions depend on the longest sequence of a forward pass",
    ),
    "two kinds of positions": (
        with_rope("longrope, dynamic"),
        {},
        "dynamic and longrope positions depend on the longest sequence of a forward pass",
    ),
    "adapted head": (
        SMOLLM2,
        {"lora__target_modules": ("q_proj", "lm_head")},
        "the packed loss knows no adapter on lm_head",
    ),
    "adapted embedding, by a longer name": (
        SMOLLM2,
        {"lora__target_modules": ("model.embed_tokens",)},
        "the packed loss knows no adapter on embed_tokens",
    ),
    "eager attention": (
        SMOLLM2,
        {"model__attention": "eager"},
        "model.attention is eager, and packed rows need fused attention",
    ),
}


@pytest.mark.parametrize("architecture", PACKED_ARCHITECTURES)
def test_every_proven_architecture_is_packed(architecture: str) -> None:
    shape = SMOLLM2.model_copy(update={"architecture": architecture})
    choice = choose_engine(configure(), shape)
    assert choice.value == "packed"
    assert choice.because == f"{architecture}: each prompt once, no padding, no kept logits"


def test_the_page_names_what_is_packed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+ForCausalLM)`", page)) == set(PACKED_ARCHITECTURES)
    for rope in PACKED_ROPE:
        assert f"`{rope}`" in page


@pytest.mark.parametrize("rope", ["default", "linear", "llama3", "yarn", "default, linear"])
def test_positions_that_depend_on_nothing_else_are_packed(rope: str) -> None:
    assert can_pack(configure(), with_rope(rope)).possible


def test_adapted_projections_and_sdpa_are_packed() -> None:
    config = configure(lora__target_modules=("q_proj", "my_lm_head_norm"), model__attention="sdpa")
    assert can_pack(config, SMOLLM2).possible


@pytest.mark.parametrize("case", REFUSALS)
def test_auto_falls_back_to_trl_and_says_why(case: str) -> None:
    shape, fields, because = REFUSALS[case]
    choice = choose_engine(configure(**fields), shape)
    assert choice.value == "trl"
    assert choice.because == because


@pytest.mark.parametrize("case", REFUSALS)
def test_packed_is_refused_where_it_would_not_be_exact(case: str) -> None:
    shape, fields, because = REFUSALS[case]
    with pytest.raises(UserError) as failure:
        choose_engine(configure(training__engine="packed", **fields), shape)
    assert failure.value.found == f"training.engine is packed, but {because}."
    assert failure.value.fix == "Set training.engine to auto or trl."
    for word in ("LlamaForCausalLM", "yarn", "no model.attention eager", "no adapter on lm_head"):
        assert word in failure.value.expected
    assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


@pytest.mark.parametrize("case", REFUSALS)
def test_trl_takes_what_cannot_be_packed(case: str) -> None:
    shape, fields, _ = REFUSALS[case]
    choice = choose_engine(configure(training__engine="trl", **fields), shape)
    assert choice.value == "trl"
    assert choice.because == "asked for by training.engine; the reference"


def test_a_request_for_packed_is_named() -> None:
    because = choose_engine(configure(training__engine="packed"), SMOLLM2).because
    assert because.startswith("asked for by training.engine; LlamaForCausalLM: each prompt once")


@pytest.mark.parametrize("engine", ["auto", "packed"])
def test_pairs_a_pass_are_refused_by_the_packed_engine(engine: str) -> None:
    with pytest.raises(UserError, match="counts tokens, not pairs") as failure:
        plan(H100, training__engine=engine, training__micro_batch_size=2)
    assert failure.value.found.startswith("training.micro_batch_size is set")
    assert "training.token_budget" in failure.value.expected
    assert "set training.engine to trl" in failure.value.fix


@pytest.mark.parametrize(
    ("fields", "found", "fix"),
    [
        (
            {"training__token_budget": 4096},
            "training.token_budget is set, but the trl engine counts pairs, not tokens",
            "Remove training.token_budget.",
        ),
        (
            {"training__nll_scope": "response"},
            "training.nll_scope is response, but TRL's NLL is over prompt and response",
            "Remove training.nll_scope.",
        ),
    ],
)
def test_settings_of_packed_training_are_refused_by_trl(
    fields: dict[str, Any], found: str, fix: str
) -> None:
    with pytest.raises(UserError) as failure:
        choose_engine(configure(training__engine="trl", **fields), SMOLLM2)
    assert failure.value.found == f"{found}."
    assert failure.value.fix == fix
    # Nobody asked for TRL here, so the message says what led to it.
    with pytest.raises(UserError) as failure:
        choose_engine(configure(**fields), GPT2)
    assert failure.value.found == f"{found} (packed attention is not proven for GPT2LMHeadModel)."


def test_every_setting_of_an_engine_is_taken_by_its_own() -> None:
    assert choose_engine(configure(training__nll_scope="response"), SMOLLM2).value == "packed"
    assert plan(H100, training__token_budget=4096).forward_pass.value == 4096
    assert plan(H100, GPT2, training__micro_batch_size=4).forward_pass.value == 4
