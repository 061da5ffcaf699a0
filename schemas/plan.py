"""The training plan: every hardware-dependent choice with its reason."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from schemas.hardware import Probe

T = TypeVar("T")
Engine = Literal["packed", "trl"]


class Choice(BaseModel, Generic[T]):
    """A decided value and why it was decided so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: T
    because: str


class ModelShape(BaseModel):
    """The sizes that memory depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    vocab_size: int
    tied_embeddings: bool = False
    """Whether the output layer is the embedding matrix, and not one of its own."""
    rope: str = "default"
    """How positions are encoded, by the name that transformers' `rope_type` has."""


class TrainingPlan(BaseModel):
    """What the training process will do on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe: Probe
    device: Choice[Literal["cpu", "cuda", "mps"]]
    dtype: Choice[Literal["bfloat16", "float16", "float32"]]
    attention: Choice[Literal["flash_attention_2", "sdpa", "eager"]]
    quantization: Choice[Literal["nf4", "none"]]
    optimizer: Choice[Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "galore_adamw"]]
    engine: Choice[Engine]
    processes: Choice[int]
    """Ranks of a data parallel training; on a GPU each has one of its own."""
    sharding: Choice[bool] = Choice(value=False, because="every process holds the whole model")
    """Whether each rank holds but its share of the base model's layers."""
    gradient_checkpointing: Choice[bool]
    forward_pass: Choice[int]
    """How much a forward pass holds: tokens with the packed engine, pairs with TRL."""
    dequantised_layers: Choice[int]
    """Layers whose weights are held in `dtype` and not in NF4, so that no step makes them anew."""

    def choices(self) -> dict[str, Choice]:
        """Every choice by name, in the order in which they were decided."""
        return {name: value for name, value in self if isinstance(value, Choice)}
