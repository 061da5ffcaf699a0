"""4-bit NormalFloat weights by bitsandbytes (QLoRA, arXiv 2305.14314), the same in every use."""

from typing import Any


def nf4_config(dtype: Any, storage: Any = None) -> Any:
    """The quantisation config of transformers: NF4, double quantisation, products in `dtype`.

    `storage`: the dtype that the 4-bit values are kept as; uint8 where None.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=storage,
    )


def compute_as_in_training(model: Any) -> Any:
    """Turn off bitsandbytes' own inference on CPUs with AVX-512 bf16, and return the model.

    There, outside of training, it packs each layer's weights anew in place, rounds their scales to
    bf16 and computes in it, whatever the dtype. Log-probs of float32 are then off by 2e-3 nats, the
    numbers depend on the machine, and layers of less than 64 inputs fail (bitsandbytes 0.50,
    `Linear4bit.forward`).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
