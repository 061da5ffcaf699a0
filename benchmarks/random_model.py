"""Model folders of known shapes with random weights, written one layer at a time."""

import json
import shutil
from pathlib import Path
from typing import Any

from orpo_pipeline.base_model import TOKENIZER_FILES, WEIGHTS_INDEX

Result = dict[str, Any]
VOCABULARY = 49_152  # the embedded model's: its tokenizer comes with them
SHAPES: dict[str, Result] = {
    # TinyLlama-1.1B and Mistral-7B-v0.1, but for the vocabulary of 32,000.
    "1b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "7b": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
}


def write_random_model(shape: str, tokenizer: Path, folder: Path) -> None:
    """A bf16 model folder of `SHAPES`; memory holds one layer at a time.

    Args:
        tokenizer: folder with the tokenizer's files.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder)
    config = {**SHAPES[shape], "vocab_size": VOCABULARY, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    torch.manual_seed(1)
    files: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for name in empty.state_dict():
        groups.setdefault(_layer(name), []).append(name)
    for number, names in enumerate(groups.values(), start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: _weight(empty.get_parameter(name).shape) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index), encoding="utf-8")


def _layer(name: str) -> str:
    """`model.layers.3` of its parameters; others are alone."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[1] == "layers" else name


def _weight(shape: Any) -> Any:
    """Norms are 1; matrices have the spread of a fresh Llama."""
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
