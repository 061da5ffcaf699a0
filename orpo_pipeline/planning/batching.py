"""How much a forward pass holds, and whether it recomputes activations: what fits in memory."""

from collections.abc import Callable
from dataclasses import dataclass

from orpo_pipeline.planning.capabilities import can_use_nf4
from orpo_pipeline.planning.memory import (
    MemoryEstimate,
    Setup,
    dequantised_layer,
    describe_bytes,
)
from orpo_pipeline.planning.overrides import asked_for
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import Choice, ModelShape

MEMORY_SHARE = {"cuda": 0.85, "rocm": 0.85, "cpu": 0.7, "mps": 0.6}
"""Share of all memory that training may plan with. The rest is for fragmentation and, on a CPU or
Apple's unified memory, for the operating system and the processes that orchestrate."""

CPU_PAIRS = 2
"""More pairs a forward pass only add padding on a CPU: its cores are busy with one."""

GPU_PAIRS = 2
"""Recomputing activations is worth it on a GPU before going below this many pairs a pass."""

CPU_TOKENS = 1024
"""A CPU's cores are busy with so many tokens; more only take memory."""

GPU_TOKENS = 16_384
"""More tokens a forward pass no longer make its matrix products faster."""

WORTHWHILE_TOKENS = 4096
"""Recomputing activations is worth it on a GPU before going below this many tokens a pass."""

TOKEN_STEP = 512

Estimator = Callable[[int, bool], MemoryEstimate]
"""(size of a forward pass, gradient checkpointing) -> estimate."""


@dataclass(frozen=True, slots=True)
class ChosenPass:
    """A forward pass as decided."""

    checkpointing: Choice[bool]
    size: Choice[int]
    memory: MemoryEstimate
    fits: bool
    """Whether the estimate is within the limit, or none is known."""


@dataclass(frozen=True, slots=True)
class PassSizes:
    """How large a forward pass may be, in pairs (TRL) or in tokens (packed)."""

    field: str
    """The setting that decides it."""
    requested: int | None
    candidates: list[int]
    """Largest first."""
    worthwhile: int
    """Activations are computed again before a pass gets smaller than this."""
    unit: str
    limit: str
    """What bounds the candidates; true of each."""


def pair_sizes(config: RunConfig, target: Probe) -> PassSizes:
    """Micro batches of TRL: divisors of the batch."""
    requested, batch = config.training.micro_batch_size, config.training.batch_size
    most = min(CPU_PAIRS, batch) if target.kind == "cpu" else batch
    sizes = [size for size in range(most, 0, -1) if batch % size == 0]
    candidates = [requested] if requested is not None else sizes
    least = min(1 if target.kind == "cpu" else GPU_PAIRS, max(candidates))
    return PassSizes(
        field="training.micro_batch_size",
        requested=requested,
        candidates=candidates,
        worthwhile=min(size for size in candidates if size >= least),
        unit="pairs",
        limit=f"divides the batch of {batch}",
    )


def token_sizes(config: RunConfig, target: Probe, longest: int) -> PassSizes:
    """Token budgets of the packed engine: from what keeps the device busy to the longest pair.

    `longest`: its tokens, prompt + chosen + rejected.
    """
    requested, batch = config.training.token_budget, config.training.batch_size
    on_cpu = target.kind == "cpu"
    busy = CPU_TOKENS if on_cpu else GPU_TOKENS
    # A longer pair is computed alone, which keeps a GPU waiting but not a CPU.
    needed = TOKEN_STEP if on_cpu else longest
    most = max(min(busy, batch * longest), needed)
    steps = [size for size in range(0, most, TOKEN_STEP) if size >= needed]
    candidates = [requested] if requested is not None else [most, *reversed(steps)]
    least = min(1 if on_cpu else WORTHWHILE_TOKENS, max(candidates))
    if most == longest:
        limit = f"the longest pair has {longest}"
    elif most == busy:
        limit = f"{busy} keep the device busy"
    else:
        limit = f"the batch of {batch} has at most {most}"
    return PassSizes(
        field="training.token_budget",
        requested=requested,
        candidates=candidates,
        worthwhile=min(size for size in candidates if size >= least),
        unit="tokens",
        limit=limit,
    )


def choose_pass(
    config: RunConfig, target: Probe, sizes: PassSizes, estimate: Estimator
) -> ChosenPass:
    """Gradient checkpointing and the size of a pass, decided together because they share memory.

    Without checkpointing where a worthwhile size fits, else with it; then the largest that fits.
    Raises UserError when the smallest does not fit and no size was asked for, or when the weights
    alone exceed the memory.
    """
    total = _total_memory(target)
    smallest = min(sizes.candidates)
    requested = config.training.gradient_checkpointing
    settings = [False, True] if requested == "auto" else [requested == "on"]
    if not total:
        because = f"the memory of {target.name} is unknown"
        return ChosenPass(
            _checkpointing_choice(config, settings[-1], because),
            _size_choice(sizes, smallest, because),
            estimate(smallest, settings[-1]),
            fits=True,
        )
    budget = int(total * MEMORY_SHARE[target.kind])
    limit = f"{describe_bytes(budget)} ({MEMORY_SHARE[target.kind]:.0%} of {describe_bytes(total)})"
    fit = _first_fit(settings, sizes, lambda *asked: estimate(*asked).total <= budget)
    checkpointing, size = fit or (settings[-1], smallest)
    chosen = estimate(size, checkpointing)
    if fit:
        because = f"estimate {describe_bytes(chosen.total)} of {limit}"
    elif sizes.requested is None or chosen.resident > total:
        raise _does_not_fit(config, target, sizes, chosen, limit)
    else:
        because = f"estimate {describe_bytes(chosen.total)} exceeds {limit}: may run out of memory"
    needed = describe_bytes(estimate(sizes.worthwhile, False).total)
    without = f"without it, {sizes.worthwhile} {sizes.unit} a pass need {needed}"
    return ChosenPass(
        _checkpointing_choice(
            config, checkpointing, f"{without}; limit {limit}" if checkpointing else because
        ),
        _size_choice(sizes, size, because),
        chosen,
        fits=fit is not None,
    )


def require_whole_models(target: Probe, ranks: int, whole: MemoryEstimate) -> None:
    """Raise UserError where shares would be trained and what comes before or after cannot run.

    Every rank loads the model into host memory first; evaluation and serving hold all of it on one
    device, and a forward pass. `whole`: of a process that holds every layer.
    """
    total = _total_memory(target)
    limit = int(total * MEMORY_SHARE[target.kind])
    needed = whole.weights + whole.working + whole.runtime
    if total and needed > limit:
        raise UserError(
            "Trained in shares, the model would fit; evaluating it takes all of it on one device, "
            f"an estimated {describe_bytes(needed)}.",
            f"at most {describe_bytes(limit)} of {target.name}.",
            "Choose a smaller model.base_model, or a machine whose devices are larger.",
        )
    loaded = ranks * whole.weights
    if target.kind != "cpu" and loaded > target.ram:
        raise UserError(
            f"Before it is shared out, each of {ranks} processes loads the model into host memory: "
            f"{describe_bytes(loaded)} in all.",
            f"at most the {describe_bytes(target.ram)} of this machine.",
            "Lower training.processes, or choose a smaller model.base_model.",
        )


def choose_dequantised_layers(
    config: RunConfig, target: Probe, shape: ModelShape, setup: Setup, step: int
) -> Choice[int]:
    """As many layers as half of the memory that a step of `step` bytes leaves can hold."""
    if setup.quantization != "nf4":
        return Choice(value=0, because="the weights are not quantised")
    if setup.shards > 1:
        return Choice(value=0, because="layers are held in shards")
    if config.model.dequantised_cache == "off":
        return Choice(value=0, because=asked_for("model.dequantised_cache"))
    total = _total_memory(target)
    if not total:
        return Choice(value=0, because=f"the memory of {target.name} is unknown")
    left = max(int(total * MEMORY_SHARE[target.kind]) - step, 0) // 2
    a_layer = dequantised_layer(shape, setup.dtype)
    layers = min(shape.layers, int(left / a_layer))
    return Choice(
        value=layers,
        because=f"of {shape.layers}, {describe_bytes(layers * a_layer)} in {setup.dtype}; "
        f"half of what is left is {describe_bytes(left)}",
    )


def _total_memory(target: Probe) -> int:
    """Of what trains; 0 where it is unknown."""
    return target.ram if target.kind == "cpu" else target.device_memory


def _first_fit(
    settings: list[bool], sizes: PassSizes, fits: Callable[[int, bool], bool]
) -> tuple[bool, int] | None:
    """The first setting with a size that fits; only the last goes below the worthwhile size."""
    worthwhile = [size for size in sizes.candidates if size >= sizes.worthwhile]
    for checkpointing in settings:
        for size in sizes.candidates if checkpointing == settings[-1] else worthwhile:
            if fits(size, checkpointing):
                return checkpointing, size
    return None


def _checkpointing_choice(config: RunConfig, on: bool, because: str) -> Choice[bool]:
    if config.training.gradient_checkpointing != "auto":
        return Choice(value=on, because=asked_for("training.gradient_checkpointing"))
    return Choice(value=on, because=because)


def _size_choice(sizes: PassSizes, size: int, because: str) -> Choice[int]:
    because = f"{sizes.unit}; {because}"
    if sizes.requested is not None:
        return Choice(value=size, because=asked_for(sizes.field, because))
    return Choice(value=size, because=f"{because}; {sizes.limit}")


def _does_not_fit(
    config: RunConfig, target: Probe, sizes: PassSizes, smallest: MemoryEstimate, limit: str
) -> UserError:
    remedies = ["a smaller model.base_model", "a smaller chat.max_length"]
    if config.training.sharding == "off" and target.devices > 1:
        remedies.insert(0, "training.sharding auto")
    if config.training.gradient_checkpointing == "off":
        remedies.insert(0, "training.gradient_checkpointing auto")
    if config.model.quantization == "none" and can_use_nf4(target).possible:
        remedies.insert(0, "model.quantization nf4")
    total = _total_memory(target)
    if smallest.resident > total:
        remedies.append("a machine with more memory")
    else:
        tried = f"{sizes.field} {min(sizes.candidates)}"
        remedies.append(f"{tried}, which tries it against the estimate")
    parts = ", ".join(
        f"{name} {describe_bytes(getattr(smallest, name))}"
        for name in ("weights", "trained", "activations", "working")
    )
    return UserError(
        f"Training needs an estimated {describe_bytes(smallest.total)} at its smallest ({parts}).",
        f"at most {limit} of {target.name}.",
        f"Choose one of: {'; '.join(remedies)}.",
    )
