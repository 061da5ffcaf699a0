"""How many processes share a step's pairs."""

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
