"""One `up` for a pair of databases, in a real PostgreSQL that dies, hangs and loses connections."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from postgresql import VARIABLE, Cluster, cluster, make_databases, programs
from servers import REPOSITORY, wait_for

from schemas.errors import EnvironmentFault
from tasks.stores import postgresql
from tasks.stores.postgresql import own_databases

INSTALLED = programs()

pytestmark = pytest.mark.skipif(
    INSTALLED is None, reason="PostgreSQL is not installed (apt-get install postgresql)"
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Looked at all the time."""
    assert INSTALLED is not None
    monkeypatch.setattr(postgresql, "LOOK_SECONDS", 0.05)
    with cluster(INSTALLED) as server:
        monkeypatch.setenv(VARIABLE, make_databases(server.url, "claimed"))
        yield server


def is_claimed(home: Path) -> bool:
    try:
        with own_databases(home):
            return False
    except EnvironmentFault as error:
        return "another `up`" in error.found


def holder(server: Cluster) -> int | None:
    """The process of PostgreSQL that has the claim. To ask for it would be to take it."""
    query = "select pid from pg_locks where locktype = 'advisory' and granted"
    with closing(psycopg.connect(server.url.replace("+psycopg", ""))) as connection:
        found = connection.execute(query).fetchone()
        return found[0] if found else None


@contextmanager
def stopped_holder(server: Cluster) -> Iterator[psutil.Process]:
    process = psutil.Process(holder(server))
    process.suspend()
    try:
        yield process
    finally:
        process.resume()


def lose_connections() -> None:
    """Of this process with the server, which gets no word of it: its processes are stopped."""
    for one in psutil.Process().net_connections("tcp"):
        if one.status == psutil.CONN_ESTABLISHED:
            with socket.socket(fileno=os.dup(one.fd)) as own:
                own.shutdown(socket.SHUT_RDWR)


def test_one_up_owns_the_databases_until_it_ends(server: Cluster, tmp_path: Path) -> None:
    own = "import sys, time\nfrom pathlib import Path\nfrom tasks.stores.postgresql import *\n"
    own += "with own_databases(Path('/state')):\n    print('mine', flush=True)\n    time.sleep(600)"
    other = subprocess.Popen(
        [sys.executable, "-c", own],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert other.stdout is not None and other.stdout.readline() == "mine\n"
    with (
        pytest.raises(EnvironmentFault, match=f"process {other.pid}, on /state"),
        own_databases(tmp_path),
    ):
        pass
    other.kill()
    other.wait(10)

    def can_own() -> bool:
        try:
            with own_databases(tmp_path):
                return True
        except EnvironmentFault:
            return False

    wait_for(can_own, 20)  # the server notices the closed connection by itself


def test_the_databases_are_claimed_again_after_their_server_was_away(
    server: Cluster, tmp_path: Path
) -> None:
    with own_databases(tmp_path) as require_kept:
        server.kill()
        time.sleep(0.5)
        require_kept()  # that it is away is nobody's fault
        server.start()
        wait_for(lambda: holder(server), 20)
        assert is_claimed(tmp_path / "other")
        require_kept()
    wait_for(lambda: not is_claimed(tmp_path / "other"), 20)


def test_another_up_that_was_faster_is_named(
    server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LOOK_SECONDS", 3)
    with own_databases(tmp_path) as require_kept:
        server.kill()
        server.start()
        with own_databases(tmp_path), pytest.raises(EnvironmentFault, match="another `up`"):
            for _ in range(200):
                require_kept()
                time.sleep(0.1)


def test_a_connection_that_only_this_side_lost_is_no_other_up(
    server: Cluster, tmp_path: Path
) -> None:
    """The server holds the lock of the old one until it notices, which may take a minute."""
    with own_databases(tmp_path) as require_kept:
        with stopped_holder(server) as old:
            lose_connections()
            time.sleep(1)
            require_kept()
        wait_for(lambda: holder(server) not in (None, old.pid), 20)
        require_kept()
        assert not old.is_running()


def test_a_server_that_hangs_holds_nothing_up(server: Cluster, tmp_path: Path) -> None:
    with own_databases(tmp_path) as require_kept, stopped_holder(server):
        time.sleep(0.5)
        started = time.monotonic()
        require_kept()
        assert time.monotonic() - started < 1
