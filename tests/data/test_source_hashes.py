"""Which files are hashed again, and which are known by what the file system says of them."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from orpo_pipeline.data import source_hashes
from orpo_pipeline.data.source_hashes import SourceHashes

HOUR = 3600


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read from now on."""
    names: list[str] = []
    real = source_hashes.file_sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(source_hashes, "file_sha256", counted)
    return names


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is written now was written an hour ago."""
    real = time.time_ns
    monkeypatch.setattr(source_hashes.time, "time_ns", lambda: real() + HOUR * 10**9)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.usefixtures("later")
def test_a_file_that_nobody_wrote_to_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    file = written(tmp_path / "a.jsonl", "one")
    hashes = SourceHashes(tmp_path / "home" / "hashes.json")
    assert hashes.sha256(file) == hashes.sha256(file) == sha256("one")
    hashes.save()
    again = SourceHashes(tmp_path / "home" / "hashes.json")
    assert again.sha256(file) == sha256("one")
    assert again.still(file, sha256("one"))
    assert not again.still(file, sha256("two"))
    assert hashed == ["a.jsonl"]
    file.unlink()
    assert not again.still(file, sha256("one"))


@pytest.mark.usefixtures("later")
def test_other_bytes_of_the_same_size_and_time_are_seen(tmp_path: Path, hashed: list[str]) -> None:
    file = written(tmp_path / "a.jsonl", "one")
    status = file.stat()
    hashes = SourceHashes(tmp_path / "hashes.json")
    assert hashes.sha256(file) == sha256("one")
    time.sleep(0.02)  # a tick of the file system's clock, which ctime counts in
    written(file, "two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes.sha256(file) == sha256("two")
    other = written(tmp_path / "b.jsonl", "six")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert hashes.sha256(file) == sha256("six")
    assert hashed == ["a.jsonl"] * 3


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, hashed: list[str]) -> None:
    file = written(tmp_path / "a.jsonl", "one")
    hashes = SourceHashes(tmp_path / "hashes.json")
    assert hashes.sha256(file) == sha256("one")
    assert hashes.sha256(file) == sha256("one")
    hashes.save()
    assert hashed == ["a.jsonl"] * 2
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.usefixtures("later")
def test_a_file_that_changes_meanwhile_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "a.jsonl", "one")
    real = source_hashes.file_sha256

    def appended_to(path: Path) -> str:
        found = real(path)
        with path.open("a") as more:
            more.write("!")
        return found

    monkeypatch.setattr(source_hashes, "file_sha256", appended_to)
    hashes = SourceHashes(tmp_path / "hashes.json")
    hashes.sha256(file)
    hashes.save()
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("content", ["", "[]", '{"1 2 3 4 5": "no hash"}', '{"1": null}'])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    file = written(tmp_path / "a.jsonl", "one")
    hashes = SourceHashes(written(tmp_path / "hashes.json", content))
    assert hashes.sha256(file) == sha256("one")
    hashes.save()
    assert SourceHashes(tmp_path / "hashes.json").sha256(file) == sha256("one")


@pytest.mark.usefixtures("later")
def test_only_the_files_that_were_used_last_are_kept(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_hashes, "MOST", 2)
    files = [written(tmp_path / f"{name}.jsonl", name) for name in "abc"]
    hashes = SourceHashes(tmp_path / "hashes.json")
    for file in (*files, files[0]):
        hashes.sha256(file)
    hashes.save()
    again = SourceHashes(tmp_path / "hashes.json")
    hashed.clear()
    for file in files:
        again.sha256(file)
    assert hashed == ["b.jsonl"]
