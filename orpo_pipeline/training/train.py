"""The train stage: prepared pairs and a plan in; a PEFT adapter or a model out, complete."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orpo_pipeline.disk import disk_faults, folder_bytes
from orpo_pipeline.stages import (
    code_version,
    fingerprint,
    is_complete,
    new_stage,
    write_atomically,
)
from orpo_pipeline.training.checkpoints import (
    WRITING,
    checkpoint_step,
    newest_checkpoint,
    newest_step,
)
from orpo_pipeline.training.engine import EngineRun, Interrupted, StepMetrics, find_engine
from orpo_pipeline.training.out_of_memory import memory_faults
from orpo_pipeline.training.qlora import load_trainable
from orpo_pipeline.training.ranks import told_by_first
from orpo_pipeline.training.warm_start import load_start, rows_to_train
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault
from schemas.jobs import TrainJob
from schemas.plan import TrainingPlan
from schemas.results import PreparedData, TrainedAdapter
from schemas.training_start import WarmStart

METRICS = "metrics.jsonl"
RECORD = "record.json"
DECISIVE_CHOICES = (
    "device",
    "dtype",
    "attention",
    "quantization",
    "optimizer",
    "forward_pass",
    "engine",
    "processes",
    "sharding",
)
"""Choices of the plan that change the adapter's numbers: TRL averages over forward passes, the
packed engine's sums round otherwise, and a model to be sharded draws its adapter in host memory.
Recomputing activations only changes time and memory."""

DECIDED_BY_PLAN = {
    "engine",
    "optimizer",
    "token_budget",
    "micro_batch_size",
    "gradient_checkpointing",
    "processes",
    "sharding",
}
"""Training settings that count as the plan has decided them, whether asked for or not."""


ON_NON_FINITE = {"on_non_finite", "max_skipped_steps"}
"""A training that stopped goes on from its checkpoint when they are changed."""


def adapter_id(
    config: RunConfig, prepared: PreparedData, plan: TrainingPlan, start: WarmStart | None = None
) -> str:
    """Name of one logical training: all that decides the adapter's weights."""
    # How often it is saved and measured decides nothing about what is saved in the end.
    # Nor what happens at a step that is not finite: nothing comes of a training that stops there.
    indifferent = {*DECIDED_BY_PLAN, "save_steps", "eval_pairs", *ON_NON_FINITE}
    return fingerprint(
        {
            "prepared": prepared.prepared_id,
            "lora": config.lora.model_dump(),
            "training": config.training.model_dump(exclude=indifferent),
            "plan": {name: plan.choices()[name].value for name in DECISIVE_CHOICES},
            "start": start and start.identity,
            "code": code_version("orpo_pipeline.training.train"),
        }
    )


def load_adapter(home: Path, identity: str) -> TrainedAdapter | None:
    """The record of a finished training, or None."""
    folder = home / "adapters" / identity
    if not is_complete(folder):
        return None
    record = TrainedAdapter.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    return record.model_copy(update={"reused": True, "path": folder})


def train(
    job: TrainJob,
    on_step: StepMetrics,
    should_stop: Callable[[], bool],
    on_loaded: Callable[[], None] = lambda: None,
) -> TrainedAdapter:
    """Train, or continue the same training, and publish the adapter.

    `on_loaded` is called once, before the first forward pass.
    Raises Interrupted after a stop that was asked for, EnvironmentFault when another process
    trains the same adapter.
    """
    folder = job.home / "adapters" / job.adapter_id
    work = job.home / "training" / job.adapter_id
    with _lock(work):
        record = load_adapter(job.home, job.adapter_id)
        if record is None:
            record = _train_and_publish(job, folder, work, on_step, should_stop, on_loaded)
        # Still locked: a process that gets hold of the removed lock finds the adapter published.
        shutil.rmtree(work, ignore_errors=True)
    return record


def _train_and_publish(
    job: TrainJob,
    folder: Path,
    work: Path,
    on_step: StepMetrics,
    should_stop: Callable[[], bool],
    on_loaded: Callable[[], None],
) -> TrainedAdapter:
    import torch

    started = time.monotonic()
    checkpoint = told_by_first(newest_checkpoint(work))  # once: each of its files is hashed
    try:
        with disk_faults(f"Training in {work}", work):
            run, resumed_from = run_engine(
                job, checkpoint, _recorded(work, checkpoint, on_step), should_stop, on_loaded
            )
    finally:
        # Not by every rank: another one may be writing still.
        shutil.rmtree(work / WRITING, ignore_errors=True)
    if should_stop():
        raise Interrupted(f"training stopped; checkpoints are in {work}")
    record = TrainedAdapter(
        path=folder,
        adapter_id=job.adapter_id,
        steps=newest_step(work),
        seconds=round(time.monotonic() - started, 1),
        resumed_from=resumed_from,
        forward_pass=job.plan.forward_pass,
        skipped_steps=_skipped_steps(work),
        started_from=job.start.version if job.start else None,
    )
    with new_stage(folder) as temporary:
        if job.config.training.method == "full":
            # The dtype in which it will compute: what more there is would be rounded on loading.
            run.model.to(getattr(torch, job.plan.dtype.value))
        run.model.save_pretrained(temporary)
        (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        run.tokenizer.save_pretrained(temporary)
        shutil.copy2(work / METRICS, temporary / METRICS)
        (temporary / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return record


def run_engine(
    job: TrainJob,
    checkpoint: Path | None,
    on_step: StepMetrics,
    should_stop: Callable[[], bool],
    on_loaded: Callable[[], None] = lambda: None,
) -> tuple[EngineRun, int]:
    """Train in place, from a checkpoint or the beginning; what every rank does.

    Returns the run with its trained model, and the step that it went on from.
    Raises OutOfMemory where smaller forward passes may help, else EnvironmentFault for a machine
    whose memory or disk is full.
    """
    from transformers import AutoTokenizer, set_seed

    set_seed(job.config.training.seed)  # new adapters are drawn at random
    with memory_faults("Loading the model", EnvironmentFault):
        model, rows = load_trainable(job.config, job.prepared.base_model, job.plan), None
        if job.start is not None:
            load_start(model, job.start, job.prepared.base_model)
            rows = rows_to_train(job.prepared.path, job.home, job.start)
    on_loaded()
    work = job.home / "training" / job.adapter_id
    run = EngineRun(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(job.prepared.path / "tokenizer"),
        pairs=job.prepared.path,
        training=job.config.training,
        plan=job.plan,
        work=work,
        on_step=on_step,
        should_stop=should_stop,
        rows=rows,
        checkpoint=checkpoint,
    )
    needed = partial(_checkpoint_bytes, model, work)
    with disk_faults(f"Training in {work}", work, needed), memory_faults("Training"):
        return run, find_engine(job.plan.engine.value)(run)


def _checkpoint_bytes(model: Any, work: Path) -> int:
    """What a checkpoint takes: as much as the last one, or float32 weights and two moments."""
    if step := newest_step(work):
        return folder_bytes(work / f"checkpoint-{step}")
    return 12 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _recorded(work: Path, checkpoint: Path | None, on_step: StepMetrics) -> StepMetrics:
    """`on_step` that also appends to metrics.jsonl, cut back to the checkpoint resumed from."""
    resumed_from = checkpoint_step(checkpoint) if checkpoint else 0
    path = work / METRICS
    kept = [point for point in read_metrics(path) if point["step"] <= resumed_from]
    write_atomically(path, "".join(json.dumps(point) + "\n" for point in kept))

    def record(step: int, steps: int, values: dict[str, float]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "values": values}) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint is, and must not outlive its figures
        on_step(step, steps, values)

    return record


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The points of a metrics.jsonl: `step` and `values`. A line torn by a crash is left out."""
    points = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            points.append(json.loads(line))
        except ValueError:
            break
    return points


def _skipped_steps(work: Path) -> int:
    points = read_metrics(work / METRICS)
    return int(points[-1]["values"].get("train/skipped_steps", 0)) if points else 0


def require_idle(home: Path, identity: str) -> None:
    """Raise EnvironmentFault when another process is running this training now."""
    work = home / "training" / identity
    if work.is_dir():
        with _lock(work):
            return


@contextmanager
def _lock(work: Path) -> Iterator[None]:
    """One process at a time per training; the kernel frees the lock when its holder dies."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFault(
                f"Another process is running this very training ({work.name}).",
                "one process per training.",
                "Wait until it has finished; the same command then reuses its result.",
            ) from None
        yield
