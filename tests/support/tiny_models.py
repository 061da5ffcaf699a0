"""Models of random weights behind the embedded model's tokenizer."""

from pathlib import Path
from typing import Any


def write_tiny_model(folder: Path, kind: str, **changes: Any) -> Path:
    """A seeded 2-layer model in fp32 (`kind`: Llama, Gemma2), with SmolLM2's tokenizer."""
    import torch
    import transformers

    from orpo_pipeline.base_model import embedded_gguf

    gguf = embedded_gguf()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = "<|endoftext|>"
    settings = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForCausalLM")(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
