"""The whole pipeline with a judge: a real server, a planted key, real Prefect and MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from judge_server import fair, judge_server, says
from rows import pair_row, write_rows

from tasks.home import mlflow_store

KEY = "sk-planted-0123456789abcdef"
RUN_SECONDS = 400


def run(home: Path, config: Path, key: str | None) -> "subprocess.CompletedProcess[str]":
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))}
    named = {"TEST_JUDGE_KEY": key} if key else {}
    return subprocess.run(
        [sys.executable, "-m", "flows", "run", "--config", str(config)],
        env={**outside, **named, "ORPO_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two whole runs
def test_a_judged_run_from_failure_to_figure(tiny_model: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    source = write_rows(tmp_path / "pairs.jsonl", [pair_row(number) for number in range(60)])
    home, config = tmp_path / "home", tmp_path / "config.yaml"
    with judge_server() as server:
        judge = {"base_url": server.base_url, "model": "judge-1", "retries": 0}
        sections = {
            "data": {"source": str(source), "eval_fraction": 0.3},
            "chat": {"max_length": 128},
            "model": {"base_model": str(tiny_model), "quantization": "none"},
            "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-1},
            "evaluation": {
                "generations": 6,
                "max_new_tokens": 6,
                "samples": 0,
                "judge": {**judge, "key_variable": "TEST_JUDGE_KEY"},
            },
            "registry": {"experiment": "tests", "model_name": "tiny"},
        }
        config.write_text(yaml.safe_dump(sections))

        without_key = run(home, config, None)
        assert without_key.returncode == 3
        assert "TEST_JUDGE_KEY" in without_key.stderr and "not set" in without_key.stderr
        assert not (home / "prepared").exists()  # said before any work

        server.behave = lambda asked: says(f"You sent {asked.headers['Authorization']}.")
        failed = run(home, config, KEY)
        assert failed.returncode == 0, failed.stderr
        client = MlflowClient(mlflow_store(home), mlflow_store(home))
        experiment = client.get_experiment_by_name("tests").experiment_id
        (record,) = client.search_runs([experiment])
        assert record.data.metrics["judge/failed/against_base"] > 0
        assert "judge/win_rate/against_base" not in record.data.metrics

        server.behave = fair
        judged = run(home, config, KEY)
        assert judged.returncode == 0, judged.stderr
        (record,) = client.search_runs([experiment])
        assert "judge/win_rate/against_base" in record.data.metrics
        logged = {file.path for file in client.list_artifacts(record.info.run_id, "evaluation")}
        assert "evaluation/verdicts.parquet" in logged

    assert all(one.headers["Authorization"] == f"Bearer {KEY}" for one in server.asked)
    for text in (finished.stdout + finished.stderr for finished in (failed, judged)):
        assert KEY not in text
    # Prefect's and MLflow's databases, logs, results and artifacts among them.
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"prefect.db", "verdicts.sqlite"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
