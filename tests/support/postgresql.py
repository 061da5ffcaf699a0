"""A PostgreSQL cluster of Debian's package, on a free port, as long as a test needs it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import psutil
from servers import free_port

VARIABLE = "ORPO_DATABASE_URL"
PASSWORD = "planted-9f3a"


def programs() -> Path | None:
    """The folder of the newest installed version's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Cluster:
    """A server with an empty database that asks for a password. It refuses to run as root."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._port = programs, folder, free_port()
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.url = f"postgresql+psycopg://bob:{PASSWORD}@127.0.0.1:{self._port}/postgres"

    def create(self) -> None:
        if self._user:
            shutil.chown(self._folder, "postgres", "postgres")
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        access = ("-U", "bob", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        self._call("initdb", *access, "--encoding=UTF8", "--locale=C")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder} -c fsync=off"
        log = str(self._folder / "data" / "log")
        self._call("pg_ctl", "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-w", "-m", "immediate", "stop")

    def kill(self) -> None:
        """kill -9 of the server, and then of what it leaves."""
        pid = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        processes = [server := psutil.Process(pid), *server.children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)

    def _call(self, name: str, *arguments: str) -> None:
        program = [str(self._programs / name), "-D", str(self._folder / "data")]
        # Its output goes to a file: a pipe would stay open as long as the server runs.
        with (self._folder / "output").open("ab") as output:
            subprocess.run(
                [*self._user, *program, *arguments],
                check=True,
                stdout=output,
                stderr=output,
                cwd="/",
                timeout=120,
            )


@contextmanager
def cluster(programs: Path) -> Iterator[Cluster]:
    """One that runs."""
    folder = Path(mkdtemp(prefix="orpo-postgresql-"))  # its user cannot enter pytest's folders
    try:
        made = Cluster(programs, folder)
        made.create()
        made.start()
        try:
            yield made
        finally:
            with suppress(subprocess.CalledProcessError):  # it was killed, and not started again
                made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """URL of a running one."""
    with cluster(programs) as made:
        yield made.url


def make_databases(url: str, name: str, template: str | None = None) -> str:
    """`ORPO_DATABASE_URL` of two new databases on the server of `url`: empty, or copies."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for part in ("prefect", "mlflow"):
            connection.execute(  # a database that somebody uses cannot be copied
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                [f"{template}_{part}"],
            )
            source = f'template "{template}_{part}"' if template else ""
            connection.execute(f'create database "{name}_{part}" {source}')
    return url.rpartition("/")[0].replace("+psycopg", "") + f"/{name}"
