"""What `up` decides without starting anything."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import UserError
from tasks.access.listening import Listening
from tasks.servers import run_servers, running_prefect_api
from tasks.servers_file import ProcessIdentity, ServersFile

REPOSITORY = Path(__file__).parents[2]


def test_stale_servers_file_is_ignored(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    itself = ProcessIdentity.of_this_process()
    supervisors = {
        "ended": ProcessIdentity(pid=ended.pid, started=time.time()),
        "pid used again": ProcessIdentity(pid=itself.pid, started=itself.started - 100),
    }
    for reason, supervisor in supervisors.items():
        ServersFile(supervisor=supervisor, prefect_api="http://127.0.0.1:1/api").write(tmp_path)
        assert running_prefect_api(tmp_path) is None, reason
    (tmp_path / "servers.json").write_text('{"supervisor"')
    assert running_prefect_api(tmp_path) is None
    ServersFile(supervisor=itself, prefect_api="http://127.0.0.1:1/api").write(tmp_path)
    assert running_prefect_api(tmp_path) == "http://127.0.0.1:1/api"


def test_needs_a_checkout_and_two_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"No prefect\.yaml"):
        run_servers(tmp_path / "home", Listening())
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match="port 4200"):
        run_servers(tmp_path / "home", Listening(4200, 4200))
    assert not (tmp_path / "home").exists()
