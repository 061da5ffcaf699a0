"""A state folder into one file and back, while others write; and what is refused."""

import gzip
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from versions import Versions

from orpo_pipeline.adapter_files import WEIGHTS
from orpo_pipeline.evaluation.judge.endpoint import Usage
from orpo_pipeline.evaluation.judge.verdict_store import open_verdicts
from orpo_pipeline.retention.use import not_in_use
from orpo_pipeline.stages import file_sha256, held, new_stage
from schemas.errors import EnvironmentFault, UserError
from schemas.judgement import Verdict
from tasks.backup.archive import Index, new_archive
from tasks.backup.contents import LEFT_OUT
from tasks.backup.restoring import restore_backup
from tasks.backup.writing import write_backup
from tasks.evidence import read_evidence
from tasks.home import mlflow_database, mlflow_store
from tasks.promotion_history import read_history
from tasks.smoke_test import largest_difference
from tasks.tracking import Tracker
from tasks.tracking_models import download_version, load_version
from tasks.versions import fetch_version, find_aliases, find_version

BUSY = """
import shutil, sys
from mlflow import MlflowClient
from pathlib import Path
from orpo_pipeline.stages import new_stage

home, uri = Path(sys.argv[1]), sys.argv[2]
client = MlflowClient(uri)
run = client.create_run(client.create_experiment("busy", str(home / "mlflow" / "artifacts"))).info
number = 0
while True:
    number += 1
    client.log_metric(run.run_id, "busy", number, step=number)
    with new_stage(home / "adapters" / f"busy-{number}") as folder:
        (folder / "weights").write_bytes(bytes(1000) * number)
    if number > 30:  # as a retention policy does; more than are made while the backup copies one
        old = home / "adapters" / f"busy-{number - 30}"
        shutil.rmtree(old.rename(old.with_name(f".{old.name}.1.gone")))
    if number == 32:
        print("busy", flush=True)
"""


@pytest.fixture(scope="module")
def state(two_versions: Versions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a state folder with two versions, and some of what every folder has."""
    home = tmp_path_factory.mktemp("state") / "home"
    made = two_versions.home
    first = tmp_path_factory.mktemp("first") / "first.tar"
    write_backup(made, first)
    restore_backup(first, home)
    (home / "forgotten.json").write_text("{}")
    for name in LEFT_OUT:
        if "." not in name:
            (home / name).mkdir()
            (home / name / "made-again").write_text("x")
    (home / "servers.lock").touch()
    (home / "adapters" / ".half.1.ab").mkdir(parents=True)
    return home


def tracker_of(home: Path, versions: Versions) -> Tracker:
    config = versions.config.registry.model_copy(update={"tracking_uri": mlflow_store(home)})
    return Tracker(config, home)


def test_while_others_write_it_is_whole_and_another_folder_can_be_used(
    state: Path, two_versions: Versions, tmp_path: Path
) -> None:
    file, home = tmp_path / "backup.tar.zst", tmp_path / "else where" / "home"
    writer = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(state), mlflow_store(state)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "busy\n"
        written = write_backup(state, file)
        assert writer.poll() is None, "it wrote all the time"
    finally:
        writer.kill()
        writer.wait()
    assert written.databases == ("mlflow/mlflow.db",) and not written.damaged
    assert file.stat().st_mode & 0o077 == 0

    restored = restore_backup(file, home)
    assert restored.old_home == str(state)
    with closing(sqlite3.connect(mlflow_database(home))) as database:
        (points,) = database.execute("select count(*) from metrics where key = 'busy'").fetchone()
    stages = home.glob("adapters/busy-*/manifest.json")
    newest = max(int(stage.parent.name.removeprefix("busy-")) for stage in stages)
    assert 32 <= points <= newest + 1, "databases first: what they name had been written before"
    assert not any((home / name).exists() for name in LEFT_OUT) and not list(home.glob("*.lock"))
    assert not list(home.rglob(".half*")) and (home / "forgotten.json").read_text() == "{}"

    shutil.move(state, hidden := state.with_name("hidden"))  # nothing may still be read from there
    try:
        tracker = tracker_of(home, two_versions)
        assert find_aliases(tracker) == {"champion": "1", "challenger": "2"}
        champion = find_version(tracker, "champion")
        adapter, _ = fetch_version(tracker, champion, tmp_path)
        assert file_sha256(adapter / WEIGHTS) == champion.tags["orpo.adapter_sha256"]
        folder = download_version(tracker.uri, "models:/tiny@champion", tmp_path)
        model = load_version(folder).unwrap_python_model().model
        assert largest_difference(model, read_evidence(tracker, "1").pair) < 1e-6
        assert read_history(tracker) == []
        assert places_that_name(mlflow_database(home), str(state)) == set()
    finally:
        shutil.move(hidden, state)


def places_that_name(database: Path, folder: str) -> set[tuple[str, str]]:
    """Columns of the database in which the folder stands."""
    found = set()
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        for (table,) in tables.fetchall():
            columns = [row[1] for row in connection.execute(f"pragma table_info('{table}')")]
            for column in columns:
                query = f"select count(*) from '{table}' where instr(cast({column} as text), ?)"
                if connection.execute(query, [f"{folder}/"]).fetchone()[0]:
                    found.add((table, column))
    return found


@pytest.mark.parametrize("name", ["c#", "50%41 [x]?"])
def test_any_name_of_the_state_folder(small: Path, tmp_path: Path, name: str) -> None:
    """SQLite takes addresses, in which some characters mean something."""
    home = small.rename(tmp_path / name)
    write_backup(home, tmp_path / "b.tar")
    restore_backup(tmp_path / "b.tar", tmp_path / "back")
    with closing(sqlite3.connect(tmp_path / "back" / "mlflow" / "mlflow.db")) as database:
        assert database.execute("select count(*) from facts").fetchone() == (20,)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b.tar", "back", name])


def test_who_may_read_a_file_is_kept(small: Path, tmp_path: Path) -> None:
    (small / "mlflow" / "accounts.ini").write_text("secret")
    (small / "mlflow" / "accounts.ini").chmod(0o600)
    write_backup(small, tmp_path / "b.tar")
    restore_backup(tmp_path / "b.tar", tmp_path / "back")
    restored = tmp_path / "back" / "mlflow" / "accounts.ini"
    assert stat.S_IMODE(restored.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o700


def test_files_that_share_their_bytes_still_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with new_stage(home / "snapshots" / "one") as folder:
        (folder / "rows.jsonl").write_bytes(os.urandom(100_000))
    with new_stage(home / "snapshots" / "two") as folder:
        os.link(home / "snapshots" / "one" / "rows.jsonl", folder / "rows.jsonl")
    written = write_backup(home, tmp_path / "b.tar")
    assert written.size < 150_000
    restore_backup(tmp_path / "b.tar", tmp_path / "back")
    first, second = sorted((tmp_path / "back").rglob("rows.jsonl"))
    assert first.samefile(second)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A state folder with one stage and a database."""
    home = tmp_path / "home"
    with new_stage(home / "adapters" / "one") as folder:
        (folder / "weights").write_bytes(os.urandom(50_000))
    (home / "mlflow").mkdir()
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database, database:
        database.execute("create table facts (fact)")
        database.executemany("insert into facts values (?)", [("x" * 4000,)] * 20)
    yield home


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.zst"])
def test_a_file_that_was_cut_off_or_changed_restores_nothing(
    small: Path, tmp_path: Path, ending: str
) -> None:
    file, back = tmp_path / f"b{ending}", tmp_path / "back"
    write_backup(small, file)
    whole = file.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        whole[: -len(whole) // 5],
        flipped(whole),
        b"",
        b"no backup",
    ):
        file.write_bytes(broken)
        with pytest.raises(EnvironmentFault, match="is damaged or is none") as caught:
            restore_backup(file, back)
        assert "Nothing was restored" in caught.value.fix
        assert sorted(p.name for p in tmp_path.iterdir()) == [file.name, "home"]
    file.write_bytes(whole)
    assert restore_backup(file, back).stages == 1


def test_what_a_killed_restore_left_is_removed_and_a_living_ones_stays(
    small: Path, tmp_path: Path
) -> None:
    file, back = tmp_path / "b.tar", tmp_path / "back"
    write_backup(small, file)
    left, at_work, other = (
        tmp_path / f".{name}.restore.1.{digits}"
        for name, digits in (("back", "0a" * 4), ("back", "0b" * 4), ("back2", "0c" * 4))
    )
    for folder in (left, at_work, other):
        folder.mkdir()
        (folder / "file").touch()
        os.utime(folder, (1e9, 1e9))
    with held(at_work):
        restore_backup(file, back)
    assert [folder.exists() for folder in (left, at_work, other)] == [False, True, True]


def flipped(whole: bytes) -> bytes:
    middle = len(whole) // 3
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../out", "/tmp/out", "a/../../out"):
        file = tmp_path / "b.tar"
        with tarfile.open(file, "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(EnvironmentFault, match="leads out of the folder"):
            restore_backup(file, tmp_path / "back")
        assert not (tmp_path / "out").exists() and not (tmp_path / "back").exists()


def test_a_state_folder_with_something_in_it_is_not_touched(small: Path, tmp_path: Path) -> None:
    write_backup(small, tmp_path / "b.tar")
    (small / "mine").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        restore_backup(tmp_path / "b.tar", small)
    assert (small / "mine").read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    restore_backup(tmp_path / "b.tar", empty)
    assert (empty / "adapters" / "one" / "weights").is_file()


def test_verdicts_are_taken_as_they_were_at_one_instant(small: Path, tmp_path: Path) -> None:
    """A judge's answers cost money; here one is being written while the backup is made."""
    store = small / "judgements" / "verdicts.sqlite"
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    with open_verdicts(store) as verdicts:
        verdicts.keep("paid", Verdict.FIRST, usage)
        verdicts.connection.execute("BEGIN IMMEDIATE")
        verdicts.connection.execute("DELETE FROM verdicts")
        written = write_backup(small, tmp_path / "b.tar")
        verdicts.connection.rollback()
    assert written.databases == ("mlflow/mlflow.db", "judgements/verdicts.sqlite")
    restore_backup(tmp_path / "b.tar", tmp_path / "back")
    judged = tmp_path / "back" / "judgements"
    assert [path.name for path in judged.iterdir()] == [store.name]
    with open_verdicts(judged / store.name) as verdicts:
        assert verdicts.find("paid") == (Verdict.FIRST, usage)


def test_nothing_is_pruned_while_a_backup_is_made(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tasks.backup.writing import write_backup\n"
        "print('ready', flush=True)\n"
        "write_backup(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(small), str(tmp_path / "b.tar")]
    with not_in_use(small):  # a prune at work
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None and waiting.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.5)
    assert waiting.wait(60) == 0 and (tmp_path / "b.tar").is_file()


def test_a_damaged_stage_is_left_out_and_named(small: Path, tmp_path: Path) -> None:
    weights = small / "adapters" / "one" / "weights"
    weights.write_bytes(flipped(weights.read_bytes()))
    assert write_backup(small, tmp_path / "b.tar").damaged == ("adapters/one",)
    assert restore_backup(tmp_path / "b.tar", tmp_path / "back").stages == 0


def test_a_stage_that_was_removed_while_it_was_copied_is_left_out_and_named(
    small: Path, tmp_path: Path
) -> None:
    file, stage = tmp_path / "b.tar", small / "adapters" / "one"
    with new_archive(file, Index(made="now", home=str(small), versions={})) as archive:
        archive.add(stage / "manifest.json", "adapters/one/manifest.json")
        archive.add(stage / "gone", "adapters/one/gone")
    restored = restore_backup(file, tmp_path / "back")
    assert (restored.stages, restored.gone) == (0, ("adapters/one",))
    assert not (tmp_path / "back" / "adapters" / "one").exists()


def test_a_damaged_database_makes_no_backup(small: Path, tmp_path: Path) -> None:
    database = small / "mlflow" / "mlflow.db"
    content = bytearray(database.read_bytes())
    content[4096:40_000] = os.urandom(40_000 - 4096)
    database.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"mlflow\.db is damaged or cannot be read"):
        write_backup(small, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_is_no_place_for_a_backup_is_said(small: Path, tmp_path: Path) -> None:
    (tmp_path / "there.tar").touch()
    for file, words in (
        (tmp_path / "b.zip", "no name that says how it is packed"),
        (tmp_path / "there.tar", "exists already"),
        (small / "b.tar", "lies in the state folder"),
    ):
        with pytest.raises(UserError, match=words):
            write_backup(small, file)
    with pytest.raises(UserError, match="There is no state folder"):
        write_backup(tmp_path / "nowhere", tmp_path / "b.tar")
    with pytest.raises(EnvironmentFault, match="Writing the backup"):
        write_backup(small, tmp_path / "nowhere" / "b.tar")


def test_a_full_disk_leaves_nothing_half_written(small: Path, tmp_path: Path) -> None:
    """A limit of the file's size is what a process can have of a full disk without being root."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tasks.backup.writing import write_backup\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "write_backup(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    file = tmp_path / "b.tar"
    finished = subprocess.run(
        [sys.executable, "-c", code, str(small), str(file)], capture_output=True, text=True
    )
    assert "Writing the backup" in finished.stderr and "File too large" in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_backup_of_a_later_format_is_refused_in_a_sentence(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    write_backup(small, file)
    text = gzip.decompress(file.read_bytes()).replace(b'"format": 1', b'"format": 2')
    file.write_bytes(gzip.compress(text))
    with pytest.raises(UserError, match="no backup that this release can read"):
        restore_backup(file, tmp_path / "back")
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["b.tar.gz", "home"]'
