"""The reference engine: TRL's ORPOTrainer on our token ids.

What TRL 1.16 would do to the data is bypassed (its three `.map` passes, truncation, re-tokenising);
its loss is used as it is. Dropout stays as configured: `disable_dropout` would zero LoRA's too.
"""

import os
import sys
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.prepared_files import TOKEN_COLUMNS, TRAIN, read_pairs
from orpo_pipeline.training.checkpoints import checkpoint_step
from orpo_pipeline.training.engine import EngineRun
from orpo_pipeline.training.non_finite import GuardedSteps, StepGuard
from orpo_pipeline.training.order import EpochSampler
from orpo_pipeline.training.trainer_setup import (
    common_arguments,
    load_finished,
    run_trainer,
)
from schemas.plan import TrainingPlan
from schemas.training_config import TrainingConfig

LABEL_IGNORED = -100
PAIR = "pair"
"""Column of a pair's number, which TRL's collator hands on as it is."""


def train_with_trl(run: EngineRun) -> int:
    """Train as `EngineRun` says. Raises UserError where a step is not finite."""
    if run.checkpoint and load_finished(run):
        return checkpoint_step(run.checkpoint)
    trainer = trl_trainer(run, trainer_arguments(run.training, run.plan, run.work))
    return run_trainer(trainer, run)


def trl_trainer(run: EngineRun, arguments: Any) -> Any:
    """TRL's ORPOTrainer on our ids, in the order of the packed engine."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # TRL's own switch for its import warning
    from trl.experimental.orpo import ORPOTrainer

    seed = run.training.seed  # `datasets` pickles the class to hash a function: `run` is too much

    class PreTokenizedORPOTrainer(GuardedSteps, ORPOTrainer):
        """ORPOTrainer whose rows are token ids already."""

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            pairs = inputs[PAIR]
            loss = super().training_step(model, inputs, *rest)
            self.guard.see(loss, pairs)
            return loss.nan_to_num(0.0, 0.0, 0.0)  # the Trainer adds it to those to come

        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return feature

        def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
            return EpochSampler(len(self.train_dataset), seed)

    trainer = PreTokenizedORPOTrainer(
        model=run.model,
        args=arguments,
        train_dataset=trl_dataset(run.pairs, run.rows),
        processing_class=run.tokenizer,
    )
    trainer.guard = StepGuard(run.training, run.pairs, run.rows)
    return trainer


def trainer_arguments(training: TrainingConfig, plan: TrainingPlan, work: Path) -> Any:
    """Our configuration and plan in TRL's words."""
    from trl.experimental.orpo import ORPOConfig

    micro = plan.forward_pass.value
    return ORPOConfig(
        **common_arguments(training, plan, work),
        beta=training.orpo_lambda,
        max_length=sys.maxsize,  # for its own tokenisation, which is bypassed
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=training.batch_size // micro,
        disable_dropout=False,
        dataloader_pin_memory=plan.device.value == "cuda",
    )


def trl_dataset(prepared: Path, only: pl.Series | None = None) -> Any:
    """The training pairs, or these, as the columns of TRL's collator: ids, masks, and labels."""
    from datasets import Dataset

    rows = read_pairs(prepared, TRAIN, TOKEN_COLUMNS, only=only)
    prompt = pl.col("prompt_ids")
    ignored = pl.lit(LABEL_IGNORED, pl.Int32).repeat_by(prompt.list.len())
    columns = [pl.int_range(pl.len()).alias(PAIR)]
    for side in ("chosen", "rejected"):
        answer = pl.col(f"{side}_ids")
        whole = prompt.list.concat(answer)
        seen = pl.lit(1, pl.Int8).repeat_by(whole.list.len())
        columns += [
            whole.alias(f"{side}_input_ids"),
            seen.alias(f"{side}_attention_mask"),
            ignored.list.concat(answer).alias(f"{side}_labels"),
        ]
    return Dataset.from_polars(rows.select(columns))
