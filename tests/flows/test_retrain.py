"""`orpo-retrain` on a tiny model with real Prefect and MLflow: kill, repeat, skip, new data.

The tests share one state folder, in the order in which they stand.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import pair_row, write_rows

from flows.retrain_cli import announce
from orpo_pipeline.retraining.watermark import read_watermark
from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from schemas.promotion import PromotionEntry
from tasks.backup.restoring import restore_backup
from tasks.backup.writing import write_backup
from tasks.home import mlflow_store
from tasks.process_group import find_processes
from tasks.promotion_history import read_history
from tasks.tracking import Tracker

pytestmark = pytest.mark.timeout(1200)

RUN_SECONDS = 500
VARIABLE, SECRET = "VOTES_DATABASE_URL", "planted-secret-77"


@dataclass
class Site:
    """A state folder, a landing folder and a config file."""

    home: Path
    landing: Path
    config: Path

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        ours = ("PREFECT", "MLFLOW")
        outside = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments, "--config", str(self.config)],
            env={**outside, "ORPO_HOME": str(self.home), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=RUN_SECONDS)
        assert process.returncode == code, errors
        return f"{output}\n{errors}"

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(mlflow_store(self.home), mlflow_store(self.home))

    def versions(self) -> list[Any]:
        found = self.client().search_model_versions("name = 'tiny'")
        return sorted(found, key=lambda version: int(version.version))

    def artifact(self) -> str:
        """The newest decision as Prefect shows it."""
        with closing(sqlite3.connect(self.home / "prefect" / "prefect.db")) as database:
            (data,) = database.execute(
                "select data from artifact where key = 'retraining-decision' "
                "order by created desc limit 1"
            ).fetchone()
        return str(json.loads(data))

    def states(self) -> list[tuple[str, str]]:
        """Type and message of the flow runs' states, oldest first."""
        with closing(sqlite3.connect(self.home / "prefect" / "prefect.db")) as database:
            return database.execute(
                "select r.state_type, s.message from flow_run r join flow_run_state s "
                "on s.id = r.state_id order by r.created"
            ).fetchall()


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("retrain")
    landing = folder / "landing"
    landing.mkdir()
    write_rows(landing / "a.jsonl", [pair_row(number) for number in range(60)])
    source = {"kind": "files", "name": "landing", "path": str(landing)}
    values = {
        "data": {"eval_fraction": 0.3},
        "chat": {"max_length": 128},
        "model": {"base_model": str(tiny_model), "quantization": "none"},
        "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2},
        "evaluation": {"generations": 1, "max_new_tokens": 4},
        "registry": {"experiment": "tests", "model_name": "tiny"},
        "retraining": {"sources": [source], "min_new_rows": 4},
        "retention": {"keep_versions": 1, "keep_looks": 1, "unfinished_days": 0},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    return Site(folder / "home", landing, config)


def test_a_kill_between_registration_and_watermark_repeats_and_doubles_nothing(site: Site) -> None:
    process = site.start("retrain")
    deadline = time.monotonic() + RUN_SECONDS
    database = site.home / "mlflow" / "mlflow.db"
    try:
        while not registered(database):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    assert read_watermark(site.home, "tiny") is None
    until_gone(site.home)

    said = site.run("retrain")
    assert "trains: the first time, on 60 accepted rows" in said
    assert "60 rows in = 60 kept" in said and "steps on" in said and "(reused)" in said
    (version,) = site.versions()
    run = site.client().get_run(version.run_id)
    assert run.data.tags["orpo.retraining"] == "trains: the first time, on 60 accepted rows"
    history = site.client().get_metric_history(version.run_id, "train/loss")
    assert sorted(point.step for point in history) == [1, 2, 3]
    last = read_watermark(site.home, "tiny")
    assert last is not None and last.rows.height == 60
    assert (last.trained.version, last.trained.run_id) == ("1", version.run_id)


def registered(database: Path) -> bool:
    """Whether version 1 is there; the gate and the watermark are still to come."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        try:
            query = "select count(*) from model_version_tags where key = 'orpo.adapter_id'"
            (found,) = connection.execute(query).fetchone()
        except sqlite3.OperationalError:  # its tables are still being made
            return False
    return bool(found)


def until_gone(home: Path) -> None:
    deadline = time.monotonic() + 60
    while any("smoke_test" in " ".join(p.cmdline()) for p in find_processes(home, lambda _: True)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nothing_new_is_skipped_with_the_way_to_the_last_training(site: Site) -> None:
    said = site.run("retrain")
    assert "skipped: the data is that of version 1" in said
    assert "Model" not in said
    assert site.states()[-1] == ("COMPLETED", "skipped: the data is that of version 1")
    (version,) = site.versions()
    assert "tiny version 1, " in site.artifact() and version.run_id in site.artifact()
    experiment = site.client().get_experiment_by_name("tests")
    assert experiment.tags["orpo.retraining"].endswith(
        "UTC: skipped: the data is that of version 1"
    )


def test_new_rows_are_counted_until_they_are_enough_and_then_trained_on(site: Site) -> None:
    rows = [pair_row(number) for number in range(60)]
    rows[7] = pair_row(107)  # edited
    write_rows(site.landing / "a.jsonl", rows[:59])  # the last one is gone
    write_rows(site.landing / "late.jsonl", [pair_row(number) for number in range(200, 203)])
    said = site.run("retrain", "--set", "retraining.start=champion")
    assert "trains: 4 new rows >= 4" in said
    assert "starts from the base model, because there is no champion yet" in said
    table = " ".join(said.split())
    assert "landing │ 62 │ 3 │ 1 │ 1" in table
    assert [int(version.version) for version in site.versions()] == [1, 2]
    assert "| landing | 62 | 3 | 1 | 1 |" in site.artifact()
    last = read_watermark(site.home, "tiny")
    assert last is not None and last.trained.version == "2"
    assert (last.rows.height, last.rows["accepted"].all()) == (62, True)
    # Version 1 is no champion, and what it was made from went at the end of this retraining.
    assert "Pruned" in said and "folders that nothing needs" in said
    assert {f.name for f in (site.home / "snapshots").iterdir()} == {last.trained.snapshot_id}
    for kind in ("adapters", "evaluations", "prepared"):
        assert len(list((site.home / kind).iterdir())) == 1, kind
    assert "Nothing to remove." in site.run("prune", "--dry-run")


def test_forgetting_names_the_versions_and_the_next_preparation_leaves_the_row_out(
    site: Site,
) -> None:
    import polars as pl

    last = read_watermark(site.home, "tiny")
    assert last is not None
    newest = max(site.home.glob("prepared/*/train.parquet"), key=lambda p: p.stat().st_mtime)
    row_id = pl.read_parquet(newest)["row_id"][0]
    said = " ".join(site.run("forget", row_id[:12], "--because", "asked by mail").split())
    assert f"Forgotten from now on: {row_id}" in said
    assert "│ tiny │ 2 │" in said and "│ tiny │ 1 │" in said
    assert "unknown" not in said  # the rows of version 1 are listed still
    said = site.run("retrain", "--set", "retraining.max_age_days=1000")
    assert "skipped: 0 new rows < 4" in said
    record = max(site.home.glob("prepared/*/record.json"), key=lambda p: p.stat().st_mtime)
    assert json.loads(record.read_text())["quarantined"] == {"forgotten": 1}
    assert "No longer forgotten" in site.run("forget", row_id[:12], "--undo")


@pytest.mark.slow
def test_restored_elsewhere_it_remembers_everything(site: Site) -> None:
    backup = site.home.with_name("backup.tar.gz")
    write_backup(site.home, backup)
    other = Site(site.home.with_name("restored"), site.landing, site.config)
    restore_backup(backup, other.home)
    moved = site.home.rename(site.home.with_name("moved"))  # nothing may be read from there
    try:
        said = other.run("retrain")
    finally:
        moved.rename(site.home)
    assert "skipped: the data is that of version 2" in said
    assert "(reused)" not in said, "it did not come to the training"
    assert [int(version.version) for version in other.versions()] == [1, 2]
    assert promotions(other) == promotions(site)
    assert len(other.states()) == len(site.states()) + 1
    shutil.rmtree(other.home)


def promotions(site: Site) -> list[PromotionEntry]:
    config = RegistryConfig(tracking_uri=mlflow_store(site.home), model_name="tiny")
    return read_history(Tracker(config, site.home))


@pytest.mark.slow
def test_a_retraining_goes_on_from_the_champion(site: Site) -> None:
    site.run("retrain", "--force")
    first = site.versions()[-1].version
    site.run("promote", first, "--because", "a test")
    write_rows(site.landing / "more.jsonl", [pair_row(number) for number in range(300, 310)])
    asked = ("--set", "retraining.start=champion", "--set", "retraining.replay_share=0.5")
    said = site.run("retrain", *asked)
    assert f"starts from version {first}, on " in said and f"steps from version {first} on" in said
    newest = site.versions()[-1]
    assert int(newest.version) == int(first) + 1
    assert newest.tags["orpo.started_from"] == first
    run = site.client().get_run(newest.run_id)
    assert run.data.tags["orpo.start"].startswith(f"from version {first}, on ")
    assert "champion" in said  # measured against it, on old and new rows


def test_data_is_announced_to_nobody_where_no_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(EnvironmentFault, match="No Prefect server is known"):
        announce()


def test_a_planted_secret_is_nowhere(site: Site) -> None:
    home = site.home.with_name("home-of-secrets")
    source = {
        "kind": "sql",
        "name": "votes",
        "database_url_variable": VARIABLE,
        "query": "select 1",
    }
    values = yaml.safe_load(site.config.read_text()) | {"retraining": {"sources": [source]}}
    config = site.config.with_name("secrets.yaml")
    config.write_text(yaml.safe_dump(values))
    other = Site(home, site.landing, config)
    url = {VARIABLE: f"nothing+here://bob:{SECRET}@host/votes"}
    said = other.run("retrain", "--debug", code=2, **url)
    assert "Can't load plugin" in said and VARIABLE in said and SECRET not in said
    source["database_url_variable"] = url[VARIABLE]  # the URL where its variable's name should be
    config.write_text(yaml.safe_dump(values))
    said = other.run("retrain", code=2)
    assert "(a URL)" in said and SECRET not in said
    for file in (path for path in home.rglob("*") if path.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file
    shutil.rmtree(home)
