"""Several pairs in one row, by hand and for any pairs."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orpo_pipeline.training.packed.batch import pack_batch
from schemas.tokens import TokenizedPair

FIRST = TokenizedPair(prompt=[11, 12], chosen=[21], rejected=[31, 32, 33])
SECOND = TokenizedPair(prompt=[13], chosen=[22, 23], rejected=[34])

IDS = st.lists(st.integers(0, 99), min_size=1, max_size=6)
PAIRS = st.lists(st.builds(TokenizedPair, IDS, IDS, IDS), min_size=1, max_size=4)


def test_row_by_hand() -> None:
    batch = pack_batch([FIRST, SECOND])
    #                                   0   1   2   3   4   5 |  6   7   8   9
    assert batch.input_ids.tolist() == [[11, 12, 21, 31, 32, 33, 13, 22, 23, 34]]
    # Rejected starts again behind the prompt: at 2 in the first pair, at 1 in the second.
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 3, 4, 0, 1, 2, 1]]
    assert batch.layout.segments == ((2, 1, 3), (1, 2, 1))
    assert batch.layout.pieces() == [3, 3, 3, 1]


def test_targets_by_hand() -> None:
    batch = pack_batch([FIRST, SECOND])
    # 0 predicts the prompt's 12; its last token, at 1, both 21 and 31; 3 predicts 32, and 4 33.
    # The second prompt's only token, at 6, predicts 22 and 34; nothing predicts it.
    assert batch.predictors.tolist() == [0, 1, 1, 3, 4, 6, 7, 6]
    assert batch.targets.tolist() == [12, 21, 31, 32, 33, 22, 23, 34]
    assert batch.counts == ((1, 1, 3), (0, 2, 1))


def test_targets_of_the_answers_alone_by_hand() -> None:
    batch = pack_batch([FIRST, SECOND], prompt_targets=False)
    assert batch.predictors.tolist() == [1, 1, 3, 4, 6, 7, 6]
    assert batch.targets.tolist() == [21, 31, 32, 33, 22, 23, 34]
    assert batch.counts == ((0, 1, 3), (0, 2, 1))
    whole = pack_batch([FIRST, SECOND])
    assert torch.equal(batch.input_ids, whole.input_ids)
    assert torch.equal(batch.position_ids, whole.position_ids)


@given(PAIRS, st.booleans())
def test_every_target_follows_its_predictor(
    pairs: list[TokenizedPair], prompt_targets: bool
) -> None:
    batch = pack_batch(pairs, prompt_targets)
    found = list(
        zip(batch.input_ids[0, batch.predictors].tolist(), batch.targets.tolist(), strict=True)
    )
    expected = []
    for pair in pairs:
        whole, other = pair.prompt + pair.chosen, pair.prompt + pair.rejected
        last = len(pair.prompt) - 1
        expected += list(pairwise(whole))[0 if prompt_targets else last :]
        expected += list(pairwise(other))[last:]
    assert found == expected


@given(PAIRS, st.booleans())
def test_sizes_agree(pairs: list[TokenizedPair], prompt_targets: bool) -> None:
    batch = pack_batch(pairs, prompt_targets)
    tokens = sum(pair.length for pair in pairs)
    assert batch.input_ids.shape == batch.position_ids.shape == (1, tokens)
    assert sum(batch.layout.pieces()) == tokens
    assert len(batch.predictors) == len(batch.targets) == sum(map(sum, batch.counts))
    assert all(
        counts[1:] == segment[1:]
        for counts, segment in zip(batch.counts, batch.layout.segments, strict=True)
    )


@pytest.mark.parametrize("prompt_targets", [True, False])
def test_moving_keeps_everything(prompt_targets: bool) -> None:
    batch = pack_batch([FIRST, SECOND], prompt_targets)
    moved = batch.to("cpu")
    for name in ("input_ids", "position_ids", "predictors", "targets"):
        assert torch.equal(getattr(moved, name), getattr(batch, name))
    assert (moved.layout, moved.counts) == (batch.layout, batch.counts)
