"""How much memory a training step needs: a prediction from a model's shape.

Which tensors live at the peak, and where each number comes from, stands at `predict_step`.
"""

from dataclasses import dataclass, fields

from orpo_pipeline.heap import LARGE
from orpo_pipeline.planning.engines import SOFTCAPPED
from schemas.plan import ModelShape
from schemas.tokens import Longest

GIB = 1024**3
MIB = 1024**2

NF4_VALUE, NF4_SCALES = 0.5, 0.02
"""Bytes of a weight in NF4 with double quantisation: 4 bits, and 0.127 bits of scales, rounded up
(arXiv 2305.14314)."""

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

LOGIT_BYTES = 14.4
"""A logit of TRL's ORPO loss: float32 logits, the saved log-softmax, and their gradients. Measured
peak of forward and backward at [2, 512, 49152] on a CPU, in bfloat16 and in float32."""

LOGIT_CHUNK_BYTES = 64 * MIB
"""float32 logits that the packed engine has alive at a time."""

LEAST_ROWS = 256
"""Hidden states of such a chunk, however large the vocabulary: fewer make slow matrix products. On
a CPU more are not faster."""

SAVED_BY_WIDTH = {"bfloat16": 8 / 3, "float16": 8 / 3, "float32": 16 / 3}
SAVED_BY_HIDDEN = {"bfloat16": 12.7, "float16": 12.7, "float32": 17.3}
"""Bytes saved for backward a token and a layer: so many for each unit of `layer_width` and of the
hidden size; see `predict_step`."""

SAVED_BY_HEAD = {"bfloat16": 10, "float16": 10, "float32": 16}
"""Bytes saved a token behind the last layer, for each unit of the hidden size."""

SCORE_BYTES = 8
"""A query-key score where attention is not fused: the float32 softmax and its cast copy."""

NARROWEST_HEAD = 64
"""hidden_size / 64 bounds the number of attention heads from above."""

OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Two AdamW moments of a trained parameter."""

RUNTIME_BYTES = {"cpu": int(0.7 * GIB), "accelerator": GIB}
"""A process that has imported torch, transformers, peft, trl and bitsandbytes held 0.56 GiB on a
CPU, and 0.7 with the Trainer and the data. On a GPU, the driver's context and cuBLAS' workspaces: a
guess that no GPU has confirmed."""

HEAP_SHARE = 1.6
"""Resident bytes of a byte that packed passes save on a CPU in blocks of less than `heap.LARGE`: no
two passes are of one size, and freed blocks leave holes in the C library's heap. Measured 1.2 to
1.9, more with more layers and passes (benchmarks/memory.py). Larger blocks are the system's own and
leave none, as TRL's passes do, which are alike; torch's GPU allocator is taken to waste what a plan
keeps back."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is held and trained: what the prediction needs beside its shape."""

    device: str
    dtype: str
    quantization: str
    optimizer: str
    fused_attention: bool
    method: str
    lora_rank: int
    lora_modules: int
    """Adapted linear layers in a transformer layer."""
    galore_rank: int = 0
    shards: int = 1
    """Ranks that each hold an equal share of the layers' weights."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, rounded down."""

    weights: int
    trained: int
    """What training adds to the weights: the adapter, gradients, states of the optimizer."""
    activations: int
    """Saved by the forward pass for the backward pass."""
    working: int
    """The larger of two that never live together: what the output layer and the loss hold beside
    that, and the gradients and recomputed activations of a layer."""
    runtime: int

    @property
    def resident(self) -> int:
        """What is needed however small the batch is."""
        return self.weights + self.trained + self.runtime

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))


def describe_bytes(size: float) -> str:
    """`22.5 GiB`."""
    return f"{size / GIB:.1f} GiB"


def embedding_parameters(shape: ModelShape) -> int:
    """Those of the embeddings and the output layer, which may be one matrix."""
    matrices = 1 if shape.tied_embeddings else 2
    return min(matrices * shape.vocab_size * shape.hidden_size, shape.parameters)


def layer_width(shape: ModelShape) -> float:
    """W: output features of a layer's linear maps, summed; for Llama 2H + 2 KV + 3 intermediate.

    A layer's parameters divided by H.
    """
    return (shape.parameters - embedding_parameters(shape)) / shape.layers / shape.hidden_size


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What one forward and backward pass holds."""

    tokens: int
    """All that the layers see, padding included."""
    attended: int
    """Tokens of the longest sequence."""
    logit_bytes: int
    """Of the output layer and the loss, while all layers' activations live."""
    heap_share: float = 1.0
    """Resident bytes of a byte of saved activations on a CPU, in small blocks."""


def trl_pass(shape: ModelShape, pairs: int, longest: Longest) -> ForwardPass:
    """TRL's: chosen and rejected of each pair apart, padded to the longest, all logits kept."""
    tokens = 2 * pairs * longest.side
    logits = int(tokens * shape.vocab_size * LOGIT_BYTES)
    return ForwardPass(tokens, longest.side, logits)


def packed_pass(shape: ModelShape, token_budget: int, longest: Longest) -> ForwardPass:
    """The packed engine's: at most the budget, or the longest pair if that is longer.

    Of logits, a chunk in float32 with its cast copies, and the slopes of the chunk before it; where
    they are capped, also the slopes of that.
    """
    tokens = max(token_budget, longest.whole)
    chunk = max(LOGIT_CHUNK_BYTES, LEAST_ROWS * 4 * shape.vocab_size)
    copies = 4.5 if shape.architecture in SOFTCAPPED else 2.5
    return ForwardPass(tokens, longest.side, int(copies * chunk), HEAP_SHARE)


def predict_step(
    shape: ModelShape, setup: Setup, forward: ForwardPass, *, checkpointing: bool
) -> MemoryEstimate:
    """Peak bytes of a process that takes optimizer steps.

    T tokens a pass, the longest sequence of L, V vocabulary, H hidden size, N layers,
    W `layer_width`, r LoRA rank, m adapted modules a layer, s bytes of the dtype,
    P parameters, E of them in embeddings and output layer.

    weights: s P, or in NF4 s E + 0.52 (P - E); 4 P in `method: full`, whose weights are float32.
        Of layers in n shards, 1/n, all scales, and two whole layers: FSDP gathers the next while
        the current one computes.
    trained: LoRA has N r (m H + W) weights of 4 bytes, their gradients of 4, and the optimizer's
        states; `full` has gradients and states of P, and in a 16-bit dtype autocast's copy of the
        weights, 2 P. GaLore's states are of rank g: 2 moments and a projection, 8 + 4 bytes for
        each of N g (m H + W), and AdamW's of the embeddings.
    activations: what autograd saves of a Llama layer in a 16-bit dtype, in bytes a token: inputs
        of both norms in float32 8 H; inputs of the linear maps 2 H (norm), 2 H (attention), 2 H
        (norm), 2 I; queries 2 H, keys and values 4 KV, attention's own output 2 H, keys and values
        gathered for rejected up to 4 KV; gate and up projections and their activation 6 I. With
        W = 2 H + 2 KV + 3 I that is about 8/3 W + 12.7 H (float32: everything 4 bytes, and norms
        save no second copy: 16/3 W + 17.3 H). Unfused attention adds T (H / 64) L 8.
        With checkpointing the input of each layer, s H. Behind the last layer 10 H, in float32
        16 H: the last norm, its output, and the gradient of each log-prob.
    working: the engine's logits, or the gradients of a layer, as much as it saved; with
        checkpointing what it saves anew besides. `full` holds gradients of the output layer, 8 V H.
        On a CPU, small blocks of packed passes count HEAP_SHARE times. Of a layer, a projection of
        the feed-forward network has T I numbers, I about (W - 3 H) / 3, four of which are saved;
        a norm's float32 input T H; anything else at most T H.
    runtime: see RUNTIME_BYTES.

    A mixture of experts counts as if every expert saw every token. DoRA's copies of the adapted
    weights are not in it; the share of memory that a plan keeps back must hold them.
    """
    size = DTYPE_BYTES[setup.dtype]
    saved_layer = _saved_layer(shape, setup, forward)
    kept = saved_layer if not checkpointing else forward.tokens * shape.hidden_size * size
    head = forward.tokens * shape.hidden_size * SAVED_BY_HEAD[setup.dtype]
    full = setup.method == "full"
    head_gradient = 8 * shape.vocab_size * shape.hidden_size if full else 0
    in_flight = 2 * saved_layer if checkpointing else saved_layer
    saved = shape.layers * kept + head
    holes = _holes(shape, setup, forward, saved, checkpointing=checkpointing)
    return MemoryEstimate(
        weights=int(_weight_bytes(shape, setup)),
        trained=int(_full_bytes(shape, setup) if full else _lora_bytes(shape, setup)),
        activations=int(saved + holes),
        working=int(max(forward.logit_bytes + head_gradient, in_flight)),
        runtime=RUNTIME_BYTES["cpu" if setup.device == "cpu" else "accelerator"],
    )


def dequantised_layer(shape: ModelShape, dtype: str) -> float:
    """Bytes of one layer's weights in `dtype`."""
    return layer_width(shape) * shape.hidden_size * DTYPE_BYTES[dtype]


def _saved_layer(shape: ModelShape, setup: Setup, forward: ForwardPass) -> float:
    a_token = (
        SAVED_BY_WIDTH[setup.dtype] * layer_width(shape)
        + SAVED_BY_HIDDEN[setup.dtype] * shape.hidden_size
    )
    if not setup.fused_attention:
        a_token += shape.hidden_size / NARROWEST_HEAD * forward.attended * SCORE_BYTES
    return forward.tokens * a_token


def _holes(
    shape: ModelShape, setup: Setup, forward: ForwardPass, saved: float, *, checkpointing: bool
) -> float:
    """Bytes that stay with the process beside the saved ones; see `predict_step`."""
    size, hidden = DTYPE_BYTES[setup.dtype], forward.tokens * shape.hidden_size
    if setup.device != "cpu" or hidden * size >= LARGE:
        return 0
    small = saved
    if not checkpointing:
        inner = forward.tokens * max(0, layer_width(shape) - 3 * shape.hidden_size) / 3
        if inner * size >= LARGE:
            small -= shape.layers * 4 * inner * size
        if hidden * 4 >= LARGE:
            small -= shape.layers * 2 * hidden * 4
    return (forward.heap_share - 1) * small


def _weight_bytes(shape: ModelShape, setup: Setup) -> float:
    if setup.method == "full":
        return shape.parameters * DTYPE_BYTES["float32"]
    size = DTYPE_BYTES[setup.dtype]
    embeddings = embedding_parameters(shape)
    in_layers = shape.parameters - embeddings
    value, scales = (NF4_VALUE, NF4_SCALES) if setup.quantization == "nf4" else (size, 0)
    held = 1 if setup.shards == 1 else 1 / setup.shards + 2 / shape.layers
    return embeddings * size + in_layers * (value * held + scales)


def _low_rank(shape: ModelShape, rank: int, modules: int) -> float:
    """Numbers in two factors of that rank of each layer's linear maps."""
    return shape.layers * rank * (modules * shape.hidden_size + layer_width(shape))


def _lora_bytes(shape: ModelShape, setup: Setup) -> float:
    trained = _low_rank(shape, setup.lora_rank, setup.lora_modules)
    return trained * (4 + 4 + OPTIMIZER_BYTES[setup.optimizer])


def _full_bytes(shape: ModelShape, setup: Setup) -> float:
    if setup.optimizer == "galore_adamw":
        factors = _low_rank(shape, setup.galore_rank, setup.lora_modules)
        states = 12 * factors + OPTIMIZER_BYTES["adamw"] * embedding_parameters(shape)
    else:
        states = OPTIMIZER_BYTES[setup.optimizer] * shape.parameters
    copies = 0 if setup.dtype == "float32" else 2 * shape.parameters
    return 4 * shape.parameters + states + copies
