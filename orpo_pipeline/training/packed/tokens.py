"""Token ids of all pairs in a few flat arrays."""

from pathlib import Path

import numpy as np
import polars as pl

from orpo_pipeline.data.prepared_files import TOKEN_COLUMNS, read_pairs
from schemas.errors import EnvironmentFault
from schemas.tokens import TokenizedPair


class PairTokens:
    """The pairs of a split, by number. 4 bytes a token: lists of a million pairs would be 30 GB."""

    def __init__(self, pairs: pl.DataFrame) -> None:
        self._columns = [_flat(pairs[name]) for name in TOKEN_COLUMNS]
        if not self.lengths().all():
            raise EnvironmentFault(
                "A prepared pair has a prompt or an answer without tokens.",
                "at least one token in each part: preparation sets other rows aside.",
                "Remove the prepared folder in the state folder's `prepared/` and run again.",
            )

    def __len__(self) -> int:
        return len(self._columns[0][1]) - 1

    def __getitem__(self, index: int) -> TokenizedPair:
        prompt, chosen, rejected = (
            ids[ends[index] : ends[index + 1]].tolist() for ids, ends in self._columns
        )
        return TokenizedPair(prompt, chosen, rejected)

    def lengths(self) -> np.ndarray:
        """(pairs, 3): tokens of prompt, chosen, rejected."""
        return np.stack([np.diff(ends) for _, ends in self._columns], axis=1)


def read_tokens(prepared: Path, split: str, only: pl.Series | None = None) -> PairTokens:
    """The token ids of a split of the prepare stage, or of these rows, in the order of row ids."""
    return PairTokens(read_pairs(prepared, split, TOKEN_COLUMNS, only=only))


def _flat(lists: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """All values one after another, and where each list ends (with a 0 before)."""
    ends = np.concatenate([[0], lists.list.len().cast(pl.Int64).to_numpy().cumsum()])
    return lists.explode().to_numpy(), ends
