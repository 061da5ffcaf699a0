"""Several pairs in one row without padding: prompt | chosen | rejected, prompt | chosen | ..."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from schemas.tokens import TokenizedPair


class Segment(NamedTuple):
    """Tokens of one pair's parts."""

    prompt: int
    chosen: int
    rejected: int


@dataclass(frozen=True)
class PairLayout:
    """Where each pair of a packed row is."""

    segments: tuple[Segment, ...]
    made: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
    """What attention makes of the layout, once for all layers: masks, row numbers."""

    def pieces(self) -> list[int]:
        """Lengths of prompt + chosen and of rejected, by turns: they add up to T."""
        return [n for s in self.segments for n in (s.prompt + s.chosen, s.rejected)]


@dataclass(frozen=True)
class PackedBatch:
    """B pairs in a row of T tokens, and the N tokens that the loss looks at.

    Positions go on through prompt and chosen and start again behind the prompt for rejected, so
    that each answer is where it would be alone.
    """

    input_ids: torch.Tensor  # (1, T)
    position_ids: torch.Tensor  # (1, T)
    layout: PairLayout
    predictors: torch.Tensor  # (N,) where in the row the token before the target is
    targets: torch.Tensor  # (N,) token ids, by pair: prompt, chosen, rejected
    counts: tuple[tuple[int, int, int], ...]  # targets of prompt, chosen, rejected, B times

    def to(self, device: torch.device | str) -> "PackedBatch":
        return PackedBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            PairLayout(self.layout.segments),  # what is made of it goes with this copy
            self.predictors.to(device),
            self.targets.to(device),
            self.counts,
        )


def pack_batch(pairs: Sequence[TokenizedPair], prompt_targets: bool = True) -> PackedBatch:
    """Lay out pairs; every part of them has at least one token.

    Args:
        pairs: token ids.
        prompt_targets: whether the prompt's tokens (all but the first, which nothing predicts)
            are targets too.
    """
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    segments: list[Segment] = []
    counts: list[tuple[int, int, int]] = []
    for pair in pairs:
        start, segment = len(ids), Segment(len(pair.prompt), len(pair.chosen), len(pair.rejected))
        prompt, chosen, rejected = segment
        ids += [*pair.prompt, *pair.chosen, *pair.rejected]
        positions += [*range(prompt + chosen), *range(prompt, prompt + rejected)]
        last = start + prompt - 1  # the prompt's last token predicts the first of either answer
        second = start + prompt + chosen
        if prompt_targets:
            predictors += range(start, last)
            targets += pair.prompt[1:]
        predictors += [last, *range(last + 1, second - 1)]
        targets += pair.chosen
        predictors += [last, *range(second, second + rejected - 1)]
        targets += pair.rejected
        segments.append(segment)
        counts.append((prompt - 1 if prompt_targets else 0, chosen, rejected))
    return PackedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        layout=PairLayout(tuple(segments)),
        predictors=torch.tensor(predictors),
        targets=torch.tensor(targets),
        counts=tuple(counts),
    )
