"""Real processes: `up` ends its own, an `orpo-pipeline run` in another terminal lives on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.process_group import MARKER, RUN, belongs_to_up, end_processes, mark_run

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator["Start"]:
    starter = Start(tmp_path)
    yield starter
    for process in starter.started:
        process.kill()
        process.wait()


class Start:
    """Starts sleeping processes with a role on one state folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[subprocess.Popen[bytes]] = []

    def __call__(self, role: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, MARKER: f"{role}:{self.home}"}
        process = subprocess.Popen(SLEEP, env=environment)
        self.started.append(process)
        return process


def test_up_leaves_a_run_alone(start: Start) -> None:
    worker, run = start("worker"), start(f"{RUN}{os.getpid()}")
    assert end_processes(start.home, belongs_to_up, grace=5) == 1
    worker.wait(5)
    assert run.poll() is None


def test_a_new_run_ends_only_what_dead_runs_left(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARKER, "")  # restored after the test, whatever mark_run sets
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, living = start(f"{RUN}{dead.pid}"), start(f"{RUN}{os.getpid()}")
    mark_run(start.home)
    assert left.wait(5) != 0
    assert living.poll() is None
    assert os.environ[MARKER] == f"{RUN}{os.getpid()}:{start.home}"
