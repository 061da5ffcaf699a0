"""What both engines take from transformers' Trainer: arguments, reporting, checkpoints."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orpo_pipeline.training.checkpoints import (
    WRITING,
    checkpoint_step,
    is_last,
    publish_checkpoint,
)
from orpo_pipeline.training.engine import EngineRun
from orpo_pipeline.training.held_out import HeldOutPairs
from orpo_pipeline.training.non_finite import (
    GRADIENT_NORM,
    SKIPPED,
    StepGuard,
    check_finite,
    require_finite_weights,
)
from orpo_pipeline.training.qlora import load_trained_weights
from orpo_pipeline.training.ranks import on_any_rank
from schemas.plan import TrainingPlan
from schemas.training_config import TrainingConfig

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "galore_adamw": "galore_adamw",
}
GALORE_LAYERS = r".*\.layers\.\d+\..*"
"""Linear maps whose gradients GaLore projects: those of the transformer layers, as in its paper."""
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
    SKIPPED: "train/skipped_steps",
}


def common_arguments(training: TrainingConfig, plan: TrainingPlan, work: Path) -> dict[str, Any]:
    """Our configuration and plan in the words of `TrainingArguments`, as far as engines agree."""
    galore = {
        "optim_target_modules": GALORE_LAYERS,
        "optim_args": f"rank={training.galore_rank}",
    }
    return {
        **(galore if plan.optimizer.value == "galore_adamw" else {}),
        "output_dir": str(work / WRITING),
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


def run_trainer(trainer: Any, run: EngineRun) -> int:
    """Train on from the run's checkpoint, reporting as it says; the step that it started from."""
    from transformers.trainer_callback import PrinterCallback

    if run.plan.optimizer.value == "galore_adamw":
        from galore_torch.galore_projector import GaLoreProjector

        # Its states hold the projections in this class, which torch would not unpickle.
        torch.serialization.add_safe_globals([GaLoreProjector])
    trainer.add_callback(_reporting(run, trainer.guard, trainer.accelerator.autocast))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    return checkpoint_step(run.checkpoint) if run.checkpoint else 0


def load_finished(run: EngineRun) -> bool:
    """Whether training had ended at the run's checkpoint: its weights are then loaded.

    The Trainer, resumed from it, would take one step too many.
    """
    if run.checkpoint is None or not is_last(run.checkpoint):
        return False
    load_trained_weights(run.model, run.checkpoint)
    return True


def _reporting(run: EngineRun, guard: StepGuard, autocast: Callable[[], Any] = nullcontext) -> Any:
    from transformers import TrainerCallback

    held_out = HeldOutPairs(run)

    class Reporting(TrainerCallback):
        """Figures out, checkpoints published, stops obeyed."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            guard.resume(state.log_history)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            if logs is None or "loss" not in logs:
                return
            values = _values(logs, guard, fp16=args.fp16)
            values |= _measure_held_out(held_out, state, autocast)
            check_finite(state.global_step, values)
            run.on_step(state.global_step, state.max_steps, values)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if on_any_rank(run.should_stop(), args.device):
                control.should_save = True
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            require_finite_weights(state.global_step, model.parameters())
            # Every rank has written its part; one publishes, and none goes on before that.
            if args.world_size > 1:
                dist.barrier()
            if state.is_world_process_zero:
                publish_checkpoint(run.work, state.global_step)
            if args.world_size > 1:
                dist.barrier()

    return Reporting()


def _values(logs: dict[str, Any], guard: StepGuard, *, fp16: bool) -> dict[str, float]:
    """A step's figures by our names. One that is left out has none of its own."""
    names = ("learning_rate", SKIPPED) if guard.skipping else METRIC_NAMES
    values = {METRIC_NAMES[k]: float(v) for k, v in logs.items() if k in names}
    if fp16 and not math.isfinite(values.get(GRADIENT_NORM, 0.0)):
        # An overflowing gradient is ordinary in fp16: the loss scaler skips that step.
        del values[GRADIENT_NORM]
    return values


def _measure_held_out(
    held_out: HeldOutPairs, state: Any, autocast: Callable[[], Any]
) -> dict[str, float]:
    """Figures of a step that this rank saves; nothing at others, or where no pair is held out.

    They go with the step's own, so that a resumed training has them once.
    """
    last = state.global_step >= state.max_steps
    saved = last or state.global_step % held_out.run.training.save_steps == 0
    # A layer that is sharded is gathered from every rank, so all of them measure.
    measures = state.is_world_process_zero or held_out.run.plan.sharding.value
    if not (saved and measures and len(held_out)):
        return {}
    figures = held_out.measure(autocast())
    return {METRIC_NAMES[name].replace("train/", "eval/"): figures[name] for name in figures}
