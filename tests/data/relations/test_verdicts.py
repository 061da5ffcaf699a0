"""Pairs that were compared before are not compared again, and the answers stay the same."""

from pathlib import Path

import numpy as np
import polars as pl

from orpo_pipeline.data.relations.verdicts import KEPT, PAIRS, Verdicts
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


def remember(folder: Path, name: str, pair: list[int]) -> list[list[int]]:
    """A preparation that asks about one pair; what it had to judge."""
    judge, verdicts = CountedJudge(), Verdicts(folder)
    verdicts.remembering(judge, IDS)(np.array([pair]))
    verdicts.save(name)
    verdicts.save(name)  # the same preparation again
    return judge.asked


def test_sources_may_take_turns(tmp_path: Path) -> None:
    assert remember(tmp_path, "one", [0, 1]) == [[0, 1]]
    assert remember(tmp_path, "two", [1, 2]) == [[1, 2]]
    assert remember(tmp_path, "one and more", [0, 1]) == []


def test_a_damaged_file_is_not_read(tmp_path: Path) -> None:
    remember(tmp_path, "one", [0, 1])
    remember(tmp_path, "two", [1, 2])
    (tmp_path / "two" / PAIRS).write_bytes(b"no table")
    assert remember(tmp_path, "three", [0, 1]) == []
    assert remember(tmp_path, "four", [1, 2]) == [[1, 2]]


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        remember(tmp_path, str(number), [0, 1 + number % 3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5", "6"]
