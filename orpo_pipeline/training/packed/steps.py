"""An optimizer step's pairs as the packed rows of one rank."""

from collections.abc import Sequence
from dataclasses import dataclass

from orpo_pipeline.training.loss import StepSize
from orpo_pipeline.training.packed.batch import PackedBatch, pack_batch
from orpo_pipeline.training.packed.packing import balance, pack_pairs
from orpo_pipeline.training.packed.tokens import PairTokens


@dataclass(frozen=True)
class Step:
    """What one rank computes of an optimizer step, and the size of the whole."""

    batches: list[PackedBatch]
    pairs: list[list[int]]
    """The numbers of each batch's pairs in `StepCollator.tokens`."""
    size: StepSize


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

    def __call__(self, indices: Sequence[int]) -> Step:
        pairs = [self.tokens[index] for index in indices]
        lengths = [pair.length for pair in pairs]
        mine = balance(lengths, self.ranks)[self.rank]
        packs = [
            [mine[n] for n in pack]
            for pack in pack_pairs([lengths[number] for number in mine], self.budget)
        ]
        batches = [pack_batch([pairs[n] for n in pack], self.prompt_targets) for pack in packs]
        targets = sum(
            len(pair.chosen) + (len(pair.prompt) - 1 if self.prompt_targets else 0)
            for pair in pairs
        )
        numbers = [[indices[n] for n in pack] for pack in packs]
        return Step(batches, numbers, StepSize(tokens=targets, pairs=len(pairs)))
