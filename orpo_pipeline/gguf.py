"""GGUF files as bf16 safetensors, once."""

import struct
from pathlib import Path

from schemas.errors import UserError

FREE_PAD_TOKEN = "<|endoftext|>"
"""SmolLM2 has it free; the pad token in its GGUF file is its end-of-turn token."""

# transformers has no error of its own for a torn or foreign file; RuntimeError is torch's.
UNREADABLE_GGUF = (OSError, RuntimeError, ValueError, LookupError, TypeError, struct.error)


def dequantise_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as bf16 safetensors with its tokenizer and chat template.

    Raises UserError when transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except UNREADABLE_GGUF as error:
        raise UserError(
            f"The GGUF file {gguf} cannot be read: {error}",
            "a GGUF of an architecture and quantisation that transformers can dequantise.",
            "Use the model's safetensors folder or hub id instead.",
        ) from error
    # The weights are plain bf16 now; transformers refuses to save while they are marked as GGUF.
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    if FREE_PAD_TOKEN in tokenizer.get_vocab() and tokenizer.pad_token == tokenizer.eos_token:
        # A pad token of its own, so that the end-of-turn token is never masked as padding.
        tokenizer.pad_token = FREE_PAD_TOKEN
        model.config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
