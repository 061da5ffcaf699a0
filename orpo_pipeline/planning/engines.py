"""Which engine can train a model, and why not."""

from orpo_pipeline.planning.capabilities import Verdict
from orpo_pipeline.planning.overrides import HEAD_MODULES, adapted_heads, asked_for
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.plan import Choice, Engine, ModelShape

PACKED_ARCHITECTURES = (
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    *("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM", "SmolLM3ForCausalLM"),
)
"""Held to the reference by tests/training/packed/test_architectures.py."""

PACKED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary positions whose frequencies do not depend on the longest sequence of a batch."""

SOFTCAPPED = ("Gemma2ForCausalLM",)
"""Their scores and logits are capped; transformers has no `sdpa` for them."""


def can_pack(config: RunConfig, shape: ModelShape) -> Verdict:
    """Whether the packed engine computes this model's loss exactly."""
    if shape.architecture not in PACKED_ARCHITECTURES:
        return Verdict(False, f"packed attention is not proven for {shape.architecture}")
    unsafe = set(shape.rope.split(", ")) - set(PACKED_ROPE)
    if unsafe:
        named = " and ".join(sorted(unsafe))
        return Verdict(False, f"{named} positions depend on the longest sequence of a forward pass")
    adapted = adapted_heads(config)
    if adapted:
        return Verdict(False, f"the packed loss knows no adapter on {adapted[0]}")
    if config.model.attention == "eager":
        return Verdict(False, "model.attention is eager, and packed rows need fused attention")
    return Verdict(True, f"{shape.architecture}: each prompt once, no padding, no kept logits")


def choose_engine(config: RunConfig, shape: ModelShape) -> Choice[Engine]:
    """Packed where it is exact. Raises UserError for requests that the engine cannot fulfil."""
    training, packs = config.training, can_pack(config, shape)
    if training.engine == "packed" and not packs.possible:
        raise UserError(
            f"training.engine is packed, but {packs.because}.",
            f"one of {', '.join(PACKED_ARCHITECTURES)}, with positions of type "
            f"{', '.join(PACKED_ROPE)}, no model.attention eager, and no adapter on "
            f"{' or '.join(HEAD_MODULES)}.",
            "Set training.engine to auto or trl.",
        )
    engine: Engine = "packed" if training.engine != "trl" and packs.possible else "trl"
    _refuse_foreign_settings(config, engine, packs)
    note = "the reference" if engine == "trl" else packs.because
    asked = training.engine != "auto"
    return Choice(
        value=engine, because=asked_for("training.engine", note) if asked else packs.because
    )


def _refuse_foreign_settings(config: RunConfig, engine: Engine, packs: Verdict) -> None:
    """Settings of the other engine would be ignored."""
    training = config.training
    why = f" ({packs.because})" if engine == "trl" and training.engine == "auto" else ""
    if engine == "packed" and training.micro_batch_size is not None:
        raise UserError(
            "training.micro_batch_size is set, but the packed engine counts tokens, not pairs.",
            "training.token_budget with the packed engine.",
            "Remove training.micro_batch_size, or set training.engine to trl.",
        )
    if engine == "trl" and training.token_budget is not None:
        raise UserError(
            f"training.token_budget is set, but the trl engine counts pairs, not tokens{why}.",
            "training.micro_batch_size with the trl engine.",
            "Remove training.token_budget.",
        )
    if engine == "trl" and training.nll_scope == "response":
        raise UserError(
            f"training.nll_scope is response, but TRL's NLL is over prompt and response{why}.",
            "prompt_and_response with the trl engine.",
            "Remove training.nll_scope.",
        )
