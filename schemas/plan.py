"""The training plan: every hardware-dependent choice with its reason."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from schemas.hardware import Probe

T = TypeVar("T")


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


class TrainingPlan(BaseModel):
    """What the training process will do on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe: Probe
    device: Choice[Literal["cpu", "cuda", "mps"]]
    dtype: Choice[Literal["bfloat16", "float16", "float32"]]
    attention: Choice[Literal["flash_attention_2", "sdpa", "eager"]]
    quantization: Choice[Literal["nf4", "none"]]
    optimizer: Choice[Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]]
    gradient_checkpointing: Choice[bool]
    micro_batch_size: Choice[int]
    engine: Choice[Literal["trl"]]

    def choices(self) -> dict[str, Choice]:
        """Every choice by name, in the order in which they were decided."""
        return {name: value for name, value in self if isinstance(value, Choice)}
