"""The training plan: every hardware-dependent choice with its reason. Pure functions.

The numbers come from the probe alone. Nothing is looked up by a GPU's name, so hardware that nobody
has heard of gets the safe choice instead of another device's.
"""

from dataclasses import replace
from typing import Literal

from orpo_pipeline.planning.batching import (
    ChosenPass,
    choose_dequantised_layers,
    choose_pass,
    pair_sizes,
    require_whole_models,
    token_sizes,
)
from orpo_pipeline.planning.capabilities import (
    can_use_8bit_optimizer,
    can_use_bfloat16,
    can_use_flash_attention,
    can_use_nf4,
    describe_sm,
)
from orpo_pipeline.planning.engines import SOFTCAPPED, choose_engine
from orpo_pipeline.planning.memory import (
    MemoryEstimate,
    Setup,
    dequantised_layer,
    describe_bytes,
    packed_pass,
    predict_step,
    trl_pass,
)
from orpo_pipeline.planning.overrides import asked_for, refuse_impossible_overrides
from orpo_pipeline.planning.processes import choose_processes, choose_sharding
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import Choice, ModelShape, TrainingPlan
from schemas.tokens import Longest

Device = Literal["cpu", "cuda", "mps"]
Dtype = Literal["bfloat16", "float16", "float32"]
Attention = Literal["flash_attention_2", "sdpa", "eager"]
Quantization = Literal["nf4", "none"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "galore_adamw"]

FORWARD_PASSES = {"packed": packed_pass, "trl": trl_pass}


def plan_training(
    config: RunConfig, probe: Probe, shape: ModelShape, longest: Longest
) -> TrainingPlan:
    """Decide how to train `shape` on the machine of `probe`.

    `longest`: tokens of the longest pair. Memory is the total, not what is free at the moment, so
    that the same machine always gets the same plan.

    Raises UserError for a device that is not there; for requests that this machine cannot run, all
    in one; and for a model that does not fit.
    """
    device, dtype, target = check_requests(config, probe)
    attention = choose_attention(config, target, dtype.value, shape)
    quantization = choose_quantization(config, target)
    optimizer = choose_optimizer(config, target)
    engine = choose_engine(config, shape)
    processes = choose_processes(config, target, engine.value)
    if target.kind == "cpu":
        target = target.model_copy(update={"ram": target.ram // processes.value})
    setup = _setup(config, device, dtype, attention, quantization, optimizer)
    if engine.value == "packed":
        sizes = token_sizes(config, target, longest.whole)
    else:
        sizes = pair_sizes(config, target)

    def pass_in(shards: int) -> ChosenPass:
        parts = replace(setup, shards=shards)

        def estimate(size: int, checkpointing: bool) -> MemoryEstimate:
            held = FORWARD_PASSES[engine.value](shape, size, longest)
            return predict_step(shape, parts, held, checkpointing=checkpointing)

        return choose_pass(config, target, sizes, estimate)

    sharding, chosen = choose_sharding(config, target, processes, pass_in)
    if sharding.value:
        held = FORWARD_PASSES[engine.value](shape, chosen.size.value, longest)
        whole = predict_step(shape, setup, held, checkpointing=False)
        require_whole_models(target, processes.value, whole)
    shared = _shared(setup, sharding, processes)
    layers = choose_dequantised_layers(config, target, shape, shared, chosen.memory.total)
    return TrainingPlan(
        probe=probe,
        device=device,
        dtype=dtype,
        attention=attention,
        quantization=quantization,
        optimizer=optimizer,
        engine=engine,
        processes=processes,
        sharding=sharding,
        gradient_checkpointing=chosen.checkpointing,
        forward_pass=chosen.size,
        dequantised_layers=layers,
    )


def predict_memory(
    config: RunConfig, plan: TrainingPlan, shape: ModelShape, longest: Longest
) -> MemoryEstimate:
    """What a training step by the plan takes, dequantised copies of weights included."""
    setup = _setup(
        config, plan.device, plan.dtype, plan.attention, plan.quantization, plan.optimizer
    )
    setup = _shared(setup, plan.sharding, plan.processes)
    held = FORWARD_PASSES[plan.engine.value](shape, plan.forward_pass.value, longest)
    checkpointing = plan.gradient_checkpointing.value
    predicted = predict_step(shape, setup, held, checkpointing=checkpointing)
    kept = plan.dequantised_layers.value * dequantised_layer(shape, setup.dtype)
    return replace(predicted, weights=predicted.weights + int(kept))


def check_requests(config: RunConfig, probe: Probe) -> tuple[Choice[Device], Choice[Dtype], Probe]:
    """The device, its dtype, and the machine as training on that device sees it.

    Raises UserError as `plan_training` does for what needs no data to be known: a device that is
    not there, and requests that this machine cannot run.
    """
    device = choose_device(config, probe)
    target = _on_device(probe, device.value)
    dtype = choose_dtype(config, target)
    refuse_impossible_overrides(config, target, dtype.value)
    return device, dtype, target


def plan_table(plan: TrainingPlan) -> list[tuple[str, str, str]]:
    """(name, value, because) of every choice, in the order in which they were decided."""
    return [
        (name, _in_words(choice.value), choice.because) for name, choice in plan.choices().items()
    ]


def choose_device(config: RunConfig, probe: Probe) -> Choice[Device]:
    """What was asked for, else the accelerator that the probe found, else the CPU."""
    requested = config.model.device
    available = {"cpu", probe.torch_device}
    if requested not in available | {"auto"}:
        raise UserError(
            f"model.device is {requested}, but torch {probe.torch} sees no such device here, "
            f"only {' and '.join(sorted(available))} ({probe.name}).",
            f"one of auto, {', '.join(sorted(available))}.",
            "Set model.device to auto, or install the driver and the torch build for the device.",
        )
    if requested != "auto":
        name = _on_device(probe, requested).name
        return Choice(value=requested, because=asked_for("model.device", name))
    if probe.kind == "cpu":
        return Choice(value="cpu", because=f"torch {probe.torch} sees no GPU; {probe.name}")
    several = f", one of {probe.devices}" if probe.devices > 1 else ""
    return Choice(value=probe.torch_device, because=f"{_describe_accelerator(probe)}{several}")


def choose_dtype(config: RunConfig, target: Probe) -> Choice[Dtype]:
    """bfloat16 where it is native; float16 on older GPUs; float32 elsewhere."""
    requested = config.model.dtype
    native = can_use_bfloat16(target)
    if requested == "float16":
        return Choice(value=requested, because=asked_for("model.dtype", "loss scaling is on"))
    if requested == "bfloat16":
        return Choice(value=requested, because=asked_for("model.dtype", native.because))
    if requested == "float32":
        return Choice(value=requested, because=asked_for("model.dtype"))
    if native.possible:
        return Choice(value="bfloat16", because=native.because)
    known_gpu = target.compute_capability or target.gfx_arch
    if known_gpu and target.kind in ("cuda", "rocm"):
        return Choice(value="float16", because=f"{native.because}; loss scaling is on")
    return Choice(value="float32", because=native.because)


def choose_attention(
    config: RunConfig, target: Probe, dtype: str, shape: ModelShape
) -> Choice[Attention]:
    """FlashAttention 2 where it is known to work, else torch's scaled dot product attention."""
    requested = config.model.attention
    if shape.architecture in SOFTCAPPED and requested == "sdpa":
        raise UserError(
            f"model.attention is sdpa, but {shape.architecture} caps its scores, and torch's "
            "attention cannot.",
            "eager or flash_attention_2 for this model.",
            "Set model.attention to auto.",
        )
    flash = can_use_flash_attention(target, capped=shape.architecture in SOFTCAPPED)
    if requested == "flash_attention_2":
        if flash.possible is False:
            raise UserError(
                f"model.attention is flash_attention_2, but {target.name}: {flash.because}.",
                f"a FlashAttention that can compute {shape.architecture}.",
                "Set model.attention to auto, or upgrade flash-attn.",
            )
        return Choice(value=requested, because=asked_for("model.attention", flash.because))
    if requested != "auto":
        return Choice(value=requested, because=asked_for("model.attention"))
    if flash.possible and dtype != "float32":
        return Choice(value="flash_attention_2", because=flash.because)
    because = "FlashAttention 2 does not compute in float32" if flash.possible else flash.because
    if shape.architecture in SOFTCAPPED:
        return Choice(value="eager", because=f"{because}, and no other kernel caps the scores")
    return Choice(value="sdpa", because=because)


def choose_quantization(config: RunConfig, target: Probe) -> Choice[Quantization]:
    """NF4 wherever bitsandbytes is known to run it; never for weights that are trained."""
    requested = config.model.quantization
    if config.training.method == "full" and requested != "none":
        return Choice(value="none", because="training.method full trains the weights themselves")
    nf4 = can_use_nf4(target)
    if requested == "nf4":
        return Choice(value=requested, because=asked_for("model.quantization", nf4.because))
    if requested == "none":
        return Choice(value=requested, because=asked_for("model.quantization"))
    return Choice(value="nf4" if nf4.possible else "none", because=nf4.because)


def choose_optimizer(config: RunConfig, target: Probe) -> Choice[Optimizer]:
    """8-bit states on a GPU; exact ones on a CPU."""
    requested = config.training.optimizer
    eight_bit = can_use_8bit_optimizer(target)
    if requested != "auto":
        note = "no paging on a CPU" if requested.startswith("paged") else ""
        return Choice(
            value=requested,
            because=asked_for("training.optimizer", note if target.kind == "cpu" else ""),
        )
    if target.kind == "cpu":
        which = "only LoRA weights have" if config.training.method == "lora" else "exact"
        return Choice(
            value="adamw", because=f"{which} states (8 bytes a weight), and nothing pages on a CPU"
        )
    if not eight_bit.possible:
        return Choice(value="adamw", because=eight_bit.because)
    if target.kind == "rocm":
        return Choice(
            value="adamw_8bit", because=f"{eight_bit.because}; paging on AMD GPUs is unproven"
        )
    return Choice(
        value="paged_adamw_8bit",
        because="states of 2 instead of 8 bytes a trained weight, moved to host memory in a spike",
    )


def _setup(
    config: RunConfig,
    device: Choice[Device],
    dtype: Choice[Dtype],
    attention: Choice[Attention],
    quantization: Choice[Quantization],
    optimizer: Choice[Optimizer],
) -> Setup:
    return Setup(
        device=device.value,
        dtype=dtype.value,
        quantization=quantization.value,
        optimizer=optimizer.value,
        # Torch has no fused attention with a backward pass on mps.
        fused_attention=attention.value != "eager" and device.value != "mps",
        method=config.training.method,
        lora_rank=config.lora.r,
        galore_rank=config.training.galore_rank,
        lora_modules=len(config.lora.target_modules),
    )


def _shared(setup: Setup, sharding: Choice[bool], processes: Choice[int]) -> Setup:
    return replace(setup, shards=processes.value) if sharding.value else setup


def _on_device(probe: Probe, device: str) -> Probe:
    """The probe as seen by training: without the accelerator when training uses the CPU."""
    if device == probe.torch_device:
        return probe
    without = {"device_memory": 0, "compute_capability": None, "gfx_arch": None, "devices": 1}
    return probe.model_copy(update={"kind": "cpu", "name": "the CPU", **without})


def _describe_accelerator(probe: Probe) -> str:
    """Such as `NVIDIA L4, SM 8.9, 22.5 GiB`."""
    kinds = {"cuda": describe_sm(probe), "rocm": probe.gfx_arch or "unknown AMD architecture"}
    memory = describe_bytes(probe.device_memory) if probe.device_memory else "memory unknown"
    return ", ".join([probe.name, kinds.get(probe.kind, "Apple GPU"), memory])


def _in_words(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
