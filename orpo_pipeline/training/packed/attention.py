"""Attention over packed pairs, for transformers' `AttentionInterface`.

Chosen attends causally to prompt + chosen, rejected to prompt + rejected; no pair sees another.
transformers makes no mask for an attention that registers none, and passes `layout` through.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F

from orpo_pipeline.training.packed.batch import PairLayout
from orpo_pipeline.training.packed.blocks import Block, attend_in_blocks, block_layout
from orpo_pipeline.training.packed.flash import Gathered, flash_over_pairs, gather_layout

PACKED = "orpo_packed"
PACKED_FLASH = "orpo_packed_varlen"


def attention_name(planned: str) -> str:
    """The packed attention for the plan's."""
    return PACKED_FLASH if planned == "flash_attention_2" else PACKED


@contextmanager
def packed_attention(model: Any, name: str = PACKED) -> Iterator[None]:
    """The causal language model attends to packed rows inside the `with` block."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, sdpa_over_pairs)
    AttentionInterface.register(PACKED_FLASH, flash_over_packed_pairs)
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@dataclass(frozen=True)
class Options:
    """What a layer says about its attention: what transformers passes by these names."""

    layout: PairLayout
    scaling: float | None = None
    """Factor of the scores; None: 1 / sqrt(D)."""
    dropout: float = 0.0
    sliding_window: int | None = None
    """A token sees so many positions, itself included; None: all before it."""
    softcap: float | None = None
    """Scores s become softcap * tanh(s / softcap) (Gemma 2)."""


OPTIONS = {field.name for field in fields(Options)}


def sdpa_over_pairs(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **layer: Any,
) -> tuple[torch.Tensor, None]:
    """torch's fused attention, two calls a pair; in 16-bit types on a CPU, matrix products.

    Args:
        module, attention_mask: not looked at; the interface passes them.
        query: (1, heads, T, D).
        key, value: (1, key-value heads, T, D).
        layer: the fields of `Options`, and others that say nothing here.

    Returns:
        (1, T, heads, D), and no weights.
    """
    options = _options(layer)
    query, key = _as_computed(query, key, value)
    if _in_blocks(query, options):
        scale = query.shape[-1] ** -0.5 if options.scaling is None else options.scaling
        return attend_in_blocks(query, key, value, _blocks(options, query.dtype), scale), None
    # One split, whose gradient is one concatenation: slices would each have one of full size.
    pieces = options.layout.pieces()
    queries, keys, values = (tensor.split(pieces, dim=2) for tensor in (query, key, value))
    outputs = []
    for number, segment in enumerate(options.layout.segments):
        first, second = 2 * number, 2 * number + 1
        outputs.append(_attend(queries[first], keys[first], values[first], options))
        shared = [
            torch.cat([side[first][:, :, : segment.prompt], side[second]], dim=2)
            for side in (keys, values)
        ]
        outputs.append(_attend(queries[second], shared[0], shared[1], options))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def flash_over_packed_pairs(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **layer: Any,
) -> tuple[torch.Tensor, None]:
    """The same by FlashAttention 2, two calls a layer. Arguments as of `sdpa_over_pairs`."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    options = _options(layer)
    query, key = _as_computed(query, key, value)
    window = options.sliding_window
    # Only flash-attn 2.6 and newer know the argument; the plan takes no older one for such models.
    softcap = {} if options.softcap is None else {"softcap": options.softcap}
    output = flash_over_pairs(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        _gathered(options.layout, query.device),
        flash_attn_varlen_func,
        dropout_p=options.dropout,
        softmax_scale=options.scaling,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        **softcap,
    )
    return output[None], None


def _as_computed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """In the values' dtype: rotations of a model whose weights are float32 are float32, too, also
    where autocast computes in 16 bits, and make its queries and keys so."""
    return query.to(value.dtype), key.to(value.dtype)


def _in_blocks(query: torch.Tensor, options: Options) -> bool:
    plain = options.softcap is None and not options.dropout
    return plain and query.device.type == "cpu" and query.dtype != torch.float32


def _blocks(options: Options, dtype: torch.dtype) -> list[Block]:
    made, asked = options.layout.made, ("blocks", options.sliding_window, dtype)
    if asked not in made:
        made[asked] = block_layout(options.layout, options.sliding_window, dtype)
    return made[asked]


def _gathered(layout: PairLayout, device: torch.device) -> Gathered:
    if device not in layout.made:
        layout.made[device] = gather_layout(layout, device)
    return layout.made[device]


def _options(layer: dict[str, Any]) -> Options:
    return Options(**{name: given for name, given in layer.items() if name in OPTIONS})


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: Options
) -> torch.Tensor:
    """Causal attention whose last query is at the last key. Shapes as of `sdpa_over_pairs`."""
    queries, keys = query.shape[2], key.shape[2]
    window = options.sliding_window
    if window is not None and window >= keys:
        window = None
    grouped = query.shape[1] != key.shape[1]
    if options.softcap is not None:
        mask = _mask(options.layout, queries, keys, window, query)
        return _softcapped(query, key, value, mask, options)
    whole = queries == keys and window is None
    if grouped and query.device.type != "cpu" and (not whole or query.dtype == torch.float32):
        # The one fused kernel of a GPU that takes a mask, or float32, takes no grouped heads.
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        grouped = False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if whole else _mask(options.layout, queries, keys, window, query),
        is_causal=whole,
        dropout_p=options.dropout,
        scale=options.scaling,
        enable_gqa=grouped,
    )


def _mask(
    layout: PairLayout, queries: int, keys: int, window: int | None, like: torch.Tensor
) -> torch.Tensor:
    """(queries, keys): 0 where a query may look, -inf elsewhere, in the dtype of `like`."""
    asked = (queries, keys, window)
    if asked not in layout.made:
        at = torch.arange(keys - queries, keys, device=like.device)[:, None]
        seen = torch.arange(keys, device=like.device)[None, :]
        hidden = seen > at
        if window is not None:
            hidden |= seen <= at - window
        mask = torch.zeros(queries, keys, device=like.device, dtype=like.dtype)
        layout.made[asked] = mask.masked_fill_(hidden, float("-inf"))
    return layout.made[asked]


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    options: Options,
) -> torch.Tensor:
    """The unfused formula: no fused kernel of torch has the cap."""
    cap = options.softcap or 0.0
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scale = query.shape[-1] ** -0.5 if options.scaling is None else options.scaling
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * scale / cap) + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, options.dropout) @ value
