"""PostgreSQL and S3 instead of the state folder: doctor asks those, not the files."""

from pathlib import Path

import pytest
from servers import free_port

from schemas.config import RunConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.findings import Level
from tasks.doctor.examination import check_recorded


def test_a_database_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    password = "planted-71b0"
    address = f"postgresql://ann:{password}@127.0.0.1:{free_port()}/orpo"
    monkeypatch.setenv("ORPO_DATABASE_URL", address)
    (finding,) = check_recorded(RunConfig(), tmp_path)
    assert (finding.what, finding.level) == ("databases", Level.ERROR)
    assert finding.exit_code == EnvironmentFault.exit_code
    assert "orpo_prefect" in finding.found and password not in str(finding)


def test_a_bucket_that_cannot_be_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_ARTIFACTS_URL", "http://host/planted-71b0")
    findings = {finding.what: finding for finding in check_recorded(RunConfig(), tmp_path)}
    assert findings["artifacts"].exit_code == UserError.exit_code
    assert "champion" not in findings and "planted" not in str(findings)
