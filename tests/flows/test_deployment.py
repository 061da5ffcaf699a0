"""The real flow, run by the real worker of a real `up`: it fails, is retried, and is cancelled.

The tests share the servers and stand in the order in which they use them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from rows import pair_row, write_rows
from servers import REPOSITORY, Up, end, living, start_up, wait_for

from orpo_pipeline.stages import MANIFEST
from orpo_pipeline.training.checkpoints import newest_step
from tasks import prefect_api
from tasks.home import mlflow_store
from tasks.process_group import find_processes

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

EXPERIMENT = "deployed"
STEPS = 4
RUN_SECONDS = 200


@dataclass
class Deployed:
    """A running `up` on this checkout, and the configuration of its runs."""

    up: Up
    config: dict[str, dict[str, Any]]

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(mlflow_store(self.up.home), mlflow_store(self.up.home))

    def mlflow_runs(self) -> list[Any]:
        client = self.client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        return list(client.search_runs([experiment.experiment_id])) if experiment else []

    def start(self, **training: Any) -> str:
        return self.up.start_run({**self.config, "training": self.config["training"] | training})

    def prefect(self, *arguments: str) -> None:
        environment = {**os.environ, "PREFECT_API_URL": self.up.api}
        command = [sys.executable, "-m", "prefect", "flow-run", *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    def task_states(self, run: str, execution: int) -> dict[str, str]:
        """State names of the tasks in the first, second, ... execution of a flow run."""
        body = {"flow_runs": {"id": {"any_": [run]}}}
        found = prefect_api.call(self.up.api, "POST", "/task_runs/filter", body)
        return {
            entry["name"].split("-")[0]: entry["state_name"]
            for entry in found
            if entry["flow_run_run_count"] == execution
        }

    def wait_until(self, run: str, state: str) -> None:
        ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        reached = wait_for(
            lambda: (now := self.up.run_state(run)) in ended | {state} and now, RUN_SECONDS
        )
        log = prefect_api.call(self.up.api, "POST", "/logs/filter", {})
        assert reached == state, "\n".join(line["message"] for line in log)[-3000:]


@pytest.fixture(scope="module")
def deployed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    source = write_rows(folder / "pairs.jsonl", [pair_row(number) for number in range(60)])
    config: dict[str, dict[str, Any]] = {
        "data": {"source": str(source), "eval_fraction": 0.3},
        "chat": {"max_length": 128},
        "model": {"base_model": str(tiny_model), "quantization": "none"},
        "training": {
            "max_steps": STEPS,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "save_steps": 2,
        },
        "evaluation": {"generations": 2, "max_new_tokens": 4},
        "registry": {"experiment": EXPERIMENT, "model_name": "tiny"},
    }
    up = start_up(folder, REPOSITORY)
    yield Deployed(up, config)
    end(up)


def stored_results(up: Up, run: str) -> dict[str, int]:
    """Results that Prefect keeps for a flow run, with the time in ns at which each was written."""
    folder = up.home / "prefect" / "storage" / run
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_a_retried_run_continues_after_its_last_finished_task(deployed: Deployed) -> None:
    """Somebody deletes the MLflow experiment while the run trains, and restores it later."""
    assert deployed.mlflow_runs() == []
    run = deployed.start()
    wait_for(lambda: list(deployed.up.home.glob("training/*/lock")), RUN_SECONDS)
    experiment = deployed.mlflow_runs()[0].info.experiment_id
    deployed.client().delete_experiment(experiment)
    deployed.wait_until(run, "FAILED")
    finished = dict.fromkeys(("prepare", "plan", "train"), "Completed")
    assert deployed.task_states(run, 1) == finished | {"evaluate": "Failed"}
    results = stored_results(deployed.up, run)
    assert set(results) == set(finished)

    deployed.client().restore_experiment(experiment)
    deployed.prefect("retry", run)
    wait_for(lambda: deployed.up.run_state(run) != "FAILED", 60)
    deployed.wait_until(run, "COMPLETED")
    reused = dict.fromkeys(finished, "Cached")
    done = dict.fromkeys(("evaluate", "register", "promote"), "Completed")
    assert deployed.task_states(run, 2) == reused | done
    assert stored_results(deployed.up, run).items() >= results.items()


def test_the_completed_run_has_registered_its_version(deployed: Deployed) -> None:
    (run,) = deployed.mlflow_runs()
    assert run.info.status == "FINISHED"
    history = deployed.client().get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(1, STEPS + 1))
    version = deployed.client().get_model_version("tiny", "1")
    assert version.run_id == run.info.run_id
    assert version.aliases


def test_a_cancelled_run_leaves_a_checkpoint_and_no_process(deployed: Deployed) -> None:
    home = deployed.up.home
    run = deployed.start(max_steps=100_000)
    wait_for(lambda: list(home.glob(f"training/*/checkpoint-2/{MANIFEST}")), RUN_SECONDS)
    (work,) = home.glob("training/*")
    (training,) = [p for p in find_processes(home, lambda _: True) if is_stage(p)]
    processes = [training, *training.parents()[:1], *training.children(recursive=True)]
    assert "prefect" in " ".join(processes[1].cmdline())  # the flow run's own process

    deployed.prefect("cancel", run)
    deployed.wait_until(run, "CANCELLED")
    wait_for(lambda: not living(processes), 60)
    assert [p for p in find_processes(home, lambda _: True) if is_stage(p)] == []
    assert newest_step(work) >= 2  # where the same configuration continues
    assert sorted(run.info.status for run in deployed.mlflow_runs()) == ["FINISHED", "KILLED"]


def is_stage(process: psutil.Process) -> bool:
    return "orpo_pipeline.worker" in process.cmdline()


def test_the_nightly_retraining_trains_once_and_then_skips(deployed: Deployed) -> None:
    registry = {"experiment": "retrained", "model_name": "tiny-again"}
    config = {**deployed.config, "registry": registry}
    messages = []
    for _ in range(2):
        run = deployed.up.start_run(config, "nightly")
        deployed.wait_until(run, "COMPLETED")
        found = prefect_api.call(deployed.up.api, "GET", f"/flow_runs/{run}")
        messages.append(found["state"]["message"])
    assert messages == [
        "trains: the first time, on 60 accepted rows",
        "skipped: the data is that of version 1",
    ]
    assert len(deployed.client().search_model_versions("name = 'tiny-again'")) == 1
