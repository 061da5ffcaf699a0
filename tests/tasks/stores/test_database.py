"""What `ORPO_DATABASE_URL` and `ORPO_ARTIFACTS_URL` may be, and where their secrets go."""

from pathlib import Path

import pytest

from schemas.errors import UserError
from tasks.home import mlflow_store, service_environment
from tasks.stores.artifacts import ARTIFACTS_VARIABLE, artifact_location
from tasks.stores.database import DATABASE_VARIABLE, configured_database

SECRET = "p@ss/w:rd-77"
GIVEN = "postgresql://ann:p%40ss%2Fw%3Ard-77@db.example:6432/orpo"


def test_each_server_has_its_database_and_no_address_has_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, GIVEN)
    assert mlflow_store(tmp_path) == "postgresql+psycopg://ann@db.example:6432/orpo_mlflow"
    settings = service_environment(tmp_path)
    prefect = settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert prefect == "postgresql+asyncpg://ann@db.example:6432/orpo_prefect"
    assert settings.pop("PGPASSWORD") == SECRET
    assert "ss" not in mlflow_store(tmp_path) and SECRET not in str(settings)


def test_a_password_may_stand_in_libpq_s_own_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql+psycopg://ann@db/orpo")
    assert "PGPASSWORD" not in service_environment(tmp_path)


def test_without_the_variables_everything_is_in_the_state_folder(tmp_path: Path) -> None:
    assert configured_database() is None
    assert mlflow_store(tmp_path) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert artifact_location(tmp_path) == f"file://{tmp_path}/mlflow/artifacts"
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in service_environment(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        f"mysql://ann:{SECRET}@db/orpo",
        "postgresql://ann:planted@db",  # no name
        "postgresql:///orpo",  # no host
        "postgresql://ann:planted@db/orpo?sslmode=require",  # asyncpg has no such option
        "postgresql://ann:planted@db:port/orpo",
        f"postgresql://ann:{SECRET}@db/orpo",  # a password that is not encoded
        "postgresql://ann:planted@db/orpo; drop table users",
        "planted",
    ],
)
def test_what_cannot_be_used_is_refused_and_not_repeated(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, given)
    with pytest.raises(UserError) as caught:
        configured_database()
    assert DATABASE_VARIABLE in caught.value.found and "%40 for @" in caught.value.expected
    assert "planted" not in str(caught.value) and "77" not in str(caught.value)


def test_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARTIFACTS_VARIABLE, "s3://models/orpo/")
    assert artifact_location(tmp_path) == "s3://models/orpo"
    for given in ("gs://models", "s3:///orpo", "models", "s3://key:planted@models/orpo"):
        monkeypatch.setenv(ARTIFACTS_VARIABLE, given)
        with pytest.raises(UserError, match="cannot be used") as caught:
            artifact_location(tmp_path)
        assert "planted" not in str(caught.value)
