"""Stage folders: complete or not there, whatever happens while they are written."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

import orpo_pipeline
import schemas
from orpo_pipeline.stages import (
    MANIFEST,
    file_sha256,
    fingerprint,
    is_complete,
    new_stage,
    remove_all_abandoned,
)
from schemas.errors import EnvironmentFault, UserError

# printf abc | sha256sum
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def write_stage(folder: Path, text: str = "abc") -> Path:
    with new_stage(folder) as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "a.txt").write_text(text)
    return folder


def test_fingerprint_follows_values_and_not_the_order_of_keys() -> None:
    name = fingerprint({"a": 1, "b": ["x", None]})
    assert len(name) == 20
    assert name == fingerprint({"b": ["x", None], "a": 1})
    others: list[dict[str, object]] = [
        {"a": 1, "b": [None, "x"]},
        {"a": 2, "b": ["x", None]},
        {"a": "1", "b": ["x", None]},
    ]
    assert len({name, *map(fingerprint, others)}) == 4


def test_fingerprint_takes_file_names_that_are_no_text() -> None:
    assert fingerprint({"file": "caf\udce9.jsonl"}) != fingerprint({"file": "caf?.jsonl"})


def test_a_stage_is_complete_with_its_manifest(tmp_path: Path) -> None:
    folder = write_stage(tmp_path / "home" / "stage")
    assert is_complete(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest == {"files": {"part/a.txt": {"size": 3, "sha256": SHA256_OF_ABC}}}
    assert [path.name for path in folder.parent.iterdir()] == ["stage"]


def test_the_manifest_comes_last_and_under_the_final_name(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with new_stage(folder) as temporary:
        (temporary / "a.txt").write_text("abc")
        assert not folder.exists()
        assert not (temporary / MANIFEST).exists()
    assert is_complete(folder)


def test_a_nested_manifest_is_a_file_like_others(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with new_stage(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / MANIFEST).write_text("{}")
    (folder / "inner" / MANIFEST).write_text("[]")
    assert not is_complete(folder)


def test_a_folder_without_manifest_is_not_there_and_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "left.txt").write_text("half")
    assert not is_complete(folder)
    write_stage(folder)
    assert is_complete(folder)
    assert not (folder / "part" / "left.txt").exists()


def flip_a_byte(folder: Path) -> None:
    (folder / "part" / "a.txt").write_text("abd")


def cut_the_file(folder: Path) -> None:
    (folder / "part" / "a.txt").write_text("ab")


def remove_the_file(folder: Path) -> None:
    (folder / "part" / "a.txt").unlink()


def tear_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": {"part/a.t')


def empty_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


def other_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('["files"]')


def manifest_of_other_entries(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": {"part/a.txt": 3}}')


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        cut_the_file,
        remove_the_file,
        tear_the_manifest,
        empty_the_manifest,
        other_manifest,
        manifest_of_other_entries,
    ],
)
def test_a_damaged_stage_is_moved_aside_and_done_again(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_stage(tmp_path / "stage")
    damage(folder)
    assert not is_complete(folder)
    assert not folder.exists()
    assert (tmp_path / "stage.damaged").is_dir()
    assert "stage is done again" in caplog.text
    assert is_complete(write_stage(folder))


def test_the_newest_damage_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        folder = write_stage(tmp_path / "stage", text)
        (folder / "part" / "a.txt").write_text(f"{text}, damaged")
        assert not is_complete(folder)
    kept = tmp_path / "stage.damaged" / "part" / "a.txt"
    assert kept.read_text() == "second, damaged"


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyboardInterrupt(), UserError("a", "b", "c")]
)
def test_a_failure_leaves_nothing_and_stays_what_it_is(
    error: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as raised, new_stage(tmp_path / "stage") as temporary:
        (temporary / "a.txt").write_text("abc")
        raise error
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_the_first_result_stays(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with new_stage(folder) as slow:
        (slow / "a.txt").write_text("slow")
        with new_stage(folder) as fast:  # same process, same id: they must not share a folder
            (fast / "a.txt").write_text("fast")
        assert (slow / "a.txt").read_text() == "slow"
    assert (folder / "a.txt").read_text() == "fast"
    assert is_complete(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_many_writers_at_once_publish_one_stage(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    start = threading.Barrier(6)

    def write(_: int) -> Path:
        start.wait(timeout=30)
        return write_stage(folder)

    with ThreadPoolExecutor(6) as writers:
        assert list(writers.map(write, range(6))) == [folder] * 6
    assert is_complete(folder)
    assert list(tmp_path.iterdir()) == [folder]


FILL = """
import os, signal, sys
from pathlib import Path
from orpo_pipeline.stages import new_stage
with new_stage(Path(sys.argv[1])) as temporary:
    (temporary / "half.txt").write_text("half")
    os.utime(temporary, (0, 0))
    print("filling", flush=True)
    signal.pause()
"""


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_stays(tmp_path: Path) -> None:
    """However old both are: the lock of a folder tells whether somebody still fills it."""
    room = tmp_path / "prepared"
    command = [sys.executable, "-c", FILL, str(room / "stage")]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"filling\n"
        assert remove_all_abandoned(tmp_path) == 0
        writers[0].kill()
        writers[0].wait()
        (room / ".other.1.abcabcab").mkdir()  # a moment old: its writer may be about to lock it
        assert remove_all_abandoned(tmp_path) == 1
        names = {path.name for path in room.iterdir()}
        assert {f".stage.{writers[0].pid}", f".stage.{writers[1].pid}"} & {
            name.rpartition(".")[0] for name in names
        } == {f".stage.{writers[1].pid}"}
        write_stage(room / "stage")
        assert len(list(room.glob(".stage.*"))) == 1
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            if writer.stdout is not None:
                writer.stdout.close()


def test_a_file_where_the_folder_should_be_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    folder = tmp_path / "home" / "prepared" / "stage"
    assert not is_complete(folder)
    with pytest.raises(EnvironmentFault, match=r"Writing the stage .* failed.*ORPO_HOME"):
        write_stage(folder)


def test_a_stage_that_cannot_be_moved_aside_is_the_machines_fault(tmp_path: Path) -> None:
    folder = write_stage(tmp_path / "stage")
    flip_a_byte(folder)
    (tmp_path / "stage.damaged").write_text("a file in the way")
    with pytest.raises(EnvironmentFault, match="Checking the stage"):
        is_complete(folder)


def test_a_full_disk_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="No space left"), new_stage(tmp_path / "s") as t:
        (t / "a.txt").symlink_to("/dev/full")
        (t / "a.txt").write_text("abc")
    # Polars reports it in an exception of its own.
    with pytest.raises(EnvironmentFault, match="No space left"), new_stage(tmp_path / "s") as t:
        (t / "a.parquet").symlink_to("/dev/full")
        pl.DataFrame({"a": [1]}).write_parquet(t / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    assert file_sha256(tmp_path / "a.txt") == SHA256_OF_ABC


@pytest.fixture
def our_code(tmp_path: Path) -> Path:
    """A copy of the real packages, to change."""
    for package in (orpo_pipeline, schemas):
        source = Path(str(package.__file__)).parent
        shutil.copytree(
            source, tmp_path / source.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def version_in(code: Path, module: str) -> str:
    script = f"from orpo_pipeline.stages import code_version; print(code_version({module!r}))"
    command = [sys.executable, "-B", "-c", script]
    return subprocess.run(command, cwd=code, capture_output=True, text=True, check=True).stdout


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_code_version_follows_a_deep_import_and_not_a_comment(our_code: Path) -> None:
    before = version_in(our_code, "orpo_pipeline.training.train")
    errors = our_code / "schemas" / "errors.py"
    errors.write_text("# A comment.\n" + errors.read_text() + "\n\n# Another one.\n")
    assert version_in(our_code, "orpo_pipeline.training.train") == before
    # training -> stages -> schemas.errors
    replace_once(our_code / "schemas" / "errors.py", "exit_code = 3", "exit_code = 4")
    assert version_in(our_code, "orpo_pipeline.training.train") != before


def test_code_version_of_preparation_follows_its_rules(our_code: Path) -> None:
    before = version_in(our_code, "orpo_pipeline.data.preparation")
    # Training is no part of preparation.
    with (our_code / "orpo_pipeline" / "training" / "train.py").open("a") as file:
        file.write("\nUNUSED = 1\n")
    assert version_in(our_code, "orpo_pipeline.data.preparation") == before
    replace_once(our_code / "orpo_pipeline" / "data" / "identity.py", ".casefold()", ".lower()")
    assert version_in(our_code, "orpo_pipeline.data.preparation") != before


def test_code_version_sees_a_module_imported_from_its_package(our_code: Path) -> None:
    user = our_code / "orpo_pipeline" / "data" / "user.py"
    user.write_text(
        "def count():\n    from orpo_pipeline.data.relations import splits\n    return splits\n"
    )
    before = version_in(our_code, "orpo_pipeline.data.user")
    replace_once(
        our_code / "orpo_pipeline" / "data" / "relations" / "splits.py", "split v1", "split v2"
    )
    assert version_in(our_code, "orpo_pipeline.data.user") != before
