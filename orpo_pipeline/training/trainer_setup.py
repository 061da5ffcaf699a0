"""What both engines take from transformers' Trainer: arguments, reporting, checkpoints."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

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


def common_arguments(training: TrainingConfig, plan: TrainingPlan, work: Path) -> dict[str, Any]:
    """Our configuration and plan in the words of `TrainingArguments`, as far as engines agree."""
    return {
        "output_dir": str(work),
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler,
        "warmup_steps": training.warmup,
        "optim": OPTIMIZERS[plan.optimizer.value],
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "gradient_checkpointing": plan.gradient_checkpointing.value,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": plan.dtype.value == "bfloat16",
        "fp16": plan.dtype.value == "float16",
        "use_cpu": plan.device.value == "cpu",
        "seed": training.seed,
        "data_seed": training.seed,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": training.save_steps,
        "save_total_limit": None,
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def run_trainer(trainer: Any, run: EngineRun, checkpoint: Path | None) -> int:
    """Train on from `checkpoint`, reporting as `run` says; the step that it started from."""
    from transformers.trainer_callback import PrinterCallback

    trainer.add_callback(_reporting(run))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return checkpoint_step(checkpoint) if checkpoint else 0


def finished_checkpoint(run: EngineRun) -> Path | None:
    """The last checkpoint when training had ended there: its weights are then loaded.

    The Trainer, resumed from it, would take one step too many.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    checkpoint = newest_checkpoint(run.work)
    if checkpoint is None or not is_last(checkpoint):
        return None
    set_peft_model_state_dict(run.model, load_peft_weights(str(checkpoint), device="cpu"))
    return checkpoint


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
            if _on_any_rank(run.should_stop(), args.device):
                control.should_save = True
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # Every rank has written its part; one seals, and none goes on before that.
            if args.world_size > 1:
                dist.barrier()
            if state.is_world_process_zero:
                seal_checkpoint(run.work / f"checkpoint-{state.global_step}")
            if args.world_size > 1:
                dist.barrier()

    return Reporting()


def _on_any_rank(here: bool, device: Any) -> bool:
    """All ranks stop together: one that went on alone would wait for the others' gradients."""
    if not dist.is_initialized():
        return here
    asked = torch.tensor(int(here), device=device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked)


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
