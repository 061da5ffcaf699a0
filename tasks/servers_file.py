"""`servers.json` in the state folder: what `up` is running, for other commands to find."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import EnvironmentFault
from tasks.home import make_folder

FILE_NAME = "servers.json"

# psutil derives a start time from the boot time, which moves a little when the clock is corrected.
START_TIME_TOLERANCE_SECONDS = 2.0


class ProcessIdentity(BaseModel):
    """A process id alone is reused after a reboot; with its start time it names one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started: float
    """Seconds since the epoch."""

    @classmethod
    def of_this_process(cls) -> "ProcessIdentity":
        return cls(pid=os.getpid(), started=psutil.Process().create_time())

    def is_running(self) -> bool:
        """True while exactly this process lives."""
        try:
            process = psutil.Process(self.pid)
            difference = abs(process.create_time() - self.started)
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
        return alive and difference < START_TIME_TOLERANCE_SECONDS


class ServersFile(BaseModel):
    """One running `up`. The URLs are set once all servers are ready."""

    model_config = ConfigDict(extra="forbid")

    supervisor: ProcessIdentity
    processes: dict[str, int] = {}
    """Process ids by name, for a person who looks."""
    prefect_api: str | None = None
    mlflow_url: str | None = None

    def write(self, home: Path) -> None:
        """Replace the file in one step: a reader sees the old one or the new one."""
        home.mkdir(parents=True, exist_ok=True)
        partial = home / f"{FILE_NAME}.{os.getpid()}.partial"
        partial.write_text(json.dumps(self.model_dump(), indent=2) + "\n", encoding="utf-8")
        partial.replace(home / FILE_NAME)


def read_servers_file(home: Path) -> ServersFile | None:
    """The file's content, whether its processes still run or not; None if absent or unreadable."""
    try:
        return ServersFile.model_validate_json((home / FILE_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def remove_servers_file(home: Path) -> None:
    """Remove the file if it is there."""
    (home / FILE_NAME).unlink(missing_ok=True)


def running_servers(home: Path) -> ServersFile | None:
    """The `up` that runs on this state folder now, or None."""
    servers = read_servers_file(home)
    return servers if servers and servers.supervisor.is_running() else None


def running_prefect_api(home: Path) -> str | None:
    """API URL of the Prefect server that `up` runs on this state folder, or None."""
    servers = running_servers(home)
    return servers.prefect_api if servers else None


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the state folder's lock, which the kernel gives back however this process ends."""
    make_folder(home)
    with (home / "servers.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            servers = running_servers(home)
            process = f"process {servers.supervisor.pid}" if servers else "another process"
            where = f", MLflow at {servers.mlflow_url}" if servers and servers.mlflow_url else ""
            raise EnvironmentFault(
                f"`up` runs on {home} already ({process}{where}).",
                "one `up` for a state folder.",
                "Use the running one, or stop it with Ctrl-C in its terminal.",
            ) from None
        yield
