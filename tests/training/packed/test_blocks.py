"""Attention by blocks of queries against a whole masked softmax in fp64, with every gradient."""

import pytest
import torch

from orpo_pipeline.training.packed import attention, blocks
from orpo_pipeline.training.packed.batch import PairLayout, Segment

# A pair shorter than a block, one of several blocks, the shortest that there is.
LAYOUT = PairLayout((Segment(3, 2, 4), Segment(9, 6, 7), Segment(1, 1, 1)))
TOKENS, HEADS, GROUPS, WIDTH = 34, 6, 2, 8
SCALE = 0.3


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """query (1, heads, T, D), key and value (1, key-value heads, T, D), upstream (1, T, heads, D).

    In memory tokens come first, as transformers' layers make them.
    """
    draw = torch.Generator().manual_seed(3)

    def tensor(heads: int) -> torch.Tensor:
        return torch.randn(1, TOKENS, heads, WIDTH, generator=draw).to(dtype)

    query, key, value = (
        tensor(n).transpose(1, 2).requires_grad_() for n in (HEADS, GROUPS, GROUPS)
    )
    return query, key, value, tensor(HEADS)


def visible(window: int | None) -> torch.Tensor:
    """(T, T): token by token, from the definition."""
    parts = [
        (pair, part, prompt + n if part == "rejected" else offset + n)
        for pair, (prompt, chosen, rejected) in enumerate(LAYOUT.segments)
        for part, length, offset in (
            ("prompt", prompt, 0),
            ("chosen", chosen, prompt),
            ("rejected", rejected, prompt),
        )
        for n in range(length)
    ]
    return torch.tensor(
        [
            [
                pair == other
                and seen <= at
                and their in ("prompt", part)
                and (window is None or seen > at - window)
                for other, their, seen in parts
            ]
            for pair, part, at in parts
        ]
    )


def reference(dtype: torch.dtype, window: int | None) -> list[torch.Tensor]:
    """Output and gradients in fp64 of the values that `dtype` holds."""
    *tensors, upstream = inputs(dtype)
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in tensors)
    each = HEADS // GROUPS
    scores = SCALE * query @ key.repeat_interleave(each, dim=1).transpose(2, 3)
    weights = scores.masked_fill(~visible(window), float("-inf")).softmax(-1)
    output = (weights @ value.repeat_interleave(each, dim=1)).transpose(1, 2)
    return [output, *torch.autograd.grad(output, (query, key, value), upstream.double())]


# A window of one token, smaller and larger than a block, larger than every pair.
@pytest.mark.parametrize("window", [None, 1, 3, 6, 100])
@pytest.mark.parametrize("rows", [1, 4, 128])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-6)])
def test_equals_the_whole_softmax(
    window: int | None,
    rows: int,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "QUERY_ROWS", rows)
    query, key, value, upstream = inputs(dtype)
    made = blocks.block_layout(LAYOUT, window, dtype)
    output = blocks.attend_in_blocks(query, key, value, made, SCALE)
    found = [output, *torch.autograd.grad(output, (query, key, value), upstream)]
    for one, expected in zip(found, reference(dtype, window), strict=True):
        assert one.dtype == dtype
        # fp32 adds up at most 34 terms; a bf16 score is rounded to 2^-9 of itself, then p, then
        # the sum.
        assert (one.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_row_of_blocks_is_no_longer_than_it_sees() -> None:
    made = blocks.block_layout(PairLayout((Segment(300, 20, 30),)), 10, torch.float32)
    found = [(b.queries.start, b.queries.stop, b.keys.start, b.keys.stop) for b in made]
    # 128 queries a block; the first of a block sees the 9 tokens before it. Rejected, at 320, is at
    # position 300 and sees the prompt from 291.
    assert found == [
        (0, 128, 0, 128),
        (128, 256, 119, 256),
        (256, 320, 247, 320),
        (320, 350, 291, 350),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_packed_attention_takes_blocks_in_16_bits_only(dtype: torch.dtype) -> None:
    query, key, value, _ = inputs(dtype)
    layout = PairLayout(LAYOUT.segments)
    given = {"layout": layout, "scaling": SCALE, "sliding_window": 6}
    output, _ = attention.sdpa_over_pairs(None, query, key, value, None, **given)
    assert any("blocks" in key for key in layout.made) == (dtype == torch.bfloat16)
    (expected, *_) = reference(dtype, 6)
    assert (output.double() - expected).abs().max() <= 2**-6 * expected.abs().max()


def test_queries_and_keys_are_rotated_in_float32_where_the_weights_are() -> None:
    """`method: full` in 16 bits: autocast gives 16-bit values, its rotations none."""
    query, key, value, _ = inputs(torch.bfloat16)
    given = {"layout": PairLayout(LAYOUT.segments), "scaling": SCALE}
    mixed, _ = attention.sdpa_over_pairs(None, query.float(), key.float(), value, None, **given)
    alike, _ = attention.sdpa_over_pairs(None, query, key, value, None, **given)
    assert any("blocks" in key for key in given["layout"].made)
    assert mixed.dtype == torch.bfloat16 and torch.equal(mixed, alike)
