"""How many processes share a step's pairs, and whether they share the base model's layers."""

from collections.abc import Callable

from orpo_pipeline.planning.batching import ChosenPass
from orpo_pipeline.planning.overrides import asked_for
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import Choice, Engine


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
    config: RunConfig, target: Probe, processes: Choice[int], pass_in: Callable[[int], ChosenPass]
) -> tuple[Choice[bool], ChosenPass]:
    """Whether each rank holds but its share of the layers, and the pass that is planned so.

    Several GPUs hold whole models where these fit: what is not gathered is not waited for.

    Args:
        pass_in: the pass with layers in so many shards; raises UserError where none fits.
    """
    requested, ranks = config.training.sharding, processes.value
    if requested == "on" and ranks == 1:
        raise UserError(
            f"training.sharding is on, but training has one process: {processes.because}.",
            "several processes: the packed engine, training.method lora, several GPUs and pairs a "
            "step; on a CPU training.processes of 2 or more.",
            "Remove training.sharding, or see to these.",
        )
    if requested == "on":
        return Choice(value=True, because=asked_for("training.sharding")), pass_in(ranks)
    on_gpus = target.kind != "cpu" and ranks > 1
    may_share = on_gpus and requested == "auto" and not config.lora.use_dora
    try:
        whole = pass_in(1)
    except UserError:
        if not may_share:
            raise
        whole = None
    if may_share and not (whole and whole.fits):
        shared = pass_in(ranks)
        if shared.fits or not whole:
            because = f"whole, the model fits on none of {ranks} GPUs"
            return Choice(value=True, because=because), shared
    assert whole is not None
    because = "every process holds the whole model" if ranks > 1 else "there is one process"
    if requested == "off":
        because = asked_for("training.sharding", because)
    return Choice(value=False, because=because), whole
