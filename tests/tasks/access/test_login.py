"""The login of the servers: what it may be, who gets it, and what is written of it."""

import stat
from pathlib import Path

import pytest

from schemas.errors import EnvironmentFault, UserError
from tasks.access.login import Login, configured_login
from tasks.access.mlflow_accounts import login_environment, prepare_accounts
from tasks.home import service_environment

LOGIN = "ann:planted-4c1d-9f20"


def test_clients_of_both_servers_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_AUTH", LOGIN)
    settings = service_environment(tmp_path)
    assert settings["PREFECT_API_AUTH_STRING"] == LOGIN
    assert settings["MLFLOW_TRACKING_USERNAME"] == "ann"
    assert settings["MLFLOW_TRACKING_PASSWORD"] == "planted-4c1d-9f20"


def test_a_client_with_a_token_of_its_own_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_AUTH", LOGIN)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_of_the_cloud")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-another-server")
    assert LOGIN not in str(service_environment(tmp_path))
    assert "planted" not in str(service_environment(tmp_path))


def test_an_empty_setting_is_none_and_one_of_another_server_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for `up`, whose servers have this login and no other."""
    monkeypatch.setenv("ORPO_AUTH", LOGIN)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "")
    assert service_environment(tmp_path)["PREFECT_API_AUTH_STRING"] == LOGIN
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ann:before")
    assert service_environment(tmp_path)["PREFECT_API_AUTH_STRING"] == "ann:before"
    login = configured_login()
    assert login is not None and login.client_settings()["PREFECT_API_AUTH_STRING"] == LOGIN


def test_it_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "login"
    file.write_text(f"{LOGIN}\n")
    monkeypatch.setenv("ORPO_AUTH_FILE", str(file))
    assert configured_login() == Login("ann", "planted-4c1d-9f20")
    file.unlink()
    with pytest.raises(EnvironmentFault, match="ORPO_AUTH_FILE cannot be read"):
        configured_login()


@pytest.mark.parametrize(
    "text",
    [
        "ann",
        "ann:",
        ":planted-4c1d-9f20",
        "ann:planted-4c1",  # 11 characters
        "password:Password1234",
        "ann:planted 4c1d 9f20",
        "ann:plänted-4c1d-9f20",
        "ann:planted-4c1d\n-9f20",
    ],
)
def test_one_that_is_weak_or_cannot_be_sent_is_refused_and_not_repeated(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_AUTH", text)
    with pytest.raises(UserError, match="ORPO_AUTH or ORPO_AUTH_FILE cannot be used") as caught:
        configured_login()
    assert "planted" not in str(caught.value) and "Password1234" not in str(caught.value)


def test_it_shows_no_password() -> None:
    assert "planted" not in repr(Login("ann", "planted-4c1d-9f20"))


def test_mlflow_s_accounts_are_new_at_each_start_and_for_this_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_accounts(tmp_path)
    assert not (tmp_path / "mlflow").exists()

    monkeypatch.setenv("ORPO_AUTH", LOGIN)
    home = tmp_path / "100 %"
    prepare_accounts(home)
    database = home / "mlflow" / "accounts.db"
    database.write_bytes(b"the accounts of an earlier start")
    prepare_accounts(home)
    assert database.read_bytes() == b""
    for file in (home / "mlflow").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "planted" not in file.read_text()

    from mlflow.server.auth.config import read_auth_config

    for name, value in login_environment(home, Login("ann", "planted-4c1d-9f20")).items():
        monkeypatch.setenv(name, value)
    read = read_auth_config()
    assert read.database_uri == f"sqlite:///{database}"
    assert (read.admin_username, read.admin_password) == ("ann", "planted-4c1d-9f20")
    assert read.default_permission == "NO_PERMISSIONS"
