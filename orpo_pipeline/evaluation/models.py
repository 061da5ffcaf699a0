"""The measured models in memory: one base model, the candidate's and the champion's adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orpo_pipeline.adapter_files import check_adapter
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
    import peft

    from orpo_pipeline.training.qlora import load_base

    base = job.prepared.base_model
    folders = {CANDIDATE: job.adapter.path}
    check_adapter(job.adapter.path, "candidate", base)
    if job.champion is not None:
        folders[CHAMPION] = job.champion.path
        check_adapter(job.champion.path, f"champion (version {job.champion.version})", base)
    model = load_base(base, job.plan)
    wrapped = peft.PeftModel.from_pretrained(
        model, folders[CANDIDATE], adapter_name=CANDIDATE, is_trainable=False
    )
    if CHAMPION in folders:
        wrapped.load_adapter(folders[CHAMPION], adapter_name=CHAMPION, is_trainable=False)
    return Models(wrapped.eval(), model_names(job))
