"""Pairs that were compared before are not compared again, and the answers stay the same."""

from pathlib import Path

import numpy as np
import polars as pl

from orpo_pipeline.data.relations.verdicts import PAIRS, Verdicts
from orpo_pipeline.data.relations.words import Indices

IDS = pl.Series(["a", "b", "c", "d"])


class CountedJudge:
    """Neighbours are alike."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, pairs: Indices) -> np.ndarray:
        self.asked += pairs.tolist()
        return np.asarray(pairs[:, 1] - pairs[:, 0] == 1)


def test_only_new_pairs_are_judged(tmp_path: Path) -> None:
    judge, first = CountedJudge(), Verdicts(tmp_path)
    ask = first.remembering(judge, IDS)
    assert ask(np.array([[0, 1], [0, 2]])).tolist() == [True, False]
    assert ask(np.empty((0, 2), dtype=np.int64)).tolist() == []
    first.save("one")
    later = CountedJudge()
    ask = Verdicts(tmp_path).remembering(later, IDS)
    assert ask(np.array([[0, 2], [2, 3], [0, 1], [1, 3]])).tolist() == [False, True, True, False]
    assert later.asked == [[2, 3], [1, 3]]


def test_pairs_are_known_by_their_ids_and_not_by_their_places(tmp_path: Path) -> None:
    first = Verdicts(tmp_path)
    first.remembering(CountedJudge(), IDS)(np.array([[0, 1]]))
    first.save("one")
    later = CountedJudge()
    ask = Verdicts(tmp_path).remembering(later, pl.Series(["x", "a", "y", "b"]))
    assert ask(np.array([[1, 3], [0, 1]])).tolist() == [True, True]
    assert later.asked == [[0, 1]]


def test_the_newest_has_what_still_matters_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    for name, pair in (("one", [0, 1]), ("two", [1, 2])):
        verdicts = Verdicts(tmp_path)
        verdicts.remembering(CountedJudge(), IDS)(np.array([pair]))
        verdicts.save(name)
        verdicts.save(name)
    later = CountedJudge()
    Verdicts(tmp_path).remembering(later, IDS)(np.array([[0, 1], [1, 2]]))
    assert later.asked == [[0, 1]]
    (tmp_path / "two" / PAIRS).write_bytes(b"no table")
    later = CountedJudge()
    Verdicts(tmp_path).remembering(later, IDS)(np.array([[0, 1], [1, 2]]))
    assert later.asked == [[1, 2]]
