"""An optimizer step's pairs as the packed rows of one rank."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orpo_pipeline.training.loss import StepSize
from orpo_pipeline.training.packed.batch import PackedBatch, pack_batch
from orpo_pipeline.training.packed.packing import Pack, balance, pack_pairs
from orpo_pipeline.training.packed.tokens import PairTokens


@dataclass(frozen=True)
class Step:
    """What one rank computes of an optimizer step, and the size of the whole."""

    batches: list[PackedBatch]
    pairs: list[list[int]]
    """The numbers of each batch's pairs in `StepCollator.tokens`."""
    size: StepSize
    idle: list[PackedBatch] = field(default_factory=list)
    """To compute as well, and to count for nothing."""


@dataclass(frozen=True)
class StepCollator:
    """Packs the pairs of a step: the collate function of the DataLoader.

    Every rank sees the same pairs and takes its own share, so nothing is sent between them, and
    the weights of tokens and pairs are those of the whole step.
    """

    tokens: PairTokens
    budget: int
    """Tokens of a forward pass; a longer pair is computed alone."""
    prompt_targets: bool
    """Whether the NLL is over prompt and chosen, or over chosen alone."""
    rank: int = 0
    ranks: int = 1
    as_many_passes: bool = False
    """Whether every rank must compute as many: layers are then gathered from all of them."""

    def __call__(self, indices: Sequence[int]) -> Step:
        pairs = [self.tokens[index] for index in indices]
        lengths = [pair.length for pair in pairs]
        shares = [self._packs(share, lengths) for share in balance(lengths, self.ranks)]
        packs = shares[self.rank]
        batches = [pack_batch([pairs[n] for n in pack], self.prompt_targets) for pack in packs]
        targets = sum(
            len(pair.chosen) + (len(pair.prompt) - 1 if self.prompt_targets else 0)
            for pair in pairs
        )
        numbers = [[indices[n] for n in pack] for pack in packs]
        # A rank without a pair computes nothing of use, too: loss scaling knows its scale after a
        # first backward pass.
        passes = max(map(len, shares)) if self.as_many_passes else 1
        shortest = min(pairs, key=lambda pair: pair.length)
        idle = [pack_batch([shortest], self.prompt_targets) for _ in range(passes - len(packs))]
        return Step(batches, numbers, StepSize(tokens=targets, pairs=len(pairs)), idle)

    def _packs(self, share: list[int], lengths: list[int]) -> list[Pack]:
        packs = pack_pairs([lengths[number] for number in share], self.budget)
        return [[share[n] for n in pack] for pack in packs]
