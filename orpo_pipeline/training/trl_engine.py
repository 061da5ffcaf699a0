"""The reference engine: TRL's ORPOTrainer on our token ids.

What TRL 1.16 would do to the data is bypassed (its three `.map` passes, truncation, re-tokenising);
its loss is used as it is. Dropout stays as configured: `disable_dropout` would zero LoRA's too.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.prepared_files import TOKEN_COLUMNS, TRAIN, read_pairs
from orpo_pipeline.training.checkpoints import (
    checkpoint_step,
    is_last,
    newest_checkpoint,
    seal_checkpoint,
)
from orpo_pipeline.training.engine import EngineRun
from schemas.config import TrainingConfig
from schemas.errors import UserError
from schemas.plan import TrainingPlan

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
GRADIENT_NORM = "optimizer/gradient_norm"
METRIC_NAMES = {
    "loss": "train/loss",
    "nll_loss": "train/nll",
    "log_odds_ratio": "train/log_sigmoid_odds_ratio",
    "log_odds_chosen": "train/log_odds_margin",
    "rewards/accuracies": "train/pair_accuracy",
    "logps/chosen": "train/logp_chosen",
    "logps/rejected": "train/logp_rejected",
    "grad_norm": GRADIENT_NORM,
    "learning_rate": "optimizer/learning_rate",
}
LABEL_IGNORED = -100


def train_with_trl(run: EngineRun) -> int:
    """Train as `EngineRun` says. Raises UserError on a non-finite loss."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # TRL's own switch for its import warning
    from peft import load_peft_weights, set_peft_model_state_dict
    from transformers.trainer_callback import PrinterCallback
    from trl.experimental.orpo import ORPOTrainer

    class PreTokenizedORPOTrainer(ORPOTrainer):
        """ORPOTrainer whose rows are token ids already."""

        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return feature

    checkpoint = newest_checkpoint(run.work)
    if checkpoint and is_last(checkpoint):  # the Trainer would take one step too many
        set_peft_model_state_dict(run.model, load_peft_weights(str(checkpoint), device="cpu"))
        return checkpoint_step(checkpoint)
    trainer = PreTokenizedORPOTrainer(
        model=run.model,
        args=trainer_arguments(run.training, run.plan, run.work),
        train_dataset=trl_dataset(run.pairs),
        processing_class=run.tokenizer,
        callbacks=[_reporting(run)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return checkpoint_step(checkpoint) if checkpoint else 0


def trainer_arguments(training: TrainingConfig, plan: TrainingPlan, work: Path) -> Any:
    """Our configuration and plan in TRL's words."""
    from trl.experimental.orpo import ORPOConfig

    micro = plan.micro_batch_size.value
    return ORPOConfig(
        output_dir=str(work),
        beta=training.orpo_lambda,
        max_length=sys.maxsize,  # for its own tokenisation, which is bypassed
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler,
        warmup_steps=training.warmup,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=training.batch_size // micro,
        optim=OPTIMIZERS[plan.optimizer.value],
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=plan.gradient_checkpointing.value,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=plan.dtype.value == "bfloat16",
        fp16=plan.dtype.value == "float16",
        use_cpu=plan.device.value == "cpu",
        seed=training.seed,
        data_seed=training.seed,
        disable_dropout=False,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.save_steps,
        save_total_limit=None,
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=plan.device.value == "cuda",
    )


def trl_dataset(prepared: Path) -> Any:
    """The training pairs as the columns that TRL's collator reads: ids, masks, and labels."""
    from datasets import Dataset

    rows = read_pairs(prepared, TRAIN, TOKEN_COLUMNS)
    prompt = pl.col("prompt_ids")
    ignored = pl.lit(LABEL_IGNORED, pl.Int32).repeat_by(prompt.list.len())
    columns = []
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


def _reporting(run: EngineRun) -> Any:
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        """Figures out, checkpoints sealed, stops obeyed."""

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            if logs is None or "loss" not in logs:
                return
            values = {METRIC_NAMES[k]: float(v) for k, v in logs.items() if k in METRIC_NAMES}
            if args.fp16 and not math.isfinite(values.get(GRADIENT_NORM, 0.0)):
                # An overflowing gradient is ordinary in fp16: the loss scaler skips that step.
                del values[GRADIENT_NORM]
            check_finite(state.global_step, values)
            run.on_step(state.global_step, state.max_steps, values)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if run.should_stop():
                control.should_save = True
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seal_checkpoint(run.work / f"checkpoint-{state.global_step}")

    return Reporting()


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raise UserError when a figure is NaN or infinite, naming it and the step."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"{', '.join(broken)} became non-finite at step {step}; training stopped there.",
            "finite losses and gradients.",
            "Lower training.learning_rate, or train in a wider model.dtype. "
            "The checkpoints before this step are kept.",
        )
