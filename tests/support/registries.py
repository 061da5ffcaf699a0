"""A registry with four versions, and processes that promote them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.config import RegistryConfig
from tasks.home import mlflow_store
from tasks.tracking import Tracker

DRIVER = Path(__file__).with_name("promoting.py")
REPOSITORY = Path(__file__).parents[2]
MODEL = "tiny"


@dataclass(frozen=True)
class Registry:
    """Versions 1 to 4: 1 is the champion, 2 the challenger."""

    home: Path
    run_id: str

    @property
    def uri(self) -> str:
        return mlflow_store(self.home)

    def tracker(self) -> Tracker:
        return Tracker(RegistryConfig(tracking_uri=self.uri, model_name=MODEL), self.home)

    def start(
        self, before: str, to: str, stop_before: int = 0, uri: str | None = None
    ) -> "subprocess.Popen[str]":
        """A process that is about to promote; it waits for a line."""
        job: dict[str, Any] = {
            "uri": uri or self.uri,
            "home": str(self.home),
            "model": MODEL,
            "run_id": self.run_id,
            "from": before,
            "to": to,
            "stop_before": stop_before,
        }
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    def race(self, rivals: dict[str, "subprocess.Popen[str]"]) -> str:
        """Let them all go at once; the version that won, the others having said why not."""
        for process in rivals.values():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = {to: process.communicate(timeout=120)[0] for to, process in rivals.items()}
        (winner,) = [to for to, process in rivals.items() if process.returncode == 0]
        assert outputs.pop(winner) == "completed\n"
        for loser, text in outputs.items():
            assert rivals[loser].returncode == 2, text
            assert f"The champion of tiny is version {winner} now (promotion" in text
            assert "no longer version 1" in text and "Nothing was moved." in text
        return winner


def make_registry(home: Path) -> Registry:
    tracker = Tracker(RegistryConfig(tracking_uri=mlflow_store(home), model_name=MODEL), home)
    run_id = tracker.open_run("adapter-1")
    tracker.ensure_model(MODEL)
    for _ in range(4):
        tracker.client.create_model_version(MODEL, f"runs:/{run_id}/adapter", run_id=run_id)
    tracker.client.set_registered_model_alias(MODEL, "champion", "1")
    tracker.client.set_registered_model_alias(MODEL, "challenger", "2")
    return Registry(home, run_id)
