"""What the sources hold now: taken once, kept as it was, and no word of a database's URL."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prepared import run
from rows import pair_row, write_rows
from sqlalchemy import make_url

from orpo_pipeline.retraining import snapshots
from orpo_pipeline.retraining.snapshots import on_snapshot, take_snapshot
from orpo_pipeline.retraining.sql_rows import hide
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.retraining import Snapshot

VARIABLE = "VOTES_DATABASE_URL"
SECRET = "hunter2-planted"
QUERY = "select prompt, chosen, rejected from votes order by id"


def config_of(*sources: dict[str, Any], **data: Any) -> RunConfig:
    return RunConfig.model_validate({"retraining": {"sources": sources}, "data": data})


def landing(folder: Path) -> dict[str, Any]:
    return {"kind": "files", "name": "landing", "path": str(folder)}


def votes(query: str = QUERY, **other: Any) -> dict[str, Any]:
    source = {"kind": "sql", "name": "votes", "database_url_variable": VARIABLE}
    return {**source, "query": query, **other}


def files_of(snapshot: Snapshot) -> dict[str, str]:
    found = (path for path in snapshot.path.rglob("*") if path.is_file())
    return {p.relative_to(snapshot.path).as_posix(): p.read_text() for p in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "landing"
    (folder / "october").mkdir(parents=True)
    write_rows(folder / "a.jsonl", [pair_row(1)])
    write_rows(folder / "october" / "b.jsonl", [pair_row(2)])
    return folder


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "votes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table votes (id integer primary key, prompt, chosen, rejected)")
        rows = [(n, f"Question {n}?", f"Answer {n}.", "No idea.") for n in (2, 1, 3)]
        connection.executemany("insert into votes values (?, ?, ?, ?)", rows)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{path}")
    return path


def test_what_was_taken_stays_when_the_source_changes(folder: Path, tmp_path: Path) -> None:
    config, home = config_of(landing(folder)), tmp_path / "home"
    first = take_snapshot(config, home)
    before = files_of(first)
    assert set(before) == {"landing/train-a.jsonl", "landing/october/train-b.jsonl"}
    with (folder / "a.jsonl").open("a") as file:  # in place: a link would show it
        file.write("{}\n")
    (folder / "october" / "b.jsonl").unlink()
    second = take_snapshot(config, home)
    assert second.snapshot_id != first.snapshot_id
    assert files_of(first) == before
    assert set(files_of(second)) == {"landing/train-a.jsonl"}


def test_the_same_content_is_the_same_snapshot(folder: Path, tmp_path: Path) -> None:
    config, home = config_of(landing(folder)), tmp_path / "home"
    first = take_snapshot(config, home)
    os.utime(folder / "a.jsonl", (1, 1))
    assert take_snapshot(config, home) == first
    assert [p.name for p in (home / "snapshots").iterdir()] == [first.snapshot_id]


def test_a_file_is_copied_once_over_all_snapshots(folder: Path, tmp_path: Path) -> None:
    config, home = config_of(landing(folder)), tmp_path / "home"
    take_snapshot(config, home)
    write_rows(folder / "c.jsonl", [pair_row(3)])
    second = take_snapshot(config, home)
    links = {p.name: p.stat().st_nlink for p in second.path.rglob("*.jsonl")}
    assert links == {"train-a.jsonl": 2, "train-b.jsonl": 2, "train-c.jsonl": 1}
    assert (folder / "a.jsonl").stat().st_nlink == 1


def test_a_damaged_snapshot_is_taken_again_and_not_linked_to(folder: Path, tmp_path: Path) -> None:
    config, home = config_of(landing(folder)), tmp_path / "home"
    first = take_snapshot(config, home)
    copy = first.path / "landing" / "train-a.jsonl"
    copy.write_text("damaged\n")
    again = take_snapshot(config, home)
    assert again.snapshot_id == first.snapshot_id
    assert copy.read_text() == (folder / "a.jsonl").read_text()


def test_a_file_that_changes_while_it_is_copied_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = snapshots.shutil.copyfile

    def write_and_copy(source: Path, target: Path) -> None:
        with Path(source).open("a") as file:
            file.write("{}\n")
        copyfile(source, target)

    monkeypatch.setattr(snapshots.shutil, "copyfile", write_and_copy)
    with pytest.raises(UserError, match="changed while it was copied"):
        take_snapshot(config_of(landing(folder)), tmp_path / "home")
    assert list((tmp_path / "home" / "snapshots").iterdir()) == []


def test_an_empty_source_is_an_error_and_no_deletion(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No file of split 'train'"):
        take_snapshot(config_of(landing(tmp_path / "empty")), tmp_path / "home")


def test_splits_of_a_source_stay_what_they_are(folder: Path, tmp_path: Path) -> None:
    write_rows(folder / "test-c.jsonl", [pair_row(3)])
    write_rows(folder / "train-d.jsonl", [pair_row(4)])
    config = config_of(landing(folder), eval_split="test")
    snapshot = take_snapshot(config, tmp_path / "home")
    # a and b name no split beside a file that does: they are left out, as without a snapshot.
    assert set(files_of(snapshot)) == {"landing/train-d.jsonl", "landing/test-c.jsonl"}


def test_one_source_named_like_a_split_does_not_decide_another_s(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_rows(other / "train.jsonl", [pair_row(7)])
    both = config_of(landing(folder), {"kind": "files", "name": "other", "path": str(other)})
    assert set(files_of(take_snapshot(both, tmp_path / "home"))) == {
        "landing/train-a.jsonl",
        "landing/october/train-b.jsonl",
        "other/train.jsonl",
    }
    with pytest.raises(UserError, match="the name of a split"):
        take_snapshot(config_of({**landing(folder), "name": "train"}), tmp_path / "home")


def test_without_sources_the_data_source_is_watched_and_trained_on(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config, home = tiny_config(), tmp_path / "home"
    snapshot = take_snapshot(config, home)
    assert set(files_of(snapshot)) == {"data/train-pairs.jsonl"}
    prepared = run(on_snapshot(config, snapshot), home)
    assert prepared.rows_in == 60
    assert prepared.dataset_id == run(config, home).dataset_id


def test_a_hub_data_set_is_taken_at_its_commit_by_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache as `huggingface_hub` lays it out, without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "datasets--owner--votes"
    (cache / "blobs").mkdir(parents=True)
    blob = write_rows(cache / "blobs" / "blob", [pair_row(1)])
    files = cache / "snapshots" / commit
    files.mkdir(parents=True)
    (files / "train.jsonl").symlink_to(blob)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = {"kind": "hub", "name": "feedback", "dataset": "owner/votes"}
    snapshot = take_snapshot(config_of(hub), tmp_path / "home")
    assert [(s.name, s.revision) for s in snapshot.sources] == [("feedback", commit)]
    taken = snapshot.path / "feedback" / "train.jsonl"
    assert not taken.is_symlink() and taken.samefile(blob)


def test_rows_of_a_query_are_json_lines_in_its_order(database: Path, tmp_path: Path) -> None:
    snapshot = take_snapshot(config_of(votes()), tmp_path / "home")
    text = files_of(snapshot)["votes/train-rows.jsonl"]
    assert text.splitlines()[0] == (
        '{"prompt": "Question 1?", "chosen": "Answer 1.", "rejected": "No idea."}'
    )
    assert text.count("\n") == 3


def test_json_columns_become_conversations(database: Path, tmp_path: Path) -> None:
    query = """select '[{"role": "user", "content": "Hi"}]' as prompt, '5' as score"""
    source = votes(query, json_columns=["prompt"])
    text = files_of(take_snapshot(config_of(source), tmp_path / "home"))["votes/train-rows.jsonl"]
    assert text == '{"prompt": [{"role": "user", "content": "Hi"}], "score": "5"}\n'


def test_a_query_without_rows_is_an_error_and_no_deletion(database: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives no row"):
        take_snapshot(config_of(votes(QUERY.replace("order", "where id > 9 order"))), tmp_path)
    assert list((tmp_path / "snapshots").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        (f"postgresql+psycopg://bob:{SECRET}@127.0.0.1:1/votes", EnvironmentFault, "refused"),
        (f"postgresql+psycopg://127.0.0.1:1/votes?password={SECRET}", EnvironmentFault, "refused"),
        (f"postgresql+psycopg://bob:x%ZZ{SECRET}@/votes?port={SECRET}", EnvironmentFault, "port"),
        (f"nothing+here://bob:{SECRET}@host/votes", UserError, "Can't load plugin"),
        (f"mysql+mysqldb://bob:{SECRET}@host/votes", UserError, "MySQLdb"),
        (f"sqlite:////nowhere/{SECRET}.db?mode={SECRET}", EnvironmentFault, "unable to open"),
        (f"no url at all {SECRET}", UserError, "holds no URL"),
        (f"postgresql://bob:{SECRET}@host:port/votes", UserError, "holds no URL"),
    ],
)
def test_no_error_says_a_word_of_the_url(
    url: str, kind: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(kind, match=said) as caught:
        take_snapshot(config_of(votes()), tmp_path)
    error = caught.value
    assert SECRET not in f"{error!s} {error!r} {error.args}"
    assert VARIABLE in str(error)
    assert error.__suppress_context__ and error.__cause__ is None  # what a traceback would print


def test_a_short_user_name_takes_no_letters_out_of_words() -> None:
    url = make_url("postgresql://sa:p@host/votes")
    said = hide("user sa: password p is wrong for sarah", url)
    assert said == "user ***: password *** is wrong for sarah"


def test_a_wrong_query_is_quoted_with_what_the_database_says(
    database: Path, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFault, match="no such table: ballots"):
        take_snapshot(config_of(votes("select * from ballots")), tmp_path)


def test_an_unset_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{VARIABLE}, .* is not set"):
        take_snapshot(config_of(votes()), tmp_path)
