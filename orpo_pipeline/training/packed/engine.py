"""The packed engine: the same loss as TRL's ORPOTrainer with a fraction of the work."""

from typing import Any

from orpo_pipeline.data.prepared_files import TRAIN
from orpo_pipeline.training.checkpoints import checkpoint_step
from orpo_pipeline.training.engine import EngineRun
from orpo_pipeline.training.non_finite import StepGuard
from orpo_pipeline.training.order import StepSampler, count_steps
from orpo_pipeline.training.packed.attention import attention_name, packed_attention
from orpo_pipeline.training.packed.forward import causal_lm_of
from orpo_pipeline.training.packed.steps import StepCollator
from orpo_pipeline.training.packed.tokens import PairTokens, read_tokens
from orpo_pipeline.training.trainer_setup import (
    common_arguments,
    load_finished,
    run_trainer,
)


def train_packed(run: EngineRun) -> int:
    """Train as `EngineRun` says. Raises UserError where a step is not finite."""
    if run.checkpoint and load_finished(run):
        return checkpoint_step(run.checkpoint)
    trainer = packed_trainer(run, read_tokens(run.pairs, TRAIN, run.rows))
    with packed_attention(causal_lm_of(run.model), attention_name(run.plan.attention.value)):
        return run_trainer(trainer, run)


def packed_trainer(run: EngineRun, tokens: PairTokens) -> Any:
    """A Trainer of `run` on `tokens`; it must run inside `packed_attention`."""
    from transformers import TrainingArguments

    from orpo_pipeline.training.packed.trainer import PackedTrainer

    training = run.training
    steps = count_steps(len(tokens), training.batch_size, training.epochs, training.max_steps)
    arguments = TrainingArguments(
        **common_arguments(training, run.plan, run.work),
        max_steps=steps,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=1,
    )
    return PackedTrainer(
        model=run.model,
        args=arguments,
        processing_class=run.tokenizer,
        collator=StepCollator(
            tokens,
            budget=run.plan.forward_pass.value,
            prompt_targets=training.nll_scope == "prompt_and_response",
            rank=arguments.process_index,
            ranks=arguments.world_size,
            as_many_passes=run.plan.sharding.value,
        ),
        sampler=StepSampler(len(tokens), training.batch_size, training.seed, steps),
        guard=StepGuard(training, run.pairs, run.rows),
        orpo_lambda=training.orpo_lambda,
    )
