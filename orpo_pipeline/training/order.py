"""The order of the pairs, the same in both engines: what an optimizer step trains on. No torch."""

import math
from collections.abc import Iterator

import numpy as np


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
