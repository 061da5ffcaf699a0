"""An adapter folder, looked at before anything of it is loaded: is it what it says it is?"""

import json
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.results import BaseModelRecord

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNUSED = (
    *("modules_to_save", "rank_pattern", "alpha_pattern", "layers_pattern", "layer_replication"),
    *("layers_to_transform", "trainable_token_indices", "target_parameters", "exclude_modules"),
    *("auto_mapping", "alora_invocation_tokens", "lora_bias"),
)
"""PEFT settings that none of our adapters has: each replaces more of the model than it seems to."""

PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")


def check_adapter(folder: Path, whose: str, base: BaseModelRecord) -> None:
    """Raise UserError unless the folder holds a complete, finite LoRA adapter for `base`.

    Args:
        folder: adapter_config.json and adapter_model.safetensors, as PEFT writes them.
        whose: the adapter's name in messages: "candidate", "champion (version 3)".
        base: the base model that it is going to be put on.
    """
    config = check_lora(folder, whose)
    revision = config.get("revision")
    if revision is not None and revision != base.revision:
        raise UserError(
            f"The {whose} adapter is for revision {str(revision)[:12]} of "
            f"{config.get('base_model_name_or_path')}, not for {base.name} ({base.revision[:12]}).",
            "an adapter of the base model that this run trains on.",
            "Give each base model a registered model of its own (registry.model_name), or remove "
            "the alias `champion` from that version.",
        )


def check_lora(folder: Path, whose: str) -> dict[str, Any]:
    """The adapter's configuration. Raises UserError unless it is complete, finite, plain LoRA."""
    config = _read_config(folder, whose)
    _check_config(config, whose)
    _check_weights(folder / WEIGHTS, whose, int(config["r"]))
    return config


def check_loaded(model: Any, name: str, folder: Path, whose: str) -> None:
    """Raise UserError unless every weight of the model's adapter `name` came from the folder.

    PEFT fills what a file lacks with fresh weights, and only warns.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    there = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        odd = set(there) ^ set(file.keys())
    if odd:
        found = f"{len(odd)} weights of it and of the base model do not match, such as {min(odd)}"
        raise unusable_adapter(whose, found)


def unusable_adapter(whose: str, found: str) -> UserError:
    """The error for an adapter that is not what it should be; `found` is a clause."""
    return UserError(
        f"The {whose} adapter cannot be used: {found}.",
        "a complete LoRA adapter with finite weights, as the train stage publishes it.",
        "Restore its files; without them, train it again (candidate) or move the alias "
        "`champion` to a version that is whole.",
    )


def _read_config(folder: Path, whose: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unusable_adapter(whose, f"{CONFIG} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise unusable_adapter(whose, f"{CONFIG} is no JSON object")
    return config


def _check_config(config: dict[str, Any], whose: str) -> None:
    modules, rank = config.get("target_modules"), config.get("r")
    # As one text it would be a regular expression, and those can take for ever.
    listed = isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    if config.get("peft_type") != "LORA" or not listed:
        raise unusable_adapter(whose, f"{CONFIG} describes no LoRA on listed modules")
    if not isinstance(rank, int) or rank < 1:
        raise unusable_adapter(whose, f"its rank is {rank!r}")
    used = [name for name in UNUSED if config.get(name)]
    if used or config.get("bias", "none") != "none":
        raise unusable_adapter(whose, f"{CONFIG} also sets {', '.join(used) or 'bias'}")


def _check_weights(path: Path, whose: str, rank: int) -> None:
    import torch
    from safetensors import SafetensorError, safe_open

    seen: dict[str, set[str]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- safe_open is no mapping
                part = next((part for part in PARTS if name.endswith(f".{part}")), None)
                if part is None:
                    raise unusable_adapter(
                        whose, f"{WEIGHTS} holds {name!r}, which is no part of a LoRA"
                    )
                tensor = file.get_tensor(name)
                if not torch.isfinite(tensor).all():
                    raise unusable_adapter(whose, f"{name} holds NaN or infinite weights")
                if part != PARTS[2] and tensor.shape[0 if part == PARTS[0] else 1] != rank:
                    shape = tuple(tensor.shape)
                    raise unusable_adapter(
                        whose, f"{name} has the shape {shape}, and the rank is {rank}"
                    )
                seen.setdefault(name.removesuffix(part), set()).add(part)
    except (OSError, SafetensorError) as error:
        raise unusable_adapter(whose, f"{WEIGHTS} cannot be read ({error})") from error
    halves = [module for module, parts in seen.items() if not parts >= set(PARTS[:2])]
    if halves or not seen:
        raise unusable_adapter(
            whose, f"of {halves[0] if halves else 'every module'} weights are missing"
        )
