"""Registered versions made by the real stages: prepared data, an adapter, its evaluation."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from engines import build_model
from rows import pair_row, write_rows

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.evaluation.evaluate import evaluate
from orpo_pipeline.planning.plan import plan_training
from schemas.config import RunConfig
from schemas.hardware import Probe
from schemas.jobs import EvaluateJob, TrainJob
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PreparedData, RegisteredVersion, TrainedAdapter
from tasks.evidence import fixed_pair, store_evidence
from tasks.home import mlflow_store
from tasks.registry import record_run, register_version, registered
from tasks.tracking import Tracker, recorded_run


@dataclass(frozen=True)
class Versions:
    """A state folder with prepared data, where versions can be registered."""

    home: Path
    config: RunConfig
    prepared: PreparedData
    plan: TrainingPlan

    def tracker(self) -> Tracker:
        return Tracker(self.config.registry, self.home)

    def register(self, seed: int) -> tuple[RegisteredVersion, EvaluationReport]:
        """A version with an adapter of random weights, measured and registered."""
        adapter_id = f"adapter-{seed}"
        job = TrainJob(
            config=self.config,
            home=self.home,
            prepared=self.prepared,
            plan=self.plan,
            adapter_id=adapter_id,
        )
        model = build_model(job)
        torch.manual_seed(seed)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
        folder = self.home / "adapters" / adapter_id
        model.save_pretrained(folder)
        for file in (self.prepared.path / "tokenizer").iterdir():
            shutil.copy2(file, folder / file.name)
        (folder / "metrics.jsonl").write_text("")
        adapter = TrainedAdapter(path=folder, adapter_id=adapter_id, steps=1, seconds=1.0)
        evaluation = evaluate(
            EvaluateJob(
                config=self.config,
                home=self.home,
                prepared=self.prepared,
                plan=self.plan,
                adapter=adapter,
            ),
            lambda *_: None,
        )
        return self._register(adapter, evaluation), evaluation

    def _register(self, adapter: TrainedAdapter, evaluation: EvaluationReport) -> RegisteredVersion:
        prepared, plan = self.prepared, self.plan
        with recorded_run(self.config.registry, self.home, adapter.adapter_id) as (tracker, run):
            tracker.describe_run(run, self.config, prepared, plan)
            record_run(tracker, run, prepared, plan, adapter, evaluation)
            version, known = register_version(tracker, run, prepared, plan, adapter, evaluation)
            store_evidence(tracker, run, version, adapter, fixed_pair(prepared, plan, evaluation))
            tracker.finish_run(run)
            return registered(tracker, run, version, reused=known)


def make_versions(folder: Path, model: Path, probe: Probe, /, **sections: Any) -> Versions:
    source = write_rows(folder / "pairs.jsonl", [pair_row(number) for number in range(60)])
    home = folder / "home"
    # Named, because MLflow keeps the last store of a process in the environment.
    registry = {"experiment": "tests", "model_name": "tiny", "tracking_uri": mlflow_store(home)}
    values: dict[str, Any] = {
        "data": {"source": str(source), "eval_fraction": 0.3},
        "chat": {"max_length": 128},
        "model": {"base_model": str(model), "quantization": "none"},
        "lora": {"r": 4},
        "training": {"max_steps": 4, "batch_size": 4},
        "evaluation": {"generations": 0},
        "registry": registry,
        **sections,
    }
    config = RunConfig.model_validate(values)
    prepared = prepare(config, home, lambda *_: None)
    plan = plan_training(config, probe, prepared.base_model.shape, prepared.longest)
    return Versions(home, config, prepared, plan)
