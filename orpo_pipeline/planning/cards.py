"""What GPUs of common sizes could train: the plan of a card that is not here."""

from dataclasses import dataclass

from orpo_pipeline.planning.engines import choose_engine
from orpo_pipeline.planning.memory import GIB, describe_bytes
from orpo_pipeline.planning.plan import plan_training, predict_memory
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import ModelShape
from schemas.tokens import Longest

CARDS = (8, 12, 16, 24, 48, 80)
"""GiB of device memory."""


@dataclass(frozen=True, slots=True)
class CardFit:
    """What a card of `gib` could do."""

    gib: int
    fits: bool
    how: str
    """Size of a pass, checkpointing, layers kept dequantised; or why it does not fit."""
    memory: str
    """The estimate of a step."""


def fit_on_cards(config: RunConfig, shape: ModelShape, here: Probe) -> list[CardFit]:
    """Plan `shape` for NVIDIA cards of SM 8.x, with the packages and the host of `here`.

    Pairs are taken to be as long as `chat.max_length` allows. Raises UserError for requests that
    no engine can fulfil.
    """
    choose_engine(config, shape)
    return [_fit(config, shape, here, gib) for gib in CARDS]


def _fit(config: RunConfig, shape: ModelShape, here: Probe, gib: int) -> CardFit:
    card = here.model_copy(
        update={
            "kind": "cuda",
            "name": f"a card of {gib} GiB",
            "devices": 1,
            "compute_capability": (8, 6),
            "gfx_arch": None,
            "device_memory": gib * GIB,
        }
    )
    model = config.model.model_copy(update={"device": "auto"})
    training = config.training.model_copy(update={"processes": None, "sharding": "auto"})
    on_card = config.model_copy(update={"model": model, "training": training})
    # A prompt of no token and two answers of the whole length: no pair is longer.
    side = config.chat.max_length
    longest = Longest(side, 2 * side)
    try:
        plan = plan_training(on_card, card, shape, longest)
    except UserError as error:
        return CardFit(gib, fits=False, how=error.found, memory="")
    unit = "tokens" if plan.engine.value == "packed" else "pairs"
    parts = [f"{plan.engine.value}, {plan.forward_pass.value:,} {unit} a pass"]
    if plan.gradient_checkpointing.value:
        parts.append("gradient checkpointing")
    if plan.dequantised_layers.value:
        parts.append(f"{plan.dequantised_layers.value} of {shape.layers} layers kept dequantised")
    memory = describe_bytes(predict_memory(on_card, plan, shape, longest).total)
    return CardFit(gib, fits=True, how="; ".join(parts), memory=memory)
