"""The processes of one `up`: started, found again, and ended to the last one.

Prefect starts each flow run in a session of its own, and a killed parent leaves its children to
init. So neither process groups nor parent ids find everything; an inherited variable does.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MARKER = "ORPO_UP"
"""Environment variable of everything that `up` starts: `ROLE:STATE_FOLDER`."""

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Environment variable, of Prefect's, of a flow run's process and of all below it."""

RUN = "run-"
"""Role of what `orpo-pipeline run` starts, followed by its process id."""

LONE_WORKER = "lone-worker"
"""Role of `orpo-pipeline worker` and what its runs start."""

KILL_WAIT_SECONDS = 1.0


class Child:
    """A process with a log file, in its own session, so that a Ctrl-C reaches only `up`."""

    def __init__(self, role: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.role = role
        self.process = process
        self.log = log

    @classmethod
    def start(
        cls, role: str, command: list[str], home: Path, environment: dict[str, str]
    ) -> "Child":
        """Run `command`; its output goes to `{home}/logs/{role}.log`, the last one to `.log.1`."""
        log = home / "logs" / f"{role}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:  # appending, so that it can be cut while it is open
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, MARKER: f"{role}:{home}"},
                start_new_session=True,
            )
        return cls(role, process, log)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])


def owner_of(process: psutil.Process) -> tuple[str, str] | None:
    """(role, state folder) of a process that an `up` started; None for any other process."""
    try:
        role, separator, home = process.environ().get(MARKER, "").partition(":")
    except (psutil.Error, OSError):  # other users' processes, and those that end meanwhile
        return None
    return (role, home) if separator else None


def find_processes(home: Path, is_wanted: Callable[[str], bool]) -> list[psutil.Process]:
    """Processes of `up` on this state folder whose role is wanted; never the caller itself."""
    found = []
    for process in psutil.process_iter():
        owner = owner_of(process) if process.pid != os.getpid() else None
        if owner and owner[1] == str(home) and is_wanted(owner[0]):
            found.append(process)
    return found


def end_processes(home: Path, is_wanted: Callable[[str], bool], grace: float) -> int:
    """SIGTERM to each, `grace` seconds for all together, then SIGKILL; returns how many.

    A process is asked once, and only when its parent is not among them (any more): a parent knows
    best how to end its own. So a training is ended by its flow run, and a flow run, which Prefect's
    worker leaves behind when it stops, by us.
    """
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    count = len(remaining := find_processes(home, is_wanted))
    while remaining and time.monotonic() < deadline:
        pids = {process.pid for process in remaining}
        for process in remaining:
            if process.pid not in asked and _parent(process) not in pids:
                asked.add(process.pid)
                _send(process, signal.SIGTERM)
        psutil.wait_procs(remaining, timeout=0.2)
        remaining = find_processes(home, is_wanted)
    for process in remaining:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(remaining, timeout=KILL_WAIT_SECONDS)
    return count


def belongs_to_up(role: str) -> bool:
    """Whether `up` started it; a run or a worker in another terminal is left alone."""
    return not role.startswith(RUN) and role != LONE_WORKER


def living_flow_runs(home: Path) -> set[str]:
    """Ids of the flow runs of `up`'s worker of which a process lives, be it only a child."""
    found = (_flow_run_of(process) for process in find_processes(home, belongs_to_up))
    return {flow_run for flow_run in found if flow_run}


def end_flow_run(home: Path, flow_run: str) -> None:
    """Kill what is left of a flow run's processes."""
    for process in find_processes(home, belongs_to_up):
        if _flow_run_of(process) == flow_run:
            _send(process, signal.SIGKILL)


def _flow_run_of(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(FLOW_RUN)
    except (psutil.Error, OSError):
        return None


def mark_run(home: Path) -> None:
    """Mark this process's children as of one `orpo-pipeline run`, and end what dead ones left.

    Prefect's temporary server outlives a run that was killed with -9.
    """
    left = [
        process
        for process in find_processes(home, lambda role: role.startswith(RUN))
        if not psutil.pid_exists(_run_pid(process))
    ]
    for process in left:
        _send(process, signal.SIGTERM)
    os.environ[MARKER] = f"{RUN}{os.getpid()}:{home}"


def _run_pid(process: psutil.Process) -> int:
    owner = owner_of(process)
    return int(owner[0].removeprefix(RUN)) if owner else os.getpid()


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
