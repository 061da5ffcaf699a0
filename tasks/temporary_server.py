"""Prefect's temporary server for a run without one, out of reach of the terminal's Ctrl-C."""

import signal
import subprocess
from pathlib import Path
from typing import Any

from tasks.home import enable_wal, prefect_database, state_home
from tasks.locks import one_at_a_time
from tasks.stores.database import configured_database


def start_temporary_server() -> None:
    """Start what Prefect would start by itself, unless a server is configured; call it first.

    Raises EnvironmentFault when its database is damaged.

    A terminal sends Ctrl-C to every process in the foreground. The server must outlive the run
    whose end it records: Prefect's client tries over a minute to reach one that is gone. A blocked
    signal stays blocked in a new process, and the run itself ends the server by SIGTERM.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    class UninterruptedServer(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return super()._run_uvicorn_command()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    if not PREFECT_API_URL.value():
        # Two that make or migrate one database at the same time fail.
        with one_at_a_time(PREFECT_HOME.value() / "starting.lock"):
            require_prefect_database(state_home())
            UninterruptedServer().start()  # a singleton: Prefect finds it running


def require_prefect_database(home: Path) -> None:
    """Raise EnvironmentFault when Prefect's SQLite file is there and cannot be used.

    Prefect's client would start the server that fails on it again and again, for ever.
    """
    if configured_database() is None and prefect_database(home).exists():
        enable_wal(prefect_database(home))
