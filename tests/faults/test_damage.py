"""Flipped bytes and cut files: found by hash, named, and done again, restored, or refused.

Checkpoints, blocks, prepared data, snapshots, watermarks and MLflow's database have their tests
beside the code; docs/faults.md lists them all.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orpo_pipeline.training.train import load_adapter, train
from schemas.errors import EnvironmentFault
from schemas.jobs import TrainJob
from tasks.home import prefect_database
from tasks.temporary_server import require_prefect_database

WEIGHTS = "adapter_model.safetensors"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_byte, cut])
def test_a_damaged_adapter_is_named_and_trained_again(
    train_job: Callable[..., TrainJob],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    job = train_job(training={"max_steps": 1, "batch_size": 2, "eval_pairs": 0})
    first = train(job, lambda *_: None, lambda: False)
    weights = (first.path / WEIGHTS).read_bytes()
    damage(first.path / WEIGHTS)
    with caplog.at_level(logging.WARNING):
        assert load_adapter(job.home, job.adapter_id) is None
    assert f"{WEIGHTS} of stage {job.adapter_id} is damaged" in caplog.text
    again = train(job, lambda *_: None, lambda: False)
    assert not again.reused and (again.path / WEIGHTS).read_bytes() == weights


@pytest.mark.parametrize(
    "content", [b"no database at all" * 400, b"SQLite format 3\0" + b"\1" * 99]
)
def test_a_damaged_prefect_database_is_named_with_the_way_back(
    tmp_path: Path, content: bytes
) -> None:
    require_prefect_database(tmp_path)  # there is none yet
    database = prefect_database(tmp_path)
    database.parent.mkdir()
    database.write_bytes(content)
    with pytest.raises(EnvironmentFault) as caught:
        require_prefect_database(tmp_path)
    assert f"{database} cannot be opened" in caught.value.found
    assert "backup" in caught.value.fix and "docs/operations.md" in caught.value.fix


def test_a_run_on_a_damaged_prefect_database_ends_at_once(tmp_path: Path) -> None:
    database = prefect_database(tmp_path)
    database.parent.mkdir()
    database.write_bytes(b"no database at all" * 400)
    outside = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT", "MLFLOW"))}
    finished = subprocess.run(
        [sys.executable, "-m", "flows", "run"],
        env={**outside, "ORPO_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 3
    assert f"{database} cannot be opened" in " ".join(finished.stderr.split())
    assert "Traceback" not in finished.stderr
