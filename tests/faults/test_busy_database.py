"""Another process writes to MLflow's SQLite file and does not let go."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from tasks.home import mlflow_database
from tasks.tracking import recorded_run

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""
CONFIG = RegistryConfig(experiment="tests")


@contextmanager
def write_lock(database: Path, seconds: float) -> Iterator[None]:
    """A process that holds the write lock for so long, or until the block ends."""
    command = [sys.executable, "-c", HOLD, str(database), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.kill()
        holder.communicate()


def test_a_write_waits_for_its_turn(tmp_path: Path) -> None:
    with recorded_run(CONFIG, tmp_path, "adapter") as (tracker, run_id):
        with write_lock(mlflow_database(tmp_path), 2):
            tracker.points.log(run_id, [{"step": 1, "values": {"train/loss": 0.5}}])
        assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 1


@pytest.mark.slow
def test_one_that_waited_too_long_says_so_and_the_next_continues(tmp_path: Path) -> None:
    """MLflow waits some 20 s; the task is tried again after 20 more."""
    with recorded_run(CONFIG, tmp_path, "adapter") as (_, run_id):
        pass
    points = [{"step": 1, "values": {"train/loss": 0.5}}]
    with (
        write_lock(mlflow_database(tmp_path), 120),
        pytest.raises(EnvironmentFault) as caught,
        recorded_run(CONFIG, tmp_path, "adapter") as (tracker, _),
    ):
        tracker.points.deliver(run_id, points)
    assert "failed: (sqlite3.OperationalError) database is locked." in caught.value.found
    assert caught.value.fix.startswith("Another process is writing to it")
    with recorded_run(CONFIG, tmp_path, "adapter") as (tracker, same):
        tracker.points.deliver(run_id, points)
        assert same == run_id
        assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 1
