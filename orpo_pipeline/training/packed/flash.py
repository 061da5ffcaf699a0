"""Attention over packed pairs by FlashAttention's calls for rows of many lengths, on CUDA.

Two calls a layer, however many pairs there are: chosen's queries over prompt + chosen, and
rejected's queries over gathered prompt + rejected keys. Where keys are longer than queries,
flash-attn (from 2.1) aligns the causal mask bottom-right, which is what the second call needs.
No GPU has run this yet; tests hold the gathering to the SDPA path with a twin of the kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from orpo_pipeline.training.packed.batch import PairLayout

Kernel = Callable[..., torch.Tensor]
"""flash_attn.flash_attn_varlen_func, or what computes the same."""


@dataclass(frozen=True)
class Rows:
    """Rows of several sequences one after another, as the kernel wants them."""

    index: torch.Tensor  # (R,) where each row is in the packed row
    ends: torch.Tensor  # (B + 1,) int32: where each sequence begins and ends
    longest: int


@dataclass(frozen=True)
class Gathered:
    """The three sets of rows of a layout, and the way back."""

    first: Rows  # prompt + chosen: queries and keys
    second: Rows  # rejected: queries
    second_keys: Rows  # prompt + rejected
    back: torch.Tensor  # (T,) where each token's output is behind first + second


def gather_layout(layout: PairLayout, device: torch.device) -> Gathered:
    """Row numbers of a layout's parts."""
    first: list[range] = []
    second: list[range] = []
    keys: list[list[int]] = []
    start = 0
    for prompt, chosen, rejected in layout.segments:
        middle, end = start + prompt + chosen, start + prompt + chosen + rejected
        first.append(range(start, middle))
        second.append(range(middle, end))
        keys.append([*range(start, start + prompt), *range(middle, end)])
        start = end
    outputs = _rows(first, device), _rows(second, device)
    forth = torch.cat([rows.index for rows in outputs])
    return Gathered(*outputs, second_keys=_rows(keys, device), back=forth.argsort())


def _rows(sequences: Sequence[Sequence[int]], device: torch.device) -> Rows:
    lengths = [len(sequence) for sequence in sequences]
    return Rows(
        index=torch.tensor([row for sequence in sequences for row in sequence], device=device),
        ends=torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32),
        longest=max(lengths),
    )


def flash_over_pairs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gathered: Gathered,
    kernel: Kernel,
    **options: Any,
) -> torch.Tensor:
    """Attention of all pairs in two calls of `kernel`.

    Args:
        query: (T, heads, D).
        key, value: (T, key-value heads, D).
        options: of the kernel: dropout_p, softmax_scale, window_size, softcap.

    Returns:
        (T, heads, D).
    """

    def attend(queries: Rows, keys: Rows) -> torch.Tensor:
        return kernel(
            query[queries.index],
            key[keys.index],
            value[keys.index],
            cu_seqlens_q=queries.ends,
            cu_seqlens_k=keys.ends,
            max_seqlen_q=queries.longest,
            max_seqlen_k=keys.longest,
            causal=True,
            **options,
        )

    first = attend(gathered.first, gathered.first)
    second = attend(gathered.second, gathered.second_keys)
    return torch.cat([first, second])[gathered.back]
