"""How much memory one training step needs: an upper estimate from a model's shape."""

from dataclasses import dataclass

from schemas.plan import ModelShape

GIB = 1024**3

NF4_BYTES = 0.52
"""A weight in NF4 with double quantisation: 4 bits + 0.127 bits of scales (arXiv 2305.14314)."""

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

LOGIT_BYTES = 16
"""A logit of TRL's ORPO loss: float32 logits, the saved log-softmax, and their gradients. Measured
peak of forward and backward: 14.4 bytes at [2, 512, 49152] on a CPU, in bfloat16 and in float32."""

LOGIT_CHUNK_BYTES = 64 * 1024**2
"""float32 logits that the packed engine has alive at a time."""

ACTIVATION_BYTES = {"bfloat16": 5, "float16": 5, "float32": 8}
"""Saved for backward a token, a layer and a unit of `layer_width`. Counted with saved-tensor hooks
on Llama layers with LoRA: 4.5-4.9 in bfloat16, 6.9-7.2 in float32, with NF4 and without."""

SCORE_BYTES = 8
"""A query-key score where attention is not fused: the float32 softmax and its cast copy."""

NARROWEST_HEAD = 64
"""hidden_size / 64 bounds the number of attention heads from above."""

OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Two AdamW moments of a trained parameter."""

RUNTIME_BYTES = GIB
"""Torch, its libraries and, on a GPU, the driver's context."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is held and trained: what the estimate needs beside its shape."""

    dtype: str
    quantization: str
    optimizer: str
    fused_attention: bool
    lora_rank: int
    lora_modules: int
    """Adapted linear layers in a transformer layer."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, rounded down."""

    weights: int
    adapter: int
    logits: int
    activations: int
    runtime: int = RUNTIME_BYTES

    @property
    def resident(self) -> int:
        """What is needed however small the batch is."""
        return self.weights + self.adapter + self.runtime

    @property
    def total(self) -> int:
        return self.resident + self.logits + self.activations


def describe_bytes(size: float) -> str:
    """`22.5 GiB`."""
    return f"{size / GIB:.1f} GiB"


def layer_width(shape: ModelShape) -> float:
    """W: output features of a layer's linear maps, summed; for Llama 2H + 2 KV + 3 intermediate.

    A layer's parameters divided by H. Counting the embedding once makes it exact for tied
    embeddings and up to vocab / layers too large for untied ones.
    """
    in_layers = max(shape.parameters - shape.vocab_size * shape.hidden_size, 0)
    return in_layers / shape.layers / shape.hidden_size


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What one forward and backward pass holds."""

    tokens: int
    """All that the layers see, padding included."""
    attended: int
    """Tokens of the longest sequence."""
    logit_bytes: int


def trl_pass(shape: ModelShape, pairs: int, longest_pair: int) -> ForwardPass:
    """TRL's: chosen and rejected of each pair apart, padded to the longest, all logits kept."""
    tokens = 2 * pairs * longest_pair
    return ForwardPass(tokens, longest_pair, tokens * shape.vocab_size * LOGIT_BYTES)


def packed_pass(shape: ModelShape, token_budget: int, longest_pair: int) -> ForwardPass:
    """The packed engine's: at most the budget, or the longest pair if that is longer.

    Of logits, a chunk in float32 lives at a time, and in 16-bit types once more; for every token
    the gradient of its log-prob, as wide as a hidden state, is kept.
    """
    tokens = max(token_budget, longest_segment(longest_pair))
    return ForwardPass(tokens, longest_pair, 2 * LOGIT_CHUNK_BYTES + tokens * shape.hidden_size * 4)


def longest_segment(longest_pair: int) -> int:
    """An upper bound of prompt + chosen + rejected, from that of prompt + answer."""
    return 2 * longest_pair


def estimate_memory(
    shape: ModelShape, layout: Layout, forward: ForwardPass, *, checkpointing: bool
) -> MemoryEstimate:
    """Peak bytes of an optimizer step.

    With T tokens a pass, the longest sequence of L, V vocabulary, H hidden size, N layers,
    W `layer_width`, r LoRA rank, m adapted modules a layer, s bytes of the dtype:

        weights      = s * parameters
                       NF4: s * E + 0.52 * (parameters - E), E = min(2 V H, parameters)
        adapter      = N r (m H + W) * (4 weights + 4 gradients + 8 or 2 optimizer)
        logits       = as the engine's pass says
        saved layer  = T W * (5 or, in float32, 8) + unfused attention: T (H / 64) L * 8
        activations  = (N + 1) * saved layer
                       with checkpointing: N T H * 4 (inputs of layers) + 2 * saved layer
        runtime      = 1 GiB

    The one extra saved layer is the gradients in flight. Every term leans upwards: embeddings
    count as untied, and a mixture of experts as if every expert saw every token.
    TRL steps of an 8-layer Llama (H 576, V 49,152, NF4, float32, L 512) on a CPU peaked at 1.69
    GiB, 1.41 with checkpointing and 2.66 with 2 pairs; this says 2.40, 2.09 and 3.57.
    DoRA's copies of the adapted weights are not in it; the share kept back must hold them.
    """
    width = layer_width(shape)
    trained = shape.layers * layout.lora_rank * (layout.lora_modules * shape.hidden_size + width)
    saved_layer = forward.tokens * width * ACTIVATION_BYTES[layout.dtype]
    if not layout.fused_attention:
        heads = shape.hidden_size / NARROWEST_HEAD
        saved_layer += forward.tokens * heads * forward.attended * SCORE_BYTES
    if checkpointing:
        activations = shape.layers * forward.tokens * shape.hidden_size * 4 + 2 * saved_layer
    else:
        activations = (shape.layers + 1) * saved_layer
    return MemoryEstimate(
        weights=int(_weight_bytes(shape, layout)),
        adapter=int(trained * (4 + 4 + OPTIMIZER_BYTES[layout.optimizer])),
        logits=forward.logit_bytes,
        activations=int(activations),
    )


def dequantised_layer(shape: ModelShape, dtype: str) -> float:
    """Bytes of one layer's weights in `dtype`."""
    return layer_width(shape) * shape.hidden_size * DTYPE_BYTES[dtype]


def _weight_bytes(shape: ModelShape, layout: Layout) -> float:
    size = DTYPE_BYTES[layout.dtype]
    if layout.quantization == "none":
        return shape.parameters * size
    embeddings = min(2 * shape.vocab_size * shape.hidden_size, shape.parameters)
    return embeddings * size + (shape.parameters - embeddings) * NF4_BYTES
