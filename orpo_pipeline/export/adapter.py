"""The adapter as PEFT, TRL and vLLM's `--lora-modules` load it."""

import json
import shutil
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.serving import ServingSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
OTHER_TOOLS = ("modules_to_save", "trainable_token_indices", "layer_replication")
"""Settings that vLLM refuses or that hide weights outside of LoRA; we never train with them."""


def write_adapter(adapter: Path, target: Path, settings: ServingSettings) -> list[str]:
    """Fill `target` with the adapter, the tokenizer and the chat template; returns warnings.

    `adapter_config.json` names the base model and its revision. Raises UserError for an adapter
    with parts that are not LoRA, or with broken weights.
    """
    config = read_config(adapter)
    check_weights(adapter / WEIGHTS)
    config["base_model_name_or_path"] = settings.base_model
    config["revision"] = settings.base_revision
    text = json.dumps(config, indent=2, sort_keys=True)
    (target / CONFIG).write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(adapter / WEIGHTS, target / WEIGHTS)
    copy_tokenizer(adapter, target)
    return warnings_for_vllm(config)


def read_config(adapter: Path) -> dict[str, Any]:
    """adapter_config.json of plain LoRA. Raises UserError for anything else."""
    try:
        config = dict(json.loads((adapter / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _not_exportable(f"{CONFIG} cannot be read: {error}") from error
    if config.get("peft_type") != "LORA":
        raise _not_exportable(f"it is of type {config.get('peft_type')!r}")
    for name in OTHER_TOOLS:
        if config.get(name):
            raise _not_exportable(f"its configuration has {name} = {config[name]!r}")
    return config


def check_weights(file: Path) -> None:
    """Raise UserError unless every weight is a finite number."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise _not_exportable(f"{WEIGHTS} cannot be read: {error}") from error
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if broken or not weights:
        raise _not_exportable(f"weights are missing or not finite: {', '.join(broken[:3])}")


def copy_tokenizer(adapter: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, target / name)


def warnings_for_vllm(config: dict[str, Any]) -> list[str]:
    """What a person who serves the adapter with vLLM has to know."""
    found = []
    if config.get("use_dora"):
        found.append("vLLM does not load DoRA adapters; use --merge for it.")
    rank = max([config.get("r", 0), *config.get("rank_pattern", {}).values()])
    if rank > 16:
        found.append(f"vLLM needs --max-lora-rank {rank} for this adapter (its default is 16).")
    return found


def _not_exportable(why: str) -> UserError:
    return UserError(
        f"The adapter cannot be exported: {why}.",
        "an undamaged LoRA adapter as this pipeline trains it.",
        "Choose another version, or train and register it again.",
    )
