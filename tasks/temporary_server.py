"""Prefect's temporary server for a run without one, out of reach of the terminal's Ctrl-C."""

import signal
import subprocess
from typing import Any


def start_temporary_server() -> None:
    """Start what Prefect would start by itself, unless a server is configured; call it first.

    A terminal sends Ctrl-C to every process in the foreground. The server must outlive the run
    whose end it records: Prefect's client tries over a minute to reach one that is gone. A blocked
    signal stays blocked in a new process, and the run itself ends the server by SIGTERM.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    class UninterruptedServer(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return super()._run_uvicorn_command()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    if not PREFECT_API_URL.value():
        UninterruptedServer().start()  # a singleton: Prefect finds it running
