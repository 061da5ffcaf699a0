"""Whole runs beside each other, and with an MLflow server that goes away. Minutes each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from rows import pair_row, write_rows
from servers import free_port, wait_for

from orpo_pipeline.stages import MANIFEST
from orpo_pipeline.training.train import read_metrics
from tasks import prefect_api
from tasks.access.listening import Listening
from tasks.home import mlflow_store
from tasks.service_commands import mlflow_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
RUN_SECONDS = 900
STEPS = 60


def write_config(folder: Path, model: Path, **registry: str) -> Path:
    values = {
        "data": {
            "source": str(write_rows(folder / "pairs.jsonl", [pair_row(n) for n in range(60)])),
            "eval_fraction": 0.3,
        },
        "chat": {"max_length": 128},
        "model": {"base_model": str(model), "quantization": "none", "dtype": "float32"},
        "training": {"max_steps": STEPS, "batch_size": 4, "save_steps": 20, "eval_pairs": 0},
        "evaluation": {"generations": 0},
        "gate": {"primary": "pairs/log_odds_margin", "min_groups": 5, "guardrails": {}},
        "registry": {"experiment": "tests", "model_name": "tiny", **registry},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start_run(config: Path, home: Path) -> "subprocess.Popen[str]":
    outside = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT", "MLFLOW"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "run", "--config", str(config)],
        env={**outside, "ORPO_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_recorded_once(home: Path, experiment: str = "tests") -> None:
    """One finished MLflow run with every step once and in order, and one version."""
    from mlflow import MlflowClient

    client: Any = MlflowClient(mlflow_store(home), mlflow_store(home))
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(1, STEPS + 1))
    (metrics,) = home.glob("adapters/*/metrics.jsonl")
    written = {point["step"]: point["values"]["train/loss"] for point in read_metrics(metrics)}
    assert {metric.step: metric.value for metric in history} == pytest.approx(written)
    assert len(client.search_model_versions("name = 'tiny'")) == 1


def test_two_runs_at_once_of_the_same_configuration_end_in_one_version(
    tiny_model: Path, tmp_path: Path
) -> None:
    """On a new state folder, which both begin to fill; one of them waits for the training."""
    config, home = write_config(tmp_path, tiny_model), tmp_path / "home"
    runs = [start_run(config, home) for _ in range(2)]
    outputs = [run.communicate(timeout=RUN_SECONDS)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n\n".join(outputs)
    assert all("tiny version 1" in output for output in outputs)
    assert sum(
        "steps on" in line and "(reused)" in line for o in outputs for line in o.splitlines()
    )
    assert_recorded_once(home)


@contextmanager
def mlflow_server(home: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = mlflow_command(home, Listening(mlflow_port=port))
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def test_a_server_killed_in_training_and_back_after_it_has_every_point_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    """It is away from the first checkpoint until the adapter is finished; registering waits."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    config, home = write_config(tmp_path, tiny_model, tracking_uri=uri), tmp_path / "home"
    with mlflow_server(home, port) as first:
        wait_for(lambda: prefect_api.answers(f"{uri}/health"), 180)
        run = start_run(config, home)
        try:
            wait_for(lambda: list(home.glob(f"training/*/checkpoint-20/{MANIFEST}")), 300)
            kill(first)
            wait_for(lambda: list(home.glob(f"adapters/*/{MANIFEST}")), 300)
            assert run.poll() is None
            with mlflow_server(home, port):
                output, _ = run.communicate(timeout=RUN_SECONDS)
        finally:
            run.kill()
    assert run.returncode == 0, output
    assert_recorded_once(home)
