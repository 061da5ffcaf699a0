"""A PostgreSQL cluster of Debian's package, on a free port, as long as a test needs it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from servers import free_port

VARIABLE = "ORPO_DATABASE_URL"
PASSWORD = "planted-9f3a"


def programs() -> Path | None:
    """The folder of the newest installed version's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """URL of an empty database that asks for a password. It refuses to run as root."""
    folder = Path(mkdtemp(prefix="orpo-postgresql-"))  # its user cannot enter pytest's folders
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    port = free_port()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)

    def call(name: str, *arguments: str) -> None:
        command = [*user, str(programs / name), "-D", str(folder / "data"), *arguments]
        # Its output goes to a file: a pipe would stay open as long as the server runs.
        with (folder / "output").open("ab") as output:
            subprocess.run(command, check=True, stdout=output, stderr=output, cwd="/", timeout=120)

    try:
        access = ("-U", "bob", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        call("initdb", *access, "--encoding=UTF8", "--locale=C")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        call("pg_ctl", "-w", "-l", str(folder / "data" / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://bob:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
