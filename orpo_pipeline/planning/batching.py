"""Pairs a forward pass, and whether it recomputes activations: what fits in memory."""

from collections.abc import Callable

from orpo_pipeline.planning.capabilities import can_use_nf4
from orpo_pipeline.planning.memory import MemoryEstimate, describe_bytes
from orpo_pipeline.planning.overrides import asked_for
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import Choice

MEMORY_SHARE = {"cuda": 0.85, "rocm": 0.85, "cpu": 0.7, "mps": 0.6}
"""Share of all memory that training may plan with. The rest is for fragmentation and, on a CPU or
Apple's unified memory, for the operating system and the processes that orchestrate."""

CPU_PAIRS = 2
"""More pairs a forward pass only add padding on a CPU: its cores are busy with one."""

GPU_PAIRS = 2
"""Recomputing activations is worth it on a GPU before going below this many pairs a pass."""

Estimator = Callable[[int, bool], MemoryEstimate]
"""(micro batch size, gradient checkpointing) -> estimate."""


def choose_batch(
    config: RunConfig, target: Probe, estimate: Estimator
) -> tuple[Choice[bool], Choice[int]]:
    """Gradient checkpointing and micro batch size, decided together because they share memory.

    Without checkpointing where enough pairs fit, else with it; then the largest divisor of the
    batch that fits. Raises UserError when one pair does not fit and no size was asked for, or when
    the weights alone exceed the memory.
    """
    total = target.ram if target.kind == "cpu" else target.device_memory
    sizes = _micro_batch_sizes(config, target)
    requested = config.training.gradient_checkpointing
    settings = [False, True] if requested == "auto" else [requested == "on"]
    if not total:
        because = f"the memory of {target.name} is unknown"
        return (
            _checkpointing_choice(config, settings[-1], because),
            _micro_batch_choice(config, min(sizes), because),
        )
    budget = int(total * MEMORY_SHARE[target.kind])
    limit = f"{describe_bytes(budget)} ({MEMORY_SHARE[target.kind]:.0%} of {describe_bytes(total)})"
    least = min(1 if target.kind == "cpu" else GPU_PAIRS, max(sizes))
    least = min(size for size in sizes if size >= least)
    fit = _first_fit(settings, sizes, least, lambda *asked: estimate(*asked).total <= budget)
    checkpointing, size = fit or (settings[-1], min(sizes))
    chosen = estimate(size, checkpointing)
    if fit:
        because = f"estimate {describe_bytes(chosen.total)} of {limit}"
    elif config.training.micro_batch_size is None or chosen.resident > total:
        raise _does_not_fit(config, target, chosen, limit)
    else:
        because = f"estimate {describe_bytes(chosen.total)} exceeds {limit}: may run out of memory"
    without = (
        f"without it, {least} pairs a pass need {describe_bytes(estimate(least, False).total)}"
    )
    return (
        _checkpointing_choice(
            config, checkpointing, f"{without}; limit {limit}" if checkpointing else because
        ),
        _micro_batch_choice(config, size, because),
    )


def _first_fit(
    settings: list[bool], sizes: list[int], least: int, fits: Callable[[int, bool], bool]
) -> tuple[bool, int] | None:
    """The first setting with a size that fits; only the last setting goes below `least` pairs."""
    worthwhile = [size for size in sizes if size >= least]
    for checkpointing in settings:
        for size in sizes if checkpointing == settings[-1] else worthwhile:
            if fits(size, checkpointing):
                return checkpointing, size
    return None


def _micro_batch_sizes(config: RunConfig, target: Probe) -> list[int]:
    """Candidates, largest first."""
    if config.training.micro_batch_size is not None:
        return [config.training.micro_batch_size]
    batch = config.training.batch_size
    most = CPU_PAIRS if target.kind == "cpu" else batch
    return [size for size in range(min(most, batch), 0, -1) if batch % size == 0]


def _checkpointing_choice(config: RunConfig, on: bool, because: str) -> Choice[bool]:
    if config.training.gradient_checkpointing != "auto":
        return Choice(value=on, because=asked_for("training.gradient_checkpointing"))
    return Choice(value=on, because=because)


def _micro_batch_choice(config: RunConfig, size: int, because: str) -> Choice[int]:
    if config.training.micro_batch_size is not None:
        return Choice(value=size, because=asked_for("training.micro_batch_size", because))
    pairs = f"divides the batch of {config.training.batch_size}"
    return Choice(value=size, because=f"{pairs}; {because}")


def _does_not_fit(
    config: RunConfig, target: Probe, smallest: MemoryEstimate, limit: str
) -> UserError:
    remedies = ["a smaller model.base_model", "a smaller chat.max_length"]
    if config.training.gradient_checkpointing == "off":
        remedies.insert(0, "training.gradient_checkpointing auto")
    if config.model.quantization == "none" and can_use_nf4(target).possible:
        remedies.insert(0, "model.quantization nf4")
    total = target.ram if target.kind == "cpu" else target.device_memory
    if smallest.resident > total:
        remedies.append("a machine with more memory")
    else:
        remedies.append("training.micro_batch_size 1, which tries it against the estimate")
    parts = ", ".join(
        f"{name} {describe_bytes(getattr(smallest, name))}"
        for name in ("weights", "adapter", "logits", "activations")
    )
    return UserError(
        f"Training needs an estimated {describe_bytes(smallest.total)} at its smallest ({parts}).",
        f"at most {limit} of {target.name}.",
        f"Choose one of: {'; '.join(remedies)}.",
    )
