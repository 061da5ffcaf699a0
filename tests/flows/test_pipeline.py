"""The main job end to end on a tiny model: real Prefect, real MLflow, real child processes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rows import pair_row, write_rows
from servers import living

from orpo_pipeline.stages import MANIFEST
from orpo_pipeline.training.checkpoints import newest_step
from tasks.home import mlflow_store
from tasks.process_group import find_processes

RUN_SECONDS = 280
ENDLESS = ("training.max_steps=100000", "registry.experiment=interrupted")


@dataclass
class Site:
    """A state folder with a config file."""

    home: Path
    config: Path

    @property
    def environment(self) -> dict[str, str]:
        ours = ("PREFECT", "MLFLOW")
        outside = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
        return {**outside, "ORPO_HOME": str(self.home)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows", "run", "--config", str(self.config), *arguments]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(mlflow_store(self.home), mlflow_store(self.home))

    def only_run(self) -> Any:
        client = self.client()
        runs = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
        assert len(runs) == 1
        return runs[0]


def make_site(folder: Path, model: Path, sections: Mapping[str, Mapping[str, Any]]) -> Site:
    source = write_rows(
        folder / "pairs.jsonl", [pair_row(number) for number in range(60)] + ["{broken"]
    )
    values: dict[str, dict[str, Any]] = {
        "data": {"source": str(source), "eval_fraction": 0.3},
        "chat": {"max_length": 128},
        "model": {"base_model": str(model), "quantization": "none", "dtype": "float32"},
        "training": {
            "max_steps": 6,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "save_steps": 2,
            "eval_pairs": 2,
        },
        "evaluation": {"generations": 2, "max_new_tokens": 4},
        "gate": {"primary": "pairs/log_odds_margin", "min_groups": 5, "guardrails": {}},
        "registry": {"experiment": "tests", "model_name": "tiny"},
    }
    for name, fields in sections.items():
        values[name] = {**values.get(name, {}), **fields}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    return Site(folder / "home", config)


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), tiny_model, {})


@pytest.fixture(scope="module")
def first_output(site: Site) -> str:
    """The first run is killed with -9 while it trains; the same command then finishes."""
    process = subprocess.Popen(site.command(), env=site.environment)
    wait_for_checkpoint(site.home, process)
    training = [p.pid for p in psutil.Process(process.pid).children() if is_training(p)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(training)
    finished = site.run()
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def is_training(process: psutil.Process) -> bool:
    return "orpo_pipeline.worker" in process.cmdline()


def wait_for_checkpoint(home: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not list(home.glob(f"training/*/checkpoint-2/{MANIFEST}")):
        assert process.poll() is None, "the run ended before it had a checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_gone(pids: list[int]) -> None:
    assert pids, "the training has no process of its own"
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "the training outlived its parent"
        time.sleep(0.1)


def test_what_happened_is_printed(first_output: str) -> None:
    assert "61 rows in = 60 kept" in first_output
    assert "1 quarantined" in first_output and "broken_row 1" in first_output
    assert "pair accuracy" in first_output and "pairs" in first_output
    assert "tiny version 1" in first_output and "Gate: " in first_output
    assert "make up OPEN=1" in first_output


def test_after_a_kill_the_run_continued_and_is_one(site: Site, first_output: str) -> None:
    assert "continued from step" in first_output
    run = site.only_run()
    assert run.info.status == "FINISHED"
    history = site.client().get_metric_history(run.info.run_id, "train/loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5, 6]
    assert not list((site.home / "training").iterdir())


def test_the_run_holds_what_a_reader_looks_for(site: Site, first_output: str) -> None:
    run = site.only_run()
    paths = {a.path for folder in ("", "data", "figures") for a in list_files(site, run, folder)}
    assert {
        "config.yaml",
        "gate.html",
        "plan.md",
        "generations.json",
        "data/report.json",
        "figures/data_funnel.png",
        "figures/training_curves.png",
        "figures/margins.png",
    } <= paths
    assert run.data.params["training.max_steps"] == "6"
    assert run.data.params["plan.device"]
    assert int(run.data.params["data.eval_pairs"]) > 0
    history = site.client().get_metric_history(run.info.run_id, "pairs/accuracy")
    assert [metric.step for metric in history] == [0, 6]  # the base model, the candidate
    dataset = run.inputs.dataset_inputs[0].dataset
    assert run.data.tags["orpo.dataset_id"].startswith(dataset.digest)


def list_files(site: Site, run: Any, folder: str) -> list[Any]:
    return list(site.client().list_artifacts(run.info.run_id, folder))


def test_the_version_has_an_alias_for_a_stated_reason(site: Site, first_output: str) -> None:
    version = site.client().get_model_version("tiny", "1")
    run = site.only_run()
    promoted = version.tags["orpo.verdict"] == "promote"
    assert version.aliases == ["champion" if promoted else "challenger"]
    assert "pairs/log_odds_margin" in version.tags["orpo.decision"]
    assert version.tags["orpo.base_revision"] and version.run_id == run.info.run_id


FRESH_PROCESS = """
import json, os, sys
from pathlib import Path
import mlflow
from orpo_pipeline.data.prepared_files import read_pairs
from schemas.tokens import TokenizedPair
from orpo_pipeline.evaluation.scoring import score_pairs
uri, prepared, copy = sys.argv[1:]
mlflow.set_tracking_uri(uri); mlflow.set_registry_uri(uri)

def load():
    return mlflow.pyfunc.load_model("models:/tiny/1")

def answer(model):
    messages = [{"role": "user", "content": "Hello"}]
    return model.predict({"messages": messages}, params={"max_new_tokens": 3})

model = load()
rows = read_pairs(Path(prepared), "eval")
pairs = [TokenizedPair(*ids) for ids in
         rows.select("prompt_ids", "chosen_ids", "rejected_ids").iter_rows()]
scores = score_pairs(model.unwrap_python_model().model, pairs, batch_size=4)
found = {"logps": [s.chosen_logp for s in scores], "answers": answer(model)}
os.environ["ORPO_BASE_MODEL"] = copy
moved = load()
found["base"] = moved.unwrap_python_model().model.get_base_model().config.name_or_path
found["answers_on_copy"] = answer(moved)
os.environ["ORPO_BASE_MODEL"] = copy + "-gone"
try:
    load()
except FileNotFoundError as error:
    found["missing"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(
    site: Site, first_output: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a fresh process finds in the registered version."""
    folder = tmp_path_factory.mktemp("elsewhere")
    copy = shutil.copytree(tiny_model, folder / "base")
    prepared = next(site.home.glob("prepared/*/eval.parquet")).parent
    finished = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, mlflow_store(site.home), str(prepared), str(copy)],
        env=site.environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return {**found, "copy": str(copy)}


def test_a_version_loaded_in_a_fresh_process_gives_the_same_log_probs(
    site: Site, loaded: dict[str, Any]
) -> None:
    import polars as pl

    measured = pl.read_parquet(next(site.home.glob("evaluations/*/pairs.parquet")))
    expected = measured["candidate_chosen_logp"].to_list()
    base = measured["base_chosen_logp"].to_list()
    assert loaded["logps"] == pytest.approx(expected, abs=1e-4)
    assert loaded["logps"] != pytest.approx(base, abs=1e-2)  # the adapter is really in it
    assert len(loaded["answers"]) == 1 and isinstance(loaded["answers"][0], str)


def test_a_version_takes_its_base_model_from_another_place(loaded: dict[str, Any]) -> None:
    assert loaded["base"] == loaded["copy"]
    assert loaded["answers_on_copy"] == loaded["answers"]
    assert f"is not at {loaded['copy']}-gone. Set ORPO_BASE_MODEL" in loaded["missing"]


def test_unchanged_inputs_are_not_done_again(site: Site, first_output: str) -> None:
    finished = site.run()
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("(reused)") == 2
    assert "tiny version 1" in finished.stdout
    assert len(site.client().search_model_versions("name = 'tiny'")) == 1
    site.only_run()


def test_prefect_keeps_the_states_and_small_results(site: Site, first_output: str) -> None:
    with closing(sqlite3.connect(site.home / "prefect" / "prefect.db")) as database:
        rows = database.execute(
            "select t.name, t.state_type from task_run t join flow_run f on f.id = t.flow_run_id "
            "where f.state_type = 'COMPLETED'"
        ).fetchall()
        artifacts = {key for (key,) in database.execute("select key from artifact")}
    assert artifacts >= {"data-funnel", "training-plan", "gate", "mlflow-run", "registered-version"}
    assert {(name.split("-")[0], state) for name, state in rows} == {
        (name, "COMPLETED")
        for name in ("prepare", "plan", "train", "evaluate", "register", "promote")
    }
    stored = list((site.home / "prefect" / "storage").rglob("register.json"))
    assert stored and all(path.stat().st_size < 20_000 for path in stored)


# The data source is missing too: what this machine cannot do is said before data is looked at.
DEVICE = "cuda" if sys.platform == "darwin" else "mps"
IMPOSSIBLE = (f"model.device={DEVICE}", "data.source=missing.jsonl")
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("command", "overrides", "code", "words"),
    [
        ("run", IMPOSSIBLE, 2, f"device is {DEVICE}"),
        ("plan", IMPOSSIBLE, 2, f"device is {DEVICE}"),
        ("run", ["registry.tracking_uri=http://127.0.0.1:9"], 3, "does not answer"),
        ("plan", ["model.base_model=owner/model"], 3, "model owner/model is not in the hub cache"),
    ],
)
def test_errors_are_one_paragraph(
    site: Site, first_output: str, command: str, overrides: Sequence[str], code: int, words: str
) -> None:
    options = [word for override in overrides for word in ("--set", override)]
    before = flow_runs(site)
    finished = subprocess.run(
        [sys.executable, "-m", "flows", command, "--config", str(site.config), *options],
        env={**site.environment, **NO_HUB, "HF_HOME": str(site.home / "huggingface")},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert finished.returncode == code, finished.stderr
    assert words in finished.stderr and "expected:" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert flow_runs(site) == before, "it came to a flow, behind the start of a server"


def flow_runs(site: Site) -> int:
    with closing(sqlite3.connect(site.home / "prefect" / "prefect.db")) as database:
        return int(database.execute("select count(*) from flow_run").fetchone()[0])


@pytest.mark.slow
def test_ctrl_c_ends_the_run_with_all_its_processes(site: Site, first_output: str) -> None:
    """A terminal sends SIGINT to the whole foreground process group: Prefect's server is in it."""
    endless = [word for o in ENDLESS for word in ("--set", o)]
    process = subprocess.Popen(site.command(*endless), env=site.environment, start_new_session=True)
    wait_for_checkpoint(site.home, process)
    (work,) = (site.home / "training").iterdir()
    started = find_processes(site.home, lambda role: role == f"run-{process.pid}")
    assert any("uvicorn" in p.cmdline() for p in started) and any(map(is_training, started))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(RUN_SECONDS) == 130
    assert living(started) == []
    assert find_processes(site.home, lambda _: True) == []
    assert newest_step(work) >= 2
    client = site.client()
    (run,) = client.search_runs([client.get_experiment_by_name("interrupted").experiment_id])
    assert run.info.status == "KILLED"
    with closing(sqlite3.connect(site.home / "prefect" / "prefect.db")) as database:
        (state,) = database.execute(
            "select state_type from flow_run order by created desc limit 1"
        ).fetchone()
    assert state == "CRASHED"  # reported, because the server outlived the interrupt
