"""Training that ran out of memory goes on with smaller forward passes: the same optimizer steps.

How large they are in the end lies beside the checkpoints, so that every later attempt begins there.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from orpo_pipeline.stages import write_atomically
from schemas.errors import EnvironmentFault, OutOfMemory
from schemas.plan import Choice, TrainingPlan

PLAN = "plan.json"
"""In a training's folder: the plan that its next attempt follows."""

WORDS = ("out of memory", "can't allocate memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch, its CPU allocator and CUDA's libraries say, all as a RuntimeError."""

KERNEL_COUNTERS = Path("/proc/vmstat")
"""Linux counts there, as `oom_kill`, the processes that it has killed for memory."""

UNITS = {"packed": "tokens", "trl": "pairs"}


SMALLER = (
    "Free memory that other programs hold, set training.gradient_checkpointing to on, lower "
    "chat.max_length, or choose a smaller model.base_model or a larger machine."
)


@contextmanager
def memory_faults(doing: str, kind: type[EnvironmentFault] = OutOfMemory) -> Iterator[None]:
    """Turn a failed allocation in the block, on the device or the host, into `kind`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_of_memory(error):
            raise
        because = (str(error).partition("\n")[0] or "no memory left").rstrip(".")
        raise kind(
            f"{doing} ran out of memory: {because}.",
            "memory for the model and one forward and backward pass.",
            SMALLER,
        ) from error


def _is_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(word in str(error) for word in WORDS)


def memory_kills() -> int:
    """Processes that the kernel has killed for memory since it started; 0 where it does not say."""
    try:
        counters = dict(line.split() for line in KERNEL_COUNTERS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counters.get("oom_kill", 0))


def need_less(plan: TrainingPlan, batch_size: int, longest: int, step: int) -> TrainingPlan | None:
    """The plan with half as much in a forward pass, and no layer kept dequantised; None where that
    holds no less.

    A packed pass holds at least the longest pair (`longest`: its tokens), a pass of TRL one pair.
    """
    old, unit = plan.forward_pass.value, UNITS[plan.engine.value]
    if plan.engine.value == "packed":
        new = max(old // 2, longest)
    else:
        new = max((n for n in range(1, old // 2 + 1) if batch_size % n == 0), default=old)
    changed: dict[str, Choice[int]] = {}
    if new < old:
        because = f"{unit}; halved after out of memory at step {step} with {old:,}"
        changed["forward_pass"] = Choice(value=new, because=because)
    if plan.dequantised_layers.value:
        because = f"given up after out of memory at step {step}"
        changed["dequantised_layers"] = Choice(value=0, because=because)
    return plan.model_copy(update=changed) if changed else None


def keep_plan(work: Path, plan: TrainingPlan) -> None:
    """Let every later attempt in this folder begin with `plan`."""
    work.mkdir(parents=True, exist_ok=True)
    write_atomically(work / PLAN, plan.model_dump_json(indent=1))


def kept_plan(work: Path, plan: TrainingPlan) -> TrainingPlan:
    """`plan` with what an earlier attempt has given up, if it has."""
    try:
        kept = TrainingPlan.model_validate_json((work / PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):  # it only saves attempts
        return plan
    return follow(plan, kept.forward_pass, kept.dequantised_layers)


def follow(
    plan: TrainingPlan, forward_pass: Choice[int], dequantised: Choice[int] | None = None
) -> TrainingPlan:
    """`plan` as it was followed: with smaller passes and fewer dequantised layers where it came to
    that."""
    changed = {}
    if forward_pass.value < plan.forward_pass.value:
        changed["forward_pass"] = forward_pass
    if dequantised and dequantised.value < plan.dequantised_layers.value:
        changed["dequantised_layers"] = dequantised
    return plan.model_copy(update=changed)
