"""Killed processes and full disks: nothing half counts, and the next run equals an undisturbed one.

Blocks are small here, so that many are written. Nothing stands in for a process or for the disk.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prepared import GOOD, blocks_in, content_of, run
from rows import pair_row, write_rows

from orpo_pipeline.data.inputs import find_inputs
from orpo_pipeline.data.preparation import load_prepared
from orpo_pipeline.data.reading import readers
from orpo_pipeline.stages import MANIFEST
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault
from schemas.jobs import EVENT, Event, Failed, PrepareJob

MakeConfig = Callable[..., RunConfig]
WAIT_SECONDS = 120
BLOCK_ROWS = 4
ROWS = [pair_row(number) for number in range(160)]

WORKER = f"""
import sys
from orpo_pipeline.data.reading import readers
from orpo_pipeline.worker import main
readers.BLOCK_ROWS = {BLOCK_ROWS}
sys.exit(main())
"""

# Each step runs in a fork, so that imports are paid for once. The hook sees Python's own file
# operations and kills at the one that is named: nothing is cleaned up, as in a power cut. Bytes
# that a file may have stand for a full disk.
STEPS = f"""
import os, resource, signal, sys
from pathlib import Path
from transformers.models.auto import tokenization_auto
from transformers.models.llama import configuration_llama
from orpo_pipeline.data.reading import readers
from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.stages import code_version
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault

readers.BLOCK_ROWS = {BLOCK_ROWS}
config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
home = Path(sys.argv[2])

def kill_at(what):
    def hook(event, arguments):
        opened = event == "open" and what in str(arguments[0])
        published = event == what == "os.rename" and "prepared" in str(arguments[1])
        if opened or published and not str(arguments[1]).endswith("json"):
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def step(kind, value):
    if kind == "kill":
        kill_at(value)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), resource.RLIM_INFINITY))
    try:
        prepare(config, home, lambda *_: None)
    except EnvironmentFault as error:
        print(error.exit_code, error.found, flush=True)

for module in ("preparation", "block_store"):
    code_version(f"orpo_pipeline.data.{{module}}")
for argument in sys.argv[3:]:
    child = os.fork()
    if child == 0:
        step(*argument.split(":"))
        os._exit(0)
    print(argument, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", BLOCK_ROWS)


@contextmanager
def worker(config: RunConfig, home: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The stage's process as the flow starts it, and the pipe that its events come out of."""
    job = home.with_name("job.json")
    job.write_text(PrepareJob(config=config, home=home).model_dump_json(), encoding="utf-8")
    reader, writer = os.pipe()
    command = [sys.executable, "-c", WORKER, str(job), "--events", str(writer)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[writer], start_new_session=True
    )
    os.close(writer)
    try:
        yield process, reader
    finally:
        os.close(reader)
        process.kill()
        process.communicate()


def wait_for_a_block(home: Path, process: "subprocess.Popen[bytes]") -> None:
    before = set(blocks_in(home))
    deadline = time.monotonic() + WAIT_SECONDS
    while set(blocks_in(home)) == before:
        assert process.poll() is None, "the stage ended before it had written a block"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def pool_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def events_of(reader: int) -> list[Event]:
    with os.fdopen(os.dup(reader), encoding="utf-8") as lines:
        return [EVENT.validate_json(line) for line in lines]


def nothing_is_done(config: RunConfig, home: Path) -> bool:
    inputs = find_inputs(config, home, lambda _: None)
    return load_prepared(inputs) is None and not inputs.folder.exists()


def test_processes_may_die_and_the_next_run_equals_an_undisturbed_one(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    source = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    config = tiny_config(data={"source": source, "processes": 3})
    home = tmp_path / "home"

    with worker(config, home) as (process, events):
        wait_for_a_block(home, process)
        first, second = pool_of(process)
        first.kill()
        assert process.wait(WAIT_SECONDS) == EnvironmentFault.exit_code
        failed = events_of(events)[-1]
        assert isinstance(failed, Failed)
        assert failed.found == "A process that checks rows died, killed or out of memory."
        assert "data.processes" in failed.fix
        assert psutil.wait_procs([second], timeout=WAIT_SECONDS)[1] == []
    assert nothing_is_done(config, home)

    with worker(config, home) as (process, _):
        wait_for_a_block(home, process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(pool_of(process)) == 2
        process.kill()
        # Nobody is left to tell them: they see that their parent is gone.
        assert psutil.wait_procs(family, timeout=WAIT_SECONDS)[1] == []
    assert nothing_is_done(config, home)
    done = blocks_in(home)
    assert 2 <= len(done) < len(ROWS) / BLOCK_ROWS

    after = run(config, home)
    assert {name: blocks_in(home)[name] for name in done} == done
    alone = tiny_config(data={"source": source, "processes": 1})
    undisturbed = run(alone, tmp_path / "other-home")
    assert content_of(after.path) == content_of(undisturbed.path)
    assert after == undisturbed.model_copy(update={"path": after.path})
    assert run(alone, home).reused  # how many processes is nothing that decides


def test_kills_and_full_disks_leave_nothing_that_counts(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    source = str(write_rows(tmp_path / "rows.jsonl", GOOD))
    config, home = tiny_config(data={"source": source}), tmp_path / "home"
    (tmp_path / "config.json").write_text(config.model_dump_json())
    steps = [
        "kill:block.json",  # within the first block
        "limit:300",
        f"kill:.{MANIFEST}",
        "kill:blocks.json",  # all blocks are there, but not the list of them
        "limit:200",
        "kill:record.json",
        "limit:6000",
        "kill:os.rename",  # whole, but under its temporary name
    ]
    command = [sys.executable, "-c", STEPS, str(tmp_path / "config.json"), str(home), *steps]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert [line for line in lines if line.startswith(("kill", "limit"))] == [
        f"{step} {-signal.SIGKILL if step.startswith('kill') else 0}" for step in steps
    ]
    faults = [line for line in lines if line.startswith("3 ")]
    assert len(faults) == 3, finished.stdout
    blocks = find_inputs(config, home, lambda _: None).settings
    assert faults[0].startswith(f"3 Writing the stage {home}/blocks/{blocks}/")
    assert faults[1].startswith(f"3 Writing the stage {home}/blocks/{blocks}/files/")
    assert faults[2].startswith(f"3 Writing the stage {home}/prepared/")
    for fault in faults:
        assert "File too large" in fault or "transport error" in fault

    assert nothing_is_done(config, home)
    stage = find_inputs(config, home, lambda _: None).folder
    left = [path for path in stage.parent.iterdir() if path != stage]
    assert [path.name.startswith(f".{stage.name}.") for path in left] == [True] * len(left)
    assert sum((path / MANIFEST).exists() for path in left) == 1

    after, undisturbed = run(config, home), run(config, tmp_path / "other-home")
    assert not after.reused
    assert after == undisturbed.model_copy(update={"path": after.path})
    assert content_of(after.path) == content_of(undisturbed.path)
    assert len(blocks_in(home)) == len(GOOD) / BLOCK_ROWS
