"""Attention over packed pairs by plain matrix products: for 16-bit types on a CPU.

torch's fused attention there computes its gradient three times slower than these products on rows
of some hundred tokens (docs/performance.md). Memory stays linear in the row: probabilities live for
one block of queries, and the backward pass makes them again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from orpo_pipeline.training.packed.batch import PairLayout, Segment

QUERY_ROWS = 128
"""Tokens of a block. Smaller ones skip more of what the causal mask hides, in slower products."""


@dataclass(frozen=True)
class Block:
    """Queries that attend to one run of keys."""

    queries: slice
    keys: slice
    mask: torch.Tensor  # (queries, keys): 0 where a query may look, -inf elsewhere


def block_layout(layout: PairLayout, window: int | None, dtype: torch.dtype) -> list[Block]:
    """Blocks of all pairs; masks in the dtype of the scores.

    Args:
        window: a token sees so many positions, itself included; None: all before it.
    """
    blocks: list[Block] = []
    start = 0
    for segment in layout.segments:
        second, end = segment.prompt + segment.chosen, sum(segment)
        for queries in _runs(second, end):
            hidden = _hidden(segment, queries, window)
            first = int(hidden.all(0).logical_not().nonzero()[0])  # the window hides those before
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
            blocks.append(
                Block(
                    slice(start + queries.start, start + queries.stop),
                    slice(start + first, start + queries.stop),
                    mask[:, first:],
                )
            )
        start += end
    return blocks


def _hidden(segment: Segment, queries: slice, window: int | None) -> torch.Tensor:
    """(queries, keys up to the last of them): whether a token of a pair must not see another."""
    prompt, second = segment.prompt, segment.prompt + segment.chosen
    token = torch.arange(queries.stop)
    # Rejected goes on where the prompt ends.
    position = torch.where(token < second, token, token - segment.chosen)
    at = position[queries, None]
    hidden = position > at
    if queries.start >= second:
        hidden |= (token >= prompt) & (token < second)
    if window is not None:
        hidden |= position <= at - window
    return hidden


def _runs(*ends: int) -> Iterator[slice]:
    start = 0
    for end in ends:
        for first in range(start, end, QUERY_ROWS):
            yield slice(first, min(first + QUERY_ROWS, end))
        start = end


def attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: list[Block], scale: float
) -> torch.Tensor:
    """Attention of a packed row.

    Args:
        query: (1, heads, T, D).
        key, value: (1, key-value heads, T, D).

    Returns:
        (1, T, heads, D).
    """
    return _BlockAttention.apply(query, key, value, blocks, scale)


class _BlockAttention(torch.autograd.Function):
    """Inside, the g query heads of a key-value head are rows of one product: (kv, g T, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        blocks: list[Block],
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scale = blocks, scale
        output = query.new_empty(query.shape[2], *query.shape[1::2])  # (T, heads, D)
        for block in blocks:
            rows = _rows(query, block.queries, len(key[0]))
            p = _probabilities(rows, key[0, :, block.keys], block.mask, scale)
            _put(output, block.queries, p @ value[0, :, block.keys])
        return output[None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        query, key, value = ctx.saved_tensors
        upstream = gradients[0].transpose(1, 2)  # (1, heads, T, D)
        for_query = query.new_empty(query.shape[2], *query.shape[1::2])
        for_key, for_value = torch.zeros_like(key), torch.zeros_like(value)
        for block in ctx.blocks:
            rows = _rows(query, block.queries, len(key[0]))
            keys, values = key[0, :, block.keys], value[0, :, block.keys]
            p = _probabilities(rows, keys, block.mask, ctx.scale)
            out = _rows(upstream, block.queries, len(key[0]))
            for_value[0, :, block.keys] += p.transpose(1, 2) @ out
            for_scores = torch._softmax_backward_data(out @ values.transpose(1, 2), p, -1, p.dtype)
            for_scores *= ctx.scale
            _put(for_query, block.queries, for_scores @ keys)
            for_key[0, :, block.keys] += for_scores.transpose(1, 2) @ rows
        return for_query.transpose(0, 1)[None], for_key, for_value, None, None


def _rows(heads: torch.Tensor, queries: slice, groups: int) -> torch.Tensor:
    """(1, heads, T, D) -> (kv, g * queries, D)."""
    return heads[0, :, queries].reshape(groups, -1, heads.shape[-1])


def _put(output: torch.Tensor, queries: slice, rows: torch.Tensor) -> None:
    """(kv, g * queries, D) into (T, heads, D)."""
    part = output[queries]
    part.copy_(rows.view(part.shape[1], part.shape[0], -1).transpose(0, 1))


def _probabilities(
    rows: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """(kv, g * queries, keys)."""
    scores = rows @ keys.transpose(1, 2)
    each = scores.view(len(keys), -1, *mask.shape)
    torch.add(mask, each, alpha=scale, out=each)
    return F.softmax(each, dim=-1).view_as(scores)
