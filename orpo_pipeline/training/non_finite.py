"""Steps whose loss or gradient is NaN or infinite: training stops there, or leaves them out.

A step is looked at when its gradient is there and no weight has changed yet.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
import torch.distributed as dist

from orpo_pipeline.data.prepared_files import TRAIN, read_row_ids
from orpo_pipeline.training.ranks import on_any_rank
from schemas.errors import UserError
from schemas.training_config import TrainingConfig

LOSS, GRADIENT_NORM = "train/loss", "optimizer/gradient_norm"
SKIPPED = "skipped_steps"
"""The Trainer's name for the count; it goes with each step's figures into the checkpoint."""

LISTED = 4
"""Rows that an error names; the log has all."""

log = logging.getLogger(__name__)


class StepGuard:
    """Watches the optimizer steps of one training, on each rank.

    `pairs`: folder of the prepare stage, for the ids of a step's rows.
    `rows`: those that are trained on, as `EngineRun` says.
    """

    def __init__(
        self, training: TrainingConfig, pairs: Path, rows: pl.Series | None = None
    ) -> None:
        self.training = training
        self.pairs = pairs
        self.rows = rows
        self.skipped = 0
        self.skipping = False
        """Whether the step that was looked at last is left out."""
        self._seen: list[tuple[torch.Tensor, Sequence[int]]] = []

    def see(self, values: torch.Tensor, pairs: Sequence[int]) -> None:
        """Keep what a forward pass gave.

        Args:
            values: one a pair, or one of all: not finite where the pass went wrong.
            pairs: the numbers of its pairs among those that are trained on.
        """
        self._seen.append((values.detach(), pairs))

    def resume(self, history: Sequence[dict[str, Any]]) -> None:
        """Go on counting from the figures that a checkpoint holds."""
        self.skipped = next((int(h[SKIPPED]) for h in reversed(history) if SKIPPED in h), 0)

    def must_skip(self, step: int, norm: torch.Tensor, *, scaled: bool) -> bool:
        """Whether the step must leave every weight and optimizer state as it is.

        Args:
            step: its number, from 1.
            norm: of the gradient before it is clipped.
            scaled: the loss is scaled (float16): its scaler skips overflowing gradients, which are
                ordinary then, by itself.

        Raises UserError when training has to stop, on every rank alike.
        """
        seen, self._seen = self._seen, []
        broken = {
            LOSS: not all(bool(values.isfinite().all()) for values, _ in seen),
            GRADIENT_NORM: not scaled and not bool(norm.isfinite()),
        }
        what = [name for name, here in broken.items() if on_any_rank(here, norm.device)]
        self.skipping = bool(what)
        if not what:
            return False
        figures = ", ".join(what)
        rows = read_row_ids(self.pairs, TRAIN, _broken_pairs(seen), self.rows)
        log.warning("%s became non-finite at step %d. Its rows: %s", figures, step, ", ".join(rows))
        if self.training.on_non_finite == "stop":
            raise _stopped(figures, step, rows)
        self.skipped += 1
        if self.skipped > self.training.max_skipped_steps:
            raise _too_many(self.skipped, step, rows)
        log.warning("Step %d is left out: %d so far", step, self.skipped)
        return True


class GuardedSteps:
    """For a subclass of transformers' Trainer, first among its bases: a guard looks at each step.

    Without gradients no optimizer touches a weight or a state; the schedule goes on by steps.
    """

    guard: StepGuard

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        norm: torch.Tensor = super()._clip_grad_norm(model)  # type: ignore[misc]
        arguments, state = self.args, self.state  # type: ignore[attr-defined]
        if self.guard.must_skip(state.global_step + 1, norm, scaled=arguments.fp16):
            model.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.guard.training.on_non_finite == "skip":
            logs = {**logs, SKIPPED: self.guard.skipped}
        super().log(logs, start_time)  # type: ignore[misc]


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raise UserError when a figure is NaN or infinite, naming it and the step."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise _stopped(", ".join(broken), step)


def require_finite_weights(step: int, parameters: Iterable[torch.nn.Parameter]) -> None:
    """Raise UserError when a trained weight is NaN or infinite; its figures may not show it."""
    if not all(bool(p.isfinite().all()) for p in parameters if p.requires_grad):
        raise _stopped("a weight", step)


def _broken_pairs(seen: Sequence[tuple[torch.Tensor, Sequence[int]]]) -> list[int]:
    """The pairs whose values are not finite, on any rank; all where only the gradient is not."""
    found = [
        pair
        for values, pairs in seen
        for pair, fine in zip(pairs, values.isfinite().expand(len(pairs)).tolist(), strict=True)
        if not fine
    ]
    mine = {"broken": found, "all": [pair for _, pairs in seen for pair in pairs]}
    shares = [mine]
    if dist.is_initialized():
        shares = [mine] * dist.get_world_size()
        dist.all_gather_object(shares, mine)
    broken = {pair for share in shares for pair in share["broken"]}
    return sorted(broken or {pair for share in shares for pair in share["all"]})


def _stopped(what: str, step: int, rows: Sequence[str] = ()) -> UserError:
    fix = (
        "Lower training.learning_rate, or train in a wider model.dtype. "
        "The checkpoints before this step are kept"
    )
    if rows:
        fix += (
            ": with training.on_non_finite skip the same command goes on from there and leaves "
            "such steps out; `orpo-pipeline forget ROW_ID` leaves out a row"
        )
    return UserError(
        f"{what} became non-finite at step {step}; training stopped there.{_named(rows)}",
        "finite losses, gradients and weights.",
        f"{fix}.",
    )


def _too_many(skipped: int, step: int, rows: Sequence[str]) -> UserError:
    return UserError(
        f"Step {step} is non-finite, as {skipped - 1} before it; training stopped there."
        f"{_named(rows)}",
        f"at most {skipped - 1} such steps (training.max_skipped_steps).",
        "Lower training.learning_rate, or train in a wider model.dtype; or look at the rows that "
        "logs/train.log names, and raise training.max_skipped_steps.",
    )


def _named(rows: Sequence[str]) -> str:
    if not rows:
        return ""
    more = f" and {len(rows) - LISTED} more (logs/train.log)" if len(rows) > LISTED else ""
    return f" Its rows: {', '.join(rows[:LISTED])}{more}."
