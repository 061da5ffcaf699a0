"""The measured models in memory: one base model, the candidate's and the champion's adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orpo_pipeline.adapter_files import check_adapter, check_loaded, unusable_adapter
from schemas.jobs import EvaluateJob

BASE, CANDIDATE, CHAMPION = "base", "candidate", "champion"


class Models:
    """One loaded model that takes turns: adapter off, the candidate's, the champion's.

    So every figure of every model comes from the same weights, precision and code.
    """

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        self.model = model
        self.names = names

    @contextmanager
    def as_(self, name: str) -> Iterator[Any]:
        """The model as `name` while the block runs."""
        if name == BASE:
            with self.model.disable_adapter():
                yield self.model
            return
        self.model.set_adapter(name, inference_mode=True)
        yield self.model


def model_names(job: EvaluateJob) -> tuple[str, ...]:
    """base, candidate and, when there is one, champion."""
    return (BASE, CANDIDATE) if job.champion is None else (BASE, CANDIDATE, CHAMPION)


def load_models(job: EvaluateJob) -> Models:
    """Base model and adapters, frozen, in eval mode.

    Raises UserError for an adapter that is damaged, not finite, or of another base model.
    """
    from orpo_pipeline.training.qlora import load_base

    base = job.prepared.base_model
    adapters = {CANDIDATE: (job.adapter.path, "candidate")}
    if job.champion is not None:
        adapters[CHAMPION] = (job.champion.path, f"champion (version {job.champion.version})")
    for folder, whose in adapters.values():
        check_adapter(folder, whose, base)
    model = load_base(base, job.plan)
    for name, (folder, whose) in adapters.items():
        model = _attach(model, name, folder, whose)
    return Models(model.eval(), model_names(job))


def _attach(model: Any, name: str, folder: Path, whose: str) -> Any:
    """The model with one adapter more."""
    import peft

    try:
        if isinstance(model, peft.PeftModel):
            model.load_adapter(folder, adapter_name=name, is_trainable=False)
        else:
            model = peft.PeftModel.from_pretrained(model, folder, name, is_trainable=False)
    except (RuntimeError, ValueError) as error:  # other shapes; no such modules
        first = str(error).strip().partition("\n")[0]
        raise unusable_adapter(whose, f"it does not fit the base model ({first})") from error
    check_loaded(model, name, folder, whose)
    return model
