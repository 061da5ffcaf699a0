"""The state folder and its databases: whole, broken, full, and of another release."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from versions import Versions

from orpo_pipeline.stages import file_sha256, new_stage
from schemas.findings import Finding, Level
from tasks.doctor.champion import check_champion
from tasks.doctor.databases import Database, check_database, databases, known_revisions
from tasks.doctor.known import Known
from tasks.doctor.state_folder import check_disk, check_leftovers, check_unfinished, check_writable
from tasks.doctor.training import disk_needs
from tasks.home import mlflow_store
from tasks.servers_file import ProcessIdentity, ServersFile
from tasks.version_tags import SHA256_TAG


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    assert check_writable(tmp_path).level is Level.OK
    assert "made by the first run" in check_writable(tmp_path / "new" / "home").found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below_a_file = check_writable(tmp_path / "file" / "home")
    assert below_a_file.level is Level.ERROR and "cannot be written" in below_a_file.found
    assert "ORPO_HOME" in below_a_file.fix


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    finding = check_writable(tmp_path)
    tmp_path.chmod(0o700)
    assert finding.level is Level.ERROR


def test_a_disk_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    """A sparse file takes no space here; what is made of it would."""
    data = tmp_path / "pairs.jsonl"
    with data.open("wb") as file:
        file.truncate(1 << 43)
    known = Known()
    assert check_disk(tmp_path, disk_needs(known)).level is Level.OK
    known.add_source(data.stat().st_size, 100.0, None)
    finding = check_disk(tmp_path / "new", disk_needs(known))
    assert finding.level is Level.ERROR and "data 32768.0 GiB" in finding.found


def test_what_killed_processes_left_is_said_with_its_names(tmp_path: Path) -> None:
    assert check_leftovers(tmp_path).level is Level.OK
    half = tmp_path / "adapters" / ".abc.17.f00d"
    half.mkdir(parents=True)
    assert check_leftovers(tmp_path).level is Level.OK, "a living writer's is younger"
    os.utime(half, (time.time() - 2 * 86400,) * 2)
    (tmp_path / "prepared" / "def.damaged").mkdir(parents=True)
    ServersFile(supervisor=ProcessIdentity(pid=os.getpid(), started=1.0)).write(tmp_path)
    finding = check_leftovers(tmp_path)
    assert finding.level is Level.WARNING
    for words in ("adapters/.abc.17.f00d", "prepared/def.damaged", f"process {os.getpid()}"):
        assert words in finding.found


def test_an_unfinished_training_is_no_problem(tmp_path: Path) -> None:
    assert list(check_unfinished(tmp_path)) == []
    with new_stage(tmp_path / "training" / "abc" / "checkpoint-2") as folder:
        (folder / "weights").touch()
    (finding,) = check_unfinished(tmp_path)
    assert finding.level is Level.OK and "training/abc" in finding.found


@pytest.fixture
def mlflow(tmp_path: Path) -> Database:
    """MLflow's, with the installed version's schema, where the path would cut an address short."""
    database, _ = databases(tmp_path / "c#")
    database.path.parent.mkdir(parents=True)
    _, (newest,) = known_revisions(database)
    with closing(sqlite3.connect(database.path)) as connection, connection:
        connection.execute("create table alembic_version (version_num)")
        connection.execute("insert into alembic_version values (?)", [newest])
        connection.execute("create table facts (fact)")
        connection.executemany("insert into facts values (?)", [("x" * 4000,)] * 20)
    return database


def test_a_database_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    for database in databases(tmp_path):
        (finding,) = check_database(database)
        assert finding.level is Level.OK and "not there yet" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_whole_database_is_ok_and_a_damaged_one_is_not(mlflow: Database) -> None:
    (whole,) = check_database(mlflow)
    assert whole.level is Level.OK and "is that of mlflow" in whole.found
    content = bytearray(mlflow.path.read_bytes())
    content[8192:40_000] = os.urandom(40_000 - 8192)
    mlflow.path.write_bytes(content)
    (damaged,) = check_database(mlflow)
    assert damaged.level is Level.ERROR and "is damaged or cannot be read" in damaged.found
    mlflow.path.write_text("no database at all")
    (foreign,) = check_database(mlflow)
    assert foreign.level is Level.ERROR and "not a database" in foreign.found


def test_the_schema_of_another_release_is_seen(mlflow: Database) -> None:
    def with_revision(revision: str) -> Finding:
        with closing(sqlite3.connect(mlflow.path)) as connection, connection:
            connection.execute("update alembic_version set version_num = ?", [revision])
        (finding,) = check_database(mlflow)
        return finding

    known, newest = known_revisions(mlflow)
    older = with_revision(min(known - newest))
    assert older.level is Level.WARNING and "Make a backup, then start" in older.fix
    newer = with_revision("f00dfeedbeef")
    assert newer.level is Level.ERROR and "a newer release wrote it" in newer.found


def test_both_packages_have_one_newest_schema() -> None:
    """Which is read as text: a release that writes its migrations otherwise must fail here."""
    for database in databases(Path("home")):
        known, newest = known_revisions(database)
        assert len(known) > 50 and len(newest) == 1


def test_the_real_databases_are_of_the_installed_release(two_versions: Versions) -> None:
    database, _ = databases(two_versions.home)
    (finding,) = check_database(database)
    assert finding.level is Level.OK and "undamaged, schema" in finding.found


def test_a_whole_champion_is_named(two_versions: Versions, tmp_path: Path) -> None:
    config = two_versions.config.registry
    finding = check_champion(config, two_versions.home)
    assert finding.level is Level.OK and "tiny version 1 (champion)" in finding.found
    other = config.model_copy(update={"model_name": "nobody"})
    assert "not registered yet" in check_champion(other, two_versions.home).found
    new = config.model_copy(update={"tracking_uri": mlflow_store(tmp_path)})
    assert "not registered yet" in check_champion(new, tmp_path).found
    assert list(tmp_path.iterdir()) == []


def test_a_champion_without_its_base_model_or_with_broken_files_is_not_ok(
    two_versions: Versions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = two_versions.config.registry
    monkeypatch.setenv("ORPO_BASE_MODEL", str(tmp_path / "gone"))
    finding = check_champion(config, two_versions.home)
    assert finding.level is Level.WARNING and "is not at" in finding.found
    weights = champion_weights(two_versions)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        finding = check_champion(config, two_versions.home)
    finally:
        weights.write_bytes(whole)
    assert finding.level is Level.ERROR and "is damaged in the artifact store" in finding.found


def champion_weights(versions: Versions) -> Path:
    """In the artifact store."""
    sha256 = versions.tracker().client.get_model_version("tiny", "1").tags[SHA256_TAG]
    stored = (versions.home / "mlflow").rglob("adapter_model.safetensors")
    return next(path for path in stored if file_sha256(path) == sha256)
