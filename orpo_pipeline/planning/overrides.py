"""Requests in the configuration: how a plan names them, and those a machine cannot fulfil."""

from collections.abc import Iterator
from typing import NamedTuple

from orpo_pipeline.planning.capabilities import (
    can_use_8bit_optimizer,
    can_use_bfloat16,
    can_use_flash_attention,
    can_use_galore,
    can_use_nf4,
)
from schemas.config import LoraConfig, RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe


class Problem(NamedTuple):
    """The three sentences of a UserError."""

    found: str
    expected: str
    fix: str


def asked_for(field: str, note: str = "") -> str:
    """Why a choice is as it is when the configuration says so."""
    return f"asked for by {field}" + (f"; {note}" if note else "")


def refuse_impossible_overrides(config: RunConfig, target: Probe, dtype: str) -> None:
    """Raise one UserError that names every request the machine cannot run, or return.

    `target` is the device that training will use, `dtype` what was decided for it.
    """
    problems = [
        *_dtype_problems(config, target),
        *_attention_problems(config, target, dtype),
        *_package_problems(config, target),
        *_micro_batch_problems(config),
        *_method_problems(config, target),
        *_process_problems(config, target),
    ]
    if problems:
        found, expected, fix = zip(*problems, strict=True)
        raise UserError(" ".join(found), " ".join(expected), " ".join(fix))


HEAD_MODULES = ("lm_head", "embed_tokens")


def adapted_heads(config: RunConfig) -> list[str]:
    """Which of the output layer and the embeddings `lora.target_modules` names."""
    targets = {name.rpartition(".")[2] for name in config.lora.target_modules}
    return [name for name in HEAD_MODULES if config.training.method == "lora" and name in targets]


def refuse_what_cannot_be_registered(config: RunConfig) -> None:
    """Raise UserError for what the main job could train but not go on with.

    Evaluation, registration and serving take adapters on one base model in turns; PEFT saves whole
    embeddings beside an adapter on them.
    """
    heads = adapted_heads(config)
    if heads:
        raise UserError(
            f"lora.target_modules names {heads[0]}, and the main job cannot evaluate or register "
            "such an adapter.",
            "linear maps of the transformer layers.",
            f"Remove {' and '.join(heads)} from lora.target_modules.",
        )
    if config.training.method == "full":
        raise UserError(
            "training.method is full, and the main job cannot evaluate or register a whole model.",
            "training.method lora.",
            "Remove training.method, or call the train stage alone (docs/train.md).",
        )


def _dtype_problems(config: RunConfig, target: Probe) -> Iterator[Problem]:
    requested = config.model.dtype
    bfloat16 = can_use_bfloat16(target)
    if requested == "bfloat16" and bfloat16.possible is False:
        yield Problem(
            f"model.dtype is bfloat16, but {target.name}: {bfloat16.because}.",
            "a GPU of SM 8.0 or newer.",
            "Set model.dtype to auto (float16 with loss scaling here).",
        )
    if requested == "float16" and target.kind == "cpu":
        yield Problem(
            "model.dtype is float16, but training on a CPU has no loss scaling for it.",
            "bfloat16 or float32 on a CPU.",
            "Set model.dtype to auto.",
        )


def _attention_problems(config: RunConfig, target: Probe, dtype: str) -> Iterator[Problem]:
    if config.model.attention != "flash_attention_2":
        return
    flash = can_use_flash_attention(target)
    if flash.possible is False:
        yield Problem(
            f"model.attention is flash_attention_2, but {target.name}: {flash.because}.",
            "a CUDA GPU of SM 8.0 or newer, or an AMD MI200 or newer, with flash-attn installed.",
            "Set model.attention to auto, or install flash-attn where the GPU can run it.",
        )
    if dtype == "float32":
        yield Problem(
            "model.attention is flash_attention_2, but the dtype is float32.",
            "bfloat16 or float16 with FlashAttention 2.",
            "Set model.attention to sdpa, or model.dtype to a 16-bit type.",
        )


def _package_problems(config: RunConfig, target: Probe) -> Iterator[Problem]:
    nf4 = can_use_nf4(target)
    if config.model.quantization == "nf4" and nf4.possible is False:
        yield Problem(
            f"model.quantization is nf4, but {nf4.because}.",
            "bitsandbytes on a CPU, a CUDA or a ROCm GPU.",
            "Set model.quantization to auto or none, or install bitsandbytes where it can run.",
        )
    eight_bit = can_use_8bit_optimizer(target)
    requested = config.training.optimizer
    if requested in ("adamw_8bit", "paged_adamw_8bit") and eight_bit.possible is False:
        yield Problem(
            f"training.optimizer is {requested}, but {eight_bit.because}.",
            "bitsandbytes on a CPU, a CUDA or a ROCm GPU.",
            "Set training.optimizer to auto or adamw, or install bitsandbytes where it can run.",
        )


def _method_problems(config: RunConfig, target: Probe) -> Iterator[Problem]:
    training = config.training
    galore = can_use_galore(target)
    if training.optimizer == "galore_adamw" and training.method == "lora":
        yield Problem(
            "training.optimizer is galore_adamw, but a LoRA's gradients are of low rank already.",
            "galore_adamw with training.method full.",
            "Set training.optimizer to auto, or training.method to full.",
        )
    elif training.optimizer == "galore_adamw" and not galore.possible:
        yield Problem(
            f"training.optimizer is galore_adamw, but {galore.because}.",
            "the package galore-torch.",
            "Install it, or set training.optimizer to auto.",
        )
    if training.optimizer == "galore_adamw" and training.weight_decay:
        yield Problem(
            "training.weight_decay is set, but transformers gives GaLore no weight decay.",
            "weight_decay 0 with galore_adamw.",
            "Remove training.weight_decay, or choose another training.optimizer.",
        )
    # Not "was it named": `orpo-pipeline config` names every field, and its output is a config.
    unused = training.galore_rank != type(training).model_fields["galore_rank"].default
    if training.optimizer != "galore_adamw" and unused:
        yield Problem(
            f"training.galore_rank is set, but training.optimizer is {training.optimizer}.",
            "galore_rank with galore_adamw.",
            "Remove training.galore_rank, or set training.optimizer to galore_adamw.",
        )
    if training.method == "full" and config.model.quantization == "nf4":
        yield Problem(
            "model.quantization is nf4, but training.method full trains every weight, and a weight "
            "of 4 bits cannot be trained.",
            "model.quantization none (or auto) with training.method full.",
            "Set model.quantization to auto, or training.method to lora.",
        )
    if training.method == "full" and config.lora != LoraConfig():
        yield Problem(
            "lora has settings, but training.method full trains no adapter.",
            "no section lora with training.method full.",
            "Remove the section lora, or set training.method to lora.",
        )


def _micro_batch_problems(config: RunConfig) -> Iterator[Problem]:
    size, batch = config.training.micro_batch_size, config.training.batch_size
    if size is None or batch % size == 0:
        return
    divisors = [str(number) for number in range(1, batch + 1) if batch % number == 0]
    yield Problem(
        f"training.micro_batch_size is {size}, which does not divide the batch_size of {batch}.",
        f"one of {', '.join(divisors)}.",
        "Change training.micro_batch_size or training.batch_size.",
    )


def _process_problems(config: RunConfig, target: Probe) -> Iterator[Problem]:
    training = config.training
    ranks = training.processes or 1
    if ranks > 1 and training.method == "full":
        yield Problem(
            f"training.processes is {ranks}, but training.method full trains in one process.",
            "training.method lora with several processes.",
            "Remove training.processes.",
        )
    if ranks > 1 and training.engine == "trl":
        yield Problem(
            f"training.processes is {ranks}, but training.engine trl trains in one process.",
            "several processes with the packed engine, whose step is the same however many.",
            "Remove training.processes, or set training.engine to packed.",
        )
    if training.sharding == "on" and config.lora.use_dora:
        yield Problem(
            "training.sharding is on, but DoRA reads whole weights when it is not their turn.",
            "lora.use_dora false with training.sharding.",
            "Remove training.sharding or lora.use_dora.",
        )
    on_cpu = target.kind == "cpu"
    unit, units = ("core", target.cpu_cores) if on_cpu else ("GPU", target.devices)
    if ranks > units:
        yield Problem(
            f"training.processes is {ranks}, but this machine has {units} {unit}s.",
            f"at most one process for each {unit}.",
            "Lower or remove training.processes.",
        )
    if ranks > training.batch_size:
        yield Problem(
            f"training.processes is {ranks}, but a step has {training.batch_size} pairs.",
            "at least one pair for each process.",
            "Lower training.processes, or raise training.batch_size.",
        )
