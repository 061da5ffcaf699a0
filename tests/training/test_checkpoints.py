"""Checkpoints count when their manifest agrees; the step in the name is their age."""

import json
import os
from pathlib import Path

import pytest

from orpo_pipeline.stages import is_complete
from orpo_pipeline.training.checkpoints import (
    checkpoint_step,
    is_last,
    newest_checkpoint,
    newest_step,
    seal_checkpoint,
)


def write_checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"w" * 100)
    (checkpoint / "trainer_state.json").write_text(
        json.dumps({"global_step": step, "max_steps": 100})
    )
    if sealed:
        seal_checkpoint(checkpoint)
    return checkpoint


def test_none_at_first(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    assert newest_step(tmp_path) == 0


def test_sealing_keeps_the_newest_two_by_step_not_by_clock(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoint = write_checkpoint(tmp_path, step, sealed=False)
        os.utime(checkpoint, (0, 200 - step))  # the oldest step has the newest date
    seal_checkpoint(tmp_path / "checkpoint-20")
    seal_checkpoint(tmp_path / "checkpoint-100")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-20", "checkpoint-100"}
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    write_checkpoint(tmp_path, 200, sealed=False)  # as another process may be doing just now
    assert newest_step(tmp_path) == 100
    assert (tmp_path / "checkpoint-200").exists()


def test_sealing_removes_the_pickled_arguments(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 5, sealed=False)
    (checkpoint / "training_args.bin").write_bytes(b"pickle")
    seal_checkpoint(checkpoint)
    assert is_complete(checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["trainer_state.json", "weights"]


@pytest.mark.parametrize("damage", ["unsealed", "shorter", "missing", "flipped", "manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    good = write_checkpoint(tmp_path, 10)
    newer = write_checkpoint(tmp_path, 20, sealed=damage != "unsealed")
    weights = newer / "weights"
    if damage == "shorter":
        weights.write_bytes(b"w" * 99)
    elif damage == "missing":
        weights.unlink()
    elif damage == "flipped":
        weights.write_bytes(b"w" * 99 + b"v")
    elif damage == "manifest":
        (newer / "manifest.json").write_text('{"files": {"weig')
    assert newest_checkpoint(tmp_path) == good
    assert not newer.exists()  # the Trainer will write this name again
    write_checkpoint(tmp_path, 20)
    assert newest_step(tmp_path) == 20


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-7.damaged", "checkpoint-", "x-checkpoint-8"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert (tmp_path / "checkpoint-best").exists()
    assert checkpoint_step(tmp_path / "checkpoint-7.damaged") == 0
    assert checkpoint_step(tmp_path / "checkpoint-0042") == 42


def test_the_last_one_says_so(tmp_path: Path) -> None:
    assert not is_last(write_checkpoint(tmp_path, 99))
    assert is_last(write_checkpoint(tmp_path, 100))
