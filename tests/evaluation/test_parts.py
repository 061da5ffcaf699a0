"""Parts of an evaluation: kept whole, read back, removed when it is published."""

import os
import time
from pathlib import Path

import polars as pl
import pytest

from orpo_pipeline.evaluation.parts import ABANDONED_AFTER, Parts
from schemas.errors import EnvironmentFault

FRAME = pl.DataFrame({"a": [1, 2]})


def never() -> pl.DataFrame:
    pytest.fail("it was measured again")


def test_a_part_is_measured_once(tmp_path: Path) -> None:
    parts = Parts(tmp_path, tmp_path / "evaluations" / "e1")
    assert parts.keep("pairs-base-00000", lambda: FRAME).equals(FRAME)
    assert parts.keep("pairs-base-00000", never).equals(FRAME)
    assert Parts(tmp_path, Path("e1")).keep("pairs-base-00000", never).equals(FRAME)
    other = pl.DataFrame({"a": [3]})
    assert Parts(tmp_path, Path("e2")).keep("pairs-base-00000", lambda: other).equals(other)


def test_a_torn_part_is_measured_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path, Path("e1"))
    parts.keep("drift", lambda: FRAME)
    (path,) = parts.folder.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert parts.keep("drift", lambda: FRAME).equals(FRAME)
    assert parts.keep("drift", never).equals(FRAME)


def test_removing_takes_this_evaluation_and_forgotten_ones(tmp_path: Path) -> None:
    ours, fresh, old = (Parts(tmp_path, Path(name)) for name in ("e1", "e2", "e3"))
    for parts in (ours, fresh, old):
        parts.keep("drift", lambda: FRAME)
    long_ago = time.time() - ABANDONED_AFTER - 60
    os.utime(old.folder, (long_ago, long_ago))
    ours.remove()
    assert [path.name for path in (tmp_path / "evaluating").iterdir()] == ["e2"]


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "evaluating").write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFault, match="Keeping a part of the evaluation"):
        Parts(tmp_path, Path("e1")).keep("drift", lambda: FRAME)
