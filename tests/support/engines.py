"""A job's model, and its training by the engine that the plan names."""

from pathlib import Path
from typing import Any

import torch

from orpo_pipeline.training.checkpoints import newest_checkpoint
from orpo_pipeline.training.engine import EngineRun, find_engine
from orpo_pipeline.training.qlora import attach_new_adapter, load_base
from schemas.jobs import TrainJob

Points = list[tuple[int, int, dict[str, float]]]
"""What an engine reports: the step, the number of steps, the figures."""


def build_model(job: TrainJob, moved: bool = False) -> Any:
    """Base model with a new adapter; `moved`: as if trained, so that the adapter's part counts."""
    torch.manual_seed(7)
    base = job.prepared.base_model
    loaded = load_base(base, job.plan)
    model = attach_new_adapter(loaded, job.config.lora, base, job.plan.engine.value)
    for name, weight in model.named_parameters():
        if moved and "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def run_engine(job: TrainJob, model: Any, work: Path, stop_after: int | None = None) -> Points:
    """Train, and return what was reported.

    `stop_after`: a number of steps; the stop is asked for when the last of them ends.
    """
    from transformers import AutoTokenizer

    points: Points = []
    find_engine(job.plan.engine.value)(
        EngineRun(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(job.prepared.path / "tokenizer"),
            pairs=job.prepared.path,
            training=job.config.training,
            plan=job.plan,
            work=work,
            on_step=lambda *point: points.append(point),
            # A step's figures come after the question whether to stop behind it.
            checkpoint=newest_checkpoint(work),
            should_stop=lambda: stop_after is not None and len(points) >= stop_after - 1,
        )
    )
    return points


def idle_run(job: TrainJob, work: Path, model: Any = None) -> EngineRun:
    """A run that nobody stops or listens to, for what an engine does beside its steps."""
    return EngineRun(
        model=model,
        tokenizer=None,
        pairs=job.prepared.path,
        training=job.config.training,
        plan=job.plan,
        work=work,
        on_step=lambda *_: None,
        should_stop=lambda: False,
    )
