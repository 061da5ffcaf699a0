"""transformers' Trainer with packed optimizer steps: one batch of its DataLoader is one step."""

from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import Trainer

from orpo_pipeline.training.loss import FIGURES, share_of_step
from orpo_pipeline.training.non_finite import GuardedSteps, StepGuard
from orpo_pipeline.training.order import StepSampler
from orpo_pipeline.training.packed.forward import sum_logps
from orpo_pipeline.training.packed.steps import Step, StepCollator


class PackedTrainer(GuardedSteps, Trainer):
    """Optimizer, schedule, checkpoints and callbacks are the Trainer's; the step is ours.

    A step may take any number of forward passes, and each rank another one, so gradients are
    summed over ranks once, behind the last. (The Trainer's accumulation averages over a fixed
    number of passes, and DistributedDataParallel waits for as many on every rank.)
    """

    def __init__(
        self,
        *,
        collator: StepCollator,
        sampler: StepSampler,
        guard: StepGuard,
        orpo_lambda: float,
        **arguments: Any,
    ) -> None:
        super().__init__(data_collator=collator, **arguments)
        self.sampler = sampler
        self.guard = guard
        self.orpo_lambda = orpo_lambda
        self.figures: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader:
        # As many "epochs" as there are lie in the sampler: the Trainer sees one, of all steps.
        return DataLoader(
            range(self.sampler.pairs),  # type: ignore[arg-type]  # a sequence is a map-style dataset
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
        )

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: Any
    ) -> tuple[list[Step], None]:
        """The next step; the Trainer would look for labels to count in it."""
        return [next(epoch_iterator)], None

    def training_step(
        self, model: Any, inputs: Step, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of all packed rows; the step's loss, the same on every rank."""
        model.train()
        device = self.args.device
        figures = torch.zeros(len(FIGURES), device=device)
        for batch, pairs in zip(inputs.batches, inputs.pairs, strict=True):
            with self.accelerator.autocast():
                sums = sum_logps(self.model, batch.to(device))
                counts = torch.tensor(batch.counts, device=device)
                loss, share = share_of_step(sums, counts, inputs.size, self.orpo_lambda)
            self.accelerator.backward(loss)
            figures += share
            self.guard.see(sums.sum(1), pairs)
        for batch in inputs.idle:
            with self.accelerator.autocast():
                sums = sum_logps(self.model, batch.to(device))
            self.accelerator.backward(0 * sums.nan_to_num().sum())
        if self.args.world_size > 1:
            self._add_up_gradients()
            dist.all_reduce(figures)
        self.figures = dict(zip(FIGURES, figures.tolist(), strict=True))
        return figures[0].nan_to_num(0.0, 0.0, 0.0)  # the Trainer adds it to those to come

    def _add_up_gradients(self) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        flat = torch.cat([parameter.grad.flatten() for parameter in trained])
        dist.all_reduce(flat)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.figures}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the Trainer's estimate is for padded batches."""
        return 0
