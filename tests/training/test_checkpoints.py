"""Checkpoints count when their manifest agrees; the step in the name is their age."""

import json
import os
from pathlib import Path

import pytest

from orpo_pipeline.stages import is_complete
from orpo_pipeline.training.checkpoints import (
    WRITING,
    checkpoint_step,
    is_last,
    newest_checkpoint,
    newest_step,
    publish_checkpoint,
)


def write_half(work: Path, step: int) -> Path:
    """As the Trainer writes it."""
    written = work / WRITING / f"checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "weights").write_bytes(b"w" * 100)
    state = {"global_step": step, "max_steps": 100}
    (written / "trainer_state.json").write_text(json.dumps(state))
    return written


def write_checkpoint(work: Path, step: int) -> Path:
    written = write_half(work, step)
    publish_checkpoint(work, step)
    assert not written.exists()
    return work / written.name


def test_none_at_first(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    assert newest_step(tmp_path) == 0


def test_the_newest_two_are_kept_by_step_not_by_clock(tmp_path: Path) -> None:
    for step in (9, 100):
        os.utime(write_checkpoint(tmp_path, step), (0, 200 - step))  # the oldest is the newest
    write_checkpoint(tmp_path, 20)
    assert {path.name for path in tmp_path.glob("c*")} == {"checkpoint-20", "checkpoint-100"}
    assert newest_step(tmp_path) == 100


def test_what_is_being_written_does_not_count_and_is_removed_before_a_new_start(
    tmp_path: Path,
) -> None:
    good, half = write_checkpoint(tmp_path, 1), write_half(tmp_path, 2)
    assert newest_step(tmp_path) == 1
    assert half.is_dir()  # another process may be writing it just now
    assert newest_checkpoint(tmp_path) == good
    assert not half.exists()


def test_the_pickled_arguments_are_left_out(tmp_path: Path) -> None:
    (write_half(tmp_path, 5) / "training_args.bin").write_bytes(b"pickle")
    publish_checkpoint(tmp_path, 5)
    checkpoint = tmp_path / "checkpoint-5"
    assert is_complete(checkpoint)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["trainer_state.json", "weights"]


@pytest.mark.parametrize(
    "damage", ["no manifest", "shorter", "missing", "flipped", "torn manifest"]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    good = write_checkpoint(tmp_path, 10)
    newer = write_checkpoint(tmp_path, 20)
    weights = newer / "weights"
    if damage == "no manifest":
        (newer / "manifest.json").unlink()
    elif damage == "shorter":
        weights.write_bytes(b"w" * 99)
    elif damage == "missing":
        weights.unlink()
    elif damage == "flipped":
        weights.write_bytes(b"w" * 99 + b"v")
    else:
        (newer / "manifest.json").write_text('{"files": {"weig')
    assert newest_checkpoint(tmp_path) == good
    assert not newer.exists()  # training will publish this name again
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
