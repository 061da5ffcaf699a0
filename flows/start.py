"""Before a flow runs in this process: where Prefect and MLflow keep what, and who ends what."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from schemas.errors import EnvironmentFault
from tasks.home import make_folder, service_environment, state_home
from tasks.process_group import mark_run
from tasks.stores.database import configured_database
from tasks.stores.postgresql import require_databases

TERMINATED = 143  # 128 + SIGTERM, as a shell reports it


def start_flow(refuse: Callable[[], None]) -> Console:
    """Make everything ready for a flow in this process; the console that tells its end.

    `use_state_folder` comes first.

    Args:
        refuse: raises what can be known now. Asked before a server is started, since that takes
            longer; one that runs already is to record the refusal as a failed run.
    """
    # An exit, not a death by signal: only so is Prefect's temporary server stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    mark_run(state_home())
    if "PREFECT_API_URL" not in os.environ:
        refuse()
        if (database := configured_database()) is not None:
            require_databases(database)  # the temporary server's own error is a stack trace
    from tasks.temporary_server import start_temporary_server

    start_temporary_server()
    console = Console()
    console.print(f"state folder {state_home()}", style="dim", soft_wrap=True)
    return console


def use_state_folder(debug: bool) -> None:
    """Point Prefect and MLflow at the state folder, and at the server of `up` when it runs.

    Both read their settings when they are imported, so this comes first.
    """
    from tasks.prefect_api import answers, require_access
    from tasks.servers_file import running_prefect_api
    from tasks.service_commands import CLIENT_RETRIES

    home = state_home()
    # Prefect logs each failed task with its stack trace; without --debug one paragraph says it.
    level = "DEBUG" if debug else os.environ.get("PREFECT_LOGGING_LEVEL", "CRITICAL")
    api = os.environ.get("PREFECT_API_URL") or running_prefect_api(home)
    if api and not answers(f"{api}/health"):
        raise EnvironmentFault(
            f"The Prefect server {api} does not answer.",
            "a running Prefect server in PREFECT_API_URL, or none named.",
            "Start it (`make up`), or `unset PREFECT_API_URL` to run without a server.",
        )
    if api and "PREFECT_API_KEY" not in os.environ:  # that is of Prefect's cloud
        require_access(api)
    os.environ.update(
        service_environment(home), PREFECT_LOGGING_LEVEL=level, PREFECT_LOGGING_INTERNAL_LEVEL=level
    )
    make_folder(Path(os.environ["PREFECT_HOME"]))  # its SQLite does not make the folder
    if api:
        os.environ["PREFECT_API_URL"] = api
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", CLIENT_RETRIES)
