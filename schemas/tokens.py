"""Token ids of one pair, and how many of them the longest has."""

from dataclasses import dataclass
from typing import NamedTuple


class Longest(NamedTuple):
    """Tokens of the longest pair; 0 where nothing is kept."""

    side: int
    """Prompt + answer: what one sequence holds."""
    whole: int
    """Prompt + chosen + rejected: the pair laid out once."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of one pair. prompt + chosen and prompt + rejected are what the model reads."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def length(self) -> int:
        """Tokens of the pair laid out once: prompt, chosen, rejected."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)
