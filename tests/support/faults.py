"""Runs of a real `up` on a tiny model, frozen in a stage so that something can be killed there."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rows import pair_row, write_rows
from servers import Up, living, wait_for

from schemas.errors import EnvironmentFault
from schemas.figures import Figure
from tasks import prefect_api
from tasks.process_group import FLOW_RUN, find_processes

RUN_SECONDS = 500
STEPS, SAVE_STEPS = 200, 20
STAGES = ("prepare", "train", "evaluate", "register", "promote")
VICTIMS = ("flow", "child", "worker", "prefect", "mlflow")
STAGE_SECONDS = 240
LATIN_SQUARE = [
    {stage: VICTIMS[(row + column) % 5] for column, stage in enumerate(STAGES)} for row in range(5)
]
"""Whom to kill in each stage of five runs, so that every victim dies once in every stage."""


def write_pairs(folder: Path) -> Path:
    return write_rows(folder / "pairs.jsonl", [pair_row(number) for number in range(60)])


def config_of(name: str, number: int, source: Path, model: Path, server: str) -> dict[str, Any]:
    """A configuration that shares no stage with those of other numbers, and trains the same.

    What differs has no effect: a similarity that no two rows have, and a limit that no gradient
    comes near.
    """
    return {
        "data": {
            "source": str(source),
            "eval_fraction": 0.3,
            "near_duplicates": 0.9 + number / 100_000,
        },
        "chat": {"max_length": 128},
        "model": {"base_model": str(model), "quantization": "none", "device": "cpu"},
        "training": {
            "max_steps": STEPS,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "save_steps": SAVE_STEPS,
            "max_grad_norm": 1e6 + number,
        },
        "evaluation": {"generations": 2, "max_new_tokens": 4},
        # What more training surely improves, so that each first version is promoted.
        "gate": {
            "primary": Figure.CHOSEN_NLL.value,
            "guardrails": {},
            "alpha": 0.4,
            "min_groups": 2,
        },
        "registry": {"experiment": name, "model_name": name, "tracking_uri": server},
    }


@dataclass
class Site:
    """A running `up`, and what is to be looked at in its state folder."""

    up: Up
    source: Path
    model: Path
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1000)))
    plans: set[Path] = field(default_factory=set)

    def recorded_plans(self) -> set[Path]:
        """What each `register` writes, soon after its beginning."""
        return set(self.up.home.glob("mlflow/artifacts/*/*/artifacts/plan.md"))

    def start(self, name: str, **training: Any) -> str:
        config = config_of(name, next(self.numbers), self.source, self.model, self.up.mlflow_url)
        config["training"] |= training
        self.plans = self.recorded_plans()
        return self.up.start_run(config)

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = prefect_api.call(self.up.api, "GET", f"/flow_runs/{run}")
        return found

    def wait_until(self, run: str, state: str, seconds: float = RUN_SECONDS) -> None:
        """Wait for a state type; a run that failed by itself fails the test with its message."""

        def reached() -> bool:
            with suppress(EnvironmentFault):  # the server may be what was killed
                found = self.run(run)
                failed = found["state_type"] == "FAILED" or found["state_name"] == "GivenUp"
                assert not failed or state in ("FAILED", "CRASHED"), found["state"]
                return bool(found["state_type"] == state)
            return False

        wait_for(reached, seconds)

    def states(self, run: str) -> list[str]:
        """Names of the run's states, in order of time."""
        found = prefect_api.call(self.up.api, "GET", f"/flow_run_states/?flow_run_id={run}")
        return [state["name"] for state in sorted(found, key=lambda state: state["timestamp"])]

    def task_states(self, run: str) -> dict[str, list[str]]:
        """State types of a run's tasks by stage, all executions together."""
        body = {"flow_runs": {"id": {"any_": [run]}}}
        states: dict[str, list[str]] = {}
        for task in prefect_api.call(self.up.api, "POST", "/task_runs/filter", body):
            states.setdefault(task["name"].split("-")[0], []).append(task["state_name"])
        return states

    def processes(self, run: str) -> list[psutil.Process]:
        """All living processes of a flow run."""
        found = []
        for process in find_processes(self.up.home, lambda _: True):
            with suppress(psutil.Error):
                if process.environ().get(FLOW_RUN) == run:
                    found.append(process)
        return living(found)

    def flow(self, run: str) -> list[psutil.Process]:
        """The process that executes the flow: the one that no other of them has started."""
        processes = self.processes(run)
        ids = {process.pid for process in processes}
        return [process for process in processes if process.ppid() not in ids]

    def manifests(self) -> dict[Path, int]:
        """Every finished stage, with the time in ns at which it was finished."""
        rooms = ("prepared", "adapters", "evaluations")
        found = [path for room in rooms for path in self.up.home.glob(f"{room}/*/manifest.json")]
        return {path: path.stat().st_mtime_ns for path in found}

    def server(self, name: str) -> psutil.Process:
        file = json.loads((self.up.home / "servers.json").read_text())
        return psutil.Process(file["processes"][name])

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.up.mlflow_url, self.up.mlflow_url)

    def mlflow_runs(self, name: str) -> list[Any]:
        client = self.client()
        experiment = client.get_experiment_by_name(name)
        return list(client.search_runs([experiment.experiment_id])) if experiment else []


def job_of(process: psutil.Process) -> dict[str, Any]:
    """The job of a stage's process; {} for other processes, and for one that has ended."""
    with suppress(psutil.Error, OSError, ValueError):
        words = process.cmdline()
        if "orpo_pipeline.worker" in words:
            job: dict[str, Any] = json.loads(Path(words[words.index("--events") - 1]).read_text())
            return job
        if "tasks.smoke_test" in words:
            return {"kind": "promote"}
    return {}


def find_stage(site: Site, run: str, stage: str) -> list[psutil.Process]:
    """The processes of a flow run that are in a stage now, the flow's own first."""
    with suppress(psutil.NoSuchProcess):  # looked at while it ended
        flow = site.flow(run)
        if stage == "register":
            return flow if site.recorded_plans() - site.plans else []
        children = [p for p in site.processes(run) if job_of(p).get("kind") == stage]
        if stage == "train" and children:
            work = site.up.home / "training" / job_of(children[0])["adapter_id"]
            if not any(work.glob("checkpoint-*/manifest.json")):
                return []
        return [*flow, *children] if flow and children else []
    return []


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes, so that the stage lasts as long as the block."""
    for process in reversed(processes):
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)


def adapter_hash(site: Site, run: Any) -> str:
    """SHA-256 of the weights that an MLflow run trained."""
    folder = site.up.home / "adapters" / run.data.tags["orpo.adapter_id"]
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def the_one_adapter(site: Site, name: str) -> str:
    """Hash of the adapter of the experiment's only run, which holds all that it must, once."""
    (found,) = site.mlflow_runs(name)
    assert found.info.status == "FINISHED"
    client = site.client()
    points = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.run_id == found.info.run_id
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    return adapter_hash(site, found)


def nothing_is_left(site: Site, run: str) -> None:
    """No process, no open run, task or slot, and no half-written stage."""
    assert wait_for(lambda: not site.processes(run), 60)
    assert {state for states in site.task_states(run).values() for state in states} <= {
        *("Completed", "Cached", "Crashed", "Failed"),
    }
    limits = prefect_api.call(site.up.api, "POST", "/v2/concurrency_limits/filter", {})
    assert [limit for limit in limits if limit["active_slots"]] == []
    for room in ("prepared", "adapters", "evaluations"):
        assert [path.name for path in site.up.home.glob(f"{room}/.*")] == []


def victim_of(site: Site, name: str, processes: list[psutil.Process]) -> psutil.Process:
    if name == "flow":
        return processes[0]
    return processes[1] if name == "child" else site.server(name)


def kill_in_every_stage(site: Site, name: str, victims: dict[str, str], undisturbed: str) -> None:
    """One run in which each stage sees a kill; it must end as the undisturbed one."""
    run = site.start(name)
    finished: dict[Path, int] = {}
    for stage, victim in victims.items():
        if (stage, victim) == ("register", "child"):
            continue  # it runs in the flow's own process
        processes = wait_for(lambda stage=stage: find_stage(site, run, stage), STAGE_SECONDS)
        finished |= {p: t for p, t in site.manifests().items() if p not in finished}
        with frozen(processes):
            print(f"{stage}: kill -9 of {victim}")
            kill(victim_of(site, victim, processes))
    site.wait_until(run, "COMPLETED")
    assert the_one_adapter(site, name) == undisturbed
    now = site.manifests()
    assert finished == {path: now[path] for path in finished}
    nothing_is_left(site, run)
    assert site.states(run).count("Resuming") == 2  # for the flow and for the worker
