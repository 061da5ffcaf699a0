"""The plan for the configuration, with the memory and time that it predicts."""

from collections.abc import Iterator

import psutil

from orpo_pipeline.planning.duration import seconds_per_epoch
from orpo_pipeline.planning.memory import describe_bytes
from orpo_pipeline.planning.overrides import refuse_what_cannot_be_registered
from orpo_pipeline.planning.plan import check_requests, plan_table, plan_training, predict_memory
from orpo_pipeline.planning.trial import Trial
from orpo_pipeline.training.checkpoints import KEPT
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.findings import Finding
from schemas.hardware import Probe
from schemas.tokens import Longest
from tasks.doctor.known import Known

CHARACTERS_PER_TOKEN = 4
"""Of English text with its JSON; the estimate of a step's time is no better than that."""

PREPARED_COPIES = 4
"""Checked blocks, prepared data, a snapshot, and what MLflow keeps, by bytes of the source."""

TERA = 1e12


def check_plan(config: RunConfig, here: Probe, known: Known) -> Iterator[Finding]:
    """Every choice with its reason, and the predicted memory.

    Pairs are taken to be as long as `chat.max_length` allows: `orpo-pipeline plan` knows the data.
    """
    try:
        refuse_what_cannot_be_registered(config)
        check_requests(config, here)
    except UserError as error:
        yield Finding.of("plan", error)
        return
    if known.shape is None:
        yield Finding.warning(
            "plan",
            "not made: the sizes of the base model are not known yet",
            "`orpo-pipeline plan` fetches the model and prints it.",
        )
        return
    side = config.chat.max_length
    longest = Longest(side, 2 * side)
    try:
        plan = plan_training(config, here, known.shape, longest)
    except UserError as error:
        yield Finding.of("plan", error)
        return
    for name, value, because in plan_table(plan):
        yield Finding.ok(f"plan: {name.replace('_', ' ')}", f"{value}: {because}")
    memory = predict_memory(config, plan, known.shape, longest)
    known.plan, known.checkpoint_bytes = plan, float(memory.trained * (KEPT + 1))
    yield _memory(memory.total, here if plan.device.value != "cpu" else None, side)


def _memory(need: int, accelerator: Probe | None, side: int) -> Finding:
    found = f"about {describe_bytes(need)} at the peak of a step, with pairs of {side:,} tokens"
    if accelerator is not None:
        total = describe_bytes(accelerator.memory)
        return Finding.ok("memory", f"{found}; {total} on the device")
    free = psutil.virtual_memory().available
    found += f"; {describe_bytes(free)} free now"
    if free < need:
        return Finding.warning(
            "memory", found, "End other programs before a training, or lower chat.max_length."
        )
    return Finding.ok("memory", found)


def check_nf4(trial: Trial, known: Known) -> Finding:
    """Does a 4-bit layer compute what the one without does, where training needs it?"""
    wanted = known.plan is None or known.plan.quantization.value == "nf4"
    named = f"bitsandbytes {trial.probe.bitsandbytes or 'is not installed'}"
    if trial.nf4_works:
        off = f"{trial.nf4_error:.1%} off, as 4 bits are"
        return Finding.ok("nf4", f"{named} computes on {trial.device} ({off})")
    problem = trial.nf4_failure or f"its product is {trial.nf4_error:.0%} off"
    found = f"{named} does not work on {trial.device}: {problem}"
    fix = "Set model.quantization to none, or install a build for this device and torch."
    return Finding.error("nf4", found, fix) if wanted else Finding.warning("nf4", found, fix)


def predict_time(config: RunConfig, known: Known) -> Iterator[Finding]:
    """Seconds of a step, and of all of them where their number can be known."""
    plan, trial, batch = known.plan, known.trial, config.training.batch_size
    if plan is None or trial is None or known.shape is None or not known.row_bytes:
        return
    tokens = min(known.row_bytes / CHARACTERS_PER_TOKEN, 2 * config.chat.max_length)
    step = seconds_per_epoch(batch * tokens, plan, known.shape, trial.flops)
    steps: float | None = config.training.max_steps
    if steps is None and known.rows is not None:
        held_out = 0 if config.data.eval_split else config.data.eval_fraction
        steps = max(1.0, config.training.epochs * known.rows * (1 - held_out) // batch)
    total = f", {steps:,.0f} steps about {_duration(steps * step)}" if steps else ""
    yield Finding.ok(
        "time",
        f"a step of {batch} pairs about {_duration(step)}{total} (pairs of about {tokens:,.0f} "
        f"tokens by the first rows; {trial.flops / TERA:.2f} TFLOP/s measured now); evaluation "
        "comes on top",
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def disk_needs(known: Known) -> dict[str, float]:
    """Bytes that a run writes into the state folder, by what they are."""
    return {
        "base model": known.model_bytes,
        "checkpoints": known.checkpoint_bytes,
        "data": float(PREPARED_COPIES * known.source_bytes),
    }
