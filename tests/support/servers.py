"""A real `up` on free ports, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tasks import prefect_api
from tasks.servers import running_prefect_api

REPOSITORY = Path(__file__).parents[2]

START = """
import sys
from pathlib import Path
from tasks.access.listening import Listening
from tasks.servers import run_servers
home, prefect_port, mlflow_port = sys.argv[1:]
sys.exit(run_servers(Path(home), Listening(int(prefect_port), int(mlflow_port))))
"""


@dataclass
class Up:
    """A started `up` and where to reach it."""

    process: "subprocess.Popen[bytes]"
    home: Path
    checkout: Path
    ports: tuple[int, int]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    def run_state(self, run: str) -> str:
        """State type of a flow run, such as RUNNING."""
        return str(prefect_api.call(self.api, "GET", f"/flow_runs/{run}")["state_type"])

    def start_run(self, config: dict[str, Any], deployment: str = "orpo-pipeline") -> str:
        """Id of a new flow run of a deployment."""
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        run = prefect_api.call(self.api, "POST", path, {"parameters": {"config": config}})
        return str(run["id"])

    @property
    def output(self) -> str:
        return (self.home.parent / "output.txt").read_text()

    def deployment(self, name: str) -> dict[str, Any]:
        flow = "orpo-pipeline" if name == "orpo-pipeline" else "orpo-retrain"
        path = f"/deployments/name/{flow}/{name}"
        found: dict[str, Any] = prefect_api.call(self.api, "GET", path)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return value


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that has ended and waits for init to notice does not."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def start_up(
    folder: Path,
    checkout: Path,
    environment: dict[str, str] | None = None,
    ports: tuple[int, int] | None = None,
) -> Up:
    """State folder and output in `folder`; flows and deployments are those of `checkout`."""
    home, ports = folder / "home", ports or (free_port(), free_port())
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    # Prefect looks for schedules once a minute; a test need not wait so long.
    often = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(home), *map(str, ports)],
            cwd=checkout,
            env={**kept, **often, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    up = Up(process, home, checkout, ports)
    try:
        wait_for(lambda: running_prefect_api(home) or process.poll() is not None, 200)
        assert process.poll() is None, up.output
    except BaseException:
        end(up)
        raise
    return up


def end(up: Up) -> None:
    if up.process.poll() is None:
        up.process.send_signal(signal.SIGINT)
    up.process.wait(30)
