"""`up`: Prefect server, MLflow server and a worker on this machine, until Ctrl-C."""

import os
import signal
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from schemas.errors import EnvironmentFault, PipelineError, UserError
from tasks import prefect_api
from tasks.access.listening import Listening
from tasks.access.login import LOGIN_FILE_VARIABLE, LOGIN_VARIABLE, configured_login
from tasks.access.mlflow_accounts import prepare_accounts
from tasks.lasting_console import LastingConsole
from tasks.ports import require_free
from tasks.process_group import Child, belongs_to_up, end_processes
from tasks.recovery.flow_runs import mark_stopped, unfinished_runs
from tasks.recovery.kept_servers import KeptServers, ended
from tasks.recovery.silence import Silence, answering, reporting
from tasks.recovery.watch import RunWatcher
from tasks.servers_file import (
    ProcessIdentity,
    ServersFile,
    only_one,
    remove_servers_file,
    running_prefect_api,
)
from tasks.service_commands import (
    mlflow_command,
    prefect_command,
    prefect_server_command,
    server_environment,
)
from tasks.stores.mlflow_schema import needs_upgrade, note_upgraded, upgrade_command
from tasks.stores.postgresql import own_databases
from tasks.temporary_server import require_prefect_database

__all__ = ["run_servers", "running_prefect_api"]

PREFECT, MLFLOW, WORKER, DEPLOY, UPGRADE = "prefect", "mlflow", "worker", "deploy", "upgrade"

# Mostly far less. A first start migrates two databases, and a busy 2-core machine took 100 s.
START_LIMIT_SECONDS = 240.0

# Together below the 15 s that a person, or an init system, should have to wait.
WORKER_GRACE_SECONDS = 7.0
SERVER_GRACE_SECONDS = 4.0


def _is_worker_or_below(role: str) -> bool:
    return belongs_to_up(role) and role not in (PREFECT, MLFLOW)


class _StopRequested(Exception):
    """Ctrl-C, SIGTERM, or the terminal was closed."""


def run_servers(home: Path, listening: Listening, open_browser: bool = False) -> int:
    """Run everything until a signal; call it from the main thread of a checkout's folder.

    Returns:
        0 after Ctrl-C, SIGTERM or SIGHUP; else, of an error that has been printed, its exit code:
        3 when a server could not start, or ended by itself too often.

    Raises:
        UserError: no `prefect.yaml` here, a port or host that cannot be, or one without its login.
        EnvironmentFault: a port is taken, or another `up` runs on this state folder or databases.
    """
    home = home.resolve()
    console = LastingConsole()
    _require_checkout()
    listening.require_safe()
    login = configured_login()
    if login is not None:  # what else the terminal has is an older one, or another server's
        os.environ.update(login.client_settings())
    exit_code = 0
    with only_one(home), own_databases(home) as require_databases:
        leftovers = end_processes(home, belongs_to_up, SERVER_GRACE_SECONDS)
        if leftovers:
            console.print(f"Ended {leftovers} processes that a killed `up` had left behind.")
        require_free(listening.prefect_port, "Prefect", "--prefect-port", listening.host)
        require_free(listening.mlflow_port, "MLflow", "--mlflow-port", listening.host)
        supervisor = _Supervisor(home, listening, console)
        with _signals_to(supervisor.request_stop):
            try:
                supervisor.start()
                supervisor.announce(open_browser)
                supervisor.watch(require_databases)
            except _StopRequested:
                pass
            except PipelineError as error:
                _print_problem(console, error)
                exit_code = error.exit_code
            finally:
                supervisor.stop()
    return exit_code


class _Supervisor:
    """Start in order, watch and mend, stop in the reverse order. Every wait notices signals."""

    def __init__(self, home: Path, listening: Listening, console: Console) -> None:
        self.home = home
        self.console = console
        self.listening = listening
        self.api, self.mlflow_url = listening.prefect_api, listening.mlflow_url
        self.servers = KeptServers(self._launch, self._clear_away, self._say)
        self.runs = RunWatcher(home, self.api, self.mlflow_url, self._say)
        health = {PREFECT: answering(self.api), MLFLOW: answering(self.mlflow_url)}
        self.silence = Silence({**health, WORKER: reporting(self.api)})
        self.stop_requested = False
        self.file = ServersFile(supervisor=ProcessIdentity.of_this_process())

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: the next look at `stop_requested`, 0.2 s away at most, acts on it."""
        self.stop_requested = True

    def start(self) -> None:
        """Returns when runs can be started and the worker takes them."""
        self.console.print("Starting (about half a minute).")
        upgrade = needs_upgrade(self.home)
        prepare_accounts(self.home)
        require_prefect_database(self.home)
        self._start_server(PREFECT, prefect_server_command(self.listening))
        if upgrade:
            self._say("The databases are brought to this release; don't interrupt it.")
            self._finish(self._launch(UPGRADE, upgrade_command(self.home)), limit=None)
        self._start_server(MLFLOW, mlflow_command(self.home, self.listening))
        self._wait("Prefect", lambda: prefect_api.answers(f"{self.api}/health"))
        self._deploy()
        self._wait("MLflow", lambda: prefect_api.answers(f"{self.mlflow_url}/health"))
        self.runs.sweep()
        self._start_worker()
        note_upgraded(self.home)
        self.file.prefect_api = self.api
        self.file.mlflow_url = self.listening.page(self.listening.mlflow_port)
        self.file.write(self.home)

    def announce(self, open_browser: bool) -> None:
        """Print where everything is."""
        login = ""
        if configured_login() is not None:
            said = f"${LOGIN_VARIABLE}"
            if LOGIN_VARIABLE not in os.environ:
                said = f'$(cat "${LOGIN_FILE_VARIABLE}")'
            login = f'  export PREFECT_API_AUTH_STRING="{said}"\n'
        self.console.print(
            f"\nPrefect  {self.listening.page(self.listening.prefect_port)}\n"
            f"MLflow   {self.listening.page(self.listening.mlflow_port)}\n"
            f"State    {self.home}\nLogs     {self.home / 'logs'}\n\n"
            "In another terminal:\n"
            f"  export PREFECT_API_URL={self.api}\n"
            f"{login}"
            "  prefect deployment run 'orpo-pipeline/orpo-pipeline'\n\n"
            "Stop with Ctrl-C.",
            highlight=False,
            soft_wrap=True,
        )
        if open_browser:
            webbrowser.open(self.mlflow_url)

    def watch(self, require_databases: Callable[[], None]) -> None:
        """Return never: a signal ends it, or a server that dies again and again."""
        while True:
            self._check_stop()
            require_databases()
            for role in self.silence.look(self.servers.living(), time.monotonic()):
                self.servers.kill(role, "gives no sign of life")
            if self.servers.mend():
                self._write_file()
            if WORKER not in self.servers.restart_at:
                self.runs.look()
            time.sleep(0.2)

    def stop(self) -> None:
        """Worker and its runs first, because they report their end to the servers."""
        if self.servers.children:
            self.console.print("Stopping.")
        active = []
        with suppress(EnvironmentFault):  # the server may be what died; the next `up` does it then
            if WORKER in self.servers.children:
                active = unfinished_runs(self.api, timeout=1)
        end_processes(self.home, _is_worker_or_below, WORKER_GRACE_SECONDS)
        with suppress(EnvironmentFault):
            mark_stopped(self.api, active, timeout=1)
        end_processes(self.home, belongs_to_up, SERVER_GRACE_SECONDS)
        remove_servers_file(self.home)

    def _clear_away(self, role: str) -> bool:
        if role != WORKER:
            end_processes(self.home, lambda other: other == role, SERVER_GRACE_SECONDS)
            return True
        # A run that starts looks at both servers, and fails where one does not answer.
        if not all(prefect_api.answers(f"{url}/health") for url in (self.api, self.mlflow_url)):
            return False
        end_processes(self.home, _is_worker_or_below, WORKER_GRACE_SECONDS)
        try:
            self.runs.worker_died()
        except EnvironmentFault:  # the server went away meanwhile
            return False
        return True

    def _say(self, text: str) -> None:
        """A line of what happened while nobody looked."""
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _start_server(self, role: str, command: list[str]) -> None:
        self.servers.start(role, command)
        self._write_file()

    def _write_file(self) -> None:
        self.file.processes = self.servers.pids()
        self.file.write(self.home)

    def _start_worker(self) -> None:
        before = datetime.now(UTC)
        pool = prefect_api.WORK_POOL
        options = ("--pool", pool, "--type", "process", "--name", pool)
        self._start_server(WORKER, prefect_command("worker", "start", *options))
        self._wait("The worker", lambda: prefect_api.worker_seen_since(self.api, pool, before))

    def _deploy(self) -> None:
        """Before the worker starts: runs that wait must find this checkout, not an older one."""
        prefect_api.ensure_work_pool(self.api)
        with prefect_api.activity_kept(self.api):
            self._finish(self._launch(DEPLOY, prefect_command("--no-prompt", "deploy", "--all")))

    def _launch(self, role: str, command: list[str]) -> Child:
        environment = server_environment(self.home, self.listening)
        return Child.start(role, command, self.home, environment)

    def _finish(self, child: Child, limit: float | None = START_LIMIT_SECONDS) -> None:
        """Wait for a step that ends by itself, and must do so well; None: however long it takes."""
        self._wait(f"The step `{child.role}`", lambda: child.process.poll() is not None, limit)
        if child.process.returncode != 0:
            raise ended(child, "exit code 0.")

    def _wait(
        self,
        what: str,
        is_ready: Callable[[], bool],
        limit: float | None = START_LIMIT_SECONDS,
    ) -> None:
        started = time.monotonic()
        while not is_ready():
            self._check()
            if limit is not None and time.monotonic() > started + limit:
                raise EnvironmentFault(
                    f"{what} was not ready after {limit:.0f} s.",
                    "an answer in that time.",
                    f"See the logs in {self.home / 'logs'}; is the machine very busy?",
                )
            time.sleep(0.2)

    def _check_stop(self) -> None:
        if self.stop_requested:
            raise _StopRequested

    def _check(self) -> None:
        self._check_stop()
        self.servers.require_alive()


def _require_checkout() -> None:
    checkout = Path.cwd()
    if not (checkout / "prefect.yaml").is_file():
        raise UserError(
            f"No prefect.yaml in {checkout}.",
            "to be in a checkout of orpo-pipeline: its deployments are registered from there.",
            "Change to the checkout's folder.",
        )


@contextmanager
def _signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _print_problem(console: Console, error: PipelineError) -> None:
    console.print(error.found, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Expected: {error.expected}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Fix: {error.fix}", markup=False, highlight=False, soft_wrap=True)
