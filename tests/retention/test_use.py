"""Runs and pruning: one waits or is refused, and a killed process holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from orpo_pipeline.retention.use import InUse, in_use, not_in_use

RUN = """
import sys
from pathlib import Path
from orpo_pipeline.retention.use import in_use
with in_use(Path(sys.argv[1])):
    print("at work", flush=True)
    sys.stdin.readline()
"""


def start_run(home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_nothing_is_pruned_while_a_run_of_another_process_is_at_work(tmp_path: Path) -> None:
    run = start_run(tmp_path)
    assert run.stdout is not None and run.stdout.readline() == "at work\n"
    with pytest.raises(InUse, match="is at work on"), not_in_use(tmp_path):
        pass
    with in_use(tmp_path):  # runs do not hinder each other
        pass
    run.kill()
    run.wait()
    with not_in_use(tmp_path):
        pass


def test_a_run_that_starts_while_something_is_pruned_waits(tmp_path: Path) -> None:
    with not_in_use(tmp_path):
        run = start_run(tmp_path)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(1.5)
    assert run.stdout is not None and run.stdout.readline() == "at work\n"
    run.communicate("\n", timeout=30)
    assert run.returncode == 0
