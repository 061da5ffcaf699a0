"""A stage in a child process of its own session, so that a crash or an OOM ends nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from orpo_pipeline.training.out_of_memory import SMALLER, memory_kills
from schemas.errors import ERRORS_BY_EXIT_CODE, OutOfMemory, PipelineError
from schemas.jobs import EVENT, Done, Event, Failed, Job
from schemas.record import Record

STOP_GRACE_SECONDS = 120.0
"""Time to write a checkpoint after SIGTERM; then SIGKILL."""

LOG_LINES = 15

R = TypeVar("R", bound=Record)


def run_stage(
    job: Job,
    record: type[R],
    on_event: Callable[[Event], None],
    on_interrupt: Callable[[], None] = lambda: None,
) -> R:
    """Run a job in a child process and return its record.

    Every event is passed to `on_event` as it comes. When this process raises (cancel, timeout,
    Ctrl-C), `on_interrupt` is called, the child is told to stop, and has stopped when the exception
    leaves here.

    Raises the child's own error, or when it died without one OutOfMemory, if the kernel killed it
    for that, and else PipelineError with the end of its log.
    """
    log = job.home / "logs" / f"{job.kind}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    kills = memory_kills()
    with TemporaryDirectory() as scratch:
        job_file = Path(scratch) / "job.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        reader, writer = os.pipe()
        with log.open("ab") as output, os.fdopen(reader, encoding="utf-8") as events:
            log_start = output.tell()  # what stands before is another attempt's
            command = [sys.executable, "-m", "orpo_pipeline.worker", str(job_file)]
            process = subprocess.Popen(
                [*command, "--events", str(writer)],
                stdin=subprocess.PIPE,  # the lifeline: closes when this process dies
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                start_new_session=True,
                env=child_environment(),
            )
            os.close(writer)
            try:
                last = None
                for line in events:
                    last = EVENT.validate_json(line)
                    on_event(last)
                process.wait()
            except BaseException:
                on_interrupt()  # now: who cancels may not wait for the child's last checkpoint
                raise
            finally:
                stop(process)
    if isinstance(last, Done) and process.returncode == 0:
        return record.model_validate_json(last.record)
    with log.open("rb") as output:
        output.seek(log_start)
        own_log = output.read().decode("utf-8", errors="replace")
    for_memory = process.returncode == -signal.SIGKILL and memory_kills() > kills
    raise _failure(last, process.returncode, log, own_log, for_memory=for_memory)


def child_environment() -> dict[str, str]:
    """This process's environment, with libraries kept quiet and the tokenizer single-threaded."""
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Waiting OpenMP threads sleep instead of spinning: 0.9 times as fast on an idle 2-core
        # machine, 2.7 times on a busy one (benchmarks/openmp_waiting.py).
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    return {**quiet, **os.environ}


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the child's whole process group; nothing happens when it has ended already."""
    if process.stdin:
        process.stdin.close()
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)  # also what the child itself has started
    process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _failure(
    last: Event | None, exit_code: int, log: Path, own_log: str, *, for_memory: bool
) -> PipelineError:
    if isinstance(last, Failed):
        return ERRORS_BY_EXIT_CODE[last.exit_code](last.found, last.expected, last.fix)
    if for_memory:
        return OutOfMemory(
            "The system killed the stage's process, because memory had run out.",
            "memory for the model and one forward and backward pass.",
            f"{SMALLER} The same command continues from the last checkpoint.",
        )
    tail = "\n".join(own_log.splitlines()[-LOG_LINES:])
    killed = " (killed by the system: usually it had run out of memory)" * (exit_code == -9)
    return PipelineError(
        f"The stage's process ended with exit code {exit_code}{killed}. Its log ends:\n{tail}\n",
        "a process that finishes its stage.",
        f"Read {log}; the same command continues from the last checkpoint.",
    )
