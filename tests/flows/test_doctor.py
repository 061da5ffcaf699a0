"""`orpo-pipeline doctor` as a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import free_port
from versions import Versions


def doctor(home: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PREFECT"))}
    return subprocess.run(
        [sys.executable, "-m", "flows", "doctor", *arguments],
        env={**outside, "ORPO_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture
def config(two_versions: Versions, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(two_versions.config.model_dump_json(exclude_unset=True))
    return path


def test_all_is_well(two_versions: Versions, config: Path) -> None:
    measured = ("--set", "evaluation.generations=8")  # the gate asks for answers
    finished = doctor(two_versions.home, "--config", str(config), *measured, "--json")
    said = json.loads(finished.stdout)
    findings = {finding["what"]: finding for finding in said["findings"]}
    assert {f["level"] for f in findings.values()} == {"ok"}, finished.stdout
    assert finished.returncode == said["exit_code"] == 0
    wanted = ("packages", "data", "base model", "plan: engine", "memory", "nf4", "time", "disk")
    assert findings.keys() >= {*wanted, "champion", "database of mlflow", "clock", "tracking"}
    assert "4 steps about" in findings["time"]["found"]
    assert "packed" in findings["plan: engine"]["found"]


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_made(tmp_path: Path) -> None:
    finished = doctor(
        tmp_path / "home",
        *("--set", f"data.source={tmp_path / 'nowhere.jsonl'}"),
        *("--set", "model.base_model=owner/model", "--set", "model.device=mps"),
        HF_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        HF_HOME=str(tmp_path / "hub"),
        PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api",
    )
    assert finished.returncode == 2, finished.stderr
    lines = [line.split(maxsplit=1) for line in finished.stdout.splitlines()]
    levels = {text.partition(":")[0]: level for level, text in lines}
    assert levels["data"] == levels["plan"] == levels["prefect server"] == "error"
    assert levels["base model"] == levels["hub token"] == "warning"
    assert finished.stdout.count("fix: ") == finished.stdout.count("error  ") + (
        finished.stdout.count("\nwarning ")
    )
    assert not (tmp_path / "home").exists()


def test_a_configuration_that_cannot_be_read_is_an_error_as_everywhere(tmp_path: Path) -> None:
    finished = doctor(tmp_path, "--set", "training.stepz=3")
    assert finished.returncode == 2 and "training.stepz is not a known field" in finished.stderr
