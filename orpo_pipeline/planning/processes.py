"""How many processes share a step's pairs, and whether they share the base model's layers."""

from collections.abc import Callable
from typing import TypeVar

from orpo_pipeline.planning.overrides import asked_for
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import Choice, Engine

T = TypeVar("T")


def choose_processes(config: RunConfig, target: Probe, engine: Engine) -> Choice[int]:
    """A rank for each GPU that gets a pair; one on a CPU, where a single rank uses every core.

    Raises UserError for several with TRL, whose mean over passes would be another one on each rank.
    """
    training = config.training
    if training.processes is not None:
        if training.processes > 1 and engine == "trl":
            raise UserError(
                f"training.processes is {training.processes}, but the engine is trl.",
                "several processes with the packed engine, whose step is the same however many.",
                "Remove training.processes, or set training.engine to packed.",
            )
        return Choice(value=training.processes, because=asked_for("training.processes"))
    if target.kind not in ("cuda", "rocm"):
        return Choice(value=1, because=f"one process keeps {target.name} busy")
    if target.devices == 1:
        return Choice(value=1, because="there is one GPU")
    if engine == "trl" or training.method == "full":
        why = "trl" if engine == "trl" else "training.method full"
        return Choice(value=1, because=f"{target.devices} GPUs, but {why} uses one")
    ranks = min(target.devices, training.batch_size)
    because = f"{target.devices} GPUs, {training.batch_size} pairs a step"
    return Choice(value=ranks, because=because)


def choose_sharding(
    config: RunConfig, target: Probe, ranks: int, planned: Callable[[int], T]
) -> tuple[Choice[bool], T]:
    """Whether each rank holds but its share of the layers, and the pass that is planned so.

    Several GPUs hold whole models where these fit: what is not gathered is not waited for.

    Args:
        planned: the pass with layers in so many shards; raises UserError where none fits.
    """
    requested = config.training.sharding
    if requested == "on" and ranks == 1:
        raise UserError(
            "training.sharding is on, but training has one process, which would hold all of it.",
            "training.sharding with several processes.",
            "Remove training.sharding, or set training.processes to 2 or more.",
        )
    if requested == "on":
        return Choice(value=True, because=asked_for("training.sharding")), planned(ranks)
    try:
        whole = planned(1)
    except UserError:
        if ranks == 1 or target.kind == "cpu" or requested == "off" or config.lora.use_dora:
            raise
        shared = planned(ranks)
        because = f"whole, the model fits on none of {ranks} GPUs"
        return Choice(value=True, because=because), shared
    because = "every process holds the whole model" if ranks > 1 else "there is one process"
    if requested == "off":
        because = asked_for("training.sharding", because)
    return Choice(value=False, because=because), whole
