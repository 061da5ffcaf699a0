"""Whether the process that has an MLflow run open still lives."""

import subprocess
import sys
import time

import psutil

from tasks.recovery.owner import Owner, is_gone, this_process


def test_only_an_ended_process_of_this_machine_is_gone() -> None:
    assert not is_gone(this_process())
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = psutil.Process(sleeping.pid).create_time()
    ours = Owner.model_validate_json(this_process())
    other = ours.model_copy(update={"pid": sleeping.pid, "started": started})
    assert not is_gone(other.model_dump_json())
    sleeping.kill()
    sleeping.wait()
    assert is_gone(other.model_dump_json())
    elsewhere = other.model_copy(update={"host": "another-machine"})
    assert not is_gone(elsewhere.model_dump_json())


def test_a_reused_process_id_is_another_process() -> None:
    ours = Owner.model_validate_json(this_process())
    earlier = ours.model_copy(update={"started": time.time() - 1e6})
    assert is_gone(earlier.model_dump_json())


def test_what_nobody_can_read_is_left_alone() -> None:
    assert not is_gone("somebody's own tag")
