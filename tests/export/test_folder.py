"""An export is complete under its name, or not there."""

import os
from pathlib import Path

import pytest

from orpo_pipeline.export.folder import new_folder
from schemas.errors import EnvironmentFault, UserError


def test_a_filled_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with new_folder(target) as temporary:
        (temporary / "a").write_text("text")
        assert not target.exists()
    assert (target / "a").read_text() == "text"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as temporary:
        (tmp_path / "out").mkdir()
        (temporary / "a").touch()
    assert (tmp_path / "out" / "a").is_file()


def test_the_current_folder_may_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with new_folder(Path()) as temporary:
        (temporary / "a").touch()
    assert (tmp_path / "out" / "a").is_file()


@pytest.mark.parametrize("what", ["file", "filled", "link"])
def test_what_is_there_is_never_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "out"
    if what == "file":
        target.write_text("mine")
    elif what == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        (target / "mine").touch()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is not an empty folder"), new_folder(target):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(UserError), new_folder(target):
        target.mkdir()
        (target / "theirs").touch()
    assert [path.name for path in target.iterdir()] == ["theirs"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    with pytest.raises(EnvironmentFault, match="No space left"), new_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_somebody_s_own_hidden_folder_stays(tmp_path: Path) -> None:
    own, left = tmp_path / ".model.v1.backup", tmp_path / ".model.123.0a1b2c3d"
    for folder in (own, left):
        folder.mkdir()
        os.utime(folder, (0, 0))
    with new_folder(tmp_path / "model"):
        pass
    assert own.exists() and not left.exists()
