"""How old the champion is, which versions had a row, and the decision as a page."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prepared import frame
from seen import seen, watermark
from servers import free_port

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.retraining.decision import decide_retraining
from orpo_pipeline.retraining.watermark import commit_watermark
from schemas.config import RegistryConfig, RunConfig
from schemas.retraining_config import RetrainingConfig
from tasks.retraining import age_of, last_training
from tasks.retraining_page import decision_markdown
from tasks.row_deletion import VersionUse, versions_that_used
from tasks.servers_file import ProcessIdentity, ServersFile
from tasks.tracking import Tracker


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def tracker(home: Path, request: pytest.FixtureRequest) -> Tracker:
    """One store for the module, a model of its own for each test."""
    return Tracker(RegistryConfig(experiment="tests", model_name=request.node.name[:60]), home)


def register(tracker: Tracker, prepared_id: str, name: str | None = None) -> str:
    name = name or tracker.config.model_name
    tracker.ensure_model(name)
    run = tracker.open_run(f"{name}-{prepared_id}")
    tags = {"orpo.prepared_id": prepared_id}
    made = tracker.client.create_model_version(name, f"runs:/{run}/x", run_id=run, tags=tags)
    return str(made.version)


def test_age_counts_from_the_champion_or_the_last_training_whichever_is_younger(
    tracker: Tracker,
) -> None:
    assert age_of(tracker, None) is None
    last = watermark([seen("a")], when=datetime.now(UTC) - timedelta(days=9))

    def days() -> int:
        age = age_of(tracker, last)
        assert age is not None
        return round(age / timedelta(days=1))

    assert days() == 9
    version = register(tracker, "p")  # a candidate that was kept out is not the champion
    assert days() == 9
    tracker.client.set_registered_model_alias(tracker.config.model_name, "champion", version)
    assert days() == 0
    # The clock was a day ahead when that version was registered, and has been set right.
    last = watermark([seen("a")], when=datetime.now(UTC) + timedelta(days=1))
    assert age_of(tracker, last) == timedelta(0)


def test_rows_of_a_version_that_was_deleted_are_new_again(tracker: Tracker) -> None:
    name = tracker.config.model_name
    assert last_training(tracker) is None
    version = register(tracker, "p")
    commit_watermark(tracker.home, watermark([seen("a")], model_name=name, version=version))
    found = last_training(tracker)
    assert found is not None and found.trained.version == version
    tracker.client.delete_model_version(name, version)
    assert last_training(tracker) is None


def test_versions_of_all_models_that_had_the_row_are_named_and_those_unknown(
    tracker: Tracker, home: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    prepared = prepare(tiny_config(), home, lambda *_: None)
    trained, evaluated = (frame(prepared, side)["row_id"][0] for side in ("train", "eval"))
    name = tracker.config.model_name
    for prepared_id in (prepared.prepared_id, "pruned"):
        register(tracker, prepared_id)
    register(tracker, prepared.prepared_id, "another-model")
    tracker.client.set_registered_model_alias(name, "champion", "1")

    def found(*row_ids: str) -> list[VersionUse]:
        uses = versions_that_used(tracker.config, home, set(row_ids))
        return [use for use in uses if use.model_name in (name, "another-model")]

    assert found(trained, evaluated) == [
        VersionUse("another-model", "1", (), 1, 1),
        VersionUse(name, "2", (), None, None),
        VersionUse(name, "1", ("champion",), 1, 1),
    ]
    assert found("f" * 64) == [VersionUse(name, "2", (), None, None)]


def test_the_page_has_every_number_and_a_link_where_a_server_shows_the_run(tmp_path: Path) -> None:
    last = watermark([seen("a", 1), seen("b", 2)])
    now = watermark([seen("a", 1), seen("c", 2), seen("d", 3)]).rows
    config = RetrainingConfig()
    decision = decide_retraining(now, "new", last, config, timedelta(days=3))
    page = decision_markdown(decision, config, tmp_path, "sqlite:///mlflow.db")
    assert page.startswith("## Skipped: 2 new rows < 200, 3.0 days old < 30, ")
    assert "| new accepted rows | 2 | 200 |" in page
    assert "| votes | 3 | 1 | 1 | 0 |" in page
    assert "tiny version 1, 2026-11-01 00:00:00 UTC, MLflow run `r`" in page
    link = "[MLflow run r](http://mlflow:5000/#/experiments/0/runs/r)"
    assert link in decision_markdown(decision, config, tmp_path, "http://mlflow:5000/")
    url = f"http://127.0.0.1:{free_port()}"
    ServersFile(supervisor=ProcessIdentity.of_this_process(), mlflow_url=url).write(tmp_path)
    own = decision_markdown(decision, config, tmp_path, "sqlite:///mlflow.db")
    assert f"[MLflow run r]({url}/#/experiments/0/runs/r)" in own
