"""The adapter as PEFT, TRL and vLLM's `--lora-modules` load it."""

import json
import shutil
from pathlib import Path
from typing import Any

from orpo_pipeline.adapter_files import CONFIG, WEIGHTS, check_lora
from schemas.serving import ServingSettings

VLLM_RANK = 16
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def write_adapter(adapter: Path, target: Path, settings: ServingSettings) -> list[str]:
    """Fill `target` with the adapter, the tokenizer and the chat template; returns warnings.

    `adapter_config.json` names the base model and its revision. Raises UserError for an adapter
    with parts that are not LoRA, or with broken weights.
    """
    config = check_lora(adapter, "registered")
    config["base_model_name_or_path"] = settings.base_model
    config["revision"] = settings.base_revision
    text = json.dumps(config, indent=2, sort_keys=True)
    (target / CONFIG).write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(adapter / WEIGHTS, target / WEIGHTS)
    copy_tokenizer(adapter, target)
    return warnings_for_vllm(config)


def copy_tokenizer(adapter: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, target / name)


def warnings_for_vllm(config: dict[str, Any]) -> list[str]:
    """What a person who serves the adapter with vLLM has to know."""
    found = []
    if config.get("use_dora"):
        found.append("vLLM does not load DoRA adapters; use --merge for it.")
    if config["r"] > VLLM_RANK:
        found.append(f"vLLM needs --max-lora-rank {config['r']} (its default is {VLLM_RANK}).")
    return found
