"""`promotions`, `promote` and `rollback` as commands, on a real registry."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from promoting import intended
from registries import Registry, make_registry

from flows.promotion import orpo_rollback
from schemas.config import RegistryConfig
from schemas.errors import UserError
from tasks.home import mlflow_store
from tasks.promotion import commit
from tasks.promotion_history import append
from tasks.promotion_requests import history_and_aliases
from tasks.tracking import Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version 2 was promoted over 1, and a promotion of 3 is left unfinished."""
    made = make_registry(tmp_path_factory.mktemp("home"))
    tracker = made.tracker()
    commit(tracker, intended(tracker, made.run_id, "1", "2"))
    append(tracker, intended(tracker, made.run_id, "2", "3"))
    return made


def test_a_reason_cannot_do_anything_to_the_terminal(tmp_path: Path) -> None:
    made = make_registry(tmp_path)
    tracker = made.tracker()
    promotion = intended(tracker, made.run_id, "1", "2")
    commit(tracker, promotion.model_copy(update={"because": "\x1b[2Jgone"}))
    finished = command(made, "promotions")
    assert "[U+001B]" in finished.stdout and "\x1b[2J" not in finished.stdout


def command(store: Registry, *arguments: str) -> "subprocess.CompletedProcess[str]":
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PREFECT"))}
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments, "--set", "registry.model_name=tiny"],
        env={**outside, "ORPO_HOME": str(store.home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_history_is_shown_and_finished(store: Registry) -> None:
    finished = command(store, "promotions")
    assert finished.returncode == 0, finished.stderr
    rows = [line for line in finished.stdout.splitlines() if "better" in line]
    assert len(rows) == 2 and all("completed" in row and "gate" in row for row in rows)
    assert "aliases now: champion 3, previous 2" in finished.stdout
    assert "by the history" not in finished.stdout
    assert "promotion 2 of tiny, left unfinished by" in finished.stderr


def test_an_alias_moved_by_hand_is_said(store: Registry) -> None:
    tracker = store.tracker()
    tracker.client.set_registered_model_alias("tiny", "champion", "4")
    finished = command(store, "promotions")
    tracker.client.set_registered_model_alias("tiny", "champion", "3")
    assert "by the history it is version 3's" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "9", "--because", "a try"), "tiny has no version 9."),
        (("promote", "1", "--because", "a try"), "has no evidence to be tested against"),
        (("promote", "1"), "Missing option '--because'"),
    ],
)
def test_what_cannot_be_promoted_is_said_in_a_sentence(
    store: Registry, arguments: tuple[str, ...], words: str
) -> None:
    finished = command(store, *arguments)
    assert finished.returncode == 2, finished.stderr
    assert words in finished.stderr and "Traceback" not in finished.stderr


def test_a_look_at_a_model_that_is_not_there_makes_none(tmp_path: Path) -> None:
    config = RegistryConfig(model_name="mistyped", tracking_uri=mlflow_store(tmp_path))
    with pytest.raises(UserError, match="No model 'mistyped' is registered"):
        history_and_aliases(config, tmp_path)
    assert Tracker(config, tmp_path).client.search_registered_models() == []


def test_the_flow_says_the_same_as_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_HOME", str(tmp_path))
    config = RegistryConfig(model_name="empty")
    Tracker(config, tmp_path).ensure_model("empty")
    with pytest.raises(UserError, match="nobody has the alias champion"):
        orpo_rollback.fn(because="a try", registry=config)
