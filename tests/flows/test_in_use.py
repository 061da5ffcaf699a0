"""Commands that read the state folder for long keep `prune` away from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tasks.export
import tasks.prepare
from flows.cli import app
from orpo_pipeline.retention.use import LOCK, InUse, not_in_use
from schemas.errors import UserError


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """In the place of the command's work: is the state folder in use?"""
    monkeypatch.setenv("ORPO_HOME", str(tmp_path / "home"))

    def work(*_: Any) -> None:
        with pytest.raises(InUse), not_in_use(tmp_path / "home"):
            pass
        raise UserError("Looked.", "", "")

    return work


@pytest.mark.parametrize("command", ["report", "export"])
def test_nothing_is_pruned_meanwhile(
    command: str, look: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    monkeypatch.setattr(tasks.prepare, "prepare_data", look)
    monkeypatch.setattr(tasks.export, "export_version", look)
    given = {
        "report": ["data", "report", str(tmp_path / "rows.jsonl")],
        "export": ["export", "champion", str(tmp_path / "out")],
    }
    result = CliRunner().invoke(app, given[command])
    assert isinstance(result.exception, UserError), result.output
    with not_in_use(tmp_path / "home"):
        pass


def test_a_mistyped_state_folder_is_not_made_by_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_HOME", str(tmp_path / "mistyped"))
    CliRunner().invoke(app, ["export", "champion", str(tmp_path / "out")])
    assert not (tmp_path / "mistyped" / LOCK).exists()
