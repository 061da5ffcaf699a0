"""FlashAttention's gathering against the SDPA path, by a twin of the kernel that needs no GPU."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orpo_pipeline.training.packed.attention import flash_over_packed_pairs, sdpa_over_pairs
from orpo_pipeline.training.packed.batch import PairLayout, Segment
from orpo_pipeline.training.packed.flash import flash_over_pairs, gather_layout

LAYOUT = PairLayout((Segment(3, 2, 4), Segment(1, 1, 1), Segment(5, 6, 2)))
TOKENS = 25


def kernel_twin(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    """flash_attn_varlen_func as its documentation says, sequence by sequence.

    The last query is aligned with the last key; query i of m sees key j of n when
    i + n - m - left <= j <= i + n - m; -1 is no limit on the left.
    """
    assert options["causal"]
    assert q.dtype == k.dtype == v.dtype
    assert options["dropout_p"] == 0
    left, softcap = options["window_size"][0], options["softcap"]
    groups = q.shape[1] // k.shape[1]
    outputs = []
    for number in range(len(cu_seqlens_q) - 1):
        queries = q[cu_seqlens_q[number] : cu_seqlens_q[number + 1]].transpose(0, 1)
        keys, values = (
            side[cu_seqlens_k[number] : cu_seqlens_k[number + 1]]
            .transpose(0, 1)
            .repeat_interleave(groups, 0)
            for side in (k, v)
        )
        m, n = queries.shape[1], keys.shape[1]
        assert m <= options["max_seqlen_q"]
        assert n <= options["max_seqlen_k"]
        scores = queries @ keys.transpose(1, 2) * options["softmax_scale"]
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        i, j = torch.arange(m)[:, None] + n - m, torch.arange(n)[None, :]
        seen = j <= i
        if left >= 0:
            seen &= j >= i - left
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs.append((weights @ values).transpose(0, 1))
    return torch.cat(outputs)


def draw(heads: int) -> torch.Tensor:
    return torch.randn(1, heads, TOKENS, 8, requires_grad=True)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_equals_sdpa_over_pairs(window: int | None, softcap: float | None) -> None:
    torch.manual_seed(0)
    query, key, value = draw(4), draw(2), draw(2)
    layer: dict[str, Any] = {"layout": LAYOUT, "sliding_window": window, "softcap": softcap}
    expected, _ = sdpa_over_pairs(None, query, key, value, None, scaling=0.3, **layer)
    found = flash_over_pairs(
        *(side[0].transpose(0, 1) for side in (query, key, value)),
        gather_layout(LAYOUT, query.device),
        kernel_twin,
        dropout_p=0.0,
        softmax_scale=0.3,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
    )
    torch.testing.assert_close(found, expected[0])
    weights = torch.randn_like(found)
    sides = (query, key, value)
    for left, right in zip(
        torch.autograd.grad((expected[0] * weights).sum(), sides, retain_graph=True),
        torch.autograd.grad((found * weights).sum(), sides),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


def test_the_kernel_gets_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotated queries and keys are float32 in `method: full`; flash-attn refuses to mix."""
    package = SimpleNamespace(flash_attn_varlen_func=kernel_twin)
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    query, key, value = draw(4), draw(2), draw(2).bfloat16()
    layer: dict[str, Any] = {"layout": LAYOUT, "scaling": 0.3, "softcap": 2.0}
    output, _ = flash_over_packed_pairs(None, query, key, value, None, **layer)
    assert output.dtype == torch.bfloat16


def test_row_numbers_by_hand() -> None:
    # prompt 0 1, chosen 2, rejected 3 4 | prompt 5, chosen 6 7, rejected 8
    gathered = gather_layout(PairLayout((Segment(2, 1, 2), Segment(1, 2, 1))), torch.device("cpu"))
    assert gathered.first.index.tolist() == [0, 1, 2, 5, 6, 7]
    assert gathered.first.ends.tolist() == [0, 3, 6]
    assert gathered.second.index.tolist() == [3, 4, 8]
    assert gathered.second.ends.tolist() == [0, 2, 3]
    assert gathered.second_keys.index.tolist() == [0, 1, 3, 4, 5, 8]
    assert gathered.second_keys.ends.tolist() == [0, 4, 6]
    assert (gathered.first.longest, gathered.second_keys.longest) == (3, 4)
    # outputs stand as 0 1 2 5 6 7 3 4 8: token 3 is the seventh of them
    assert gathered.back.tolist() == [0, 1, 2, 6, 7, 3, 4, 5, 8]
