"""The configuration's section `training`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from schemas.section import Section, on_or_off


class TrainingConfig(Section):
    """The ORPO optimisation (arXiv 2403.07691)."""

    method: Literal["lora", "full"] = "lora"
    """`lora`: an adapter beside frozen weights. `full`: every weight, held in float32 and not
    quantised; `lora` is not used then, and the memory is 16 bytes a parameter with `adamw`."""

    engine: Literal["auto", "packed", "trl"] = "auto"
    """`packed`: each prompt computed once, no padding, no kept logits; the same loss. `trl`: TRL's
    ORPOTrainer on our token ids, the reference. `auto`: packed where the model allows it."""

    orpo_lambda: float = Field(default=0.1, ge=0)
    """Weight of the odds-ratio loss: the paper's lambda, TRL's `beta`."""

    nll_scope: Literal["prompt_and_response", "response"] = "prompt_and_response"
    """Tokens of the NLL: prompt and chosen answer (the paper's code, TRL), or the answer alone."""

    learning_rate: float = Field(default=8e-6, gt=0)
    """Peak learning rate. LoRA usually wants 5e-5 to 5e-4, full fine-tuning 5e-6 to 8e-6."""

    lr_scheduler: Literal["linear", "cosine", "inverse_sqrt", "constant_with_warmup"] = "linear"
    """Schedule after the warm-up."""

    warmup: float = Field(default=0.1, ge=0)
    """Below 1: share of all steps; from 1: number of steps."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training pairs; ignored when `max_steps` is set."""

    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(default=8, ge=1)
    """Pairs per optimizer step."""

    token_budget: int | None = Field(default=None, ge=1)
    """Tokens per forward pass of the packed engine; a longer pair is computed alone. Unset: decided
    by the plan. Any value gives the same step, but for rounding and the draws of dropout."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Pairs per forward pass of TRL; must divide `batch_size`. Unset: decided by the plan."""

    processes: int | None = Field(default=None, ge=1)
    """Ranks that share each step's pairs, with the packed engine: on a GPU each has one of its own,
    on a CPU they share the cores. Unset: decided by the plan."""

    sharding: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = "auto"
    """Each process holds its share of the base model's layers, and gathers one at a time (FSDP).
    Less memory, more waiting. `auto`: on GPUs, where nothing else fits."""

    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit", "galore_adamw"] = "auto"
    """8-bit states save memory; paged ones survive spikes on a GPU. `galore_adamw` (arXiv
    2403.03507), for `method: full`: the states of projected gradients of rank `galore_rank`."""

    galore_rank: int = Field(default=128, ge=1)
    """Rank of GaLore's projections: more is closer to AdamW, and its states are larger."""

    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    on_non_finite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is NaN or infinite: training stops before it, or leaves it out
    (no weight and no optimizer state changes) and counts it. Either way its row ids are named."""

    max_skipped_steps: int = Field(default=10, ge=0)
    """With `on_non_finite: skip`, one more such step than this stops training."""

    gradient_checkpointing: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = (
        "auto"
    )
    """Recompute activations in the backward pass: less memory, about a third more time."""

    save_steps: int = Field(default=25, ge=1)
    """Optimizer steps between checkpoints: the most that a crash can cost."""

    eval_pairs: int = Field(default=64, ge=0)
    """Held-out pairs whose loss is measured at each checkpoint. 0: none. The same ones every time,
    and the trained weights are those of a training without."""

    seed: int = Field(default=42, ge=0)
    """Seeds adapter weights, data order and dropout."""
