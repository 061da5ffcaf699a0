"""Which pairs share an optimizer step, and which of them share a forward pass. Pure, no torch."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

Pack = list[int]
"""Indices of the pairs that one forward pass computes together."""


def epoch_order(pairs: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch's pairs, (pairs,): a permutation that seed and epoch decide alone."""
    return np.random.default_rng([seed, epoch]).permutation(pairs)


class EpochSampler:
    """The pairs of one epoch after another, as a sampler of torch's DataLoader."""

    def __init__(self, pairs: int, seed: int) -> None:
        self.pairs = pairs
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.pairs

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.pairs, self.seed, self.epoch).tolist())


def count_steps(pairs: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of a training; an epoch's last step has the pairs that are left over."""
    return max_steps or math.ceil(epochs * math.ceil(pairs / batch_size))


class StepSampler:
    """The pairs of each optimizer step, as a batch sampler of torch's DataLoader.

    Its only state is the number of steps taken: a resumed training skips those and goes on with
    the very pairs that an undisturbed one would have seen.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int, steps: int) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        an_epoch = math.ceil(self.pairs / self.batch_size)
        for step in range(self.steps):
            epoch, within = divmod(step, an_epoch)
            if within == 0:
                order = epoch_order(self.pairs, self.seed, epoch)
            yield order[within * self.batch_size : (within + 1) * self.batch_size].tolist()


def pack_pairs(tokens: Sequence[int], budget: int) -> list[Pack]:
    """First-fit decreasing: packs of at most `budget` tokens, their pairs in the order given.

    A pair longer than the budget has a pack of its own. The plain bin-packing heuristic of
    Johnson 1973, at most 11/9 of the fewest packs + 1.

    Args:
        tokens: prompt + chosen + rejected of each pair.
        budget: tokens that a forward pass may hold.
    """
    packs: list[Pack] = []
    room: list[int] = []
    for index in _longest_first(tokens):
        fitting = next((n for n, left in enumerate(room) if left >= tokens[index]), None)
        if fitting is None:
            fitting = len(packs)
            packs.append([])
            room.append(budget)
        packs[fitting].append(index)
        room[fitting] -= tokens[index]
    return [sorted(pack) for pack in packs]


def balance(tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """Pairs of each rank, so that every rank has about as many tokens.

    Longest first to the rank with the fewest tokens (Graham 1969): the fullest rank has at most
    4/3 of the best possible.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for index in _longest_first(tokens):
        rank = held.index(min(held))
        shares[rank].append(index)
        held[rank] += tokens[index]
    return [sorted(share) for share in shares]


def _longest_first(tokens: Sequence[int]) -> list[int]:
    return sorted(range(len(tokens)), key=lambda index: (-tokens[index], index))
