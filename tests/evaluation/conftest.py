"""Jobs of the evaluate stage on a tiny model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from orpo_pipeline.training.qlora import attach_new_adapter, load_base
from schemas.jobs import EvaluateJob, TrainJob
from schemas.results import TrainedAdapter

MakeJob = Callable[..., TrainJob]


@pytest.fixture
def evaluate_job(train_job: MakeJob) -> Callable[..., EvaluateJob]:
    """`evaluate_job(evaluation={...})`: an adapter of random weights, no step of training."""

    def make(weight: float | None = None, seed: int = 2, **sections: dict[str, Any]) -> EvaluateJob:
        job = train_job(**{"lora": {"r": 4}, **sections})
        torch.manual_seed(seed)
        base = job.prepared.base_model
        loaded = load_base(base, job.plan)
        model = attach_new_adapter(loaded, job.config.lora, base, job.plan.engine.value)
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(tensor, std=0.3)
                if weight is not None:
                    torch.nn.init.constant_(tensor, weight)
        identity = f"{job.adapter_id}-{seed}"
        folder = job.home / "adapters" / identity
        model.save_pretrained(folder)
        adapter = TrainedAdapter(path=folder, adapter_id=identity, steps=1, seconds=1.0)
        return EvaluateJob(
            config=job.config, home=job.home, prepared=job.prepared, plan=job.plan, adapter=adapter
        )

    return make
