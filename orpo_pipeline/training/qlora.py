"""The model in memory as the plan says: quantised base and LoRA adapter, or all its weights."""

from pathlib import Path
from typing import Any

from orpo_pipeline.heap import give_back_large_blocks
from orpo_pipeline.nf4 import compute_as_in_training, nf4_config
from orpo_pipeline.training.sharding import decoder_layers, shard_layers
from schemas.config import LoraConfig, RunConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.plan import Choice, TrainingPlan
from schemas.results import BaseModelRecord


def load_trainable(config: RunConfig, base: BaseModelRecord, plan: TrainingPlan) -> Any:
    """The model that `training.method` trains, in training mode; new adapters are random.

    `full` holds every weight in float32 and computes in the plan's dtype by autocast: an update of
    1e-5 of a weight is below the precision of 16 bits, and would be lost in it.
    """
    if config.training.method == "full":
        in_float32: Choice[Any] = Choice(value="float32", because="trained weights")
        model = load_base(base, plan.model_copy(update={"dtype": in_float32}))
        model.requires_grad_(True)
    else:
        sharded = plan.sharding.value
        loaded = load_base(base, plan, to_shard=sharded)
        model = attach_new_adapter(loaded, config.lora, base, plan.engine.value)
        if sharded:
            shard_layers(model, plan.device.value)
    model.config.use_cache = False
    return model.train()


def load_base(base: BaseModelRecord, plan: TrainingPlan, *, to_shard: bool = False) -> Any:
    """The base model on the planned device, frozen, in eval mode.

    `to_shard`: in host memory instead, and NF4 values as numbers of the compute dtype: FSDP gathers
    what has one dtype in one piece.
    """
    import torch
    from transformers import AutoModelForCausalLM

    give_back_large_blocks()
    dtype = getattr(torch, plan.dtype.value)
    nf4 = nf4_config(dtype, storage=dtype if to_shard else None)
    model = AutoModelForCausalLM.from_pretrained(
        base.path,
        dtype=dtype,
        quantization_config=nf4 if plan.quantization.value == "nf4" else None,
        attn_implementation=plan.attention.value,
        device_map={"": "cpu" if to_shard else plan.device.value},
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.requires_grad_(False)
    if plan.quantization.value == "nf4":
        _let_go_of_files(model)
    keep_dequantised(model, plan.dequantised_layers.value)
    return compute_as_in_training(model).eval()


def _let_go_of_files(model: Any) -> None:
    """Copy what is not quantised out of the mapped weights files.

    A norm that stays a view of its file keeps all of it mapped, and what loading has read of 15 GB
    then counts as this process's memory.
    """
    for parameter in model.parameters():
        if not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.clone()


def keep_dequantised(model: Any, layers: int) -> None:
    """Replace the NF4 weights of the first so many layers by what they stand for.

    In training bitsandbytes makes the same values anew for every product: no number changes.
    """
    if not layers:
        return
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for layer in decoder_layers(model)[:layers]:
        for name, linear in list(layer.named_modules()):
            if not isinstance(linear, Linear4bit):
                continue
            kept = torch.nn.Linear(linear.in_features, linear.out_features, device="meta")
            weight = dequantize_4bit(linear.weight.data, linear.weight.quant_state)
            kept.weight = torch.nn.Parameter(weight, requires_grad=False)
            kept.bias = linear.bias
            layer.set_submodule(name, kept)


def attach_new_adapter(model: Any, lora: LoraConfig, base: BaseModelRecord, engine: str) -> Any:
    """Wrap the base model with a fresh adapter, trainable in fp32, for the plan's engine.

    Raises UserError when the model has none of the target modules.
    """
    import peft

    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        bias="none",
        revision=base.revision,
    )
    if engine == "packed" and not (lora.use_dora or lora.dropout):
        from orpo_pipeline.training.packed.lora import use_lean_layers

        use_lean_layers(config)
    try:
        wrapped = peft.get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"No adapter can be put on {base.name}: {error}",
            f"linear layers named {', '.join(lora.target_modules)}.",
            "Set lora.target_modules to names of this model's linear layers.",
        ) from error
    config.base_model_name_or_path = base.address  # not this machine's hub cache
    return wrapped


def load_trained_weights(model: Any, folder: Path) -> None:
    """Put what a training saved in `folder` into the model: an adapter, or every weight.

    Raises EnvironmentFault when a weight is missing there.
    """
    import peft
    from safetensors.torch import load_file

    if isinstance(model, peft.PeftModel):
        peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(folder), device="cpu"))
        return
    missing = set(model.state_dict()) - set(model.all_tied_weights_keys)
    for part in sorted(folder.glob("model*.safetensors")):
        weights = load_file(part)
        model.load_state_dict(weights, strict=False)
        missing -= weights.keys()
    if missing:
        raise EnvironmentFault(
            f"{folder} lacks {len(missing)} of the model's weights, such as {min(missing)}.",
            "every weight of the model in model*.safetensors.",
            "Remove the folder and start the same command again.",
        )


def attach_saved_adapter(model: Any, folder: Path) -> Any:
    """Wrap the base model with an adapter from disk, frozen, in eval mode."""
    import peft

    return peft.PeftModel.from_pretrained(model, folder, is_trainable=False).eval()
