"""Where the servers may listen, and the names by which a browser may come."""

import socket

import pytest

from schemas.errors import UserError
from tasks.access.listening import Listening

LOGIN = "ann:planted-4c1d-9f20"


def test_this_machine_needs_no_login() -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.9"):
        Listening(host=host).require_safe()
    assert Listening().prefect_api == "http://127.0.0.1:4200/api"
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in Listening().environment()


def test_every_other_host_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "10.1.2.3"):
        with pytest.raises(UserError, match=f"--host {host} lets other machines in") as caught:
            Listening(host=host).require_safe()
        assert "ORPO_AUTH" in caught.value.expected
        monkeypatch.setenv("ORPO_AUTH", LOGIN)
        Listening(host=host).require_safe()
        monkeypatch.delenv("ORPO_AUTH")


@pytest.mark.parametrize("host", ["", "::", "no such name", "-x", "name.invalid", "a/b"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UserError, match=r"--host .* cannot be used"):
        Listening(host=host).require_safe()


def test_mlflow_is_told_every_name_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = Listening(mlflow_port=5100, host="0.0.0.0")
    assert everywhere.mlflow_url == "http://127.0.0.1:5100"  # what our own clients ask
    assert everywhere.page(5100) == f"http://{socket.gethostname()}:5100"
    assert Listening().page(5000) == "http://127.0.0.1:5000"
    settings = everywhere.environment()
    allowed = settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"127.0.0.1:5100", f"{socket.gethostname()}:5100"} <= set(allowed)
    assert not any("*" in name for name in allowed)
    origins = settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert origins == [f"http://{name}" for name in allowed]
    # The page asks the server that it came from, whatever its name is.
    assert settings["PREFECT_SERVER_UI_API_URL"] == "/api"

    one = Listening(host="10.1.2.3")
    assert one.prefect_api == "http://10.1.2.3:4200/api"
    assert one.environment()["MLFLOW_SERVER_ALLOWED_HOSTS"] == "10.1.2.3:5000"

    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "models.example.org")  # of a reverse proxy
    assert one.environment()["MLFLOW_SERVER_ALLOWED_HOSTS"] == "models.example.org"
